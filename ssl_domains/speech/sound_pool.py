"""Noises and rooms of the user's own, decoded once into a bounded memory and drawn for each sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.speech.build import BuildOptions, build_source
from ssl_domains.speech.data import SpeechSource
from ssl_domains.speech.readers import ReadOptions
from ssl_domains.speech.spec import SpeechSpec

PIECE = 10.0
"""Seconds of the windows that long noises are cut into."""
LONGEST_ROOM = 60.0
"""Seconds above which a file is no impulse response."""
TAIL = 1.0
"""Seconds of an impulse response that are kept, from its direct sound on."""
SILENT = 1e-4
"""Root mean square below which a noise is silence, and no ratio to it means anything."""


class NoisePool:
    """Stretches of noise recordings, one after another in memory.

    Files that cannot be read are left out and counted in one warning, as in a source; of a manifest or
    folder with splits only the training part is taken. When there is more than ``seconds``, windows of 10 s
    are taken evenly over all of it.

    Args:
        place: a folder, a manifest or a recording: whatever ``data.source`` takes.
        rate: samples a second.
        seconds: at most so much noise is kept (4 bytes a sample: 600 s at 16 kHz are 38 MB).
        key: of the recipe, for messages.

    Attributes:
        flat: ``[S]`` float32.
        start, length: ``[P]`` int64 samples of each stretch in it.

    Raises:
        DataError: no such place, no recording that can be read, or silence alone.
    """

    def __init__(self, place: str, rate: int, seconds: float, key: str = "views.noise_from") -> None:
        source = _opened(place, SpeechSpec(rate, max_seconds=PIECE), key)
        rows = _spread(source.splits["train"], source.lengths, seconds)
        found = [piece for piece in map(source.store.samples, rows) if np.square(piece).mean() > SILENT**2]
        if not found:
            raise DataError(f"{key}: {place} holds nothing but silence; give recordings of noise")
        self.flat = torch.from_numpy(np.concatenate(found))
        self.length = torch.tensor([len(piece) for piece in found])
        self.start = self.length.cumsum(0) - self.length

    def to(self, device: torch.device) -> NoisePool:
        """Moves it there, once."""
        if self.flat.device != device:
            self.flat, self.start, self.length = (t.to(device) for t in (self.flat, self.start, self.length))
        return self

    def draw(self, n: int, draw: Draw) -> Tensor:
        """``[B, n]``: for each sample a stretch, from a random place on; it begins anew where it ends."""
        which = draw.randint(len(self.length))
        length = self.length[which]
        begin = (draw.uniform().double() * length).long()
        step = torch.arange(n, device=self.flat.device)
        at = (begin[:, None] + step).remainder(length[:, None])
        return self.flat[self.start[which][:, None] + at]


class RoomPool:
    """Impulse responses of rooms, from their direct (loudest) sample on, so that nothing moves in time.

    Of a file with several channels the first is taken. Bounds, splits and broken files as in
    :class:`NoisePool`.

    Args:
        place, rate, seconds, key: as of :class:`NoisePool`.

    Attributes:
        responses: ``[P, K]`` float32 of unit energy, 0 beyond their ends; K is at most a second.

    Raises:
        DataError: as of :class:`NoisePool`, or a file of over 60 s.
    """

    def __init__(self, place: str, rate: int, seconds: float, key: str = "views.rooms_from") -> None:
        spec = SpeechSpec(rate, "0", max_seconds=float("inf"), min_seconds=0.0)
        source = _opened(place, spec, key)
        if source.lengths.max() > LONGEST_ROOM:
            row = int(source.lengths.argmax())
            raise DataError(
                f"{key}: {source.ids(np.array([row]))[0]} has {source.lengths[row]:.0f} s; "
                f"impulse responses have less than {LONGEST_ROOM:g} s"
            )
        kept = int(TAIL * rate)
        rows = _spread(source.splits["train"], np.minimum(source.lengths, TAIL), seconds)
        found = []
        for samples in map(source.store.samples, rows):
            piece = samples[np.abs(samples).argmax() :][:kept]
            energy = float(np.sqrt(np.square(piece, dtype=np.float64).sum()))
            if energy > 0:
                found.append(torch.from_numpy(piece / energy).float())
        if not found:
            raise DataError(f"{key}: {place} holds nothing but silence; give impulse responses")
        self.responses = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)

    def to(self, device: torch.device) -> RoomPool:
        """Moves it there, once."""
        if self.responses.device != device:
            self.responses = self.responses.to(device)
        return self

    def draw(self, draw: Draw) -> Tensor:
        """``[B, K]``: a response for each sample."""
        return self.responses[draw.randint(len(self.responses))]


def _opened(place: str, spec: SpeechSpec, key: str) -> SpeechSource:
    from ssl_domains.speech.domain import find

    where = Path(place).expanduser()
    if "://" not in place and not where.exists():
        raise DataError(f"{key}: {place} does not exist; give a folder, a manifest or a recording")
    try:
        return build_source(find(place, ReadOptions(label=None)), spec, BuildOptions(valid=0.0, test=0.0))
    except DataError as error:
        raise DataError(f"{key}: {str(error).removeprefix('data.source: ')}") from None


def _spread(rows: np.ndarray, lengths: np.ndarray, seconds: float) -> np.ndarray:
    """Rows, evenly spaced, that have about ``seconds`` together and not more; at least one."""
    total = float(lengths[rows].sum())
    if total <= seconds:
        return rows
    count = max(int(len(rows) * seconds / total), 1)
    while True:
        kept = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(np.int64))]
        if count == 1 or lengths[kept].sum() <= seconds:
            return kept
        count = max(int(count * 0.9), 1)
