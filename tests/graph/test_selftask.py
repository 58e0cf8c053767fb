"""SelfTask: tasks, correction of labels, joint training, and what must not be seen."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.errors import DataError
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.selftask import SelfTask, build_task
from ssl_domains.graph.selftask_base import Step
from ssl_domains.graph.selftask_guess import context_matrix, one_hot
from ssl_domains.graph.selftask_labels import choose_prototypes
from ssl_domains.graph.selftask_targets import Known

ALL = [
    "node_property",
    "edge_mask",
    "pairwise_distance",
    "distance_to_clusters",
    "attribute_mask",
    "pairwise_attribute_similarity",
    "distance_to_labeled",
    "context_label",
    "ensemble_label",
    "corrected_label",
]
WIDE = {"edge_mask", "pairwise_distance", "pairwise_attribute_similarity", "corrected_label"}


def make_source(labels=None, sizes=(30, 30, 30), seed=0, **options):
    """A stochastic block model with noisy features; 4 train labels a class."""
    from torch_geometric.data import Data

    graph = nx.stochastic_block_model(sizes, 0.02 + 0.2 * np.eye(len(sizes)), seed=seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    x = (
        np.eye(len(sizes))[truth] @ rng.normal(size=(len(sizes), 8)) + rng.normal(size=(len(truth), 8))
    ).astype(np.float32)
    edges = torch.tensor(list(graph.edges)).T
    place = np.arange(len(truth)) % sizes[0]
    masks = {
        "train_mask": torch.tensor(place < 4),
        "val_mask": torch.tensor((place >= 4) & (place < 10)),
        "test_mask": torch.tensor(place >= 10),
    }
    y = torch.tensor(truth if labels is None else labels)
    data = Data(x=torch.tensor(x), edge_index=torch.cat([edges, edges.flip(0)], 1), y=y, **masks)
    return GraphDomain().open(data, **options)


@pytest.fixture(scope="module")
def source():
    return make_source()


def make(source, tasks, seed=0, dropout=0.5, **options):
    registry.load_domain("graph")
    torch.manual_seed(seed)
    encoder = registry.get("encoder", "gcn")(
        source.spec, width=16, layers=1, dropout=0.0, norm="none", activation="relu"
    )
    return SelfTask(encoder, source.spec, tasks, dropout=dropout, **options)


def train(method, source, steps, lr=1e-2, seed=0):
    torch.manual_seed(seed)
    method.train()
    method.before_training(source)
    batch = source.fetch(source.pretrain_index)
    batch.label = None
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=lr)
    outputs = []
    for step in range(steps):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, steps))
        outputs.append({"loss": float(out.loss.detach()), **{k: float(v) for k, v in out.parts.items()}})
    return outputs


def prepared(source, entry, width=4):
    _, _, task = build_task(entry, source.spec, width)
    task.prepare(Known.of(source))
    return task


def step_of(source, h, step=0):
    nodes = torch.arange(len(source))
    return Step(h, h, nodes, nodes, Draw(0, step, nodes))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("label_weight", [0.0, 1.0])
def test_every_task_learns_alone_and_beside_labels(source, name, label_weight):
    method = make(source, [name], label_weight=label_weight)
    rows = train(method, source, 40)
    losses = [row[name] for row in rows]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    assert ("supervised" in rows[0]) == bool(label_weight)
    unused = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    allowed = {"encoder.mask_token"} | (
        {n for n in unused if n.startswith("classifier")} if not label_weight else set()
    )
    assert set(unused) <= allowed


def test_without_tasks_it_is_a_plain_gcn_bit_for_bit(source):
    plain = make(source, [])
    plain_rows = train(plain, source, 5)
    with_tasks = make(source, [{"name": n, "weight": 0} for n in ALL])
    rows = train(with_tasks, source, 5)
    assert [r["loss"] for r in rows] == [r["loss"] for r in plain_rows]
    assert all(torch.equal(a, b) for a, b in zip(plain.encoder.parameters(), with_tasks.encoder.parameters()))


@pytest.mark.parametrize(
    "name", ["distance_to_labeled", "context_label", "ensemble_label", "corrected_label"]
)
def test_labels_outside_the_train_split_are_never_seen(source, name):
    first = make(source, [name], select=False)
    rows = train(first, source, 4)
    labels = source.labels.copy()
    hidden = np.concatenate([source.splits["valid"], source.splits["test"]])
    labels[hidden] = (labels[hidden] + 1) % 3
    second = make(make_source(labels), [name], select=False)
    assert train(second, make_source(labels), 4) == rows


@pytest.mark.parametrize("name", ["edge_mask", "pairwise_distance", "pairwise_attribute_similarity"])
def test_pairs_have_no_order(source, name):
    task = prepared(source, name)
    h = torch.randn(len(source), 4, generator=torch.Generator().manual_seed(0))
    first = task.loss(step_of(source, h)).total
    for buffer in ("edges", "free", "pairs"):
        if hasattr(task, buffer):
            setattr(task, buffer, getattr(task, buffer).flip(0))
    assert float(task.loss(step_of(source, h)).total.detach()) == pytest.approx(float(first.detach()))


@pytest.mark.parametrize("redraw", [False, True])
def test_edge_mask_hides_both_directions(source, redraw):
    task = prepared(source, {"name": "edge_mask", "ratio": 0.2, "redraw": redraw})
    x = source.fetch(source.pretrain_index).x
    n_edges = source.edges.edge_index.shape[1] // 2
    hidden = [{tuple(p) for p in task.hidden(Draw(0, s, torch.arange(3))).T.tolist()} for s in (0, 1)]
    assert (hidden[0] == hidden[1]) != redraw
    seen = {tuple(e) for e in task.transform(x, Draw(0, 0, torch.arange(3))).edge_index.T.tolist()}
    assert len(hidden[0]) == int(0.2 * n_edges)
    assert not any((u, v) in seen or (v, u) in seen for u, v in hidden[0])
    assert sum(u != v for u, v in seen) == 2 * (n_edges - len(hidden[0]))
    assert sum(u == v for u, v in seen) == len(source)  # self-loops stay
    joined = {tuple(e) for e in source.edges.edge_index.T.tolist()}
    assert not any(tuple(p) in joined for p in task.free.T.tolist())


def test_attribute_mask_hides_unlabelled_nodes_and_counts_only_them(source):
    task = prepared(source, {"name": "attribute_mask", "ratio": 0.2}, width=8)
    x = source.fetch(source.pretrain_index).x
    seen = task.transform(x, Draw(0, 0, torch.arange(3))).x
    gone = (seen == 0).all(dim=1)
    assert int(gone.sum()) == int(0.2 * (len(source) - 12))
    assert not gone[source.splits["train"]].any()
    h = torch.randn(len(source), 8)
    loss = task.loss(step_of(source, h)).total
    wanted = F.mse_loss(task.head(h)[gone], torch.from_numpy(source.features)[gone])
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    redrawn = prepared(source, {"name": "attribute_mask", "redraw": True}, width=8)
    first, second = (redrawn.transform(x, Draw(0, s, torch.arange(3))).x for s in (0, 1))
    assert not torch.equal(first, second)


def test_pairwise_distance_draws_each_class_alike(source):
    task = prepared(source, {"name": "pairwise_distance", "per_class": 50})
    pairs = task.chosen(Draw(0, 0, torch.arange(3)))
    lengths = dict(nx.all_pairs_shortest_path_length(nx.Graph(list(source.edges.edge_index.T))))
    hops = [min(lengths[u].get(v, 9), 4) - 1 for u, v in pairs.T.tolist()]
    assert hops == task.target.tolist()
    assert np.bincount(hops, minlength=4)[:2].tolist() == [50, 50]
    assert not torch.equal(pairs, task.chosen(Draw(0, 1, torch.arange(3))))


def test_a_center_is_not_measured_from_itself(source):
    task = prepared(source, {"name": "distance_to_clusters", "parts": 4})
    assert (task.counts == 0).sum(0).tolist() == [1, 1, 1, 1]
    assert (task.target[task.counts == 0] == 0).all()
    assert ((task.target > 0) & (task.target <= 1) | (task.counts == 0)).all()


def test_context_targets_and_their_loss(source):
    task = prepared(source, "context_label")
    known = Known.of(source)
    wanted = context_matrix(known, 2) @ one_hot(task.labels.numpy(), 3)
    assert task.target.numpy() == pytest.approx(wanted, abs=1e-6)
    assert task.target.sum(1).numpy() == pytest.approx(np.ones(len(source)))
    task.eval()
    h = torch.randn(len(source), 4)
    free = np.setdiff1d(np.arange(len(source)), source.splits["train"])
    out = task.head(h).softmax(1).detach().numpy()
    assert float(task.loss(step_of(source, h)).total) == pytest.approx(
        ((out - wanted)[free] ** 2).mean(), rel=1e-4
    )


def test_correction_mends_wrong_guesses(source):
    task = prepared(source, {"name": "corrected_label", "sampled": 1000})
    truth = torch.from_numpy(source.labels)
    rng = np.random.default_rng(0)
    wrong = torch.from_numpy((rng.random(len(truth)) < 0.3) & (Known.of(source).labels < 0))
    task.labels = torch.where(wrong, (truth + 1) % 3, truth)
    h = torch.eye(4)[truth].requires_grad_()  # every node sits on the center of its class
    rows = task._rows(Draw(0, 0, torch.arange(3)))
    corrected = task.correct(h, rows, Draw(0, 0, torch.arange(3)))
    assert len(rows) == len(truth) - 12
    assert torch.equal(corrected, truth[rows])
    assert not corrected.requires_grad


def test_correction_does_not_depend_on_the_numbering(source):
    task = prepared(source, "corrected_label")
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(len(source), 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(source), generator=generator)
    first = task.correct(h, torch.arange(len(source)), Draw(0, 0, torch.arange(3)))
    task.labels = task.labels[order]
    second = task.correct(h[order], torch.arange(len(source)), Draw(0, 0, torch.arange(3)))
    assert torch.equal(first[order], second)


def literal_prototypes(unit, count, quantile, too_close):
    """One class, as the paper says it."""
    cosine = unit @ unit.T
    threshold = np.quantile(cosine, quantile)
    rho = np.sign(cosine - threshold).sum(1)
    eta = np.array([max(row[rho > r]) if (rho > r).any() else row.min() for row, r in zip(cosine, rho)])
    rho = np.where(eta >= too_close, 0, rho)
    return sorted(np.sort(rho)[::-1][:count].tolist()), rho


def test_prototypes_are_the_density_peaks():
    generator = torch.Generator().manual_seed(3)
    unit = F.normalize(torch.randn(2, 20, 3, generator=generator, dtype=torch.float64), dim=2)
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, 13:] = False
    places, there = choose_prototypes(unit, real, 8, 0.4, 0.95)
    assert there.all()
    for c, m in ((0, 20), (1, 13)):
        best, rho = literal_prototypes(unit[c, :m].numpy(), 8, 0.4, 0.95)
        assert sorted(rho[places[c].numpy()].tolist()) == best
    few, present = choose_prototypes(
        unit, torch.zeros_like(real).index_fill(1, torch.arange(2), True), 8, 0.4, 0.95
    )
    assert present.sum(1).tolist() == [2, 2]
    assert few.shape == (2, 8)


def test_corrected_loss_is_both_terms(source):
    task = prepared(source, {"name": "corrected_label", "alpha": 2.0, "sampled": 30})
    task.eval()
    h = torch.randn(len(source), 4)
    terms = task.loss(step_of(source, h))
    assert float(terms.total) == pytest.approx(
        float(terms.parts["first_guess"] + 2 * terms.parts["corrected"]), rel=1e-5
    )


def test_users_get_the_encoder_with_the_best_validation_accuracy(source):
    method = make(source, ["context_label"])
    rows = train(method, source, 30, lr=5e-2)
    accuracy = [row["valid_accuracy"] for row in rows[1:]] + [float(method.accuracy)]
    assert float(method.best_accuracy) == pytest.approx(max(accuracy))
    batch = source.fetch(source.splits["valid"])
    hits = (method.predict(batch).argmax(1) == batch.label).float().mean()
    assert float(hits) == pytest.approx(max(accuracy))
    assert not any(p.requires_grad for p in method.encoder_for_export().parameters())
    assert method.encoder.training
    last = make(source, ["context_label"], select=False)
    train(last, source, 2)
    assert last.encoder_for_export() is last.encoder


def test_joint_training_reaches_more_than_chance(source):
    method = make(source, ["corrected_label"])
    train(method, source, 60)
    batch = source.fetch(source.splits["test"])
    assert (method.predict(batch).argmax(1) == batch.label).float().mean() > 0.7


@pytest.mark.parametrize("name", sorted(set(ALL) - WIDE))
def test_node_tasks_run_on_sampled_neighbourhoods(name):
    source = make_source(neighbors=[5, 5])
    method = make(source, [name])
    method.before_training(source)
    out = method(source.fetch(np.arange(5, 40)), Draw(0, 0, torch.arange(35)))
    assert torch.isfinite(out.loss)


@pytest.mark.parametrize("name", sorted(WIDE))
def test_pair_tasks_want_the_whole_graph(name):
    source = make_source(neighbors=[5, 5])
    with pytest.raises(DataError, match=f"{name}.*data.neighbors"):
        make(source, [name]).before_training(source)


def _half(rank, tasks, rows):
    source = make_source()
    method = make(source, tasks, dropout=0.0, select=False)
    method.before_training(source)
    part = rows.chunk(2)[rank]
    out = method(source.fetch(part.numpy()), Draw(0, 0, part))
    out.loss.backward()
    return out.loss.detach(), [p.grad for p in method.parameters() if p.grad is not None]


@pytest.mark.slow
def test_two_processes_are_one_batch():
    tasks = [
        n if n not in ("context_label", "corrected_label") else {"name": n, "dropout": 0.0} for n in ALL[:8]
    ]
    tasks.append({"name": "corrected_label", "dropout": 0.0})
    rows = torch.arange(90)[torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    source = make_source()
    method = make(source, tasks, dropout=0.0, select=False)
    method.before_training(source)
    joined = method(source.fetch(rows.numpy()), Draw(0, 0, rows))
    joined.loss.backward()
    wanted = [p.grad for p in method.parameters() if p.grad is not None]
    (loss, first), (other, second) = run_processes(_half, 2, tasks, rows)
    assert float(loss) == pytest.approx(float(joined.loss.detach()), rel=1e-5)
    assert float(other) == pytest.approx(float(loss), rel=1e-5)
    for a, b, w in zip(first, second, wanted, strict=True):
        assert torch.allclose((a + b) / 2, w, atol=1e-4, rtol=1e-3)


def test_mistakes_are_named(source, graph_source):
    for tasks, text in (
        (["edge_masks"], "edge_mask"),
        ([{"name": "edge_mask", "rato": 0.1}], "rato"),
        ([{"name": "edge_mask", "ratio": 2}], "ratio"),
        ([{"name": "edge_mask", "weight": -1}], "weight"),
        (["edge_mask", "edge_mask"], "twice"),
        ([{"weight": 1}], "name"),
        ([{"name": "context_label", "guesser": "magic"}], "label_propagation"),
    ):
        with pytest.raises(ValueError, match=text):
            make(source, tasks)
    with pytest.raises(ValueError, match="nothing to learn"):
        make(source, [], label_weight=0.0)
    with pytest.raises(ValueError, match="many graphs"):
        make(graph_source, ["edge_mask"])
    with pytest.raises(ValueError, match="classifier"):
        make(source, ["edge_mask"], classifier="tree")


def test_without_labels():
    from torch_geometric.data import Data

    edges = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    bare = GraphDomain().open(Data(x=torch.rand(6, 3), edge_index=edges))
    with pytest.raises(ValueError, match=r"method\.label_weight to 0"):
        make(bare, ["node_property"])
    with pytest.raises(ValueError, match=r"data\.label"):
        make(bare, ["context_label"], label_weight=0.0)
    method = make(bare, ["node_property", "edge_mask", "pairwise_distance"], label_weight=0.0)
    assert np.isfinite([row["loss"] for row in train(method, bare, 3)]).all()
    with pytest.raises(DataError, match="without labels"):
        method.predict(bare.fetch(np.arange(6)))
