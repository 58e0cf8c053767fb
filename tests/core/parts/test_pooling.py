"""Multi-instance pooling: distributions, literal formulas, padding."""

import pytest
import torch

from ssl_domains.core.batch import Tokens
from ssl_domains.core.parts.pooling import InstancePooling


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind):
    torch.manual_seed(0)
    return InstancePooling(kind, 4, hidden=3).double()


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_bags_are_distributions_whatever_the_order(kind):
    pool, logs, features = make(kind), (20 * rand(5, 7, 6)).log_softmax(2), rand(5, 7, 4, seed=1)
    out = pool(logs, features)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(5, dtype=torch.float64))
    order = torch.randperm(7)
    torch.testing.assert_close(pool(logs[:, order], features[:, order]), out)
    same = logs[:, :1].expand(-1, 7, -1)
    torch.testing.assert_close(pool(same, features), logs[:, 0])  # identical instances: one of them


@pytest.mark.parametrize("kind", ["mean", "max", "attention"])
def test_padding_does_not_count(kind):
    pool, logs, features = make(kind), rand(3, 7, 6).log_softmax(2), rand(3, 7, 4, seed=1)
    valid = torch.arange(7) < torch.tensor([[7], [4], [1]])
    out = pool(logs, features, valid)
    for b, n in enumerate((7, 4, 1)):
        torch.testing.assert_close(out[b : b + 1], pool(logs[b : b + 1, :n], features[b : b + 1, :n]))
    torch.testing.assert_close(out[2], logs[2, 0])


def test_literal_formulas():
    logs, features = rand(3, 5, 6).log_softmax(2), rand(3, 5, 4, seed=1)
    torch.testing.assert_close(make("mean")(logs, features).exp(), logs.exp().mean(1))
    largest = logs.exp().amax(1)
    torch.testing.assert_close(make("max")(logs, features).exp(), largest / largest.sum(1, keepdim=True))
    pool = make("attention")
    a = pool.score(torch.tanh(pool.value(features)) * torch.sigmoid(pool.gate(features)))
    weighted = (a.float().softmax(1) * logs.exp()).sum(1)
    torch.testing.assert_close(pool(logs, features).exp(), weighted, rtol=1e-5, atol=1e-7)


def test_gradients_are_finite_with_padding():
    for kind in ("mean", "max", "attention"):
        logits, features = (30 * rand(2, 4, 3)).requires_grad_(), rand(2, 4, 4).requires_grad_()
        valid = torch.tensor([[True] * 4, [True, False, False, False]])
        make(kind)(logits.log_softmax(2), features, valid).square().sum().backward()
        assert torch.isfinite(logits.grad).all()
        assert logits.grad[1, 1:].abs().max() == 0


def test_ragged_tokens_become_padded():
    tokens = Tokens(torch.arange(12.0).view(6, 2), segment=torch.tensor([0, 0, 0, 1, 2, 2]))
    values, valid = tokens.padded(3)
    assert valid.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    torch.testing.assert_close(values[valid], tokens.values)
    assert values[~valid].abs().max() == 0
    with pytest.raises(ValueError, match="belong to 3 samples, and there are 6"):
        tokens.padded(6)
    plain = torch.randn(2, 3, 4)
    assert Tokens(plain).padded(2)[0] is plain
    padding = torch.tensor([[False, True, True]] * 2)
    assert torch.equal(Tokens(plain, padding=padding).padded(2)[1], ~padding)


def test_unknown_kind():
    with pytest.raises(ValueError, match="mean, max or attention"):
        make("median")
