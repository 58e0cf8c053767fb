"""Several streams: the distillation by its formula, aligned queues, what is saved, warm start."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.halp import HaLP
from ssl_domains.core.objectives.contrastive import MoCo
from ssl_domains.core.random import Draw
from ssl_domains.skeleton.encoders.bigru import BiGRU
from ssl_domains.skeleton.encoders.multi_stream import MultiStream
from ssl_domains.skeleton.streams import StreamContrast, mutual_distillation
from ssl_domains.skeleton.views import BodyAugment

OPTIONS = {
    "projector": (8, 6),
    "queue_size": 32,
    "momentum": 0.9,
    "positives": 5,
    "prototypes": 4,
    "recent": 16,
}


def make(source, **options) -> StreamContrast:
    torch.manual_seed(0)
    encoder = MultiStream(
        source.spec, {"name": "bigru", "hidden": 4, "layers": 1}, ("joint", "motion", "bone")
    )
    return StreamContrast(encoder, MoCo(0.1), BodyAugment(source.spec), **{**OPTIONS, "top_k": 8, **options})


def steps(method, source, count: int):
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    outputs = []
    for step in range(count):
        batch = source.fetch([(step * 12 + i) % len(source) for i in range(12)])
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, count))
        outputs.append(out)
    return outputs


def test_distillation_by_its_formula():
    generator = torch.Generator().manual_seed(0)
    q, k, bank_s, bank_t = (
        F.normalize(torch.randn(n, 6, generator=generator, dtype=torch.float64), dim=1)
        for n in (5, 5, 20, 20)
    )
    total = 0.0
    for i in range(5):
        teacher = bank_t @ k[i]
        best = teacher.argsort(descending=True)[:7]
        p = (teacher[best] / 0.05).softmax(0)
        log_q = ((bank_s[best] @ q[i]) / 0.1).log_softmax(0)
        total += float((p * (p.log() - log_q)).sum())
    found = mutual_distillation(q, k, bank_s, bank_t, top_k=7, chunk=2)
    assert float(found) == pytest.approx(total / 5, abs=1e-9)
    same = mutual_distillation(k, k, bank_t, bank_t, top_k=7, student_temperature=0.05)
    assert float(same) == pytest.approx(0.0, abs=1e-9)
    q.requires_grad_()
    k.requires_grad_()
    mutual_distillation(q, k, bank_s, bank_t, top_k=7).backward()
    assert k.grad is None
    assert q.grad is not None


def test_queues_stay_aligned_and_the_loss_is_the_sum(motions):
    method = make(motions)
    outputs = steps(method, motions, 8)
    queues = [stream.queue.index for stream in method.streams]
    assert torch.equal(queues[0], queues[1])
    assert torch.equal(queues[0], queues[2])
    assert not torch.equal(method.streams[0].queue.keys, method.streams[1].queue.keys)
    last = outputs[-1]
    latent = sum(float(last.parts[f"latent_{n}"]) for n in ("joint", "motion", "bone"))
    total = 3 * float(last.parts["contrast"]) + float(last.parts["cross"])
    assert float(last.loss.detach()) == pytest.approx(total, rel=1e-5)
    assert latent < 0


def test_cross_weight_zero_learns_streams_apart(motions):
    """A single stream of it is HaLP on that stream."""
    method = make(motions, cross=0.0)
    lone = HaLP(
        BiGRU(motions.spec, hidden=4, layers=1), MoCo(0.1), BodyAugment(motions.spec), projector=(8, 6),
        projector_norm="none", **{k: v for k, v in OPTIONS.items() if k != "projector"},
    )  # fmt: skip
    lone.load_state_dict(method.streams[0].state_dict())
    batch = motions.fetch(list(range(12)))
    views = method.views(batch, Draw(0, 0, batch.index).fork("views"))
    query = lone._student(views[0])[1]
    wanted = lone._contrast(query, lone._teacher(views[1]), batch.index, Draw(0, 0, batch.index)).total
    found = method.streams[0]
    got = found._contrast(
        found._student(views[0])[1], found._teacher(views[1]), batch.index, Draw(0, 0, batch.index)
    )
    assert float(got.total) == pytest.approx(float(wanted), rel=1e-6)
    assert "cross" not in method(batch, Draw(0, 0, batch.index)).parts


def test_what_is_saved_is_saved_once(motions):
    method = make(motions)
    names = [name for name in method.state_dict() if "extra_state" not in name]
    assert not [name for name in names if name.startswith("encoder.")]
    assert method.encoder_for_export().branches[0] is method.streams[0].encoder
    weights = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert len({id(p) for p in weights.values()}) == len(weights)
    assert all("teacher" not in n for n in weights)


def test_bad_options(motions):
    with pytest.raises(ValueError, match="several streams"):
        StreamContrast(BiGRU(motions.spec, hidden=4), MoCo(0.1), BodyAugment(motions.spec), **OPTIONS)
    with pytest.raises(ValueError, match="cannot be negative"):
        make(motions, cross=-1.0)
