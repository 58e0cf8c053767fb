"""Pixels of clips, a batch at a time: cut from arrays, from the cache of decoded clips, or decoded on the
way."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ssl_domains.core import cache
from ssl_domains.core.errors import DataError
from ssl_domains.core.threads import in_threads
from ssl_domains.video.decode import GREY, BrokenVideo, Decoding, Facts, clip_times, read_clip, read_facts
from ssl_domains.video.decode import scaled as scaled_size
from ssl_domains.video.listing import Listing

MAX_BROKEN = 100


@dataclass(frozen=True)
class Plan:
    """Where clips are cut.

    Attributes:
        window: frames of a clip.
        stride: frames of the video from one to the next.
        rate: frames a second that count; None: the video's own.
        clips: of each video, evenly spaced from its start to its end; one: in the middle.
    """

    window: int
    stride: int
    rate: float | None
    clips: int

    def place(self, number: int) -> float:
        """Where clip ``number`` of a video lies, from 0 to 1."""
        return 0.5 if self.clips == 1 else number / (self.clips - 1)

    def step(self, rate: float) -> float:
        """Seconds from one frame to the next in a video of this rate."""
        return self.stride / (self.rate if self.rate is not None and rate != 1.0 else rate)


class Pixels(Protocol):
    """``[B, T, H, W, C]`` uint8 rows. Row ``v * clips + k`` is clip k of video v."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The clips with these numbers."""


class Kept:
    """Clips that are there, in memory or memory-mapped."""

    def __init__(self, array: np.ndarray, owner: Any = None) -> None:
        self.matrix = cache.Matrix(array)
        self.owner = owner  # a folder without a key goes with it

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`Pixels`."""
        return np.ascontiguousarray(self.matrix.rows(indices))


class Cut:
    """Clips cut out of arrays ``[n, T, H, W, C]``."""

    def __init__(self, array: np.ndarray, plan: Plan, how: Decoding) -> None:
        self.array, self.plan, self.how = array, plan, how
        n = array.shape[1]
        facts = Facts(float(n), 1.0, array.shape[2], array.shape[3])
        places = [plan.place(k) for k in range(plan.clips)]
        times = [clip_times(facts, np.nan, np.nan, plan.window, plan.stride, p) for p in places]
        self.frames = np.floor(np.stack(times) + 1e-6).astype(np.int64)  # [clips, window]
        self._whole = plan.clips == 1 and np.array_equal(self.frames[0], np.arange(n))

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`Pixels`."""
        if self._whole:
            found = self.array[indices]
        else:
            video, number = np.divmod(indices, self.plan.clips)
            found = self.array[video[:, None], self.frames[number]]
        return fitted(np.ascontiguousarray(found), self.how)


