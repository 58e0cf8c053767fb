"""SwAV and Sinkhorn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.clustering import SwAV, sinkhorn


def scores(seed, n=8, k=5, dtype=torch.float64):
    return 2 * torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 1


def slow_sinkhorn(s, epsilon, iterations):
    q = (s / epsilon).exp()
    q = q / q.sum()
    n, k = q.shape
    for _ in range(iterations):
        for column in range(k):
            q[:, column] = q[:, column] / q[:, column].sum() / k
        for row in range(n):
            q[row] = q[row] / q[row].sum() / n
    return q * n


def slow_swav(views, coded=2, temperature=0.1, queues=None):
    loss, pairs = 0.0, 0
    for i in range(coded):
        joined = views[i] if queues is None else torch.cat([views[i], queues[i]])
        code = slow_sinkhorn(joined.detach().clone(), 0.05, 3)[: len(views[i])]
        for v, view in enumerate(views):
            if v != i:
                loss, pairs = loss - (code * F.log_softmax(view / temperature, 1)).sum(1).mean(), pairs + 1
    return loss / pairs


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), epsilon=st.floats(0.03, 2.0), iterations=st.integers(1, 6))
def test_sinkhorn_equals_the_slow_formula(seed, epsilon, iterations):
    s = scores(seed)
    torch.testing.assert_close(
        sinkhorn(s, epsilon, iterations), slow_sinkhorn(s.clone(), epsilon, iterations)
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
def test_sinkhorn_properties(seed, shift):
    s = scores(seed)
    q = sinkhorn(s)
    torch.testing.assert_close(q.sum(1), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(s + shift), q)
    rows, columns = torch.randperm(8), torch.randperm(5)
    torch.testing.assert_close(sinkhorn(s[rows][:, columns]), q[rows][:, columns])
    balanced = sinkhorn(s, 0.5, 300).sum(0)
    torch.testing.assert_close(balanced, torch.full((5,), 8 / 5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_sinkhorn_hand_values():
    torch.testing.assert_close(sinkhorn(torch.zeros(4, 3)), torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(sinkhorn(torch.eye(3) * 5), torch.eye(3), rtol=0, atol=1e-6)


def test_sinkhorn_survives_scores_that_overflow_the_exponential():
    s = scores(0, dtype=torch.float32) * 1000
    q = sinkhorn(s, 0.04, 3)
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(8))
    assert sinkhorn(s.bfloat16()).dtype == torch.float32
    assert sinkhorn(torch.zeros(0, 4)).shape == (0, 4)


def test_swav_equals_the_slow_formula():
    views = [scores(i).requires_grad_() for i in range(4)]
    queues = [scores(10, 20), scores(11, 20)]
    for queue in (None, queues):
        ours, slow = SwAV()(views, queue).total, slow_swav(views, queues=queue)
        torch.testing.assert_close(ours, slow)
        grads = zip(torch.autograd.grad(ours, views), torch.autograd.grad(slow, views), strict=True)
        for a, b in grads:
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(SwAV(code_views=1)(views).total, slow_swav(views, coded=1))
    assert abs(SwAV()(views, queues).total - SwAV()(views).total) > 1e-6


def test_swav_equals_lightly():
    loss = pytest.importorskip("lightly.loss")
    views, queue = [scores(i) for i in range(4)], [scores(5, 16), scores(6, 16)]
    theirs = loss.SwaVLoss()
    torch.testing.assert_close(SwAV()(views).total, theirs(views[:2], views[2:])[0])
    torch.testing.assert_close(SwAV()(views, queue).total, theirs(views[:2], views[2:], queue)[0])


def test_swav_trivial_value():
    terms = SwAV()([torch.zeros(6, 5), torch.zeros(6, 5)])
    assert terms.total.item() == pytest.approx(math.log(5)) == pytest.approx(terms.trivial["uniform"])
    assert terms.parts["used_prototypes"].item() == pytest.approx(5.0, rel=1e-5)
    assert terms.parts["code_entropy"].item() == pytest.approx(math.log(5), rel=1e-5)


def test_swav_codes_get_no_gradient():
    first, second = scores(1).requires_grad_(), scores(2).requires_grad_()
    SwAV(code_views=1)([first, second]).total.backward()
    assert first.grad is None  # the first view only gives codes, the second only predicts
    assert second.grad.abs().sum() > 0


def test_swav_gradcheck_and_autocast():
    code, p = scores(3), scores(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: SwAV(code_views=1)([code, x]).total, (p,))
    plain = SwAV()([code.float(), p.float()]).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(SwAV()([code.float(), p.float()]).total, plain, rtol=0, atol=0)


def test_bad_arguments():
    for make in (lambda: SwAV(temperature=0.0), lambda: SwAV(epsilon=-1.0), lambda: SwAV(iterations=0)):
        with pytest.raises(UserError, match="above 0"):
            make()
    with pytest.raises(UserError, match="iterations"):
        sinkhorn(scores(0), iterations=0)
    for call in (lambda: SwAV()([scores(0)]), lambda: SwAV()([scores(0), scores(1)], [scores(2)])):
        with pytest.raises(ValueError, match="two views"):
            call()
    assert len(SwAV().check(batch_size=1, width=4, views=1, n_samples=None)) == 2
    assert SwAV().check(batch_size=2, width=4, views=2, n_samples=None) == []
