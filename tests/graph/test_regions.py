"""Pairs of nodes that no edge joins, found by counting."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.random import Draw
from ssl_domains.graph.augment import Blocks
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.regions import Pairs, Region, decode_pair, draw_distinct, encode_pair


def blocks_of(source, rows):
    batch = source.fetch(np.asarray(rows))
    return batch.x, Blocks(batch.x, batch.index)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("size", [2, 3, 7, 40])
def test_a_pair_has_one_number(size, directed):
    pairs = list(
        itertools.permutations(range(size), 2) if directed else itertools.combinations(range(size), 2)
    )
    p, q = torch.tensor(pairs).T
    sizes = torch.full_like(p, size)
    code = encode_pair(p, q, sizes, directed)
    assert sorted(code.tolist()) == list(range(len(pairs)))
    back = decode_pair(code, sizes, directed)
    assert torch.equal(back[0], p)
    assert torch.equal(back[1], q)


def test_large_numbers_survive_the_square_root():
    q = torch.tensor([10**6, 10**9, 2 * 10**9])
    for p in (torch.zeros_like(q), q - 1):
        code = encode_pair(p, q, q + 1, False)
        assert torch.equal(torch.stack(decode_pair(code, q + 1, False)), torch.stack([p, q]))


@pytest.mark.parametrize("directed", [False, True])
def test_edges_become_pairs_whatever_their_order(graph_source, directed):
    x, blocks = blocks_of(graph_source, [3, 0, 5])
    order = torch.randperm(x.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    x.edge_index = x.edge_index[:, order]
    blocks = Blocks(x, torch.tensor([3, 0, 5]))
    pairs = Pairs.of(blocks, directed)
    found = list(zip(pairs.a[pairs.real].tolist(), pairs.b[pairs.real].tolist()))
    stored = [(u, v) for u, v in x.edge_index.T.tolist() if u != v]
    wanted = stored if directed else {tuple(sorted(e)) for e in stored}
    assert sorted(found) == sorted(wanted)
    for (u, v), row, forward in zip(x.edge_index.T.tolist(), pairs.of_edge.tolist(), pairs.forward.tolist()):
        if u != v:
            ends = (int(pairs.a[row]), int(pairs.b[row]))
            assert ends == ((u, v) if forward else (v, u))


def test_an_edge_without_its_reverse_is_refused(graph_source):
    _, blocks = blocks_of(graph_source, [3])
    with pytest.raises(ValueError, match="both directions"):
        Pairs.of(blocks, True, size=int((~blocks.loops).sum()) // 2)


@pytest.mark.parametrize("directed", [False, True])
def test_free_pairs_are_all_pairs_without_an_edge(graph_source, directed):
    x, blocks = blocks_of(graph_source, [4, 1, 7])
    member = torch.rand(len(x.x), generator=torch.Generator().manual_seed(1)) < 0.7
    pairs = Pairs.of(blocks, directed)
    region = Region.of(blocks, pairs, member)
    stored = {(u, v) for u, v in x.edge_index.T.tolist()}
    for graph in range(3):
        nodes = torch.nonzero(member & (blocks.owner == graph)).flatten().tolist()
        every = itertools.permutations(nodes, 2) if directed else itertools.combinations(nodes, 2)
        wanted = [pair for pair in every if pair not in stored]
        assert int(region.n_free[graph]) == len(wanted)
        number = torch.arange(len(wanted))
        a, b = region.free_pair(torch.full_like(number, graph), number)
        assert sorted(zip(a.tolist(), b.tolist())) == sorted(wanted)


def test_a_complete_graph_has_no_free_pair():
    from torch_geometric.data import Data

    triangle = torch.tensor([[0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2]])
    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    graphs = [Data(x=torch.rand(3, 2), edge_index=e) for e in (triangle, path, triangle)]
    _, blocks = blocks_of(GraphDomain().open(graphs), [0, 1, 2])
    region = Region.of(blocks, Pairs.of(blocks, False), torch.ones(9, dtype=torch.bool))
    assert region.n_free.tolist() == [0, 1, 0]
    assert [int(end) for end in region.free_pair(torch.tensor([1]), torch.tensor([0]))] == [3, 5]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), min_size=1, max_size=8), st.integers(0, 99))
def test_distinct_numbers(units, seed):
    limit = torch.tensor([n for n, _ in units])
    wanted = torch.tensor([int(n * share) for n, share in units])
    draw = Draw(seed, 0, torch.arange(len(units)))
    drawn = draw_distinct(torch.arange(len(units)), limit, wanted, int(wanted.sum()) + 3, draw)
    assert torch.equal(drawn.found, wanted)
    for u in range(len(units)):
        values = drawn.values[drawn.start[u] : drawn.start[u] + drawn.found[u]].tolist()
        assert len(set(values)) == int(wanted[u])
        assert all(0 <= v < int(limit[u]) for v in values)


@pytest.mark.parametrize(("limit", "wanted"), [(6, 2), (90, 2)])
def test_every_set_is_equally_likely(limit, wanted):
    units = 20_000
    counter = torch.arange(units)
    drawn = draw_distinct(
        counter,
        torch.full((units,), limit),
        torch.full((units,), wanted),
        wanted * units,
        Draw(3, 0, counter),
    )
    values = drawn.values.view(units, wanted)
    counts = torch.bincount(values.flatten(), minlength=limit).double()
    mean = units * wanted / limit
    chi2 = ((counts - mean) ** 2 / mean).sum() / (1 - wanted / limit)
    assert chi2 < limit + 5 * (2 * limit) ** 0.5
    low, high = values.min(1).values, values.max(1).values
    sets = torch.bincount(encode_pair(low, high, torch.full_like(low, limit), False)).double()
    n_sets = limit * (limit - 1) // 2
    assert ((sets - units / n_sets) ** 2 / (units / n_sets)).sum() < n_sets + 5 * (2 * n_sets) ** 0.5
