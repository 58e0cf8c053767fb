"""SLA: label order, inference, baselines as special cases, distillation, two processes."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Tokens, View
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods.label_augmentation import LabelAugmentation, distillation
from ssl_domains.core.methods.pretext import PretextTask
from ssl_domains.core.objectives.classification import CrossEntropy
from ssl_domains.core.random import Draw


class Rolls(Views):
    """M copies, rolled by j columns; ``shuffled``: in another order for every sample."""

    def __init__(self, m=4, shuffled=False, as_dict=False):
        self.n_views, self.shuffled, self.as_dict = m, shuffled, as_dict

    def target_width(self, name, spec):
        return self.n_views

    def __call__(self, batch, draw):
        order = draw.permutation(self.n_views) if self.shuffled else None
        views = []
        for v in range(self.n_views):
            kind = torch.full((len(batch),), v) if order is None else order[:, v]
            place = (torch.arange(batch.x.shape[1]) - kind[:, None]) % batch.x.shape[1]
            x = batch.x.gather(1, place)
            views.append(View({"x": x} if self.as_dict else x, params={"transformation": kind}))
        return views


class Flat(Encoder):
    """A linear layer, no batch norm."""

    def __init__(self, d=6, width=5):
        super().__init__()
        self.width = width
        self.layer = nn.Linear(d, width)
        self.seen = []

    def forward(self, x, mask=None, *, layers=False):
        x = x["x"] if isinstance(x, dict) else x
        self.seen.append(x)
        h = torch.tanh(self.layer(x))
        return Encoded(Tokens(h[:, None]), h)


def build(m=4, n=5, views=None, **options):
    torch.manual_seed(0)
    views = views or Rolls(m)
    return LabelAugmentation(Flat(), CrossEntropy(), views, None, n, **options)


def batch(b=8, n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(b, 6, generator=g), torch.arange(b), torch.randint(n, (b,), generator=g))


def call(method, data):
    return method(data, Draw(0, 0, data.index))


def test_joint_labels_and_row_order():
    data = batch(2)
    data.label = torch.tensor([3, 1])
    method, seen = build(), {}

    class Spy(CrossEntropy):
        def forward(self, logits, target, weights=None):
            seen["labels"] = target
            return super().forward(logits, target, weights)

    method.objective = Spy()
    call(method, data)
    assert seen["labels"].tolist() == [12, 13, 14, 15, 4, 5, 6, 7]
    rows = method.encoder.seen[0]
    for b in range(2):
        for k in range(4):
            torch.testing.assert_close(rows[b * 4 + k], data.x[b].roll(k))


def test_one_transformation_is_plain_cross_entropy():
    data, method = batch(), build(m=1)
    logits = method.head(method.encoder(data.x).pooled)
    torch.testing.assert_close(call(method, data).loss, F.cross_entropy(logits, data.label))
    views = method.views(data, Draw(0, 0, data.index))
    torch.testing.assert_close(method.predict(views, "single"), method.predict(views))
    torch.testing.assert_close(method.predict(views), logits)


def test_all_zero_logits():
    data, method = batch(), build()
    nn.init.zeros_(method.head.weight)
    nn.init.zeros_(method.head.bias)
    out = call(method, data)
    assert out.loss.item() == pytest.approx(math.log(20))
    assert out.trivial["uniform"] == pytest.approx(math.log(20))
    views = method.views(data, Draw(0, 0, data.index))
    torch.testing.assert_close(method.predict(views).softmax(1), torch.full((8, 5), 0.2))
    torch.testing.assert_close(call(build(reduction="sum"), data).loss, 4 * call(build(), data).loss)


def test_inference_reads_each_copy_at_its_own_transformation():
    method = build()
    logits = torch.zeros(3, 4, 20)
    kinds = torch.arange(4).expand(3, 4)
    logits[1, 0, 2 * 4] = 5.0  # class 2, untransformed, of the untransformed copy
    logits[1, 0, 2 * 4 + 1] = 9.0  # another transformation's column: must not count
    single = method._single(logits, kinds)
    assert single[1].tolist() == [0, 0, 5, 0, 0]
    assert single[0].abs().max() == 0
    assert method._aggregated(logits, kinds)[1].tolist() == [0, 0, 1.25, 0, 0]
    scores = torch.randn(3, 5)
    level = torch.randn(3, 4)
    own = (scores[:, None, :, None] + level[:, :, None, None]).expand(3, 4, 5, 4).flatten(2)
    assert torch.equal(method._aggregated(own, kinds).argsort(1), scores.argsort(1))


def test_order_of_the_copies_does_not_matter():
    data = batch()
    plain, shuffled = build(), build(views=Rolls(shuffled=True))
    shuffled.load_state_dict(plain.state_dict())
    a, b = call(plain, data), call(shuffled, data)
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(a.parts, b.parts)
    apart = build(views=Rolls(as_dict=True))  # inputs that cannot be stacked pass one by one
    apart.load_state_dict(plain.state_dict())
    torch.testing.assert_close(call(apart, data).loss, a.loss)
    assert len(apart.encoder.seen) == 4


def test_tied_joint_weights_give_data_augmentation_plus_ln_m():
    data, joint, invariant = batch(), build(), build(task="invariant")
    invariant.encoder.load_state_dict(joint.encoder.state_dict())
    with torch.no_grad():
        joint.head.weight.copy_(invariant.head.weight.repeat_interleave(4, 0))
        joint.head.bias.copy_(invariant.head.bias.repeat_interleave(4, 0))
    torch.testing.assert_close(call(joint, data).loss, call(invariant, data).loss + math.log(4))


def test_multi_task_adds_the_transformation_loss():
    data, method = batch(), build(task="multi_task")
    h = method.encoder(torch.stack([data.x.roll(k, 1) for k in range(4)], 1)).pooled
    classes = F.cross_entropy(method.head(h).flatten(0, 1), data.label.repeat_interleave(4))
    kinds = F.cross_entropy(method.transformation_head(h).flatten(0, 1), torch.arange(4).repeat(8))
    torch.testing.assert_close(call(method, data).loss, classes + kinds)


def test_self_distillation_formula_and_gradient():
    data, method = batch(), build(self_distillation=True, temperature=2.0)
    out = call(method, data)
    h = method.encoder(torch.stack([data.x.roll(k, 1) for k in range(4)], 1)).pooled
    joint = method.head(h)
    s = torch.stack([joint[:, j, j::4] for j in range(4)]).mean(0).detach()
    u = method.student_head(h[:, 0])
    kl = 4 * F.kl_div((u / 2).log_softmax(1), (s / 2).softmax(1), reduction="batchmean")
    labels = (data.label[:, None] * 4 + torch.arange(4)).flatten()
    expected = F.cross_entropy(joint.flatten(0, 1), labels) + F.cross_entropy(u, data.label) + kl
    torch.testing.assert_close(out.loss, expected)
    method.zero_grad()
    distillation(method._aggregated(method.head(h), torch.arange(4).expand(8, 4)), u, 2.0).backward()
    assert method.head.weight.grad is None
    assert method.student_head.weight.grad.abs().max() > 0
    assert distillation(u, u).abs() < 1e-7
    views = method.views(data, Draw(0, 0, data.index))
    torch.testing.assert_close(method.predict(views, "distilled"), u)


def test_rows_without_a_label_are_left_out():
    data, method = batch(), build()
    some = data.label.clone()
    some[::2] = -1
    half = Batch(data.x[1::2], data.index[1::2], data.label[1::2])
    torch.testing.assert_close(call(method, Batch(data.x, data.index, some)).loss, call(method, half).loss)


def test_plain_prediction_of_the_transformation():
    """The same views through the pretext task: rotation prediction, when they are rotations."""
    data = batch(64)
    views = Rolls(shuffled=True)
    torch.manual_seed(0)
    method = PretextTask(Flat(), CrossEntropy(), views, None, target="transformation")
    data.x += 4 * torch.eye(6)[0]  # an upright sample is large in its first column
    optimizer = torch.optim.Adam(method.parameters(), lr=0.03)
    for step in range(80):
        out = method(Batch(data.x, data.index), Draw(0, step, data.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert out.parts["accuracy"] > 0.9
    assert out.trivial["uniform"] == pytest.approx(math.log(4))


def test_bad_options():
    with pytest.raises(UserError, match=r"data\.label"):
        build(n=0)
    with pytest.raises(ValueError, match="task: joint"):
        build(task="invariant", self_distillation=True)
    with pytest.raises(UserError, match="wants labels"):
        call(build(), Batch(batch().x, torch.arange(8)))
    data = batch()
    with pytest.raises(ValueError, match="distilled"):
        build().predict(build().views(data, Draw(0, 0, data.index)), "distilled")


def worker(rank, method, data):
    method = copy.deepcopy(method)
    mine = slice(0, 4) if rank == 0 else slice(4, 8)
    out = call(method, Batch(data.x[mine], data.index[mine], data.label[mine]))
    out.loss.backward()
    return out.loss.detach(), out.parts, [p.grad for p in method.parameters()]


def test_two_processes_equal_one():
    from ssl_domains.core.testing import run_processes

    data, method = batch(), build(self_distillation=True)
    data.label[:3] = -1  # the processes hold different numbers of labelled rows
    method.encoder.seen = []
    first, second = run_processes(worker, 2, method, data)
    out = call(method, data)
    out.loss.backward()
    for loss, parts, _ in (first, second):
        torch.testing.assert_close(loss, out.loss.detach())
        torch.testing.assert_close(parts, out.parts)
    for a, b, p in zip(first[2], second[2], method.parameters(), strict=True):
        torch.testing.assert_close((a + b) / 2, p.grad, rtol=1e-4, atol=1e-6)
