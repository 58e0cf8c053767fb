"""From labelled clips to a map: bird's-eye views, footprints, sparse labels, a segmentation that ignores the
rest (arXiv 1912.03227, steps 1 and 7 to 9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.errors import DataError

MAP_ENDING = "_map.npz"
"""Beside a recording NAME.npz: its map, for the probe ``terrain_segmentation``."""
IGNORE = 255
"""Pixels without a label: they do not enter the loss."""


def homography(ground: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """``[3, 3]`` H with ``pixel ~ H ground`` for four or more points (direct linear transform).

    Args:
        ground: ``[n, 2]`` points on the plane, in metres.
        pixels: ``[n, 2]`` (x, y) of the same points in the picture.

    Raises:
        DataError: fewer than four points, or all on one line.
    """
    if len(ground) < 4 or len(ground) != len(pixels):
        raise DataError(
            f"a homography wants four or more pairs of points, got {len(ground)} and {len(pixels)}"
        )
    rows = []
    for (x, y), (u, v) in zip(ground, pixels, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, -u], [0, 0, 0, x, y, 1, -v * x, -v * y, -v]]
    values = np.linalg.svd(np.array(rows, dtype=np.float64))
    if values[1][7] < 1e-9 * values[1][0]:
        raise DataError("these points fix no homography; no three of four may lie on one line")
    found = values[2][-1].reshape(3, 3)
    return found / found[2, 2]


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``[n, 2]`` points through a homography."""
    out = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return out[:, :2] / out[:, 2:]


def birds_eye(image: Tensor, matrix: np.ndarray, size: tuple[int, int], metres: float) -> Tensor:
    """``[C, H, W]`` picture as seen from above, bilinear; black outside of it.

    Args:
        image: ``[C, h, w]`` float.
        matrix: from metres on the ground to its pixels (:func:`homography`).
        size: (H, W) of the view.
        metres: of one pixel. Pixel (row i, column j) shows the ground at x = j * metres, y = i * metres.
    """
    height, width = size
    y, x = np.mgrid[:height, :width]
    at = through(matrix, np.stack([x.ravel(), y.ravel()], axis=1) * metres)
    h, w = image.shape[-2:]
    grid = torch.from_numpy(np.stack([2 * at[:, 0] / (w - 1) - 1, 2 * at[:, 1] / (h - 1) - 1], axis=1))
    grid = grid.view(1, height, width, 2).to(image.dtype)
    return F.grid_sample(image[None], grid, mode="bilinear", align_corners=True)[0]


def footprint(pose: np.ndarray, length: float, width: float) -> np.ndarray:
    """``[4, 2]`` corners in metres of what a robot covers at ``pose`` (x, y, heading in radians)."""
    x, y, heading = pose
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array([length / 2, width / 2])
    turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
    return corners @ turn.T + np.array([x, y])


def fill(size: tuple[int, int], polygon: np.ndarray) -> np.ndarray:
    """``[H, W]`` bool: pixels whose centre lies in a convex polygon ``[n, 2]`` of (x, y) in pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    inside_left = np.ones(size, dtype=bool)
    inside_right = np.ones(size, dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        inside_left &= cross >= 0
        inside_right &= cross <= 0
    return inside_left | inside_right


def paint(
    size: tuple[int, int], origin: Sequence[float], metres: float, poses: np.ndarray, ids: np.ndarray,
    length: float, width: float,
) -> np.ndarray:  # fmt: skip
    """Sparse labels of one view: pixels that the robot's footprint covers get the id of the clip that was
    heard there, also when it was heard after the picture was taken; all others are :data:`IGNORE`.

    Args:
        size: (H, W) of the view.
        origin: (x, y) in metres of its pixel (0, 0).
        metres: of one pixel.
        poses: ``[n, 3]`` x, y, heading of all clips of the run.
        ids: ``[n]`` cluster of each; -1: unknown, paints nothing.
        length, width: of the footprint in metres.

    Returns:
        ``[H, W]`` uint8; where footprints overlap, the last clip's.
    """
    labels = np.full(size, IGNORE, dtype=np.uint8)
    for pose, id in zip(poses, ids, strict=True):
        if id >= 0:
            corners = (footprint(pose, length, width) - np.asarray(origin)) / metres
            if (corners.max(0) >= 0).all() and (corners.min(0) < np.array(size)[::-1]).all():
                labels[fill(size, corners)] = id
    return labels


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """``[K]`` ``1 / log(1.02 + share)``: rare classes count more (the usual reading; the paper says log
    frequency)."""
    counts = np.bincount(labels[labels != IGNORE].ravel(), minlength=classes)[:classes]
    share = counts / max(counts.sum(), 1)
    return torch.from_numpy(1 / np.log(1.02 + share)).float()


def weak_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy over labelled pixels only.

    Args:
        logits: ``[B, K, H, W]``.
        labels: ``[B, H, W]`` int64; 255 is ignored.
        weights: ``[K]``, or None.
    """
    return F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE)