def fitted(clips: np.ndarray, how: Decoding) -> np.ndarray:
    """Clips ``[B, T, H, W, C]`` uint8 of another size or number of channels, as files would give them."""
    b, t, height, width, channels = clips.shape
    if (height, width) != how.size:
        wanted = scaled_size((height, width), how.size, how.fit)
        flat = torch.from_numpy(clips).view(b * t, height, width, channels).permute(0, 3, 1, 2)
        flat = torch.nn.functional.interpolate(flat, wanted, mode="bicubic", antialias=True)
        found = flat.permute(0, 2, 3, 1).numpy().reshape(b, t, *wanted, channels)
        top, left = (abs(wanted[i] - how.size[i]) // 2 for i in range(2))
        if how.fit == "pad":
            clips = np.zeros((b, t, *how.size, channels), dtype=np.uint8)
            clips[:, :, top : top + wanted[0], left : left + wanted[1]] = found
        else:
            clips = found[:, :, top : top + how.size[0], left : left + how.size[1]]
    if channels != how.channels:
        if how.channels == 3:
            return np.repeat(clips, 3, axis=4)
        clips = (clips.astype(np.float32) @ GREY).round().astype(np.uint8)[..., None]
    return np.ascontiguousarray(clips)


class Decoded:
    """Clips decoded when they are fetched, in threads (FFmpeg works outside Python's lock).

    A video that turns out to be broken is replaced by plain grey, with a warning that names it, up to
    :data:`MAX_BROKEN` of them.
    """

    def __init__(
        self, listing: Listing, facts: Sequence[Facts], plan: Plan, how: Decoding, strict: bool
    ) -> None:
        assert listing.videos is not None
        self.videos, self.ids, self.facts = listing.videos, listing.ids, list(facts)
        nowhere = np.full(len(listing), np.nan)
        self.start = nowhere if listing.start is None else listing.start
        self.end = nowhere if listing.end is None else listing.end
        self.plan, self.how, self.strict = plan, how, strict
        self.broken: dict[int, str] = {}

    def clip(self, row: int) -> np.ndarray:
        """``[T, H, W, C]`` of one row.

        Raises:
            BrokenVideo: nothing can be decoded.
        """
        video, number = divmod(row, self.plan.clips)
        facts, plan = self.facts[video], self.plan
        times = clip_times(
            facts, float(self.start[video]), float(self.end[video]), plan.window, plan.step(facts.rate),
            plan.place(number),
        )  # fmt: skip
        return read_clip(self.videos[video], times, facts, self.how)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`Pixels`.

        Raises:
            DataError: a broken video and ``data.strict``, or too many of them.
        """
        out = np.empty((len(indices), self.plan.window, *self.how.size, self.how.channels), dtype=np.uint8)
        self.fill(out, indices)
        return out

    def fill(self, out: np.ndarray, indices: np.ndarray) -> None:
        """Decodes rows into ``out[i]``; see :meth:`rows`."""

        def one(at: int) -> None:
            try:
                out[at] = self.clip(int(indices[at]))
            except BrokenVideo as error:
                out[at] = 127
                self._found(int(indices[at]) // self.plan.clips, str(error))

        in_threads(one, range(len(indices)))

    def _found(self, video: int, reason: str) -> None:
        if self.strict:
            raise DataError(f"{self.ids[video]} {reason}; mend or remove it, or set data.strict=false")
        if video not in self.broken:
            self.broken[video] = reason
            warnings.warn(f"{self.ids[video]} {reason}; plain grey takes its place", stacklevel=2)
        if len(self.broken) > MAX_BROKEN:
            raise DataError(
                f"over {MAX_BROKEN} videos turned out to be broken while training (the last: "
                f"{self.ids[video]} {reason}); set data.cache=true to look through all of them first"
            )


def keep(decoded: Decoded, mark: Any) -> Kept:
    """All clips of a source decoded into the cache, or found there.

    Raises:
        DataError: the cache folder cannot be written.
    """
    plan, how = decoded.plan, decoded.how
    n = len(decoded.ids) * plan.clips
    key = None if mark is None else cache.key_of(["clips", mark, asdict(plan), asdict(how)])
    with cache.locked("video", key):
        path = cache.find("video", key) if key is not None else None
        owner = None
        if path is None:
            with cache.writing("video", key) as folder:
                out = folder.array("clips", (n, plan.window, *how.size, how.channels), np.uint8)
                for begin in range(0, n, 256):
                    rows = np.arange(begin, min(begin + 256, n))
                    decoded.fill(out[begin : begin + len(rows)], rows)
                    cache.Matrix(out).release()
                folder.meta({"clips": n})
            path, owner = folder.path, folder
    found = cache.load_array(path, "clips")
    if found is None or len(found) != n:
        raise DataError(f"the cache entry {path} is damaged; delete that folder and start again")
    return Kept(found, owner)


def look(listing: Listing) -> tuple[np.ndarray, list[Facts], list[str]]:
    """Opens every video: rows that can be used, what is known of them, and a sentence for each other one.

    What was found is kept in the cache, so that a large set is looked through once. Stretches of one file
    are looked at together.
    """
    videos = listing.videos
    assert videos is not None
    key = None if listing.mark is None else cache.key_of(["facts", listing.mark])
    path = cache.find("video", key) if key is not None else None
    if path is not None:
        found = json.loads((path / "meta.json").read_text())
        return np.array(found["good"], dtype=np.int64), [Facts(**f) for f in found["facts"]], found["broken"]
    firsts: dict[Any, int] = {}
    same = np.empty(len(listing), dtype=np.int64)
    for row in range(len(listing)):
        raw = videos[row] if listing.start is not None or listing.end is not None else row
        same[row] = firsts.setdefault(raw if isinstance(raw, str) else row, row)
    seen: dict[int, Facts | str] = {}
    rows = sorted(firsts.values())

    def open_(at: int) -> None:
        try:
            seen[rows[at]] = read_facts(videos[rows[at]])
        except BrokenVideo as error:
            seen[rows[at]] = str(error)

    in_threads(open_, range(len(rows)))
    good, facts, broken = [], [], []
    for row in range(len(listing)):
        found_row = seen[int(same[row])]
        if isinstance(found_row, Facts):
            start = 0.0 if listing.start is None or np.isnan(listing.start[row]) else listing.start[row]
            if start < found_row.length:
                good.append(row)
                facts.append(found_row)
                continue
            found_row = f"starts after the video's end ({found_row.length:.2f} s)"
        broken.append(" ".join(f"{listing.ids[row]} {found_row}".split()))
    if key is not None:
        with cache.writing("video", key) as folder:
            folder.meta({"good": good, "facts": [asdict(f) for f in facts], "broken": broken})
    return np.array(good, dtype=np.int64), facts, broken
