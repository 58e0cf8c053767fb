"""The video source: clips of 8-bit pixels, a whole batch at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ssl_domains.core import cache
from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import Labels, draw_splits, given_splits, read_labels
from ssl_domains.video.decode import GREY, Decoding, Facts
from ssl_domains.video.listing import Listing
from ssl_domains.video.spec import IMAGENET_MEAN, IMAGENET_STD, VideoSpec
from ssl_domains.video.store import Cut, Decoded, Pixels, Plan, keep, look

FRAMES, STRIDE, SIDE = 16, 4, 224
"""Frames of a clip, stride and side where nothing is said (VideoMAE on Kinetics-400)."""
SMALL = 128
"""Clips in arrays up to this side are kept as they are."""
SHOWN = 20
STATISTICS_FROM = 128
"""Train clips over which means and deviations are taken."""


@dataclass(frozen=True)
class VideoOptions:
    """Everything but the listing that decides what a source holds; see ``VideoDomain.open``."""

    frames: int | None = None
    stride: int | None = None
    window: int | None = None
    rate: float | None = None
    clips_per_video: int = 1
    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: str = "crop"
    normalise: str = "data"
    task: str | None = None
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    cache: bool = False


class VideoSource:
    """Clips as batches ``x [B, C, T, H, W]`` uint8 (in channels-last memory); T is ``spec.window``.

    Implements :class:`ssl_domains.core.interfaces.Source`. A row is a clip; with several clips a video,
    row ``v * clips_per_video + k`` is clip k of video v, and all clips of a video are in one split.
    ``meta["video"]`` ``[B]`` int64 says which video a clip is of.

    Attributes:
        listing: what is known about the good videos, row by row.
        facts: of each of them; empty for arrays.
        broken: a sentence for each video left out.
        groups: ``[len]`` the video of each clip (``sampler: one_group`` and others go by it).
        recordings: the same: whose clips' answers or embeddings are averaged.
    """

    full_batch = False

    def __init__(
        self,
        listing: Listing,
        store: Pixels,
        spec: VideoSpec,
        labels: Labels,
        splits: dict[str, np.ndarray],
        clips_per_video: int = 1,
        facts: Sequence[Facts] = (),
        broken: Sequence[str] = (),
    ) -> None:
        self.listing, self.store, self.spec, self.clips_per_video = listing, store, spec, clips_per_video
        k = clips_per_video
        self.splits = {name: (rows[:, None] * k + np.arange(k)).ravel() for name, rows in splits.items()}
        self.labels = None if labels.values is None else np.repeat(labels.values, k, axis=0)
        self.task, self.class_names = labels.task, labels.class_names
        self.facts, self.broken, self.name = list(facts), list(broken), listing.name
        self.groups = self.recordings = np.arange(len(self)) // k

    def __len__(self) -> int:
        return len(self.listing) * self.clips_per_video

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The clips with these numbers, in this order, on the CPU.

        Raises:
            IndexError: a row number outside ``[0, len)``.
            DataError: a file broke since the source was opened, and ``data.strict``.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        x = torch.from_numpy(self.store.rows(rows)).permute(0, 4, 1, 2, 3)
        label = None if self.labels is None else torch.from_numpy(np.array(self.labels[rows]))
        return Batch(
            x, torch.from_numpy(rows), label, {"video": torch.from_numpy(rows // self.clips_per_video)}
        )

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32: the pixels, shrunk to four times and at most about 800 numbers."""
        times = min(4, self.spec.window)
        side = int((800 / self.spec.channels / times) ** 0.5)
        shape = (times, min(side, self.spec.size[0]), min(side, self.spec.size[1]))
        parts = []
        for start in range(0, len(indices), 128):
            x = self.fetch(indices[start : start + 128]).x.float() / 255
            parts.append(torch.nn.functional.adaptive_avg_pool3d(x, shape).flatten(1).numpy())
        width = int(np.prod(shape)) * self.spec.channels
        return np.concatenate(parts) if parts else np.empty((0, width), np.float32)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Paths below the source, keys, or row numbers; ``#k`` behind them where a video has several
        clips."""
        k = self.clips_per_video
        names = self.listing.ids
        return [names[int(i)] if k == 1 else f"{names[int(i) // k]}#{int(i) % k}" for i in indices]

    def recording_ids(self, recordings: np.ndarray) -> Sequence[Any]:
        """Paths or keys of videos by their number in ``recordings``."""
        return [self.listing.ids[int(v)] for v in recordings]

    def describe(self, row: int) -> str:
        """The class of a clip, for tables of neighbours."""
        if self.labels is None or self.class_names is None or self.labels.ndim > 1 or self.labels[row] < 0:
            return ""
        return self.class_names[int(self.labels[row])]

    def picture(self, row: int) -> np.ndarray:
        """``[H, W, 3]`` uint8: up to four frames of the clip side by side, for reports."""
        return strip(self.store.rows(np.array([row]))[0])

    def grey(self, indices: np.ndarray) -> np.ndarray:
        """``[n, H, W]`` uint8 brightness of the middle frame, for perceptual hashes."""
        found = self.store.rows(np.asarray(indices))[:, self.spec.window // 2]
        if found.shape[3] == 1:
            return np.ascontiguousarray(found[..., 0])
        return np.asarray((found.astype(np.float32) @ GREY).round().astype(np.uint8))

    def card(self) -> dict[str, Any]:
        """Videos, clips, splits, lengths and rates, what was left out and why, label and class balance."""
        spec = self.spec
        card: dict[str, Any] = {
            "source": self.name,
            "videos": len(self.listing),
            "clips": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "clip": f"{spec.window} frames, stride {spec.stride}, {spec.size[0]} x {spec.size[1]} pixels, "
            + ("grey" if spec.channels == 1 else "RGB"),
        }
        timed = [f for f in self.facts if f.timed and f.rate != 1.0]
        if timed:
            length, rate = np.array([f.length for f in timed]), np.array([f.rate for f in timed])
            card["found_lengths"] = f"{length.min():.2f} to {length.max():.2f} s, {length.sum():.0f} s in all"
            card["found_rates"] = f"{rate.min():.4g} to {rate.max():.4g} frames a second"
        if self.facts:
            sides = np.array([(f.height, f.width) for f in self.facts])
            low, high = sides.min(axis=0), sides.max(axis=0)
            card["found_sizes"] = f"{low[0]} to {high[0]} high, {low[1]} to {high[1]} wide"
        for name, count in self._oddities().items():
            if count:
                card[name] = count
        card["left_out"] = len(self.broken)
        if self.broken:
            more = len(self.broken) - SHOWN
            card["left_out_files"] = self.broken[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
        card["task"] = self.task
        card["class_balance"] = _balance(self.labels, self.class_names)
        if self.listing.group is not None:
            card["groups"] = len(set(self.listing.group.tolist()))
        if self.listing.notes:
            card["notes"] = self.listing.notes
        return card

    def _oddities(self) -> dict[str, int]:
        """Counts of videos that are not plain: short, turned, without an end."""
        spec = self.spec
        plan = Plan(spec.window, spec.stride, spec.rate, 1)
        nowhere = np.full(len(self.listing), np.nan)
        start = nowhere if self.listing.start is None else self.listing.start
        end = nowhere if self.listing.end is None else self.listing.end
        short = 0
        for f, a, b in zip(self.facts, start, end, strict=bool(self.facts)):
            held = (f.length if np.isnan(b) else min(b, f.length)) - (0.0 if np.isnan(a) else a)
            short += held + 1e-6 < (spec.window - 1) * plan.step(f.rate) + 1 / f.rate
        return {
            "shorter_than_a_clip": short,
            "turned_by_metadata": sum(f.turned != 0 for f in self.facts),
            "cut_off_at_the_end": sum(f.lost > 0 for f in self.facts),
        }


def strip(clip: np.ndarray, most: int = 4, gap: int = 2) -> np.ndarray:
    """Frames of a clip ``[T, H, W, C]`` uint8 side by side on white, ``[H, W', 3]`` uint8."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, min(most, len(clip))).astype(np.int64))
    height, width = clip.shape[1:3]
    out = np.full((height, len(chosen) * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, t in enumerate(chosen):
        left = i * (width + gap)
        out[:, left : left + width] = clip[t]
    return out


def open_videos(listing: Listing, options: VideoOptions, spec: VideoSpec | None = None) -> VideoSource:
    """Looks at every video, and fits the channels' means on train clips.

    Args:
        listing: what a reader found.
        options: see :class:`VideoOptions`.
        spec: of an encoder that is there; None fits one.

    Raises:
        DataError: nothing can be used, or a video is broken and ``options.strict``.
    """
    if options.limit is not None and len(listing) > options.limit:
        listing = listing.take(np.linspace(0, len(listing) - 1, options.limit).astype(np.int64))
    facts: list[Facts] = []
    broken: list[str] = []
    if listing.clips is None:
        good, facts, broken = look(listing)
        _refuse(listing, good, broken, options.strict)
        if len(good) < len(listing):
            listing = listing.take(good)
    if len(listing) * options.clips_per_video < 2 and spec is None:
        raise DataError(
            f"{listing.name} holds {len(listing)} usable video; pretraining needs at least two, or "
            "several clips of one with data.clips_per_video=N"
        )
    frames, plan, how = _plan(listing, options, spec)
    if listing.clips is not None:
        store: Pixels = Cut(listing.clips, plan, how)
    else:
        store = Decoded(listing, facts, plan, how, options.strict)
        if options.cache:
            store = keep(store, listing.mark)
    labels = read_labels(listing.label, options.task, listing.class_names, "videos")
    if labels.note:
        listing.notes.append(labels.note)
    if listing.split is not None:
        splits, note = given_splits(listing.split, options.valid, options.seed, listing.group, "videos")
        listing.notes += [note] if note else []
    else:
        splits = draw_splits(len(listing), options.valid, options.test, options.seed, listing.group, "videos")
    if spec is None:
        train = splits["train"] * plan.clips
        key = (
            None if listing.mark is None else cache.key_of(["scale", listing.mark, asdict(plan), asdict(how)])
        )
        mean, std = _statistics(store, train, how.channels, options.normalise, key)
        spec = VideoSpec(
            frames, how.size, how.channels, mean, std, plan.window, plan.stride, plan.rate, how.fit
        )
    return VideoSource(listing, store, spec, labels, splits, plan.clips, facts, broken)


def _refuse(listing: Listing, good: np.ndarray, broken: list[str], strict: bool) -> None:
    if broken and (strict or not len(good)):
        more = f" ({len(broken)} such videos in all)" if len(broken) > 1 else ""
        table = listing.name.endswith((".csv", ".tsv", ".parquet"))
        remedy = (
            "mend or remove it" if len(good) else "check data.source" + (" and data.root" if table else "")
        )
        raise DataError(f"{listing.name}: {broken[0]}{more}; {remedy}")


def _plan(listing: Listing, options: VideoOptions, spec: VideoSpec | None) -> tuple[int, Plan, Decoding]:
    """Frames of an encoder, where clips are cut, and what pixels become."""
    clips = options.clips_per_video
    if spec is not None:
        plan = Plan(spec.window, spec.stride, spec.rate, clips)
        return spec.frames, plan, Decoding(spec.size, spec.channels, spec.fit)  # type: ignore[arg-type]
    array = listing.clips
    if array is not None:
        stride = options.stride or 1
        frames = options.frames or (options.window or -(-array.shape[1] // stride))
        have = (int(array.shape[2]), int(array.shape[3]))
        size = options.size or (have if max(have) <= SMALL else (SIDE, SIDE))
        channels = options.channels or int(array.shape[4])
    else:
        frames, stride = options.frames or FRAMES, options.stride or STRIDE
        size, channels = options.size or (SIDE, SIDE), options.channels or 3
    window = options.window or frames
    if window < frames:
        raise DataError(f"data.window {window} is less than data.frames {frames}; views cut clips out of it")
    how = Decoding(size, channels, options.fit)  # type: ignore[arg-type]
    return frames, Plan(window, stride, options.rate, clips), how


def _statistics(
    store: Pixels, train: np.ndarray, channels: int, normalise: str, key: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, on a scale of 0 to 1, over some train clips; kept in the cache,
    since they may have to be decoded for it.

    Args:
        store: the pixels.
        train: ``[n]`` rows of clips.
        channels: 1 or 3.
        normalise: ``data`` or ``imagenet``.
        key: of the data and of how they are cut; None: not kept.
    """
    if normalise == "imagenet":
        if channels == 1:
            return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
        return IMAGENET_MEAN, IMAGENET_STD
    rows = train[np.linspace(0, len(train) - 1, min(len(train), STATISTICS_FROM)).astype(np.int64)]
    key = None if key is None else cache.key_of([key, rows.tolist()])
    path = None if key is None else cache.find("video", key)
    if path is not None:
        held = json.loads((path / "meta.json").read_text())
        return tuple(held["mean"]), tuple(held["std"])
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(rows), 16):
        x = store.rows(rows[start : start + 16]).reshape(-1, channels).astype(np.float64) / 255
        total, square, count = total + x.sum(0), square + (x * x).sum(0), count + len(x)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    std = np.where(std < 1e-3, 1.0, std)  # a channel that stands still
    found = tuple(tuple(float(round(v, 6)) for v in values) for values in (mean, std))
    if key is not None:
        with cache.writing("video", key) as folder:
            folder.meta({"mean": found[0], "std": found[1]})
    return found[0], found[1]


def _balance(labels: np.ndarray | None, names: list[str] | None) -> dict[str, float] | None:
    if labels is None or names is None or labels.ndim > 1:
        return None
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    return {
        name: round(float(c) / max(int(counts.sum()), 1), 6) for name, c in zip(names, counts, strict=False)
    }