class SegmentationNet(nn.Module):
    """A small U-Net over bird's-eye views (the paper has AdapNet++, recalled).

    Args:
        channels: of the views.
        classes: K.
        width: channels of the first level; three levels.
    """

    def __init__(self, channels: int, classes: int, width: int = 24) -> None:
        super().__init__()

        def block(a: int, b: int, stride: int = 1) -> nn.Sequential:
            # No zeros around a view: they tell its border, which no footprint ever labels.
            one, two = (nn.Conv2d(c, b, 3, s, 1, padding_mode="replicate") for c, s in ((a, stride), (b, 1)))
            return nn.Sequential(one, nn.BatchNorm2d(b), nn.ReLU(), two, nn.BatchNorm2d(b), nn.ReLU())

        self.one, self.two = block(channels, width), block(width, 2 * width, 2)
        self.three = block(2 * width, 4 * width, 2)
        self.up_two, self.up_one = block(6 * width, 2 * width), block(3 * width, width)
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, K, H, W]``; any height and width."""
        one = self.one(x)
        two = self.two(one)
        three = self.three(two)
        two = self.up_two(torch.cat([two, F.interpolate(three, size=two.shape[-2:], mode="nearest")], dim=1))
        one = self.up_one(torch.cat([one, F.interpolate(two, size=one.shape[-2:], mode="nearest")], dim=1))
        return self.out(one)


def train_segmentation(
    views: Tensor, labels: np.ndarray, classes: int, *, net: SegmentationNet | None = None, steps: int = 300,
    batch: int = 16, lr: float = 2e-3, seed: int = 0,
) -> SegmentationNet:  # fmt: skip
    """Learns terrain from sparse labels; ``net`` given: goes on with it (adaptation to another look).

    Args:
        views: ``[n, C, H, W]`` float bird's-eye views.
        labels: ``[n, H, W]`` uint8 with :data:`IGNORE`.
        classes: K.
        net: to fine-tune; None: a new one.
        steps: optimizer steps.
        batch: views a step.
        lr: of Adam.
        seed: of weights and order.

    Raises:
        DataError: no pixel has a label.
    """
    if (labels == IGNORE).all():
        raise DataError("no pixel of any view has a label: no clip was heard where a view looks")
    torch.manual_seed(seed)
    net = net or SegmentationNet(views.shape[1], classes)
    weights = class_weights(labels, classes)
    target = torch.from_numpy(labels.astype(np.int64))
    some = np.flatnonzero((labels != IGNORE).any(axis=(1, 2)))
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(steps):
        rows = rng.choice(some, min(batch, len(some)), replace=False)
        turns = [axis for axis in (-2, -1) if rng.random() < 0.5]  # so that places are not learned by heart
        x, y = views[rows].flip(turns), target[rows].flip(turns)
        loss = weak_loss(net(x), y, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def _confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """``[K, K]`` pixels by (true, predicted)."""
    pairs = truth.ravel().astype(np.int64) * classes + predicted.ravel().astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def matched(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """``[K]`` the class that each predicted id stands for: the permutation that agrees best (Hungarian)."""
    from scipy.optimize import linear_sum_assignment

    out = np.empty(classes, dtype=np.int64)
    out[linear_sum_assignment(-_confusion(predicted, truth, classes))[1]] = np.arange(classes)
    return out


def mean_iou(predicted: np.ndarray, truth: np.ndarray, classes: int, match: bool = True) -> float:
    """Mean intersection over union of the classes that are there; with ``match`` ids are arbitrary, and
    taken as :func:`matched` says."""
    names = matched(predicted, truth, classes) if match else np.arange(classes)
    both = _confusion(names[predicted], truth, classes)
    hit = np.diag(both)
    union = both.sum(0) + both.sum(1) - hit
    there = both.sum(1) > 0
    return float((hit[there] / union[there]).mean())


def fuse(
    votes: Sequence[tuple[np.ndarray, tuple[int, int]]], size: tuple[int, int], classes: int
) -> np.ndarray:
    """A global grid by majority vote of overlapping views.

    Args:
        votes: predictions ``[h, w]`` with the grid cell (row, column) of their first pixel; 255 does not
            vote.
        size: (H, W) of the grid.
        classes: K.

    Returns:
        ``[H, W]`` uint8; :data:`IGNORE` where nobody voted.
    """
    counts = np.zeros((*size, classes), dtype=np.int32)
    for view, (row, column) in votes:
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + view.shape[0], size[0]), min(column + view.shape[1], size[1])
        if bottom <= top or right <= left:
            continue
        part = view[top - row : bottom - row, left - column : right - column]
        y, x = np.nonzero(part != IGNORE)
        np.add.at(counts, (y + top, x + left, part[y, x]), 1)
    return np.where(counts.any(-1), counts.argmax(-1), IGNORE).astype(np.uint8)
