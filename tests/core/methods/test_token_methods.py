"""data2vec, iBOT, MSN and DeepCluster v2 on a toy encoder: targets, who gets gradient, what is remembered."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Set
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.data2vec import Data2Vec
from ssl_domains.core.methods.deep_cluster import DeepClusterV2
from ssl_domains.core.methods.ibot import IBOT
from ssl_domains.core.methods.msn import MaskedSiamese
from ssl_domains.core.objectives.classification import CrossEntropy
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.objectives.msn import MSNObjective
from ssl_domains.core.objectives.regression import MaskedSmoothL1
from ssl_domains.core.random import Draw


class Layered(Encoder):
    """Six tokens of one number; three layers; a learned token stands in for hidden ones."""

    drops_hidden = False

    def __init__(self, width=8):
        super().__init__()
        self.width = width
        self.inside = nn.Linear(1, width)
        self.mask_token = nn.Parameter(torch.randn(width))
        self.position = nn.Parameter(torch.randn(6, width))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x, mask=None, *, layers=False):
        tokens = self.inside(x[..., None])
        if mask is not None:
            tokens = torch.where(mask.hidden[..., None], self.mask_token, tokens)
        tokens = tokens + self.position
        states = []
        for layer in self.layers:
            tokens = torch.tanh(layer(tokens) + tokens.mean(1, keepdim=True))
            states.append(tokens)
        return Encoded(Tokens(tokens, self.layout(x)), tokens.mean(1), states if layers else None)

    def layout(self, x):
        return Set(6)

    def targets(self, x):
        return Tokens(x[..., None])

    @property
    def target_width(self):
        return 1

    def predictor(self, output_width):
        class Head(nn.Linear):
            def forward(self, encoded, mask, x):
                return super().forward(encoded.tokens.select(mask))

        return Head(self.width, output_width)


class Rows:
    """A source of 40 rows, of which 32 train."""

    full_batch = False

    def __init__(self):
        self.x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
        self.splits = {"train": np.arange(4, 36), "valid": np.arange(4), "test": np.arange(36, 40)}

    def __len__(self):
        return 40

    def fetch(self, indices):
        index = torch.as_tensor(np.asarray(indices))
        return Batch(self.x[index], index)


def build(name, views):
    torch.manual_seed(0)
    encoder = Layered()
    if name == "data2vec":
        return Data2Vec(encoder, MaskedSmoothL1(), RandomMask(0.5), target_layers=2)
    if name == "ibot":
        return IBOT(
            encoder,
            TeacherCrossEntropy(12),
            views(3, 1),
            RandomMask(0.5),
            [16, 8],
            prototypes=12,
            projector_norm="batch",
        )
    if name == "msn":
        return MaskedSiamese(encoder, MSNObjective(), views(3, 1), RandomMask(0.5), [16, 8], prototypes=6)
    return DeepClusterV2(encoder, CrossEntropy(), views(), [16, 8], clusters=[4, 5])


NAMES = ("data2vec", "ibot", "msn", "deep_cluster")


@pytest.mark.parametrize("name", NAMES)
def test_only_students_get_gradient_and_the_loss_falls(name, views):
    method, source = build(name, views), Rows()
    method.before_training(source)
    method.before_epoch(source, 0)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 1e-2)
    batch = source.fetch(source.splits["train"])
    losses = []
    for step in range(60):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        assert not [n for n, p in method.named_parameters() if "teacher" in n and p.grad is not None]
        lacking = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not [n for n in lacking if "mask_token" not in n]
        optimizer.step()
        method.after_step(Progress(step + 1, 60))
        losses.append(float(out.parts.get("kl", out.loss)))
    assert np.mean(losses[-10:]) < np.mean(losses[5:15])


def test_data2vec_targets_are_the_mean_of_normalised_layers(views):
    method, source = build("data2vec", views), Rows()
    batch = source.fetch(range(8))
    mask = method.masker(Set(6), Draw(0, 0, batch.index))
    target = method._targets(method._taught(batch)[0], mask)
    states = method.teacher(batch.x, layers=True).layers
    expected = (F.layer_norm(states[1], (8,)) + F.layer_norm(states[2], (8,))) / 2
    torch.testing.assert_close(target, expected[mask.hidden])


def test_data2vec_wants_layers(encoder, batch):
    method = Data2Vec(encoder, MaskedSmoothL1(), RandomMask(0.5))
    with pytest.raises(UserError, match="states of its tokens by layer"):
        method(batch, Draw(0, 0, batch.index))


def test_ibot_counts_every_sample_alike(views):
    """Loss of the tokens: mean over samples of the mean over their hidden tokens."""
    method, source = build("ibot", views), Rows()
    batch = source.fetch(range(8))
    view = method.views(batch, Draw(0, 0, batch.index))[0]
    mask = method._mask(view, Draw(0, 0, batch.index))
    assert 0 < mask.hidden.any(1).sum() < 8  # some samples stay whole
    mask.hidden[mask.hidden.any(1).nonzero()[0, 0], :4] = True  # unlike numbers
    student, teacher = method.encoder(view.x, mask), method.teacher_encoder(view.x)
    found = method._tokens(student, teacher, mask).total
    log = F.log_softmax(method.projector(student.tokens.values[mask.hidden]) / 0.1, 1)
    p = F.softmax(method.teacher_projector(teacher.tokens.values[mask.hidden]) / 0.04, 1)
    owner = torch.arange(8)[:, None].expand(8, 6)[mask.hidden]
    rows = -(p * log).sum(1)
    expected = torch.stack([rows[owner == b].mean() for b in owner.unique()]).mean()
    torch.testing.assert_close(found, expected)


def test_ibot_masks_no_local_view_and_keeps_two_centers(views):
    method, source = build("ibot", views), Rows()
    batch = source.fetch(range(16))
    local = method.views(batch, Draw(0, 0, batch.index))[-1]
    assert local.role == "local"
    assert method._mask(local, Draw(0, 0, batch.index)) is None
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    method.after_step(Progress(1, 10))
    assert method.objective.center.abs().sum() > 0
    assert not torch.equal(method.objective.center, method.token_objective.center)


def test_ibot_refuses_encoders_that_drop_tokens(encoder, views):
    with pytest.raises(ValueError, match=r"encoder.hidden=replace"):
        IBOT(encoder, TeacherCrossEntropy(12), views(), RandomMask(0.5), [8], prototypes=12)


def test_msn_target_is_whole_and_anchors_are_not(views, monkeypatch):
    method, source = build("msn", views), Rows()
    batch = source.fetch(range(8))
    seen = []
    forward = Layered.forward

    def watch(self, x, mask=None, *, layers=False):
        seen.append(("teacher" if self is method.teacher_encoder.module else "student", mask is not None))
        return forward(self, x, mask, layers=layers)

    monkeypatch.setattr(Layered, "forward", watch)
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    assert seen == [("student", True), ("student", False), ("teacher", False)]
    assert method.prototypes.weight.grad.abs().sum() > 0


def test_deep_cluster_labels_are_those_of_the_bank(views):
    method, source = build("deep_cluster", views), Rows()
    method.before_training(source)
    method.before_epoch(source, 0)
    train = torch.as_tensor(source.splits["train"])
    assert (method.assignments[:, train] >= 0).all()
    assert (method.assignments[:, :4] == -1).all()  # rows outside training have no label
    for i, k in enumerate((4, 5)):
        z = method.banks[i].rows[train]
        centroids = method.get_buffer(f"centroids{i}")
        assert centroids.shape[0] == k
        assert torch.equal((z @ centroids.T).argmax(1), method.assignments[i, train])
    batch = source.fetch(train[:8].numpy())
    before = method.banks[0].rows[train[:8]].clone()
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    method.after_step(Progress(1, 10))
    assert not torch.equal(before, method.banks[0].rows[train[:8]])


def test_deep_cluster_state_travels(views):
    """Banks, centroids and labels are buffers: an object that loads them goes on with the same labels."""
    source = Rows()
    one, other = build("deep_cluster", views), build("deep_cluster", views)
    for method in (one, other):
        method.before_training(source)
    one.before_epoch(source, 3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.assignments, other.assignments)
    batch = source.fetch(range(8, 16))
    assert one(batch, Draw(0, 0, batch.index)).loss == other(batch, Draw(0, 0, batch.index)).loss
