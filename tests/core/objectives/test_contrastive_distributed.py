"""Two processes with different data: the loss and, averaged, the gradients of the joined batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl_domains.core.errors import DataError
from ssl_domains.core.objectives.contrastive import CLIP, InfoNCE, MoCo, NTXent
from ssl_domains.core.testing import run_processes

B, D, K, M, S = 6, 4, 3, 2, 3
F64 = {"dtype": torch.float64}
G = torch.Generator().manual_seed(3)
IDS = torch.tensor([1, 2, 1, 2, 3, 1])
MASK = torch.rand(B, B, generator=G) > 0.6
OTHER = torch.rand(B, B, generator=G) > 0.4
SOFT = torch.rand(B, B, generator=G, **F64) + 0.1
WIDE = torch.rand(B, B + K + M + S, generator=G, **F64) + 0.2
SHARED = torch.randn(K, D, generator=G, **F64)
OWN = {
    "positives": torch.randn(B, M, D, generator=G, **F64),
    "query_negatives": torch.randn(B, S, D, generator=G, **F64),
}

# name: (objective, arguments with one row a sample)
CASES: dict[str, tuple[InfoNCE, dict[str, Tensor]]] = {
    "one direction": (InfoNCE(0.3), {}),
    "nt_xent": (NTXent(0.3), {}),
    "nt_xent, decoupled": (NTXent(0.3, decoupled=True), {}),
    "moco": (MoCo(0.3), {"negatives": SHARED}),
    "clip": (CLIP(0.3), {}),
    "explicit": (InfoNCE(0.3, learn_temperature=True), {**OWN, "negatives": SHARED}),
    "explicit, nt_xent": (InfoNCE(0.3, symmetric=True, intra=True), {**OWN, "negatives": SHARED}),
    "supcon": (InfoNCE(0.3, symmetric=True, intra=True), {"positive_ids": IDS}),
    "supcon, own": (InfoNCE(0.3, symmetric=True, intra=True, exclude_positives=True), {"positive_ids": IDS}),
    "supcon, in": (InfoNCE(0.3, symmetric=True, aggregate="in"), {"positive_ids": IDS}),
    "masks": (InfoNCE(0.3, symmetric=True), {"positive_mask": MASK, "negative_mask": OTHER}),
    "masks, intra": (NTXent(0.3), {"positive_mask": MASK, "ignore_mask": ~OTHER}),
    "weights": (InfoNCE(0.3, learn_temperature=True), {**OWN, "negatives": SHARED, "weights": WIDE}),
    "soft": (InfoNCE(0.3, symmetric=True), {"soft_targets": SOFT}),
    "query weights": (CLIP(0.3), {"query_weights": WIDE[:, 0]}),
}


def measure(loss: InfoNCE, weight: Tensor, x: Tensor, y: Tensor, arguments: dict[str, Tensor]) -> dict:
    """Value, statistics, gradients of an encoder and of the objective's own parameters."""
    loss, weight = loss.double(), weight.clone().requires_grad_()
    loss.zero_grad()
    terms = loss(x @ weight, (y @ weight).tanh(), **arguments)
    terms.total.backward()
    gradients = [weight.grad, *(p.grad for p in loss.parameters())]
    return {
        "total": terms.total.detach(), "parts": terms.parts, "trivial": terms.trivial,
        "gradients": [g.clone() for g in gradients],
    }  # fmt: skip


def halves(rank: int, weight: Tensor, x: Tensor, y: Tensor) -> dict[str, dict]:
    rows = slice(rank * B // 2, (rank + 1) * B // 2)
    results = {}
    for name, (loss, arguments) in CASES.items():
        part = {n: v if n == "negatives" else v[rows] for n, v in arguments.items()}
        results[name] = measure(loss, weight, x[rows], y[rows], part)
    results["local"] = measure(NTXent(0.3, gather=False), weight, x[rows], y[rows], {})
    try:
        NTXent()(x[: 2 + rank] @ weight, x[: 2 + rank] @ weight)
    except DataError as error:
        results["refusal"] = {"text": str(error)}
    return results


@pytest.fixture(scope="module")
def case() -> tuple[tuple[Tensor, Tensor, Tensor], list[dict]]:
    g = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(n, m, generator=g, **F64) for n, m in ((5, D), (B, 5), (B, 5)))
    return inputs, run_processes(halves, 2, *inputs)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_joined_batch(case, name: str) -> None:
    inputs, results = case
    expected = measure(CASES[name][0], *inputs, CASES[name][1])
    for result in results:
        torch.testing.assert_close(result[name]["total"], expected["total"], rtol=1e-10, atol=1e-12)
        assert result[name]["trivial"] == pytest.approx(expected["trivial"])
        torch.testing.assert_close(result[name]["parts"], expected["parts"])
    first, second = (result[name]["gradients"] for result in results)
    for mine, other, joined in zip(first, second, expected["gradients"], strict=True):
        torch.testing.assert_close((mine + other) / 2, joined, rtol=1e-9, atol=1e-11)
        assert not torch.allclose(mine, other)


def test_without_gather_each_process_has_its_own_batch(case) -> None:
    inputs, results = case
    for rank, result in enumerate(results):
        rows = slice(rank * B // 2, (rank + 1) * B // 2)
        expected = measure(NTXent(0.3), inputs[0], inputs[1][rows], inputs[2][rows], {})
        torch.testing.assert_close(result["local"], expected)


def test_unequal_shares_are_refused(case) -> None:
    assert all("[2, 3]" in result["refusal"]["text"] for result in case[1])
