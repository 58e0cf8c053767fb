"""Probes that image papers use: a linear layer on augmented samples, retrieval of the same class."""

import numpy as np
import pytest
import torch
from torch import nn

from ssl_domains.core.batch import Batch, Encoded, Tokens, View
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.registry import views
from ssl_domains.evaluation.augmented import LinearAugmentedProbe
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.protocols import Features
from ssl_domains.evaluation.same_class import SameClassProbe


class Plain(Encoder):
    width = 4

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.seen = []

    def forward(self, x, mask=None, *, layers=False):
        self.seen.append(x.detach().clone())
        return Encoded(Tokens((x * self.scale)[:, None]), x * self.scale)


class Rows:
    full_batch, task, class_names, spec = False, "classification", None, None

    def __init__(self, n=120):
        rng = np.random.default_rng(0)
        self.labels = np.arange(n) % 3
        self.x = torch.tensor(np.eye(4)[self.labels] * 2 + rng.normal(0, 0.5, (n, 4))).float()
        self.splits = {"train": np.arange(60), "valid": np.arange(60, 80), "test": np.arange(80, n)}

    def __len__(self):
        return len(self.x)

    def fetch(self, rows):
        return Batch(self.x[torch.as_tensor(np.asarray(rows))], torch.as_tensor(np.asarray(rows)))

    def labelled(self):
        return LabelledRows(self.splits, self.labels, "classification", 3, [])


@views("noise_of_a_test")
class Noise(Views):
    n_views = 1

    def __call__(self, batch, draw):
        return [View(batch.x + 0.1 * draw.normal(4))]


def test_linear_layer_learns_on_fresh_augmentations_and_leaves_the_encoder():
    source, encoder = Rows(), Plain().train()
    probe = LinearAugmentedProbe("noise_of_a_test", epochs=12, lr=1.0, batch_size=30)
    before = torch.random.get_rng_state()
    found = probe.predict_encoder(encoder, source, source.labelled(), 0)
    assert (found.value == source.labels[source.splits["test"]]).mean() > 0.9
    assert found.score.shape == (40, 3)
    assert torch.equal(encoder.scale, torch.ones(4))
    assert encoder.scale.grad is None
    assert encoder.training
    assert torch.equal(torch.random.get_rng_state(), before)
    batches = [x for x in encoder.seen if len(x) == 30]
    assert len(batches) == 24
    assert len({float(x.sum()) for x in batches}) == 24  # never the same pixels twice
    again = probe.predict_encoder(encoder, source, source.labelled(), 0)
    np.testing.assert_allclose(again.score, found.score)
    with pytest.raises(ValueError, match="epochs"):
        LinearAugmentedProbe(epochs=0)


def slow(z, y, bank, others, same):
    """Query by query, place by place."""
    z, bank = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (z, bank))
    rank1, rank5, ap = [], [], []
    for i in range(len(z)):
        rest = [j for j in range(len(bank)) if not (same and j == i)]
        rest.sort(key=lambda j: -(z[i] @ bank[j]))
        right = [bool(others[j] == y[i]) for j in rest]
        if not any(right):
            continue
        hits = [sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]]
        rank1.append(right[0])
        rank5.append(any(right[:5]))
        ap.append(np.mean(hits))
    return np.mean(rank1), np.mean(rank5), np.mean(ap)


@pytest.mark.parametrize("gallery", ["test", "train"])
@pytest.mark.parametrize("chunk", [7, 512])
def test_retrieval_is_query_by_query(gallery, chunk):
    source = Rows()
    z = np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32)
    labelled = source.labelled()
    found = SameClassProbe(gallery, chunk).measure(Features(z, np.arange(120), source, labelled), 0)
    rows, bank = source.splits["test"], source.splits[gallery]
    expected = slow(z[rows], source.labels[rows], z[bank], source.labels[bank], gallery == "test")
    assert [score.metric for score in found] == ["rank1", "rank5", "map"]
    np.testing.assert_allclose([score.value for score in found], expected, atol=1e-6)


def test_retrieval_says_why_not():
    source = Rows()
    assert "class labels" in SameClassProbe().why_not(source, None)
    assert SameClassProbe().why_not(source, source.labelled()) == ""
    source.splits["test"] = np.array([80, 81, 82])
    assert "another one" in SameClassProbe().why_not(source, source.labelled())
