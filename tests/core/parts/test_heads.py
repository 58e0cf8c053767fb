"""The heads' layers, and batch norm over the global batch."""

import torch
from torch import nn
from torch.nn import functional as F

from ssl_domains.core.parts.heads import GlobalBatchNorm1d, PrototypeHead, mlp
from ssl_domains.core.parts.prototypes import Prototypes
from ssl_domains.core.testing import run_processes


def test_mlp_structure():
    layers = mlp(4, [8, 3], last_norm=True)
    kinds = [type(m).__name__ for m in layers]
    assert kinds == ["Linear", "GlobalBatchNorm1d", "ReLU", "Linear", "GlobalBatchNorm1d"]
    assert layers[0].bias is None
    assert layers[3].bias is None
    assert isinstance(mlp(4, [])(torch.ones(2, 4)), torch.Tensor)
    assert mlp(4, [8, 3], norm="none")[0].bias is not None


def test_single_process_is_the_built_in_norm():
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    mine, reference = GlobalBatchNorm1d(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(mine(x), reference(x))


def _one_process(rank: int, data: torch.Tensor, weights: torch.Tensor) -> dict:
    norm = GlobalBatchNorm1d(3).double()
    x = data[rank * 4 : rank * 4 + 4].clone().requires_grad_()
    out = norm(x)
    (out * weights[rank * 4 : rank * 4 + 4]).sum().backward()
    return {"out": out.detach(), "grad": x.grad, "mean": norm.running_mean, "var": norm.running_var}


def test_two_processes_normalise_as_one():
    torch.manual_seed(0)
    data, weights = torch.randn(8, 3).double(), torch.randn(8, 3).double()
    reference = nn.BatchNorm1d(3).double()
    x = data.clone().requires_grad_()
    out = reference(x)
    (out * weights).sum().backward()
    parts = run_processes(_one_process, 2, data, weights)
    torch.testing.assert_close(torch.cat([p["out"] for p in parts]), out.detach())
    torch.testing.assert_close(torch.cat([p["grad"] for p in parts]), x.grad)
    for part in parts:
        torch.testing.assert_close(part["mean"], reference.running_mean)
        torch.testing.assert_close(part["var"], reference.running_var)


def test_prototype_scores_are_cosines_and_can_be_frozen():
    prototypes = Prototypes(4, 6)
    z = torch.randn(5, 4)
    expected = torch.nn.functional.cosine_similarity(z[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(z), expected)
    prototypes(z, frozen=True).sum().backward()
    assert float(prototypes.weight.grad.abs().max()) == 0.0


def test_the_head_of_dino_has_gelu_no_norm_and_unit_outputs():
    head = PrototypeHead(6, [8, 4], 5)
    kinds = [type(layer).__name__ for layer in head.body]
    assert kinds == ["Linear", "GELU", "Linear"]
    x = torch.randn(7, 6)
    z = head.body[2](F.gelu(x @ head.body[0].weight.T + head.body[0].bias))
    torch.testing.assert_close(head(x), F.normalize(z, dim=1) @ F.normalize(head.last.weight, dim=1).T)
    head(x, frozen=True).square().sum().backward()
    assert head.last.weight.grad.eq(0).all()
    assert head.body[0].weight.grad.abs().sum() > 0
