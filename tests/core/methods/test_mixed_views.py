"""The third pass on mixtures: what is mixed with what, and Barlow Twins without it."""

import pytest
import torch
from torch import nn

from ssl_domains.core.batch import Encoded, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.methods.mixed_views import MixedViews
from ssl_domains.core.objectives.mixed_barlow_twins import MixedBarlowTwins
from ssl_domains.core.objectives.redundancy import BarlowTwins
from ssl_domains.core.parts.mixup import mixup
from ssl_domains.core.random import Draw


class BatchNormEncoder(Encoder):
    """A batch norm over the columns: its statistics tell which batches passed."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.norm = nn.BatchNorm1d(6)
        self.seen = []

    def forward(self, x, mask=None, *, layers=False):
        self.seen.append(x)
        h = self.norm(x)
        return Encoded(Tokens(h[:, None]), h)


def build(views, regularizer=4.0, **options):
    torch.manual_seed(0)
    return MixedViews(
        BatchNormEncoder(), MixedBarlowTwins(0.01, regularizer), views(), projector=[8, 4], **options
    )


def test_third_pass_mixes_across_views_with_one_share(views, batch):
    method = build(views)
    out = method(batch, Draw(0, 0, batch.index))
    a, b, mixed = method.encoder.seen
    assert len(method.encoder.seen) == 3
    share = None
    used = []
    for row in range(16):  # find the partner of each row by least squares
        fits = []
        for other in range(16):
            d = a[row] - b[other]
            m = ((mixed[row] - b[other]) @ d) / (d @ d)
            fits.append(((mixed[row] - b[other] - m * d).abs().max().item(), other, m.item()))
        error, other, m = min(fits)
        assert error < 1e-4
        used.append(other)
        share = m if share is None else share
        assert m == pytest.approx(share, abs=1e-4)
    assert sorted(used) == list(range(16))
    assert 0 < share < 1
    assert out.parts["mixture"] > 0


def test_share_and_partners_change_with_the_step_and_are_uniform(views, batch):
    from ssl_domains.core.methods.mixed_views import _STEPS, partners

    shares = [Draw(0, s, batch.index).integers(0, _STEPS) / _STEPS for s in range(400)]
    assert sum(shares) / 400 == pytest.approx(0.5, abs=0.05)
    assert min(shares) < 0.02
    assert max(shares) > 0.98
    first, second = (partners(Draw(0, s, batch.index)) for s in (0, 1))
    assert sorted(first.tolist()) == list(range(16))
    assert not torch.equal(first, second)


def test_without_regulariser_it_is_joint_embedding_bit_for_bit(views, batch):
    plain = JointEmbedding(BatchNormEncoder(), BarlowTwins(0.01), views(), projector=[8, 4])
    method = build(views, regularizer=0.0)
    plain.load_state_dict(method.state_dict(), strict=False)
    losses = [m(batch, Draw(0, 0, batch.index)).loss for m in (method, plain)]
    assert torch.equal(*losses)
    assert len(method.encoder.seen) == 2
    torch.testing.assert_close(
        method.encoder.norm.running_mean, plain.encoder.norm.running_mean, rtol=0, atol=0
    )


def test_batch_norm_sees_three_batches_of_their_own(views, batch):
    method = build(views)
    method(batch, Draw(0, 0, batch.index))
    mean = torch.zeros(6)
    for x in method.encoder.seen:
        mean = 0.9 * mean + 0.1 * x.mean(0)
    torch.testing.assert_close(method.encoder.norm.running_mean, mean)


def test_mixup_of_nested_inputs_and_what_cannot_be_mixed():
    rows = torch.tensor([1, 0])
    a, b = torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0], [20.0]])
    found = mixup({"x": a, "more": [a]}, {"x": b, "more": [b]}, rows, 0.25)
    torch.testing.assert_close(found["x"], torch.tensor([[15.25], [8.25]]))
    torch.testing.assert_close(found["more"][0], found["x"])
    assert torch.equal(mixup(a, b, rows, 1.0), a)
    with pytest.raises(UserError, match="int64 values"):
        mixup(a.long(), b.long(), rows, 0.5)
    with pytest.raises(UserError, match="type Graph"):
        mixup(type("Graph", (), {})(), None, rows, 0.5)
    with pytest.raises(UserError, match="different shapes"):
        mixup(a, b.T, rows, 0.5)


def test_wrong_objective_or_predictor(views):
    with pytest.raises(ValueError, match="wants objective"):
        MixedViews(BatchNormEncoder(), BarlowTwins(), views(), projector=[4])
    with pytest.raises(ValueError, match="predictor"):
        build(views, predictor=[4])
