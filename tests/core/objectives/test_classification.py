"""Cross-entropies of pretext tasks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.classification import BinaryCrossEntropy, CrossEntropy


def rand(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cross_entropy_hand_values():
    terms = CrossEntropy()(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]))
    assert terms.total.item() == pytest.approx(0.287682, abs=1e-6)
    assert terms.parts["accuracy"].item() == 1.0
    flat = CrossEntropy()(torch.zeros(3, 7), torch.tensor([0, 1, 2]))
    assert flat.total.item() == pytest.approx(math.log(7)) == pytest.approx(flat.trivial["uniform"])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_the_definition(smoothing):
    logits, target = rand(0, 6, 4), torch.tensor([0, 3, 1, -1, 2, 2])
    logs, known = logits.log_softmax(1), target >= 0
    rows = -(1 - smoothing) * logs[known, target[known]] - smoothing * logs[known].mean(1)
    objective = CrossEntropy(smoothing)
    torch.testing.assert_close(objective(logits, target).total, rows.mean())
    weights = torch.tensor([1.0, 2, 0, 9, 0, 1], dtype=torch.float64)
    weighted = (rows * weights[known]).sum() / weights[known].sum()
    torch.testing.assert_close(objective(logits, target, weights).total, weighted)
    soft = rand(1, 6, 4).softmax(1)
    expected = F.cross_entropy(logits, soft, label_smoothing=smoothing)
    torch.testing.assert_close(objective(logits, soft).total, expected)


def test_accuracy_counts_labelled_rows_only():
    logits = torch.eye(4)
    assert CrossEntropy()(logits, torch.tensor([0, 1, 0, -1])).parts["accuracy"].item() == pytest.approx(
        2 / 3
    )
    nothing = CrossEntropy()(logits.requires_grad_(), torch.full((4,), -1)).total
    nothing.backward()
    assert nothing.item() == 0.0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.floats(-30, 30))
def test_cross_entropy_invariances(seed, shift):
    logits, target = rand(seed, 6, 4), torch.randint(4, (6,), generator=torch.Generator().manual_seed(seed))
    loss = CrossEntropy()(logits, target).total
    rows = torch.randperm(6)
    torch.testing.assert_close(CrossEntropy()(logits + shift, target).total, loss)
    torch.testing.assert_close(CrossEntropy()(logits[rows], target[rows]).total, loss)


@pytest.mark.parametrize("shape", [(6,), (6, 3)])
@pytest.mark.parametrize("pos_weight", [1.0, 2.5])
def test_binary_equals_torch(shape, pos_weight):
    logits, target = rand(2, *shape), (rand(3, *shape) > 0)
    reference = F.binary_cross_entropy_with_logits(
        logits, target.double(), pos_weight=torch.tensor(pos_weight, dtype=torch.float64)
    )
    terms = BinaryCrossEntropy(pos_weight)(logits, target)
    torch.testing.assert_close(terms.total, reference)
    torch.testing.assert_close(terms.parts["accuracy"], ((logits > 0) == target).double().mean())


def test_binary_leaves_out_unknown_targets():
    logits, target = (
        rand(4, 4, 2).requires_grad_(),
        torch.tensor([[1.0, 0], [math.nan, 1], [0, math.nan], [1, 1]]),
    )
    known = ~target.isnan()
    terms = BinaryCrossEntropy()(logits, target)
    torch.testing.assert_close(
        terms.total, F.binary_cross_entropy_with_logits(logits[known], target[known].double())
    )
    (grad,) = torch.autograd.grad(terms.total, logits)
    assert (grad[~known] == 0).all()
    assert (grad[known] != 0).all()


def test_binary_weights_and_trivial_value():
    logits, target = rand(5, 4, 2), (rand(6, 4, 2) > 0).double()
    weights = torch.tensor([0.0, 1, 0, 2])
    picked = BinaryCrossEntropy()(logits[[1, 3, 3]], target[[1, 3, 3]]).total
    torch.testing.assert_close(BinaryCrossEntropy()(logits, target, weights).total, picked)
    flat = BinaryCrossEntropy()(torch.zeros(4), torch.tensor([0, 1, 1, 0]))
    assert flat.total.item() == pytest.approx(flat.trivial["uniform"]) == pytest.approx(math.log(2))


def test_gradients_and_precision():
    logits = rand(7, 5, 3).requires_grad_()
    target, many = torch.tensor([0, 2, -1, 1, 1]), rand(8, 5, 3).sigmoid()
    assert torch.autograd.gradcheck(lambda x: CrossEntropy(0.1)(x, target).total, (logits,))
    assert torch.autograd.gradcheck(lambda x: BinaryCrossEntropy(3.0)(x, many).total, (logits,))
    assert CrossEntropy()(logits.bfloat16(), target).total.dtype == torch.float32
    assert BinaryCrossEntropy()(logits.bfloat16(), many).total.dtype == torch.float32


def test_binary_takes_a_head_of_one_output():
    logits, target = rand(9, 4, 1), torch.tensor([True, False, True, True])
    one = BinaryCrossEntropy()
    torch.testing.assert_close(one(logits, target).total, one(logits.squeeze(1), target).total)


def test_bad_arguments():
    with pytest.raises(UserError, match="label_smoothing"):
        CrossEntropy(1.0)
    with pytest.raises(UserError, match="pos_weight"):
        BinaryCrossEntropy(0.0)
    with pytest.raises(ValueError, match="cross_entropy"):
        CrossEntropy()(rand(0, 4, 3), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="binary_cross_entropy"):
        BinaryCrossEntropy()(rand(0, 4, 3), torch.zeros(4))
