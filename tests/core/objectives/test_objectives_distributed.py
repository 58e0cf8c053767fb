"""Two processes with different rows give the loss and gradients of one process with all rows."""

import pytest
import torch

from ssl_domains.core.objectives.classification import BinaryCrossEntropy, CrossEntropy
from ssl_domains.core.objectives.clustering import SwAV, sinkhorn
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.objectives.redundancy import BarlowTwins, VICReg
from ssl_domains.core.objectives.regression import (
    CosineRegression,
    MaskedL1,
    MaskedMSE,
    MaskedSmoothL1,
    ScaledCosineError,
)

N, D = 14, 6
EVEN, UNEVEN, EMPTY = (7, 7), (3, 11), (0, 14)


def teacher(**options):
    return TeacherCrossEntropy(D, **options).double()


def cases():
    """Name -> (objective, rows per process, kind of call)."""
    found = {}
    for sizes, tag in ((EVEN, "even"), (UNEVEN, "uneven")):
        found |= {
            f"barlow_{tag}": (BarlowTwins(0.3), sizes, "pair"),
            f"vicreg_{tag}": (VICReg(), sizes, "pair"),
            f"swav_{tag}": (SwAV(), sizes, "views"),
            f"dino_{tag}": (teacher(), sizes, "multi_crop"),
            f"dino_sinkhorn_{tag}": (teacher(centering="sinkhorn"), sizes, "multi_crop"),
        }
    for sizes, tag in ((EVEN, "even"), (UNEVEN, "uneven"), (EMPTY, "empty")):
        found |= {
            f"ibot_{tag}": (teacher(pairs="same_view"), sizes, "weighted"),
            f"byol_{tag}": (CosineRegression(stop_gradient=False), sizes, "pair"),
            f"simsiam_{tag}": (CosineRegression("simsiam"), sizes, "weighted"),
            f"sce_{tag}": (ScaledCosineError(2.0), sizes, "pair"),
            f"l1_{tag}": (MaskedL1(), sizes, "pair"),
            f"mse_{tag}": (MaskedMSE(normalize_target=True), sizes, "weighted"),
            f"smooth_{tag}": (MaskedSmoothL1(0.5), sizes, "weighted"),
            f"cross_entropy_{tag}": (CrossEntropy(0.1), sizes, "classes"),
            f"binary_{tag}": (BinaryCrossEntropy(2.0), sizes, "labels"),
        }
    return found


def data():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, N, D, generator=generator, dtype=torch.float64)
    values[:, :3] += 2  # the processes' rows differ in distribution
    weights = torch.rand(N, generator=generator, dtype=torch.float64)
    classes = torch.randint(-1, D, (N,), generator=generator)
    return values, weights, classes


def run(name, rows):
    """Loss, parts, gradients and state of one objective on a slice of the rows."""
    objective, _, kind = cases()[name]
    values, weights, classes = data()
    inputs = [v[rows].clone().requires_grad_() for v in values]
    weights, classes = weights[rows], classes[rows]
    scaled = [0.3 * x for x in inputs]
    arguments = {
        "pair": (inputs[0], inputs[1]),
        "weighted": (inputs[0], inputs[1].detach()),
        "views": (scaled,),
        "multi_crop": (scaled, [x.detach() for x in scaled[:2]]),
        "classes": (inputs[0], classes, weights),
        "labels": (inputs[0], torch.where(inputs[1] > 1, torch.nan, inputs[1].sigmoid()).detach(), weights),
    }[kind]
    terms = objective(*arguments, **({"weights": weights} if kind == "weighted" else {}))
    terms.total.backward()
    objective.after_step(0.5)
    grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs]
    return {
        "total": terms.total.detach(),
        "parts": terms.parts,
        "grads": torch.stack(grads),
        "state": dict(objective.state_dict()),
    }


def share(rank, sizes):
    return slice(0, sizes[0]) if rank == 0 else slice(sizes[0], N)


def worker(rank):
    found = {name: run(name, share(rank, sizes)) for name, (_, sizes, _) in cases().items()}
    found["sinkhorn"] = sinkhorn(data()[0][0][share(rank, UNEVEN)], 0.3, 4)
    return found


@pytest.fixture(scope="module")
def both():
    from ssl_domains.core.testing import run_processes

    return run_processes(worker, 2)


@pytest.mark.parametrize("name", list(cases()))
def test_two_processes_equal_one(both, name):
    joined, (first, second) = run(name, slice(None)), (result[name] for result in both)
    exact = {"rtol": 0, "atol": 1e-6}
    assert joined["grads"].abs().max() > 1e-4
    torch.testing.assert_close(torch.cat([first["grads"], second["grads"]], 1) / 2, joined["grads"], **exact)
    for result in (first, second):
        torch.testing.assert_close(result["total"], joined["total"], **exact)
        torch.testing.assert_close(result["parts"], joined["parts"], **exact)
        torch.testing.assert_close(result["state"], joined["state"], **exact)


def test_local_statistics_would_fail():
    """The data can tell: the mean of the local losses is another number."""
    for name in (
        "barlow_even",
        "vicreg_even",
        "swav_even",
        "dino_sinkhorn_even",
        "l1_uneven",
        "cross_entropy_uneven",
    ):
        sizes = cases()[name][1]
        local = sum(run(name, share(rank, sizes))["total"] for rank in (0, 1)) / 2
        assert abs(local - run(name, slice(None))["total"]) > 1e-4, name


def test_sinkhorn_over_processes(both):
    joined = sinkhorn(data()[0][0], 0.3, 4)
    torch.testing.assert_close(torch.cat([result["sinkhorn"] for result in both]), joined)
