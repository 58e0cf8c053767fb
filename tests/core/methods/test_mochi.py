"""MoCHi: MoCo without mixtures; gradients, order of the loss, the queue, two processes."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.batch import Batch
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.mochi import MoCHi
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.objectives.contrastive import InfoNCE, MoCo
from ssl_domains.core.random import Draw

SMALL = {"projector": [16, 8], "queue_size": 40}


def build(encoder, views, cls=MoCHi, objective=None, **options):
    torch.manual_seed(1)
    if cls is MoCHi:
        options = {"hardest": 8, "pairs": 6, "with_query": 4, "from_epoch": 0} | options
    return cls(encoder, objective or MoCo(temperature=0.2), views(), **{**SMALL, **options})


def run(method, batch, steps=3):
    losses = []
    for step in range(steps):
        losses.append(method(batch, Draw(0, step, batch.index)).loss.detach())
        method.after_step(Progress(step + 1, steps))
    return torch.stack(losses)


def test_without_mixtures_it_is_moco_exactly(encoder, views, batch):
    plain = run(build(encoder, views, MomentumContrast), batch)
    torch.testing.assert_close(
        run(build(encoder, views, pairs=0, with_query=0), batch), plain, rtol=0, atol=0
    )
    torch.testing.assert_close(run(build(encoder, views, from_epoch=1), batch), plain, rtol=0, atol=0)
    assert (run(build(encoder, views), batch) > plain).all()  # more terms in the denominator


def test_mixtures_begin_with_their_epoch(encoder, views, batch):
    method = build(encoder, views, from_epoch=2)
    for epoch, mixes in ((0, False), (1, False), (2, True)):
        method.before_epoch(None, epoch)
        out = method(batch, Draw(0, epoch, batch.index))
        assert ("cosine_pairs" in out.parts) == mixes
        assert out.trivial["uniform"] == pytest.approx(math.log(1 + 40 + (10 if mixes else 0)))


def test_gradient_of_the_query_takes_mixtures_as_constants(encoder, views, batch):
    """``(sum_z p_z z - (1 - p_k) k) / tau`` over all negatives, synthetic ones included."""
    method = build(encoder, views)
    query = F.normalize(
        torch.randn(16, 8, generator=torch.Generator().manual_seed(4)), dim=1
    ).requires_grad_()
    key = F.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(5)), dim=1).requires_grad_()
    terms = method._contrast(query, key, batch.index, Draw(0, 0, batch.index))
    terms.total.backward()
    from ssl_domains.core.parts.hard_negatives import mix_hard_negatives

    mixed = mix_hard_negatives(
        query, method.queue.keys, Draw(0, 0, batch.index).fork("mochi"), hardest=8, pairs=6, with_query=4
    ).values
    negatives = torch.cat([method.queue.keys.expand(16, -1, -1), mixed], 1)
    with torch.no_grad():
        logits = torch.cat(
            [(query * key).sum(1, keepdim=True), torch.einsum("bd,bnd->bn", query, negatives)], 1
        )
        p = (logits / 0.2).softmax(1)
        expected = (torch.einsum("bn,bnd->bd", p[:, 1:], negatives) - (1 - p[:, :1]) * key) / 0.2 / 16
        expected -= (expected * query).sum(1, keepdim=True) * query  # the length is normalised away
        torch.testing.assert_close(terms.total, -p[:, 0].log().mean())
    torch.testing.assert_close(query.grad, expected, rtol=1e-4, atol=1e-6)


def test_hardness_is_logged_in_its_order_and_the_queue_holds_real_keys_only(encoder, views, batch):
    method = build(encoder, views)
    run(method, batch, 2)
    parts = method(batch, Draw(0, 2, batch.index)).parts
    assert parts["cosine_hardest"] < parts["cosine_with_query"]
    assert parts["accuracy"] <= parts["accuracy_real"]
    written = method.queue.index >= 0
    assert set(method.queue.index[written].tolist()) == set(batch.index.tolist())
    assert not any(p.requires_grad for p in method.queue.buffers())


def test_without_a_queue_the_batch_is_the_pool(encoder, views, batch):
    method = build(encoder, views, objective=InfoNCE(0.2), queue_size=0, hardest=5)
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    plain = build(encoder, views, MomentumContrast, InfoNCE(0.2), queue_size=0)
    assert out.loss > plain(batch, Draw(0, 0, batch.index)).loss
    assert "lower method.hardest" in method.check(batch_size=4, n_samples=99)[-1]


def test_bad_options(encoder, views):
    with pytest.raises(ValueError, match="between 1 and queue_size"):
        build(encoder, views, hardest=41)
    with pytest.raises(ValueError, match="pairs"):
        build(encoder, views, pairs=-1)


def worker(rank, method, batch):
    mine = slice(0, 8) if rank == 0 else slice(8, 16)
    share = Batch(batch.x[mine], batch.index[mine])
    return step(copy.deepcopy(method), share)  # processes would share its memory


def step(method, batch):
    for _ in range(2):  # the second step uses the queue that all filled
        method.zero_grad()
        out = method(batch, Draw(0, 0, batch.index))
        out.loss.backward()
        method.after_step(Progress(1, 2))
    grads = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    return out.loss.detach(), out.parts, grads, method.queue.index.clone()


def test_two_processes_equal_one(encoder, views, batch):
    from ssl_domains.core.testing import run_processes

    method = build(encoder, views, queue_size=64)
    first, second = run_processes(worker, 2, method, batch)
    loss, parts, grads, index = step(method, batch)
    for result in (first, second):
        torch.testing.assert_close(result[0], loss, rtol=0, atol=1e-5)
        torch.testing.assert_close(result[1], parts, rtol=0, atol=1e-5)
        assert torch.equal(result[3], index)
    for a, b, joined in zip(first[2], second[2], grads, strict=True):
        torch.testing.assert_close((a + b) / 2, joined, rtol=1e-3, atol=1e-5)
