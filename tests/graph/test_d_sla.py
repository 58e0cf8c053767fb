"""D-SLA: the loss by hand, its invariances, gradients, two processes, and that it learns."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.batch import Mask
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.graph.d_sla import DSLA, Discrepancy
from ssl_domains.graph.edits import GraphEdits
from ssl_domains.graph.structure import join_graphs

WEAK4, WEAK5 = [True] * 4, [True] * 4 + [False]


def placed(*away, dtype=torch.float64):
    """Embeddings ``[1, C, D]`` at these distances from an original at 0."""
    values = torch.zeros(1, 1 + len(away), len(away), dtype=dtype)
    for i, a in enumerate(away):
        values[0, i + 1, i] = a
    return values


def random_case(b=6, c=5, d=4, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(b, c, generator=generator, dtype=torch.float64)
    h = torch.randn(b, c, d, generator=generator, dtype=torch.float64)
    distance = torch.randint(1, 9, (b, c), generator=generator).cumsum(1)
    distance[:, 0] = 0
    return scores.requires_grad_(grad), h.requires_grad_(grad), distance


def literal(scores, h, distance, weak, edit_weight=0.7, margin_weight=0.5, m=5.0):
    """Equations 3 to 6, graph by graph."""
    b, c = scores.shape
    told = np.mean([math.log(sum(math.exp(s) for s in row)) - row[0] for row in scores.tolist()])
    dist = lambda x, y: float(((x - y) ** 2).sum().sqrt())  # noqa: E731
    edit = [
        (dist(h[k, 0], h[k, i]) / int(distance[k, i]) - dist(h[k, 0], h[k, j]) / int(distance[k, j])) ** 2
        for k in range(b)
        for i in range(1, c)
        for j in range(i + 1, c)
    ]
    margin = [
        max(0.0, m + dist(h[k, 0], h[k, i]) - dist(h[k, 0], h[other, 0]))
        for k in range(b)
        for i in range(1, c)
        if weak[i]
        for other in range(b)
        if other != k
    ]
    return told + edit_weight * np.mean(edit) + margin_weight * np.mean(margin)


def test_literal_formula():
    scores, h, distance = random_case()
    terms = Discrepancy()(scores, h, distance, WEAK5)
    assert float(terms.total) == pytest.approx(literal(scores, h, distance, WEAK5), rel=1e-12)
    for m in (1.0, 2.5):
        terms = Discrepancy(0.3, 2.0, m)(scores, h, distance, WEAK5)
        assert float(terms.total) == pytest.approx(
            literal(scores, h, distance, WEAK5, 0.3, 2.0, m), rel=1e-12
        )


@pytest.mark.parametrize(("c", "value"), [(4, 1.386294), (5, 1.609438)])
def test_equal_scores(c, value):
    _, h, distance = random_case(c=c)
    terms = Discrepancy(0.0, 0.0)(torch.zeros(6, c, dtype=torch.float64), h, distance, [True] * c)
    assert float(terms.total) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("away", "distance", "value"), [((1, 2, 4), (1, 2, 4), 0.0), ((2, 2, 2), (1, 2, 4), 1.1666667)]
)
def test_edit_term_by_hand(away, distance, value):
    objective = Discrepancy(margin_weight=0.0)
    distance = torch.tensor([[0, *distance]])
    scores = torch.zeros(1, 4, dtype=torch.float64)
    terms = objective(scores, placed(*away), distance, WEAK4)
    assert float(terms.parts["edit"]) == pytest.approx(value, abs=1e-6)
    scaled = objective(scores, placed(*away), distance * 3, WEAK4)
    assert float(scaled.parts["edit"]) == pytest.approx(value / 9, abs=1e-6)


def test_margin_by_hand_and_without_the_strong_copy():
    h = torch.zeros(2, 5, 3, dtype=torch.float64)
    h[1] += torch.tensor([3.0, 0.0, 0.0])
    h[:, 1:4, 1] = 1.0
    h[:, 4, 1] = 100.0
    distance = torch.tensor([[0, 1, 2, 3, 4]]).expand(2, -1)
    terms = Discrepancy(0.0)(torch.zeros(2, 5, dtype=torch.float64), h, distance, WEAK5)
    assert float(terms.parts["margin"]) == pytest.approx(3.0)
    assert float(terms.total) == pytest.approx(math.log(5) + 1.5)


def test_margin_agrees_with_torch():
    _, h, distance = random_case(b=4, c=3, seed=5)
    triples = [(k, i, o) for k in range(4) for i in (1, 2) for o in range(4) if o != k]
    k, i, o = torch.tensor(triples).T
    wanted = F.triplet_margin_loss(h[k, 0], h[k, i], h[o, 0], margin=2.0, p=2, eps=0.0)
    got = Discrepancy(0.0, 1.0, 2.0)(torch.zeros(4, 3, dtype=torch.float64), h, distance, [True] * 3)
    assert float(got.parts["margin"]) == pytest.approx(float(wanted))


def test_one_graph_has_no_margin():
    scores, h, distance = random_case(b=1)
    assert float(Discrepancy()(scores, h, distance, WEAK5).parts["margin"]) == 0.0


def test_margin_reaches_only_near_graphs():
    h = torch.zeros(3, 3, 2, dtype=torch.float64)
    h[1, :, 0], h[2, :, 0] = 2.0, 50.0
    h[:, 1:, 1] = 1.0
    h.requires_grad_()
    Discrepancy(0.0, 1.0, 5.0)(torch.zeros(3, 3), h, torch.ones(3, 3), [True] * 3).total.backward()
    assert h.grad[0, 0, 0] > 0
    assert h.grad[1, 0, 0] < 0
    assert (h.grad[2] == 0).all()


def test_permuting_weak_copies_changes_nothing():
    scores, h, distance = random_case()
    order = [0, 3, 1, 2, 4]
    objective = Discrepancy()
    first = objective(scores, h, distance, WEAK5)
    second = objective(scores[:, order], h[:, order], distance[:, order], WEAK5)
    assert float(first.total) == pytest.approx(float(second.total), rel=1e-12)


def test_candidates_at_distance_zero_do_not_count():
    scores, h, distance = random_case()
    distance[0] = 0  # a graph that could not be edited
    distance[1, 1] = 0
    terms = Discrepancy()(scores, h, distance, WEAK5)
    rows = [k for k in range(6) if k != 0]
    shown = [[0, 2, 3, 4] if k == 1 else [0, 1, 2, 3, 4] for k in rows]
    told = np.mean(
        [float(torch.logsumexp(scores[k, s], 0) - scores[k, 0]) for k, s in zip(rows, shown, strict=True)]
    )
    assert float(terms.parts["discrimination"]) == pytest.approx(told)
    assert math.isfinite(float(terms.total))


def test_gradients():
    scores, h, distance = random_case(b=3, c=4, d=3, grad=True)
    objective = Discrepancy(margin=2.0)
    assert torch.autograd.gradcheck(lambda s, e: objective(s, e, distance, WEAK4).total, (scores, h))


def test_copies_on_the_original_give_no_nan():
    h = torch.ones(4, 5, 3, requires_grad=True)
    _, _, distance = random_case(b=4)
    terms = Discrepancy()(torch.zeros(4, 5), h, distance, WEAK5)
    terms.total.backward()
    assert torch.isfinite(h.grad).all()
    assert float(terms.total.detach()) == pytest.approx(terms.trivial["constant"])


def _half(rank, scores, h, distance):
    parts = [v.chunk(2)[rank].clone() for v in (scores, h, distance)]
    parts[0].requires_grad_()
    parts[1].requires_grad_()
    terms = Discrepancy(margin=2.0)(*parts, WEAK5)
    terms.total.backward()
    return terms.total.detach(), parts[0].grad, parts[1].grad


def test_two_processes_are_one_batch():
    scores, h, distance = random_case(b=6, grad=True)
    joined = Discrepancy(margin=2.0)(scores, h, distance, WEAK5)
    joined.total.backward()
    data = (scores.detach(), h.detach(), distance)
    (loss, s0, h0), (other, s1, h1) = run_processes(_half, 2, *data)
    assert float(loss) == pytest.approx(float(joined.total))
    assert float(other) == pytest.approx(float(joined.total))
    assert torch.allclose(torch.cat([s0, s1]) / 2, scores.grad)
    assert torch.allclose(torch.cat([h0, h1]) / 2, h.grad)


def method_on(source, **options):
    torch.manual_seed(0)
    registry.load_domain("graph")
    encoder = registry.get("encoder", "gin")(source.spec, width=16, layers=2, dropout=0.0, activation="relu")
    return DSLA(encoder, Discrepancy(**options), GraphEdits(source.spec, hops=2), source.spec)


def test_one_pass_with_the_mask_token(graph_source):
    method = method_on(graph_source)
    calls = []
    method.encoder.register_forward_hook(lambda m, args, out: calls.append((args, out)))
    batch = graph_source.fetch(np.arange(8))
    out = method(batch, Draw(0, 0, batch.index))
    ((x, mask), encoded), *rest = calls
    assert not rest
    assert isinstance(mask, Mask)
    assert len(encoded.pooled) == 8 * 5
    assert len(x.x) == len(mask.hidden) == 5 * len(batch.x.x)
    out.loss.backward()
    assert not [n for n, p in method.named_parameters() if p.grad is None]
    assert method.encoder.mask_token.grad.abs().sum() > 0


def test_numbering_of_nodes_does_not_matter(graph_source):
    """A candidate with other node numbers gets the same embedding: nothing in the pass looks at them."""
    method = method_on(graph_source).eval()
    batch = graph_source.fetch(np.arange(6))
    views = method.views(batch, Draw(0, 0, batch.index))
    x = join_graphs([v.x for v in views])
    order = torch.randperm(len(x.x), generator=torch.Generator().manual_seed(0))
    order = order[x.batch[order].argsort(stable=True)]
    new = torch.empty_like(order)
    new[order] = torch.arange(len(order))
    y = x.clone()
    y.x, y.edge_index = x.x[order], new[x.edge_index]
    assert torch.allclose(method.encoder(x).pooled, method.encoder(y).pooled, atol=1e-5)


def test_joined_graphs_keep_their_places(graph_source):
    batch = graph_source.fetch(np.array([2, 5])).x
    joined = join_graphs([batch, batch])
    n = len(batch.x)
    assert torch.equal(joined.ptr, torch.cat([batch.ptr, batch.ptr[1:] + n]))
    assert torch.equal(joined.batch, torch.cat([batch.batch, batch.batch + 2]))
    assert torch.equal(joined.edge_index[:, batch.edge_index.shape[1] :], batch.edge_index + n)


def chains():
    """Rings of 12 to 16 nodes: any edited edge shows."""
    from torch_geometric.data import Data

    from ssl_domains.graph.domain import GraphDomain

    graphs = []
    for i in range(48):
        n = 12 + i % 5
        here = torch.arange(n)
        edges = torch.stack([torch.cat([here, (here + 1) % n]), torch.cat([(here + 1) % n, here])])
        graphs.append(Data(x=torch.ones(n, 1), edge_index=edges, y=torch.tensor([i % 2])))
    return GraphDomain().open(graphs)


def test_it_learns_to_tell_the_original():
    source = chains()
    method = method_on(source)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    batch = source.fetch(np.arange(len(source)))
    accuracy = []
    for step in range(80):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        accuracy.append(float(out.parts["accuracy"]))
    assert np.mean(accuracy[-10:]) > 0.6  # chance: 0.2


def test_refuses_what_it_cannot_use(node_source, graph_source):
    encoder = registry.get("encoder", "gin")(graph_source.spec, width=8)
    with pytest.raises(ValueError, match=r"data\.graph"):
        DSLA(encoder, Discrepancy(), GraphEdits(graph_source.spec), node_source.spec)
    views = registry.get("views", "graph_augment")()
    method = DSLA(encoder, Discrepancy(), views, graph_source.spec)
    batch = graph_source.fetch(np.arange(4))
    with pytest.raises(ValueError, match="edit distance"):
        method(batch, Draw(0, 0, batch.index))
    checks = method_on(graph_source).check(batch_size=1, n_samples=10)
    assert len(checks) == 1
    assert "train.batch_size" in checks[0]
    with pytest.raises(Exception, match="margin"):
        Discrepancy(margin=0.0)
