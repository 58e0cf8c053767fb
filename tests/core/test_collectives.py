"""Collectives: values, gradients under the averaging convention, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from ssl_domains.core import collectives as c
from ssl_domains.core.errors import DataError
from ssl_domains.core.testing import run_processes


def joined_loss(z: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Any function that looks across all rows."""
    return (scale * z @ z.T).sin().sum() + (z.mean(0) ** 2).sum()


def every_check(rank: int, x: torch.Tensor, weight: torch.Tensor) -> dict:
    share = x.chunk(2)[rank]
    out: dict = {"rank": c.rank(), "world": c.world_size()}

    # Each process computes the whole loss.
    w, scale = weight.clone().requires_grad_(), torch.tensor(0.3, dtype=x.dtype, requires_grad=True)
    z = c.all_gather_rows(share @ w)
    loss = joined_loss(z, scale)
    loss.backward()
    out["whole"] = (loss.detach(), w.grad, scale.grad)

    # Each process computes its own rows only.
    w, scale = weight.clone().requires_grad_(), torch.tensor(0.3, dtype=x.dtype, requires_grad=True)
    local = share @ w
    z = c.all_gather_rows(local)
    mean = c.all_reduce_mean(local.mean(0))
    loss = c.all_reduce_sum((scale * local @ z.T).sin().sum()) + (mean**2).sum()
    loss.backward()
    out["share"] = (loss.detach(), w.grad, scale.grad)

    out["gathered"] = c.gather_no_grad(share)
    out["bools"] = c.gather_no_grad(share[:, 0] > 0)
    out["broadcast"] = c.broadcast(torch.tensor([rank, 7]), source=1)
    out["broadcast_bool"] = c.broadcast(torch.tensor([rank == 1]), source=1)
    frozen = c.all_gather_rows(share)
    out["frozen"] = frozen.requires_grad
    try:
        c.all_gather_rows(share[: 2 + rank])
    except DataError as error:
        out["refusal"] = str(error)
    return out


@pytest.fixture(scope="module")
def case() -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    return x, weight, run_processes(every_check, 2, x, weight)


@pytest.mark.parametrize("form", ["whole", "share"])
def test_averaged_gradients_are_those_of_the_joined_batch(case, form: str) -> None:
    x, weight, results = case
    w, scale = weight.clone().requires_grad_(), torch.tensor(0.3, dtype=x.dtype, requires_grad=True)
    expected = joined_loss(x @ w, scale)
    expected.backward()
    for loss, _, _ in (result[form] for result in results):
        torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(sum(r[form][1] for r in results) / 2, w.grad)
    torch.testing.assert_close(sum(r[form][2] for r in results) / 2, scale.grad)
    assert not torch.allclose(results[0]["share"][1], results[1]["share"][1])


def test_values_without_gradient(case) -> None:
    x, _, results = case
    for number, result in enumerate(results):
        assert (result["rank"], result["world"]) == (number, 2)
        assert torch.equal(result["gathered"], x)
        assert torch.equal(result["bools"], x[:, 0] > 0)
        assert result["broadcast"].tolist() == [1, 7]
        assert result["broadcast_bool"].tolist() == [True]
        assert result["frozen"] is False


def test_unequal_shares_are_refused_with_the_sizes(case) -> None:
    for result in case[2]:
        assert "[2, 3]" in result["refusal"]


def test_one_process_gets_its_input_back() -> None:
    assert not dist.is_initialized()
    x = torch.randn(3, 2, requires_grad=True)
    for function in (c.all_gather_rows, c.all_reduce_sum, c.all_reduce_mean):
        assert function(x) is x
    for function in (c.gather_no_grad, c.broadcast):
        assert not function(x).requires_grad
    assert (c.rank(), c.world_size()) == (0, 1)


def fails_on_one(rank: int) -> None:
    if rank == 1:
        raise KeyError("the cause")
    dist.barrier()


def test_failure_of_one_process_is_told_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"process 1 failed(.|\n)*the cause"):
        run_processes(fails_on_one, 2)


def test_nested_functions_are_refused() -> None:
    with pytest.raises(ValueError, match="top level"):
        run_processes(lambda rank: rank, 2)
