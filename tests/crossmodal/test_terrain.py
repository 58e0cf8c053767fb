"""Terrain from sound (arXiv 1912.03227): miner, triplets, decoder, projection, sparse labels,
segmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.crossmodal import terrain_map as maps
from ssl_domains.crossmodal.generated_terrain import drive
from ssl_domains.crossmodal.terrain import _places, nearest_others
from ssl_domains.recipe.build import build
from ssl_domains.recipe.check import read_recipe
from ssl_domains.recipe.loading import read_yaml
from ssl_domains.recipe.locate import find_recipe


@pytest.fixture
def experiment():
    def make(*overrides):
        recipe = read_yaml(find_recipe("crossmodal/terrain_sound"))[0]
        recipe["data"]["source"] = "generated://terrain?pairs=200"
        return build(read_recipe(recipe, overrides))

    return make


def test_neighbours():
    x = np.array([[0.0], [1.0], [1.5], [9.0], [9.1]])
    assert nearest_others(x).tolist() == [1, 2, 1, 4, 3]
    runs, places = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 1])
    assert nearest_others(x, runs, places, 1).tolist() == [1, 0, 0, 2, 2]
    one = np.zeros(5, dtype=np.int64)
    assert nearest_others(x, one, np.arange(5), 1).tolist() == [2, 3, 0, 1, 2]  # both sides of a row
    assert nearest_others(x, one, np.arange(5), 0).tolist() == nearest_others(x).tolist()


def test_places_in_runs():
    assert _places(np.array([3, 1, 3, 3, 1])).tolist() == [0, 0, 1, 2, 1]
    assert _places(None) is None


def test_miner(experiment):
    made = experiment()
    source, method = made.source.for_pretraining(), made.method
    method.before_training(source)
    train = source.splits["train"]
    index = torch.from_numpy(train)
    positive, negative = method.triplets(index, Draw(0, 3, index))
    assert (positive != index).all()
    assert set(positive.tolist()) | set(negative.tolist()) <= set(train.tolist())
    assert (method.cluster[negative] != method.cluster[index]).all()
    again = method.triplets(index[:5], Draw(0, 3, index[:5]))
    assert (again[1] == negative[:5]).all()  # a clip's negative does not depend on its batch
    other = method.triplets(index, Draw(0, 4, index))
    assert (other[0] == positive).all()
    assert (other[1] != negative).float().mean() > 0.5


def test_true_features_make_right_triplets_and_random_ones_do_not(experiment):
    made = experiment()
    source, method = made.source.for_pretraining(), made.method
    labels = torch.from_numpy(source.labels)
    index = torch.from_numpy(source.splits["train"])
    rng = np.random.default_rng(0)

    def shares(features, monkey):
        monkey.setattr("ssl_domains.crossmodal.terrain.tower_features", lambda *_: _Rows(features))
        method.before_training(source)
        draws = [method.triplets(index, Draw(0, s, index)) for s in range(20)]
        right = torch.stack([(labels[p] == labels[index]).float().mean() for p, _ in draws]).mean()
        wrong = torch.stack([(labels[n] != labels[index]).float().mean() for _, n in draws]).mean()
        return float(right), float(wrong)

    n = len(source.parts["b"])
    own = np.zeros(n, dtype=np.int64)
    own[source.links.rows["b"]] = source.labels
    with pytest.MonkeyPatch.context() as monkey:
        truth = np.eye(5)[own] + 1e-3 * rng.normal(size=(n, 5))
        assert shares(truth, monkey) == (1.0, 1.0)
        _, wrong = shares(rng.normal(size=(n, 5)), monkey)
    share = np.bincount(source.labels[index]) / len(index)
    assert wrong == pytest.approx(1 - (share**2).sum(), abs=0.04)


class _Rows:
    def __init__(self, array):
        self.array = array

    def rows(self, indices):
        return self.array[indices]


def test_gradients(experiment):
    made = experiment()
    source, method = made.source.for_pretraining(), made.method.train()
    method.before_training(source)
    batch = source.fetch(source.splits["train"][:8])
    batch = Batch(batch.x, batch.index, None, batch.meta)
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    assert all(p.grad is None for p in method.encoder.part("b").parameters())
    assert all(p.grad is not None for p in method.encoder.part("a").parameters())
    assert all(p.grad is not None for p in method.decoder.parameters())
    torch.testing.assert_close(out.loss.detach(), out.parts["triplet"] + out.parts["reconstruction"])
    alone = experiment("method.reconstruction=0").method
    assert alone.decoder is None
    trained = {id(p) for g in method.parameter_groups() for p in g["params"]}
    assert not trained & {id(p) for p in method.encoder.part("b").parameters()}


def test_decoder_gives_back_the_shape(experiment):
    made = experiment()
    tower = made.method.tower
    x = made.source.fetch([0, 1]).x["a"]
    image = tower.spectrogram(x)
    assert image.shape[2:] == tower.shape
    assert made.method.decoder(tower.encode(image).pooled).shape == image.shape


def test_homography_and_view():
    ground = np.array([[0.0, 0], [4, 0], [4, 6], [0, 6], [2, 3]])
    true = np.array([[20.0, 3, 15], [2, 18, 10], [0.01, 0.02, 1]])
    pixels = maps.through(true, ground)
    found = maps.homography(ground, pixels)
    np.testing.assert_allclose(found, true, atol=1e-6)
    image = torch.zeros(1, 160, 160)
    u, v = maps.through(found, np.array([[2.0, 3.0]]))[0]
    image[0, round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2] = 1.0
    view = maps.birds_eye(image, found, (61, 41), 0.1)
    at = np.unravel_index(int(view[0].argmax()), (61, 41))
    assert at == (30, 20)  # 3 m down, 2 m across, 0.1 m a pixel
    with pytest.raises(DataError, match="four or more"):
        maps.homography(ground[:3], pixels[:3])
    line = np.stack([np.arange(5.0), np.arange(5.0)], 1)
    with pytest.raises(DataError, match="fix no homography"):
        maps.homography(line, line)


def test_footprints_paint_what_was_driven_later():
    poses = np.array([[1.0, 1.0, 0.0], [3.0, 1.0, np.pi / 2], [50.0, 1.0, 0.0]])
    labels = maps.paint((20, 40), (0.0, 0.0), 0.1, poses, np.array([2, 4, 1]), 0.8, 0.4)
    assert labels[10, 10] == 2
    assert labels[10, 30] == 4
    assert set(np.unique(labels)) == {2, 4, maps.IGNORE}
    assert (labels == 2).sum() == pytest.approx(8 * 4, abs=14)
    tall, wide = np.nonzero(labels == 4)
    assert np.ptp(tall) > np.ptp(wide)  # it drives down there
    none = maps.paint((20, 40), (0.0, 0.0), 0.1, poses, np.array([-1, -1, 1]), 0.8, 0.4)
    assert (none == maps.IGNORE).all()


def test_unlabelled_pixels_do_not_matter():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.full((2, 4, 5), maps.IGNORE)
    labels[0, 1, 2], labels[1, 3, 4], labels[1, 0, 0] = 0, 2, 1
    weights = torch.tensor([1.0, 2.0, 3.0])
    loss = maps.weak_loss(logits, labels, weights)
    loss.backward()
    assert (logits.grad[(labels == maps.IGNORE)[:, None].expand_as(logits)] == 0).all()
    with torch.no_grad():
        other = torch.where((labels == maps.IGNORE)[:, None], 9.0, logits)
    torch.testing.assert_close(maps.weak_loss(other, labels, weights), loss.detach())
    picked = [(0, 1, 2, 0), (1, 3, 4, 2), (1, 0, 0, 1)]
    terms = [weights[c] * -F.log_softmax(logits[b, :, y, x], 0)[c] for b, y, x, c in picked]
    torch.testing.assert_close(loss, sum(terms) / weights[[0, 2, 1]].sum())


def test_weights_iou_and_votes():
    labels = np.array([[[0, 0, 0, 1, 255, 255]]], dtype=np.uint8)
    weights = maps.class_weights(labels, 2)
    torch.testing.assert_close(weights, (1 / torch.log(1.02 + torch.tensor([0.75, 0.25]))).float())
    truth = np.array([0, 0, 1, 1, 2])
    assert maps.mean_iou(np.array([1, 1, 2, 2, 0]), truth, 3) == 1.0  # ids are arbitrary
    assert maps.mean_iou(np.array([1, 1, 2, 2, 0]), truth, 3, match=False) == 0.0
    assert maps.mean_iou(np.array([0, 1, 1, 1, 2]), truth, 3) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    views = [(np.full((2, 2), 1), (0, 0)), (np.full((2, 2), 2), (1, 1)), (np.full((2, 2), 2), (1, 1))]
    grid = maps.fuse(views, (3, 4), 3)
    assert grid.tolist() == [[1, 1, 255, 255], [1, 2, 2, 255], [255, 2, 2, 255]]


def test_segmentation_learns_from_sparse_labels():
    rng = np.random.default_rng(0)
    truth = np.sort(rng.integers(8, 56, (48, 2)), axis=1)  # two borders a view
    column = np.arange(64)
    truth = ((column[None] >= truth[:, :1]).astype(int) + (column[None] >= truth[:, 1:])).astype(np.uint8)
    truth = np.repeat(truth[:, None], 32, axis=1)
    colours = np.array([[0.2, 0.4, 0.2], [0.5, 0.4, 0.3], [0.6, 0.6, 0.65]])
    views = (
        torch.from_numpy(colours[truth] + rng.normal(0, 0.08, (48, 32, 64, 3))).permute(0, 3, 1, 2).float()
    )
    across = np.arange(4, 64, 8)
    labels = []
    for view in truth:  # each drive crosses its view somewhere else
        poses = np.stack([across, np.full(8, rng.uniform(4, 28)), np.zeros(8)], axis=1)
        labels.append(maps.paint((32, 64), (0, 0), 1.0, poses, view[16, across], 4, 4))
    labels = np.stack(labels)
    assert 0.02 < (labels != maps.IGNORE).mean() < 0.15
    net = maps.train_segmentation(
        views, labels, 3, net=maps.SegmentationNet(3, 3, width=8), steps=150, batch=8, lr=5e-3
    )
    with torch.no_grad():
        predicted = net(views).argmax(1).numpy()
    assert maps.mean_iou(predicted, truth, 3, match=False) > 0.8
    with pytest.raises(DataError, match="no pixel of any view has a label"):
        maps.train_segmentation(views, np.full_like(labels, 255), 5)


def test_a_generated_drive():
    run = drive(3, clips=30)
    assert run.ground.shape == (*run.truth.shape, 3)
    assert len(run.sound) == 30 * 2000
    again = drive(3, clips=30)
    np.testing.assert_array_equal(run.sound, again.sound)
    assert np.isin(run.truth, range(5)).all()


def test_a_map_that_was_heard(tmp_path):
    """Sounds that tell the terrain teach the map of a held-out drive; sounds without meaning do not."""
    from types import SimpleNamespace

    from ssl_domains.crossmodal import terrain_probe as probe

    rng = np.random.default_rng(0)
    x = np.arange(4, 96, 8)
    kinds, recordings = [], []
    for drive_number in range(3):
        truth = np.zeros((32, 96), np.uint8)
        truth[:, 40 + 8 * drive_number :] = 1
        ground = (60 + 100 * truth[..., None] + rng.normal(0, 10, (32, 96, 3))).clip(0, 255).astype(np.uint8)
        poses = np.stack([x, np.full(12, 16.0), np.zeros(12)], axis=1)
        arrays = {"ground": ground, "truth": truth, "poses": poses, "times": np.arange(12) / 2}
        np.savez(tmp_path / f"run{drive_number}_map.npz", **arrays)
        recordings.append(SimpleNamespace(name=str(tmp_path / f"run{drive_number}.npz")))
        kinds.append(truth[16, x])
    sounds = SimpleNamespace(
        recordings=recordings, which=np.repeat(np.arange(3), 12), start=np.tile(np.arange(12) * 50, 3),
        spec=SimpleNamespace(rate=100.0),
    )  # fmt: skip
    rows = {"train": np.arange(24), "test": np.arange(24, 36)}
    right, scores = np.eye(2)[np.concatenate(kinds)], []
    for z in (right, np.eye(2)[rng.permutation(np.arange(36) % 2)]):
        (found,) = probe.segment_drives({s: z[r] for s, r in rows.items()}, rows, sounds, 2, 40, 0)
        assert found.predicted.shape == found.map.truth.shape
        scores.append(maps.mean_iou(found.predicted, found.map.truth, 2))
    assert scores[0] > 0.9
    assert scores[1] < 0.8
    strips = probe._strips([found], np.arange(2), 2)
    assert strips.shape[2] == 3
    assert strips.dtype == np.uint8


def test_maps_beside_recordings(tmp_path):
    from ssl_domains.crossmodal import terrain_probe as probe

    assert probe.map_of(str(tmp_path / "run.npz")) is None
    good = {"ground": np.zeros((64, 100, 3), np.uint8), "truth": np.zeros((64, 100), np.uint8)}
    good |= {"poses": np.zeros((4, 3)), "times": np.arange(4.0)}
    np.savez(tmp_path / "run_map.npz", **good)
    found = probe.map_of(str(tmp_path / "run.npz"))
    assert probe.corners(found) == [(0, 0), (0, 32), (0, 36)]
    assert probe.views_of(found).shape == (3, 3, 64, 64)
    np.savez(tmp_path / "run_map.npz", **{**good, "times": np.arange(3.0)})
    with pytest.raises(DataError, match=r"run_map\.npz: .* do not fit"):
        probe.map_of(str(tmp_path / "run.npz"))
    del good["truth"]
    np.savez(tmp_path / "run_map.npz", **good)
    with pytest.raises(DataError, match="lacks truth"):
        probe.map_of(str(tmp_path / "run.npz"))
