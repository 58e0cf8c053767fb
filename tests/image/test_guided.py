"""G-SimCLR's auto-encoder: what it learns from, its codes, and the batches that come of them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from ssl_domains.core.errors import UserError
from ssl_domains.image.domain import ImageDomain
from ssl_domains.image.guided import Autoencoder, AutoencoderClusters

SMALL = {"filters": (8, 16), "epochs": 10, "batch_size": 16, "lr": 5e-3}


@pytest.fixture(scope="module")
def shapes():
    """200 images of 12 x 12: bars across or down, thin or thick."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 200)
    x = np.zeros((200, 12, 12))
    for i, k in enumerate(kind):
        start, width = rng.integers(2, 7), 1 + 3 * (k // 2)
        x[i, start : start + width] = 1.0
        x[i] = x[i].T if k % 2 else x[i]
    pixels = (255 * (0.8 * x + 0.1 * rng.random(x.shape))).astype(np.uint8)
    return ImageDomain().open((pixels[..., None], kind), test=0.2, valid=0.0)


def test_odd_sides_come_back_at_their_size():
    for size in ((28, 28), (7, 9), (4, 4), (3, 5)):
        net = Autoencoder(3, (4, 6, 8), 3)
        out = net(torch.rand(2, 3, *size))
        assert out.shape == (2, 3, *size)
        assert 0 <= out.min() <= out.max() <= 1
    assert net.code(torch.rand(2, 3, 28, 28)).shape[:2] == (2, 8)


def test_learns_from_training_rows_alone_and_is_the_same_again(shapes):
    seen = []
    fetch = shapes.fetch
    shapes.fetch = lambda rows: seen.extend(np.asarray(rows).tolist()) or fetch(rows)
    try:
        rows = shapes.splits["train"]
        before = torch.get_rng_state()
        sampler = AutoencoderClusters(8, **SMALL)
        codes = sampler.features(shapes, rows)
        assert torch.equal(torch.get_rng_state(), before)  # the run's random numbers are not touched
    finally:
        shapes.fetch = fetch
    assert set(seen) == set(rows.tolist())
    assert codes.shape == (len(rows), 16)
    assert sampler.errors[-1] < 0.5 * sampler.errors[0]
    np.testing.assert_array_equal(AutoencoderClusters(8, **SMALL).features(shapes, rows), codes)


def test_clusters_know_more_of_the_kind_than_chance_and_every_batch_is_distinct(shapes):
    sampler = AutoencoderClusters(12, **SMALL)
    sampler.prepare(shapes)
    rows = shapes.splits["train"]
    labels = sampler.labels(rows, 6)
    assert adjusted_mutual_info_score(labels, np.asarray(shapes.labels)[rows]) > 0.2
    at = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    found = sampler.epoch(rows, 6, sampler.n_batches(rows, 6), 0, 0)
    assert all(len({at[r] for r in batch.tolist()}) == 6 for batch in found)


def test_stops_when_the_held_out_error_no_longer_falls(shapes, monkeypatch):
    errors = iter([0.5, 0.4, 0.41, 0.42, 0.1])
    monkeypatch.setattr(AutoencoderClusters, "_error", lambda *_: next(errors))
    sampler = AutoencoderClusters(8, filters=(4,), epochs=50, patience=2)
    sampler.features(shapes, shapes.splits["train"])
    assert sampler.errors == [0.5, 0.4, 0.41, 0.42]


def test_bad_options(shapes):
    for wrong in ({"filters": []}, {"kernel": 4}, {"lr": 0}, {"patience": 0}, {"noise": -1}):
        with pytest.raises(ValueError, match="sampler"):
            AutoencoderClusters(4, **wrong)
    with pytest.raises(UserError, match="20 training images"):
        AutoencoderClusters(4).features(shapes, shapes.splits["train"][:10])
