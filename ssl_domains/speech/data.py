"""The source: recordings of any length, fetched a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.speech.decode import Header
from ssl_domains.speech.features import Features
from ssl_domains.speech.listing import Segments
from ssl_domains.speech.sound import Sound, pad, real
from ssl_domains.speech.spec import SpeechSpec
from ssl_domains.speech.store import Store, Stretches

FORWARD_SECONDS = (20.0, 240.0)
"""Seconds of padded sound that go through an encoder at once when data are embedded: on a CPU, where a larger
batch leaves its cache (measured: 360 against 155 s of audio a second), and on a GPU."""
LOOKED_AT = 64
SHOWN = 20


@dataclass
class Facts:
    """What is known of the utterances, row by row, besides labels.

    Attributes:
        name: of the source.
        ids: what the user calls them.
        speakers, texts: or None.
        segments: of the file that a row is of, or None.
        headers: of that file.
        notes: what happened while reading.
        broken: a sentence for each recording left out.
    """

    name: str
    ids: list[str]
    speakers: list[str | None]
    texts: list[str | None]
    segments: list[Segments | None]
    headers: list[Header | None]
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class SpeechSource:
    """Recordings as batches ``x = Sound(values [B, T], lengths [B])``; T is the longest of the batch.

    Implements :class:`ssl_domains.core.interfaces.Source`. Made by
    :func:`ssl_domains.speech.build.build_source`.

    Attributes:
        lengths: ``[n]`` float64 seconds, by which the sampler ``bucket`` goes.
        groups: ``[n]`` int64 number of each row's speaker (-1: unknown), or None.
        group_names: their names.
        texts: what is said, or None, by row.
        segment_names: names of the labelled stretches (phones), or None when there are none.
    """

    full_batch = False

    def __init__(
        self,
        spec: SpeechSpec,
        store: Store,
        stretches: Stretches,
        facts: Facts,
        splits: dict[str, np.ndarray],
        labels: np.ndarray | None = None,
        task: str | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.spec, self.store, self.at, self.facts, self.splits = spec, store, stretches, facts, splits
        self.labels, self.task, self.class_names = labels, task, class_names
        self.name, self.texts = facts.name, facts.texts
        self.lengths = stretches.length / spec.rate
        known = sorted({s for s in facts.speakers if s is not None})
        place = {speaker: i for i, speaker in enumerate(known)}
        self.group_names = known
        self.groups: np.ndarray | None = None
        if known:
            self.groups = np.array([place.get(s, -1) if s else -1 for s in facts.speakers], dtype=np.int64)
        self.segment_names = list(spec.phones) if any(facts.segments) and spec.phones else None

    def __len__(self) -> int:
        return len(self.at.file)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The recordings with these row numbers, in this order, on the CPU.

        Raises:
            IndexError: a row number outside ``[0, len)``.
            DataError: a file broke since the source was opened, and ``data.strict``.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        x = pad([self.store.samples(int(row)) for row in rows])
        label = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[rows]))
        meta = {} if self.groups is None else {"group": torch.from_numpy(self.groups[rows])}
        return Batch(x, torch.from_numpy(rows), label, meta)

    def pieces(self, indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
        """How rows are embedded: positions in ``indices``, batch by batch, those of like length together and
        few enough padded seconds (``FORWARD_SECONDS``) that one long recording does not fill the memory."""
        most = FORWARD_SECONDS[int(torch.cuda.is_available())]
        seconds = self.lengths[np.asarray(indices, dtype=np.int64)]
        order = np.argsort(-seconds, kind="stable")
        found, begin = [], 0
        while begin < len(order):
            count = max(int(most / max(seconds[order[begin]], 1e-3)), 1)
            found.append(order[begin : begin + min(count, batch_size)])
            begin += len(found[-1])
        return found

    @cached_property
    def _plain(self) -> Features:
        return Features(self.spec.rate, "logmel", normalise="none")

    def frames(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel frames ``[B, N, 80]`` of 10 ms and their numbers ``[B]``: plain features over time."""
        return self._plain(self.fetch(rows).x)

    def frame_times(self, n: int) -> np.ndarray:
        """``[n]`` seconds of the middles of these frames."""
        return np.asarray((np.arange(n) * self._plain.hop + self._plain.span / 2) / self.spec.rate)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, 160]`` float32: mean and deviation over time of 80 log-mel bands."""
        indices = np.asarray(indices, dtype=np.int64)
        out = np.zeros((len(indices), 2 * self._plain.width), dtype=np.float32)
        for at in self.pieces(indices, 1024):
            values, lengths = self.frames(indices[at])
            there = real(values.shape[1], lengths)[..., None]
            n = lengths[:, None].float()
            mean = values.sum(dim=1) / n
            spread = ((values - mean[:, None]).square().masked_fill(~there, 0.0).sum(dim=1) / n).sqrt()
            out[at] = torch.cat([mean, spread], dim=1).numpy()
        return out

    def segments(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Start and end in seconds from the beginning of a row, and the number of the name, of each labelled
        stretch that lies in it; None when there is none. Names that the spec does not know are left out."""
        found = self.facts.segments[row]
        if found is None:
            return None
        offset, length = float(self.at.offset[row]), float(self.lengths[row])
        place = {name: i for i, name in enumerate(self.spec.phones)}
        kind = np.array([place.get(name, -1) for name in found.names], dtype=np.int64)
        start, end = found.start - offset, found.end - offset
        keep = (end > 0) & (start < length) & (kind >= 0)
        return start[keep].clip(0), end[keep].clip(max=length), kind[keep]

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Paths below the folder, or cells of the manifest; windows have their number behind a #."""
        return [self.facts.ids[int(i)] for i in indices]

    def describe(self, row: int) -> str:
        """Label, speaker, length and text, for the table of neighbours."""
        parts = []
        if self.labels is not None:
            label = self.labels[row]
            named = self.class_names is not None and label >= 0
            parts.append(str(self.class_names[int(label)] if named and self.class_names else label))
        parts += [s for s in (self.facts.speakers[row],) if s is not None]
        parts.append(f"{self.lengths[row]:.1f} s")
        text = self.texts[row]
        return ", ".join(parts) + (f": {text[:60]}" if text else "")

    def picture(self, row: int) -> np.ndarray:
        """``[H, W, 3]`` uint8: the log-mel spectrogram."""
        from ssl_domains.speech.picture import spectrogram

        values, _ = self.frames(np.array([row]))
        return spectrogram(values[0].numpy())

    def card(self) -> dict[str, Any]:
        """Counts, lengths, rates, speakers, texts, segments, class balance, and what a look at up to 64
        recordings shows (silence, clipping)."""
        seconds = self.lengths
        rates = sorted({(h.rate, h.channels, h.kind) for h in self.facts.headers if h is not None})
        found: dict[str, Any] = {
            "source": self.name,
            "utterances": len(self),
            "hours": round(float(seconds.sum()) / 3600, 3),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "seconds": {
                "shortest": round(float(seconds.min()), 2),
                "median": round(float(np.median(seconds)), 2),
                "longest": round(float(seconds.max()), 2),
            },
            "files are": "; ".join(f"{r} Hz, {c} ch, {k}" for r, c, k in rates[:6])
            + ("; ..." if rates[6:] else ""),
            "read as": f"{self.spec.rate} Hz, mono",
            "speakers": len(self.group_names) or None,
            "with text": sum(text is not None for text in self.texts) or None,
            "kinds of segments": len(self.segment_names or []) or None,
            "class_balance": self._balance(),
            **self._looked(),
            "left_out": len(self.facts.broken),
        }
        if self.facts.broken:
            more = len(self.facts.broken) - SHOWN
            found["left_out_files"] = self.facts.broken[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
        if self.facts.notes:
            found["notes"] = "; ".join(self.facts.notes)
        return found

    def _looked(self) -> dict[str, Any]:
        """Silent and clipped recordings among at most 64."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), LOOKED_AT)).astype(np.int64))
        silent = clipped = 0
        for row in rows:
            size = np.abs(self.store.samples(int(row)))
            silent += int(size.max(initial=0.0) < 1e-5)
            top = size.max(initial=0.0)
            clipped += int(top >= 0.99 and float((size >= 0.999 * top).mean()) > 0.001)
        return {"looked at": len(rows), "of these silent": silent, "of these clipped": clipped}

    def _balance(self) -> dict[str, float] | None:
        if self.labels is None or self.class_names is None:
            return None
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        return {name: round(float(c), 4) for name, c in zip(self.class_names, counts / max(counts.sum(), 1))}


def sound_of(samples: Sequence[np.ndarray]) -> Sound:
    """A batch's ``x`` from arrays ``[T_i]`` in memory."""
    return pad(samples)
