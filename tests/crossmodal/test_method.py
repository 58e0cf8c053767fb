"""CrossModal: its value against an independent one, states of towers, queue, soft targets, terms, missing
partners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw
from ssl_domains.crossmodal.caching import tower_features


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))


def step(method, source, n=16, number=0):
    batch = source.fetch(source.splits["train"][:n])
    return method(batch, Draw(0, number, batch.index)), batch


def vectors(method, batch):
    return {
        p: method.encoder.project(p, method.encoder.part(p)(batch.x[p]).pooled) for p in method.encoder.names
    }


def test_equals_clip_written_out(paired, make_method):
    source = paired("text", "tabular")
    method = make_method(source, objective_options={"temperature": 0.1, "learn_temperature": False}).eval()
    method.before_training(source)
    assert not source.shares_items()
    out, batch = step(method, source)
    z = vectors(method, batch)
    logits = F.normalize(z["a"], dim=1) @ F.normalize(z["b"], dim=1).T / 0.1
    target = torch.arange(len(logits))
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(out.loss, expected)
    assert out.trivial["uniform"] == pytest.approx(np.log(16))


def test_pairs_that_share_an_item_are_no_negatives(paired, make_method):
    source = paired("text", "tabular")
    source.links.rows["b"] = source.links.rows["b"].copy()
    source.links.rows["b"][1] = source.links.rows["b"][0]  # one row of the table has two texts
    options = {"objective": "info_nce", "objective_options": {"temperature": 0.1}}
    losses = {}
    for same in ("positive", "ignored", "negative"):
        method = make_method(source, same=same, **options).eval()
        method.before_training(source)
        out, batch = step(method, source, 8)
        z = vectors(method, batch)
        logits = F.normalize(z["a"], dim=1) @ F.normalize(z["b"], dim=1).T / 0.1
        log_p = logits.log_softmax(1)
        if same == "negative":
            expected = -log_p.diagonal().mean()
        elif same == "positive":
            own = torch.eye(8)
            own[0, 1] = own[1, 0] = 1
            expected = -((own * log_p).sum(1) / own.sum(1)).mean()
        else:
            hidden = torch.zeros(8, 8)
            hidden[0, 1] = hidden[1, 0] = -torch.inf
            expected = -(logits + hidden).log_softmax(1).diagonal().mean()
        torch.testing.assert_close(out.loss, expected, msg=same)
        losses[same] = float(out.loss.detach())
    assert losses["ignored"] < losses["negative"]


def test_one_direction_with_keys_normalised_is_not_symmetric(paired, make_method):
    source = paired("text", "tabular")
    options = {"normalize": "key", "temperature": 1.0}
    method = make_method(source, "info_nce", options, same="negative").eval()
    out, batch = step(method, source)
    z = vectors(method, batch)
    expected = F.cross_entropy(z["a"] @ F.normalize(z["b"], dim=1).T, torch.arange(16))
    torch.testing.assert_close(out.loss, expected)
    other = make_method(source, "info_nce", options, same="negative", query="b").eval()
    assert abs(float(step(other, source)[0].loss) - float(out.loss)) > 1e-4


@pytest.mark.parametrize("state", ["frozen", "cached"])
def test_a_frozen_tower_gets_no_gradient_and_keeps_its_mode(state, paired, make_method):
    source = paired("image", "text").for_pretraining()
    method = make_method(source, towers={"a": state})
    method.before_training(source)
    method.train()
    assert not method.encoder.part("a").training
    assert method.encoder.part("b").training
    out, batch = step(method, source)
    out.loss.backward()
    assert all(p.grad is None for p in method.encoder.part("a").parameters())
    assert method.encoder.projections["a"].weight.grad.abs().sum() > 0
    trained = {id(p) for g in method.parameter_groups() for p in g["params"]}
    assert not trained & {id(p) for p in method.encoder.part("a").parameters()}
    if state == "cached":
        assert batch.x["a"].shape == (16, method.encoder.part("a").pooled_width)


def test_cached_equals_frozen(paired, make_method):
    losses = []
    for state in ("frozen", "cached"):
        source = paired("image", "text").for_pretraining()
        method = make_method(source, towers={"a": state}).train()
        method.encoder.part("b").eval()  # no dropout
        method.before_training(source)
        losses.append(float(step(method, source)[0].loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_cache_is_found_again_and_not_by_another_tower(paired, make_method, monkeypatch):
    source = paired("image", "text")
    method = make_method(source)
    first = tower_features(method.encoder.part("a"), source, "a")
    assert isinstance(first.array, np.memmap)

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("ssl_domains.crossmodal.caching._write", refuse)
    again = tower_features(method.encoder.part("a"), source, "a")
    np.testing.assert_array_equal(first.array, again.array)
    with torch.no_grad():
        next(method.encoder.part("a").parameters()).add_(1.0)
    with pytest.raises(AssertionError, match="computed again"):
        tower_features(method.encoder.part("a"), source, "a")


def test_queue_holds_past_keys_and_leaves_out_the_querys_own_item(paired, make_method):
    source = paired("text", "tabular", n=32)
    method = make_method(source, "info_nce", queue_size=16)
    method.before_training(source)
    rows = source.splits["train"]
    first, second = source.fetch(rows[:8]), source.fetch(rows[8:16])
    method(first, Draw(0, 0, first.index))
    method.after_step(Progress(1, 4))
    queue = method.queues["b"]
    assert (queue.index >= 0).sum() == 8
    method.eval()
    empty = make_method(source, "info_nce").eval()
    with_queue, without = (float(m(second, Draw(0, 1, second.index)).loss) for m in (method, empty))
    assert with_queue > without  # eight more negatives
    own = float(method(first, Draw(0, 1, first.index)).loss)
    z = vectors(method, first)
    keys = F.normalize(torch.cat([z["b"], queue.keys]), dim=1)
    logits = F.normalize(z["a"], dim=1) @ keys.T / 0.1
    hidden = torch.cat([torch.zeros(8, 8), torch.full((8, 16), -torch.inf)], dim=1)
    for i in range(8):
        for j in torch.nonzero(queue.index >= 0).flatten():
            if queue.column("item")[j] != first.meta["rows"]["b"][i]:
                hidden[i, 8 + j] = 0.0
    expected = F.cross_entropy(logits + hidden, torch.arange(8))
    assert own == pytest.approx(float(expected), abs=1e-5)


def test_a_symmetric_objective_has_a_queue_on_both_sides(paired, make_method):
    source = paired("text", "tabular", n=32)
    options = {"objective": "info_nce", "objective_options": {"temperature": 0.1, "symmetric": True}}
    method = make_method(source, **options, queue_size=16)
    method.before_training(source)
    rows = source.splits["train"]
    first, second = source.fetch(rows[:8]), source.fetch(rows[8:16])
    method(first, Draw(0, 0, first.index))
    method.after_step(Progress(1, 4))
    assert {key: int((q.index >= 0).sum()) for key, q in method.queues.items()} == {"a": 8, "b": 8}
    method.eval()
    z = {name: F.normalize(v, dim=1) for name, v in vectors(method, second).items()}
    expected = 0.0
    for query, key in (("a", "b"), ("b", "a")):
        past = method.queues[key].keys[method.queues[key].index >= 0]
        logits = z[query] @ torch.cat([z[key], F.normalize(past, dim=1)]).T / 0.1
        expected += F.cross_entropy(logits, torch.arange(8)) / 2
    torch.testing.assert_close(method(second, Draw(0, 1, second.index)).loss, expected, rtol=1e-5, atol=1e-5)


def test_a_key_of_two_pairs_is_queued_once(paired, make_method):
    source = paired("text", "tabular", "image", n=16)
    method = make_method(source, "info_nce", queue_size=32)
    method.before_training(source)
    step(method, source, 8)
    method.after_step(Progress(1, 4))
    assert {key: int((q.index >= 0).sum()) for key, q in method.queues.items()} == {"b": 8, "c": 8}


def test_soft_targets(paired, make_method):
    source = paired("text", "tabular")
    method = make_method(source, "info_nce", {"temperature": 0.1}, soft=0.4, soft_temperature=0.2).eval()
    out, batch = step(method, source, 8)
    z = vectors(method, batch)
    k = F.normalize(z["b"], dim=1)
    target = 0.6 * torch.eye(8) + 0.4 * (k @ k.T / 0.2).softmax(1)
    expected = -(target * (F.normalize(z["a"], dim=1) @ k.T / 0.1).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(out.loss, expected)


def test_missing_partners_change_nothing_for_the_others(paired, make_method):
    source = paired("text", "tabular", "image", n=12)
    options = {"objective": "info_nce", "objective_options": {"symmetric": True}}
    method = make_method(source, **options).eval()
    source.links.rows = {p: r.copy() for p, r in source.links.rows.items()}
    source.links.rows["c"][:4] = -1
    source.complete = False
    out, batch = step(method, source, 12)
    z = vectors(method, batch)

    def contrast(x, y):
        logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.1
        t = torch.arange(len(x))
        n = len(x)
        return (F.cross_entropy(logits, t) * n + F.cross_entropy(logits.T, t) * n) / (2 * n)

    expected = (
        contrast(z["a"], z["b"]) + contrast(z["a"][4:], z["c"][4:]) + contrast(z["b"][4:], z["c"][4:])
    ) / 3
    torch.testing.assert_close(out.loss, expected, rtol=1e-4, atol=1e-5)


def test_a_term_on_one_tower_adds_its_loss(paired, make_method):
    source = paired("text", "tabular")
    registry.scan_core()

    def term(method):
        views = registry.get("views", "text_augment")(source.parts["a"].spec)
        made = registry.get("method", "joint_embedding")
        return made(method.encoder.part("a"), registry.get("objective", "nt_xent")(), views, projector=[8, 8])

    plain = make_method(source)
    torch.manual_seed(1)
    from ssl_domains.crossmodal.method import CrossModal

    within = CrossModal(plain.encoder, plain.objective, terms={"a": term(plain)}, weights={"a": 0.5}).eval()
    within.before_training(source)
    out, _ = step(within, source)
    torch.testing.assert_close(out.loss.detach(), out.parts["between"] + 0.5 * out.parts["within_a"])
    out.loss.backward()
    assert within.terms["a"].projector[0].weight.grad is not None
    with pytest.raises(ValueError, match="a method on it learns nothing"):
        CrossModal(plain.encoder, plain.objective, terms={"a": within.terms["a"]}, towers={"a": "frozen"})


@pytest.mark.parametrize("mining", ["semi_hard", "hardest", "all", "random"])
def test_triplets(mining, paired, make_method):
    source = paired("text", "tabular")
    method = make_method(source, "triplet", {"mining": mining, "symmetric": True})
    out, _ = step(method, source)
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert out.trivial == {"constant": 0.2}


def test_refusals(paired, make_method):
    source = paired("text", "tabular")
    for options, text in (
        ({"towers": {"z": "frozen"}}, "there is no part 'z'"),
        ({"towers": {"a": "thawed"}}, "must be trained, frozen or cached"),
        ({"soft": 1.5}, "must lie in"),
        ({"same": "alike"}, "method.same"),
    ):
        with pytest.raises(ValueError, match=text):
            make_method(source, **options)
    with pytest.raises(ValueError, match="takes no soft_targets"):
        make_method(source, "triplet", soft=0.2)
