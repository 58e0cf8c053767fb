"""InfoNCE against a literal formula that walks over anchors and candidates one by one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.contrastive import CLIP, InfoNCE, MoCo, NTXent

B, D, K, M, S = 5, 4, 3, 2, 3
F64 = {"dtype": torch.float64}


def literal(loss: InfoNCE, q: Tensor, k: Tensor | None, **a: Tensor | None) -> Tensor:
    """The documented formula, one anchor, one candidate at a time."""
    q = F.normalize(q, dim=1) if loss.normalize in ("both", "query") else q

    def key_side(x: Tensor | None) -> Tensor | None:
        return F.normalize(x, dim=-1) if x is not None and loss.normalize in ("both", "key") else x

    k, bank = key_side(k), key_side(a.get("negatives"))
    pos, neg = key_side(a.get("positives")), key_side(a.get("query_negatives"))
    scale = loss.scale()
    ids, own_key = a.get("positive_ids"), None
    if not loss.in_batch and k is not None:
        own_key, k = k, None
    group = len(q) if k is not None or loss.intra else 0
    anchors = [(q, k, i, False) for i in range(len(q))]
    if loss.symmetric:
        anchors += [(k, q, i, True) for i in range(len(q))]
    values, shares = [], []
    for side, other, i, turned in anchors:
        candidates = []  # vector, column in the arguments, default positive
        if loss.intra:
            rest = [j for j in range(len(q)) if j != i]
            candidates += [(side[j], j, ids is not None and ids[i] == ids[j]) for j in rest]
        if other is not None:
            candidates += [(other[j], j, j == i if ids is None else ids[i] == ids[j]) for j in range(len(q))]
        if not turned or loss.intra:
            column = group
            for block, positive in ((bank, False), ([own_key[i]] if own_key is not None else [], True),
                                    (pos[i] if pos is not None else [], True),
                                    (neg[i] if neg is not None else [], False)):  # fmt: skip
                for vector in block if block is not None else []:
                    candidates.append((vector, column, positive))
                    column += 1

        def look(name: str, column: int, default, i: int = i, turned: bool = turned):
            table = a.get(name)
            if table is None or column >= table.shape[1]:
                return default
            row, column = (column, i) if turned and column < group else (i, column)
            return table[row if len(table) > 1 else 0, column]

        p, n, targets = [], [], []
        for vector, column, positive in candidates:
            positive = bool(positive)
            if a.get("positive_mask") is not None and column < group:
                positive = bool(look("positive_mask", column, False)) or bool(ids is not None and positive)
            positive = positive or (column >= group and bool(look("positive_mask", column, False)))
            if a.get("soft_targets") is not None:
                positive = float(look("soft_targets", column, 0.0)) > 0
            if look("ignore_mask", column, False) or not (positive or look("negative_mask", column, True)):
                continue
            weight = float(look("weights", column, 1.0))
            if weight == 0:
                continue
            logit = scale * (side[i] @ vector) + math.log(weight)
            (p if positive else n).append(logit)
            if positive:
                targets.append(float(look("soft_targets", column, 0.0)))
        decoupled = loss.form.startswith("decoupled")
        if not p or (decoupled and not n):
            continue
        lse = lambda logits: torch.logsumexp(torch.stack(logits), 0)  # noqa: E731
        if a.get("soft_targets") is not None:
            value = sum(t * (lse(p + n) - x) for t, x in zip(targets, p, strict=True)) / sum(targets)
        elif loss.form in ("in", "decoupled_in"):
            value = lse(n if decoupled else p + n) - lse(p)
        elif loss.form == "own":
            value = sum(lse([x, *n]) - x for x in p) / len(p)
        else:
            value = sum(lse(n if decoupled else p + n) - x for x in p) / len(p)
        share = a.get("query_weights")
        share = 1.0 if share is None else share[i]
        values.append(share * value)
        shares.append(share)
    return sum(values) / sum(shares)


def vectors(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "query": (B, D), "key": (B, D), "negatives": (K, D), "positives": (B, M, D),
        "query_negatives": (B, S, D),
    }  # fmt: skip
    return {name: torch.randn(*shape, generator=g, **F64) for name, shape in shapes.items()}


IDS = torch.tensor([7, 3, 7, 3, 9])
G = torch.Generator().manual_seed(5)
WIDE = B + K + M + S
MASK = torch.rand(B, B, generator=G) > 0.6
OTHER = torch.rand(B, B, generator=G) > 0.4
FULL = torch.rand(B, WIDE, generator=G) > 0.5
SOFT = torch.rand(B, B, generator=G, **F64) * (torch.rand(B, B, generator=G) > 0.3)
WEIGHTS = torch.rand(B, WIDE, generator=G, **F64) + 0.2
ALL = ("negatives", "positives", "query_negatives")

CASES: dict[str, tuple[dict, tuple[str, ...], dict]] = {
    "one direction": ({}, (), {}),
    "two directions": ({"symmetric": True}, (), {}),
    "nt-xent": ({"symmetric": True, "intra": True}, (), {}),
    "intra, one direction": ({"intra": True}, (), {}),
    "query normalised": ({"normalize": "query"}, ("negatives",), {}),
    "key normalised": ({"normalize": "key", "temperature": 1.0}, ALL, {}),
    "nothing normalised": ({"normalize": "none", "symmetric": True}, (), {}),
    "learned": ({"learn_temperature": True, "symmetric": True}, (), {}),
    "learned, explicit": ({"learn_temperature": True}, ALL, {}),
    "moco": ({"in_batch": False}, ("negatives",), {}),
    "mochi": ({"in_batch": False}, ("negatives", "query_negatives"), {}),
    "key and positives": ({"in_batch": False}, ALL, {}),
    "explicit beside batch": ({}, ALL, {}),
    "explicit, symmetric": ({"symmetric": True}, ALL, {}),
    "explicit, nt-xent": ({"symmetric": True, "intra": True}, ALL, {}),
    "supcon": ({"symmetric": True, "intra": True}, (), {"positive_ids": IDS}),
    "supcon in": ({"symmetric": True, "intra": True, "aggregate": "in"}, (), {"positive_ids": IDS}),
    "supcon own": ({"symmetric": True, "intra": True, "exclude_positives": True}, (), {"positive_ids": IDS}),
    "supcon decoupled": ({"symmetric": True, "intra": True, "decoupled": True}, (), {"positive_ids": IDS}),
    "decoupled in": ({"decoupled": True, "aggregate": "in"}, ("positives",), {"positive_ids": IDS}),
    "dcl": ({"symmetric": True, "intra": True, "decoupled": True}, (), {}),
    "own, explicit": ({"exclude_positives": True, "learn_temperature": True}, ALL, {}),
    "in, explicit": ({"aggregate": "in"}, ALL, {}),
    "positive mask": ({"symmetric": True}, (), {"positive_mask": MASK}),
    "positive mask, nt-xent": ({"symmetric": True, "intra": True}, ("negatives",), {"positive_mask": MASK}),
    "positive mask and ids": ({}, (), {"positive_mask": MASK, "positive_ids": IDS}),
    "positive mask over all": ({"exclude_positives": True}, ALL, {"positive_mask": FULL}),
    "negative mask": ({"symmetric": True, "intra": True}, (), {"negative_mask": OTHER}),
    "negative mask, several": ({"exclude_positives": True}, ALL, {"negative_mask": FULL}),
    "three masks": (
        {"symmetric": True}, (), {"positive_mask": MASK, "negative_mask": OTHER, "ignore_mask": ~OTHER & MASK}
    ),
    "ignored positives": ({"symmetric": True}, (), {"ignore_mask": MASK}),
    "ignored, explicit": ({}, ALL, {"ignore_mask": FULL}),
    "ignored, moco": ({"in_batch": False}, ("negatives",), {"ignore_mask": FULL[:, : K + 1]}),
    "weights": ({"symmetric": True}, (), {"weights": WEIGHTS[:, :B]}),
    "weights, explicit": ({"learn_temperature": True}, ALL, {"weights": WEIGHTS}),
    "weights for all": ({"aggregate": "in"}, ALL, {"weights": WEIGHTS[:1]}),
    "weights of zero": ({}, (), {"weights": SOFT + torch.eye(B, **F64)}),
    "soft targets": ({"symmetric": True}, (), {"soft_targets": SOFT}),
    "soft targets, explicit": ({"learn_temperature": True}, ALL, {"soft_targets": WEIGHTS}),
    "soft targets, ignored": (
        {"symmetric": True, "intra": True}, (), {"soft_targets": SOFT, "ignore_mask": MASK}
    ),
    "query weights": ({"symmetric": True}, (), {"query_weights": WEIGHTS[:, 0]}),
    "query weights, supcon": (
        {"symmetric": True, "intra": True}, (), {"positive_ids": IDS, "query_weights": WEIGHTS[:, 0]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk", [2, None])
def test_value_and_gradients_equal_the_literal_formula(name: str, chunk: int | None) -> None:
    options, extra, arguments = CASES[name]
    loss = InfoNCE(**{"temperature": 0.3, **options}, chunk_size=chunk).double()
    inputs = {n: v for n, v in vectors().items() if n in ("query", "key", *extra)}
    results = []
    for function in (lambda **a: loss(**a).total, lambda query, key, **a: literal(loss, query, key, **a)):
        leaves = {n: v.clone().requires_grad_() for n, v in inputs.items()}
        parameters = [*leaves.values(), *loss.parameters()]
        value = function(**leaves, **arguments)
        results.append((value, torch.autograd.grad(value, parameters)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)
    assert all(g.abs().max() > 1e-4 for g in results[0][1])


GRADCHECK = ["nt-xent", "learned, explicit", "mochi", "weights, explicit", "soft targets, explicit",
             "own, explicit", "supcon in", "dcl", "three masks"]  # fmt: skip


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradcheck(name: str) -> None:
    options, extra, arguments = CASES[name]
    loss = InfoNCE(**{"temperature": 0.5, **options}, chunk_size=2).double()
    inputs = {n: v.requires_grad_() for n, v in vectors(1).items() if n in ("query", "key", *extra)}

    def value(*tensors: Tensor) -> Tensor:
        return loss(**dict(zip(inputs, tensors, strict=False)), **arguments).total

    assert torch.autograd.gradcheck(value, (*inputs.values(), *loss.parameters()))


# --- values known by hand -------------------------------------------------------------------------


def test_brain_decoding_worked_value() -> None:
    keys = torch.eye(2, **F64)
    loss = InfoNCE(1.0, normalize="key")
    assert loss(keys, keys * 3).total.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert loss(keys * 0, keys).total.item() == pytest.approx(math.log(2))
    assert loss(keys * 2, keys).total.item() != pytest.approx(loss(keys, keys).total.item())


def test_collossl_worked_value() -> None:
    """Cosines 1 and (0.5, 0), temperature 0.5, weights 1 and (10, 5): 1.6781."""
    query = torch.tensor([[1.0, 0.0]], **F64)
    positives = query[:, None]
    negatives = torch.tensor([[[0.5, math.sqrt(0.75)], [0.0, 1.0]]], **F64)
    weights = torch.tensor([[1.0, 10.0, 5.0]], **F64)
    loss = InfoNCE(0.5, aggregate="in")
    arguments = {"positives": positives, "query_negatives": negatives}
    assert loss(query, weights=weights, **arguments).total.item() == pytest.approx(1.6781, abs=1e-4)
    assert loss(query, weights=7 * weights, **arguments).total.item() == pytest.approx(1.6781, abs=1e-4)


def test_equal_similarities_give_the_uniform_value() -> None:
    one = torch.ones(6, 3)
    bank = torch.ones(4, 3)
    explicit = {"positives": torch.ones(6, 2, 3), "query_negatives": torch.ones(6, 3, 3)}
    assert NTXent()(one, one).trivial["uniform"] == pytest.approx(math.log(11))
    for loss, arguments in [
        (NTXent(), {}),
        (NTXent(decoupled=True), {}),
        (CLIP(), {}),
        (MoCo(), {"negatives": bank}),
        (InfoNCE(exclude_positives=True), explicit),
        (InfoNCE(aggregate="in"), explicit),
        (InfoNCE(symmetric=True), {"negatives": bank}),
        (InfoNCE(symmetric=True, intra=True), {"positive_ids": torch.arange(6) // 2}),
        (InfoNCE(decoupled=True, aggregate="in", in_batch=False), explicit),
    ]:
        terms = loss(one, one, **arguments)
        assert terms.total.item() == pytest.approx(terms.trivial["uniform"], abs=1e-5)
        assert terms.parts["accuracy"] == 0.0


def test_uniform_is_not_claimed_where_masks_decide() -> None:
    q = torch.randn(4, 3)
    assert InfoNCE()(q, q, ignore_mask=torch.eye(4, dtype=torch.bool).roll(1, 0)).trivial == {}
    assert InfoNCE(aggregate="in")(q, q, positive_ids=torch.zeros(4, dtype=torch.long)).trivial == {}


def test_position_contrast_worked_value() -> None:
    """Sheet of the G^D- loss: 3 volumes x 4 partitions x 3 sets, all equal: log 28 a term."""
    partition = torch.arange(4).repeat(9)
    slices = torch.arange(12).repeat(3)
    same = (slices[:, None] == slices) & ~torch.eye(36, dtype=torch.bool)
    other = partition[:, None] != partition
    loss = InfoNCE(0.1, intra=True, exclude_positives=True)
    vectors = torch.ones(36, 5, **F64)
    value = loss(vectors, positive_mask=same, negative_mask=other).total
    assert value.item() == pytest.approx(math.log(28))
    orthogonal = F.one_hot(partition, 4).double()
    value = loss(orthogonal, positive_mask=same, negative_mask=other).total
    assert value.item() == pytest.approx(math.log(1 + 27 * math.exp(-10)), rel=1e-6)


def test_ignored_pairs_pull_nothing() -> None:
    q = torch.randn(4, 3, **F64)
    k = torch.randn(4, 3, **F64, requires_grad=True)
    ignore = torch.zeros(4, 4, dtype=torch.bool)
    ignore[:, 2] = True
    InfoNCE()(q, k, ignore_mask=ignore).total.backward()
    assert (k.grad[2] == 0).all()
    assert (k.grad[0] != 0).any()


def test_moco_gradient_formula() -> None:
    """d/dq = (sum_z p_z z - (1 - p_k) k) / tau for unit vectors taken as they are."""
    v = {n: F.normalize(x, dim=-1) for n, x in vectors().items()}
    q = v["query"].clone().requires_grad_()
    loss = InfoNCE(0.2, in_batch=False, normalize="none")
    loss(q, v["key"], negatives=v["negatives"], query_negatives=v["query_negatives"]).total.backward()
    for i in range(B):
        z = torch.cat([v["key"][i : i + 1], v["negatives"], v["query_negatives"][i]])
        p = torch.softmax(z @ v["query"][i] / 0.2, 0)
        torch.testing.assert_close(q.grad[i] * B, (p[1:] @ z[1:] - (1 - p[0]) * z[0]) / 0.2)


def test_more_negatives_cost_more() -> None:
    v = vectors()
    plain = MoCo()(v["query"], v["key"], negatives=v["negatives"]).total
    mixed = MoCo()(v["query"], v["key"], negatives=v["negatives"], query_negatives=v["query_negatives"]).total
    assert mixed > plain


# --- independent implementations ------------------------------------------------------------------


def test_nt_xent_equals_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss")
    q, k = torch.randn(33, 8, requires_grad=True), torch.randn(33, 8, requires_grad=True)
    for temperature in (0.5, 0.1):
        expected = lightly.NTXentLoss(temperature)(q, k)
        ours = NTXent(temperature, chunk_size=10)(q, k).total
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(loss, (q, k)) for loss in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_clip_equals_cross_entropy_both_ways() -> None:
    v = vectors()
    loss = CLIP().double()
    logits = F.normalize(v["query"], dim=1) @ F.normalize(v["key"], dim=1).T / 0.07
    target = torch.arange(B)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(loss(v["query"], v["key"]).total, expected, rtol=1e-6, atol=1e-7)


# --- properties -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(2, 9), chunk=st.integers(1, 10))
def test_order_roles_and_chunks_do_not_matter(seed: int, n: int, chunk: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, n, 3, generator=g, **F64)
    order = torch.randperm(n, generator=g)
    value = NTXent(chunk_size=chunk)(q, k).total
    torch.testing.assert_close(NTXent()(q[order], k[order]).total, value)
    torch.testing.assert_close(NTXent()(k, q).total, value)
    torch.testing.assert_close(NTXent()(q * 3, k * 0.1).total, value)
    assert value >= 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(2, 8))
def test_own_ids_and_diagonal_mask_are_the_default(seed: int, n: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, n, 3, generator=g, **F64)
    for form in ({}, {"aggregate": "in"}, {"exclude_positives": True}, {"decoupled": True}):
        loss = InfoNCE(0.2, symmetric=True, **form)
        value = loss(q, k).total
        torch.testing.assert_close(loss(q, k, positive_ids=torch.randperm(n, generator=g)).total, value)
        torch.testing.assert_close(loss(q, k, positive_mask=torch.eye(n, dtype=torch.bool)).total, value)
    hard = InfoNCE(0.2)(q, k, soft_targets=torch.eye(n)).total
    torch.testing.assert_close(hard, InfoNCE(0.2)(q, k).total)


# --- statistics, precision, gradient flow, refusals -----------------------------------------------


def test_parts_are_means_over_all_pairs() -> None:
    v = vectors()
    q, k = F.normalize(v["query"], dim=1), F.normalize(v["key"], dim=1)
    parts = NTXent(chunk_size=3)(v["query"], v["key"]).parts
    z = torch.cat([q, k])
    similarity = z @ z.T
    positive = torch.cat([(q * k).sum(1)] * 2)
    off = ~(torch.eye(2 * B) + torch.eye(2 * B).roll(B, 0)).bool()
    torch.testing.assert_close(parts["positive_similarity"], positive.mean())
    torch.testing.assert_close(parts["negative_similarity"], similarity[off].mean())
    rival = similarity.masked_fill(~off, -2).amax(1)
    torch.testing.assert_close(parts["accuracy"], (positive > rival).double().mean())
    assert not any(x.requires_grad for x in parts.values())

    parts = MoCo()(v["query"], v["key"], negatives=v["negatives"], query_negatives=v["query_negatives"]).parts
    shared = q @ F.normalize(v["negatives"], dim=1).T
    own = torch.einsum("bd,bsd->bs", q, F.normalize(v["query_negatives"], dim=-1))
    torch.testing.assert_close(parts["negative_similarity"], torch.cat([shared, own], 1).mean())


def test_autocast_computes_in_float32() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 16, 8)
    expected = NTXent(0.05)(q, k).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = NTXent(0.05)(q, k).total
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)
    low = q.bfloat16().requires_grad_()
    terms = NTXent()(low, k.bfloat16())
    terms.total.backward()
    assert terms.total.dtype == torch.float32
    assert low.grad.dtype == torch.bfloat16


def test_large_logits_do_not_overflow() -> None:
    q = torch.randn(8, 4, requires_grad=True)
    loss = InfoNCE(1e-3, normalize="none")(q * 100, torch.randn(8, 4) * 100).total
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(q.grad).all()


def test_nan_is_seen() -> None:
    q = torch.randn(4, 3)
    q[2, 1] = float("nan")
    for arguments in ({}, {"positive_ids": torch.zeros(4, dtype=torch.long)}):
        assert torch.isnan(NTXent(0.5)(q, torch.randn(4, 3)).total)
        assert torch.isnan(InfoNCE()(q, torch.randn(4, 3), **arguments).total)


def test_no_anchor_gives_zero_and_no_gradient() -> None:
    q = torch.randn(4, 3, requires_grad=True)
    none = torch.zeros(4, 4, dtype=torch.bool)
    loss = InfoNCE(symmetric=True)(q, torch.randn(4, 3), positive_mask=none).total
    loss.backward()
    assert loss == 0
    assert (q.grad == 0).all()


def test_gradient_goes_only_where_it_is_asked_for() -> None:
    v = vectors()
    query, bank = v["query"].requires_grad_(), v["negatives"]
    MoCo()(query, v["key"], negatives=bank).total.backward()
    assert query.grad.abs().sum() > 0
    assert v["key"].grad is None
    assert bank.grad is None

    frozen, learning = CLIP().double(), v["query"].detach()
    frozen(learning, v["key"]).total.backward()  # only the temperature learns
    assert frozen.log_scale.grad.abs() > 0

    with torch.no_grad():
        quiet = NTXent().eval()(query, v["key"]).total
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, NTXent()(query, v["key"]).total.detach())


def test_learned_scale_stops_at_its_limit_and_can_return() -> None:
    loss = CLIP(max_scale=20.0)
    with torch.no_grad():
        loss.log_scale.fill_(10.0)
    assert loss.scale().item() == pytest.approx(20.0)
    q = torch.randn(6, 4)
    loss(q, -q).total.backward()
    assert loss.log_scale.grad.abs() > 0
    terms = loss(q, q)
    assert float(terms.parts["temperature"]) == pytest.approx(0.05)


def test_saved_tensors_grow_with_rows_not_with_pairs() -> None:
    sizes = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    q, k = torch.randn(512, 4, requires_grad=True), torch.randn(512, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        NTXent()(q, k)
    assert max(sizes) <= 2 * 512 * 4


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (lambda: InfoNCE(0.0), {}, "temperature"),
        (lambda: InfoNCE(normalize="left"), {}, "normalize"),
        (lambda: InfoNCE(in_batch=False, symmetric=True), {}, "in_batch"),
        (lambda: InfoNCE(aggregate="in", exclude_positives=True), {}, "exclude_positives"),
        (lambda: InfoNCE(aggregate="mean"), {}, "aggregate"),
        (InfoNCE, {"key": torch.ones(3, D)}, r"\[5, 4\] and \[3, 4\]"),
        (InfoNCE, {"key": None}, "without a key"),
        (InfoNCE, {"negatives": torch.ones(3, D + 1)}, r"negatives must be \[K, 4\]"),
        (InfoNCE, {"positives": torch.ones(B, D)}, r"positives must be .*\[5, 4\]"),
        (InfoNCE, {"query_negatives": torch.ones(2, 3, D)}, "query_negatives"),
        (InfoNCE, {"ignore_mask": torch.ones(B, B + 1)}, r"ignore_mask must be \[queries 5, candidates 5\]"),
        (InfoNCE, {"positive_ids": torch.ones(B, 1)}, "positive_ids"),
        (InfoNCE, {"query_weights": torch.ones(B, 1)}, "query_weights"),
        (InfoNCE, {"soft_targets": torch.eye(B), "positive_ids": IDS}, "soft_targets"),
        (lambda: InfoNCE(decoupled=True), {"soft_targets": torch.eye(B)}, "soft_targets"),
        (lambda: InfoNCE(in_batch=False), {"positive_ids": IDS}, "positive_ids"),
    ],
)
def test_refusals_name_the_argument(make, arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()(torch.ones(B, D), **{"key": torch.ones(B, D), **arguments})


def test_registered_names_and_preconditions() -> None:
    for name, cls in [("info_nce", InfoNCE), ("nt_xent", NTXent), ("moco", MoCo), ("clip", CLIP)]:
        assert registry.get("objective", name) is cls
    size = {"width": 8, "views": 2, "n_samples": 100}
    assert NTXent().check(batch_size=1, **size)
    assert MoCo().check(batch_size=1, **size) == []
    assert NTXent().check(batch_size=2, **size) == []
