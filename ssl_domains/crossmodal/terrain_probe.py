"""What sounds are worth for a map: clusters of a tower's vectors become sparse labels of bird's-eye views, a
segmentation learns from them, and its map of held-out drives is compared with the truth (arXiv 1912.03227,
steps 6 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Figure, Source
from ssl_domains.core.registry import register
from ssl_domains.crossmodal.data import PairSource
from ssl_domains.crossmodal.encoders import Tower, Towers
from ssl_domains.crossmodal.probes import _PairProbe, held_out
from ssl_domains.crossmodal.signals import SignalSource
from ssl_domains.crossmodal.terrain_map import (
    IGNORE,
    MAP_ENDING,
    SegmentationNet,
    fuse,
    matched,
    mean_iou,
    paint,
    train_segmentation,
)
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.protocols import Features, Score

SIDE, STRIDE, FOOT = 64, 32, 8.0
CLUSTERS, STEPS, LR = 5, 100, 5e-3


@dataclass
class Map:
    """The ground of one drive from above.

    Attributes:
        ground: ``[H, W, 3]`` uint8.
        truth: ``[H, W]`` uint8 terrain; 255: not known.
        poses: ``[n, 3]`` x, y in pixels and heading of each clip.
        times: ``[n]`` seconds at which the clips begin.
    """

    ground: np.ndarray
    truth: np.ndarray
    poses: np.ndarray
    times: np.ndarray


@dataclass
class Segmented:
    """A held-out drive.

    Attributes:
        map: of it.
        predicted: ``[H, W]`` uint8 cluster of each pixel, views fused by their votes.
    """

    map: Map
    predicted: np.ndarray


def map_of(recording: str) -> Map | None:
    """The map beside a recording, ``NAME_map.npz`` for ``NAME.npz``; None: there is none.

    Raises:
        DataError: it lacks an array, or they do not fit one another.
    """
    path = Path(recording).with_name(Path(recording).stem + MAP_ENDING)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        found = dict(file)
    lacking = [key for key in ("ground", "truth", "poses", "times") if key not in found]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)}; a map has ground, truth, poses and times")
    own = Map(found["ground"], found["truth"], found["poses"], found["times"])
    if own.ground.shape != (*own.truth.shape, 3) or own.poses.shape != (len(own.times), 3):
        raise DataError(
            f"{path}: ground {list(own.ground.shape)}, truth {list(own.truth.shape)}, poses "
            f"{list(own.poses.shape)} and times {list(own.times.shape)} do not fit; expected [H, W, 3], "
            "[H, W], [n, 3] and [n]"
        )
    return own


def part_with_maps(source: PairSource) -> str | None:
    """The first part of recordings that have maps."""
    for name, part in source.parts.items():
        if isinstance(part, SignalSource) and any(map_of(r.name) is not None for r in part.recordings):
            return name
    return None


def corners(map: Map) -> list[tuple[int, int]]:
    """(row, column) of the first pixel of each view: they overlap by half and reach the far edges."""
    starts = [sorted({*range(0, max(n - SIDE, 0), STRIDE), max(n - SIDE, 0)}) for n in map.truth.shape]
    return [(row, column) for row in starts[0] for column in starts[1]]


def views_of(map: Map) -> torch.Tensor:
    """``[v, 3, 64, 64]`` float in [-1, 1]; smaller maps give smaller views."""
    cut = [map.ground[r : r + SIDE, c : c + SIDE] for r, c in corners(map)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1


def segment_drives(
    z: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], sounds: SignalSource, clusters: int,
    steps: int, seed: int,
) -> list[Segmented]:  # fmt: skip
    """Clusters train sounds, paints them into the train drives' views, learns from it, maps the test drives.

    Args:
        z: by split (``train``, ``test``) ``[n, D]`` vectors of its rows.
        rows: by split, rows of ``sounds``.
        sounds: the recordings.
        clusters: K, the number of terrains.
        steps: of the segmentation.
        seed: of k-means and the segmentation.

    Raises:
        DataError: recordings of a split have no map.
    """
    from sklearn.cluster import KMeans

    ids = KMeans(clusters, n_init=10, random_state=seed).fit_predict(z["train"].astype(np.float64))
    drives: dict[str, dict[int, Map]] = {"train": {}, "test": {}}
    for split, own in drives.items():
        for number in np.unique(sounds.which[rows[split]]):
            if (found := map_of(sounds.recordings[number].name)) is not None:
                own[int(number)] = found
        if not own:
            raise DataError(
                f"terrain_segmentation: no {split} recording has a map (NAME{MAP_ENDING}) beside it"
            )
    views, labels = [], []
    for number, map in drives["train"].items():
        mine = np.flatnonzero(sounds.which[rows["train"]] == number)
        begun = sounds.start[rows["train"][mine]] / sounds.spec.rate
        clip = np.abs(map.times[None] - begun[:, None]).argmin(1)
        found_ids = np.full(len(map.times), -1)
        found_ids[clip] = ids[mine]
        views.append(views_of(map))
        size = (min(SIDE, map.truth.shape[0]), min(SIDE, map.truth.shape[1]))
        for row, column in corners(map):
            labels.append(paint(size, (column, row), 1.0, map.poses, found_ids, FOOT, FOOT))
    net = SegmentationNet(3, clusters, width=12)
    net = train_segmentation(
        torch.cat(views), np.stack(labels), clusters, net=net, steps=steps, batch=8, lr=LR, seed=seed
    )
    out = []
    for map in drives["test"].values():
        with torch.no_grad():
            votes = net(views_of(map)).argmax(1).numpy().astype(np.uint8)
        height, width = map.truth.shape
        out.append(
            Segmented(map, fuse(list(zip(votes, corners(map), strict=True)), (height, width), clusters))
        )
    return out


@register("probe", "terrain_segmentation")
class TerrainSegmentation(_PairProbe):
    """Whether what was heard teaches what ground looks like (arXiv 1912.03227, steps 6 to 9).

    K-means puts the train sounds' vectors into clusters; their ids are painted where the robot drove, into
    bird's-eye views of the train drives; a small U-Net learns from these pixels alone; views of the held-out
    drives vote for a map, which is compared with the truth after the best matching of clusters to terrains
    (Hungarian): ``mean_iou``, and ``accuracy`` over pixels. Beside each recording ``NAME.npz`` lies
    ``NAME_map.npz`` with ``ground [H, W, 3]`` uint8, ``truth [H, W]`` uint8 (255: not known),
    ``poses [n, 3]`` (x, y in pixels, heading) and ``times [n]`` (seconds at which clips begin).

    Args:
        clusters: K; default 5 (the Freiburg set's terrains).
        steps: of the segmentation.
    """

    draws = "starts of k-means and of the segmentation"
    main = "mean_iou"

    def __init__(self, clusters: int = CLUSTERS, steps: int = STEPS) -> None:
        if clusters < 2 or clusters >= IGNORE or steps < 1:
            raise ValueError("clusters must lie in [2, 254] and steps be at least 1")
        self.clusters, self.steps = clusters, steps

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if found := super().why_not(source, labelled):
            return found
        assert isinstance(source, PairSource)
        if part_with_maps(source) is None:
            return f"terrain_segmentation wants a map (NAME{MAP_ENDING}) beside each recording."
        return ""

    def measure(self, features: Features, seed: int) -> list[Score]:
        source, towers = features.source, features.encoder
        assert isinstance(source, PairSource)
        assert isinstance(towers, Towers)
        drives = mapped(towers, source, self.clusters, self.steps, seed, **features.options)
        truth = np.concatenate([d.map.truth.ravel() for d in drives])
        predicted = np.concatenate([d.predicted.ravel() for d in drives])
        known = truth != IGNORE
        truth, predicted = truth[known], predicted[known]
        classes = max(self.clusters, int(truth.max()) + 1)
        hit = (matched(predicted, truth, classes)[predicted] == truth).mean()
        return [Score("mean_iou", mean_iou(predicted, truth, classes)), Score("accuracy", float(hit))]


def mapped(
    towers: Towers, source: PairSource, clusters: int, steps: int, seed: int, **options: Any
) -> list[Segmented]:
    """:func:`segment_drives` with a tower's own vectors (before its projection)."""
    part = part_with_maps(source)
    assert part is not None
    sounds = source.parts[part]
    assert isinstance(sounds, SignalSource)
    own = source.links.rows[part]
    rows = {"train": own[source.splits["train"]], "test": own[held_out(source, "test")]}
    rows = {split: np.unique(r[r >= 0]) for split, r in rows.items()}
    tower = Tower(towers, part, projected=False)
    z = {split: extract(tower, sounds, r, **options) for split, r in rows.items()}
    return segment_drives(z, rows, sounds, clusters, steps, seed)


def terrain_pages(towers: Towers, source: PairSource) -> list[Figure]:
    """Held-out drives: the ground, the map that was learned from sounds, the truth. Nothing without maps."""
    if part_with_maps(source) is None:
        return []
    drives = mapped(towers, source, CLUSTERS, STEPS, 0, batch_size=256)[:3]
    truth = np.concatenate([d.map.truth.ravel() for d in drives])
    predicted = np.concatenate([d.predicted.ravel() for d in drives])
    known = truth != IGNORE
    classes = max(CLUSTERS, int(truth[known].max()) + 1)
    names = matched(predicted[known], truth[known], classes)
    return [
        Figure(
            "Terrain learned from sounds",
            "Held-out drives: the ground from above with the track; the map of a segmentation that learned "
            "from clusters of sounds, painted where the robot drove; the truth.",
            _strips(drives, names, classes),
        )
    ]


def _strips(drives: list[Segmented], names: np.ndarray, classes: int) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8.5, 3.0 * len(drives)), dpi=100)
    axes = canvas.subplots(3 * len(drives), 1, squeeze=False)[:, 0]
    for i, drive in enumerate(drives):
        ground, found, truth = axes[3 * i : 3 * i + 3]
        ground.imshow(drive.map.ground)
        ground.plot(*drive.map.poses[:, :2].T, color="white", linewidth=1)
        options: dict[str, Any] = {
            "cmap": "tab10",
            "vmin": 0,
            "vmax": max(9, classes - 1),
            "interpolation": "none",
        }
        found.imshow(names[drive.predicted], **options)
        truth.imshow(np.where(drive.map.truth == IGNORE, np.nan, drive.map.truth), **options)
        for axis, title in ((ground, f"drive {i + 1}: the ground"), (found, "learned"), (truth, "truth")):
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    canvas.tight_layout(pad=0.4)
    surface = FigureCanvasAgg(canvas)
    surface.draw()
    return np.asarray(surface.buffer_rgba())[..., :3].copy()
