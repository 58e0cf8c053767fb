"""Local-global agreement: which pairs are true, on graphs and on fixed sets of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.methods.local_global import LocalGlobal, locals_of
from ssl_domains.core.objectives.mutual_information import JensenShannon
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes


def graph_parts(n=5, width=8, **options):
    from torch_geometric.data import Data

    from ssl_domains.graph.domain import GraphDomain
    from ssl_domains.graph.encoders import GIN

    generator = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(12):
        path = torch.arange(n + i - 1)
        edges = torch.stack([path, path + 1])
        graphs.append(Data(x=torch.rand(n + i, 4, generator=generator), edge_index=edges))
    source = GraphDomain().open(graphs)
    torch.manual_seed(0)
    return source, GIN(source.spec, width, dropout=0.0, norm="none", **options)


def test_dgi_by_hand(encoder, views, batch):
    """Toy tokens: the mean of a row's tokens, a bilinear form, the corrupted row's tokens as false."""
    method = LocalGlobal(encoder, JensenShannon(), views(1))
    draw = Draw(0, 0, batch.index)
    tokens = encoder(batch.x).tokens.values
    fake = encoder(views(1)(batch, draw.fork("views"))[0].x).tokens.values
    summary = tokens.mean(dim=1).sigmoid() @ method.whole.weight.T
    true = torch.einsum("bnd,bd->bn", tokens, summary).flatten()
    false = torch.einsum("bnd,bd->bn", fake, summary).flatten()
    want = (F.softplus(-true).mean() + F.softplus(false).mean()) / 2
    torch.testing.assert_close(method(batch, draw).loss, want)


def test_infograph_by_a_loop_over_pairs(views):
    source, encoder = graph_parts(pooling="sum", concat_layers=True)
    method = LocalGlobal(encoder, JensenShannon(), views(), "others", "pooled", [16, 16])
    batch = source.fetch(np.arange(6))
    encoded = encoder(batch.x)
    tokens, owner, counted = locals_of(encoded)
    assert counted is None
    local, whole = method.local(tokens), method.whole(encoded.pooled)
    true, false = [], []
    for i in range(len(local)):
        for j in range(6):
            (true if int(owner[i]) == j else false).append(local[i] @ whole[j])
    want = (F.softplus(-torch.stack(true)).mean() + F.softplus(torch.stack(false)).mean()) / 2
    torch.testing.assert_close(method(batch, Draw(0, 0, batch.index)).loss, want)


def test_only_seeds_count_in_a_sampled_batch(views):
    import networkx as nx

    from ssl_domains.graph.domain import GraphDomain
    from ssl_domains.graph.encoders import GCN
    from ssl_domains.graph.views import GraphShuffle

    graph = nx.gnm_random_graph(60, 200, seed=0)
    for i in graph:
        graph.nodes[i]["a"] = float(i % 7)
    source = GraphDomain().open(graph, neighbors=[3, 3])
    torch.manual_seed(0)
    encoder = GCN(source.spec, 8, dropout=0.0, norm="none")
    method = LocalGlobal(encoder, JensenShannon(), GraphShuffle())
    batch = source.fetch([3, 9, 20])
    draw = Draw(0, 0, batch.index)
    tokens = encoder(batch.x).tokens.values
    fake = encoder(GraphShuffle()(batch, draw.fork("views"))[0].x).tokens.values
    assert len(tokens) > 3
    summary = method.whole(tokens[:3].mean(dim=0).sigmoid())
    want = (F.softplus(-(tokens[:3] @ summary)).mean() + F.softplus(fake[:3] @ summary).mean()) / 2
    torch.testing.assert_close(method(batch, draw).loss, want)


def test_shuffled_features_are_a_permutation():
    from ssl_domains.graph.views import GraphShuffle

    source, _ = graph_parts()
    batch = source.fetch(np.arange(12))
    view = GraphShuffle()(batch, Draw(0, 1, batch.index))[0]
    assert torch.equal(view.x.x.sort(0).values, batch.x.x.sort(0).values)
    assert not torch.equal(view.x.x, batch.x.x)
    assert torch.equal(view.x.edge_index, batch.x.edge_index)


def test_one_summary_has_no_others(views):
    source, encoder = graph_parts()
    method = LocalGlobal(encoder, JensenShannon(), views(), "others", "pooled", [8])
    batch = source.fetch([0])
    with pytest.raises(DataError, match="negatives: corrupted"):
        method(batch, Draw(0, 0, batch.index))


def half(rank, x, weights):
    from ssl_domains.core.batch import Encoded, Tokens
    from ssl_domains.core.interfaces import Encoder

    class Plain(Encoder):
        def __init__(self):
            super().__init__()
            self.width = 4
            self.net = torch.nn.Linear(3, 4)

        def forward(self, x, mask=None, *, layers=False):
            tokens = self.net(x)
            return Encoded(Tokens(tokens), tokens.mean(1))

    torch.manual_seed(0)
    method = LocalGlobal(Plain(), JensenShannon(), None, "others", "pooled", [4])
    rows = x if rank is None else x.chunk(2)[rank]
    out = method(Batch(rows, torch.arange(len(rows))), Draw(0, 0, torch.arange(len(rows))))
    out.loss.backward()
    return out.loss.detach(), [p.grad for p in method.parameters()]


def test_others_are_those_of_all_processes():
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(1))
    loss, grads = half(None, x, None)
    found = run_processes(half, 2, x, None)
    for value, _ in found:
        torch.testing.assert_close(value, loss)
    for want, a, b in zip(grads, found[0][1], found[1][1], strict=True):
        torch.testing.assert_close((a + b) / 2, want)
