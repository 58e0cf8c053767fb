"""What encoders and views need to know of the data; travels with the encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ssl_domains.skeleton.layouts import Layout


@dataclass(frozen=True)
class BodySpec:
    """Points on a body over time: V joints of M persons, or V devices that one person wears.

    Attributes:
        kind: ``skeleton`` (points are joints, channels coordinates) or ``sensors`` (points are
            devices, channels what each measures).
        layout: names, bones and mirror pairs of the points.
        channels: C names.
        vectors: places of channels that turn together: the axes of a joint, of an accelerometer ...
        persons: M.
        frames: T that an encoder sees by default; clips are resampled to it.
        rate: frames a second, where known.
        center: of skeletons: ``first`` (the root joint of the first frame), ``frame`` (of every
            frame) or ``none``.
        shift: ``[V][C]`` subtracted from every value.
        scale: ``[V][C]`` divides it; both were fitted on the train rows.
        classes: names of the classes, so that new data get the same numbers.
        window: length of the windows that recordings are cut into, in frames; None: whole recordings.
        hop: frames from one window to the next.
        max_gap: seconds over which missing values are filled in between two known ones.
    """

    kind: Literal["skeleton", "sensors"]
    layout: Layout
    channels: tuple[str, ...]
    vectors: tuple[tuple[int, ...], ...]
    persons: int
    frames: int
    rate: float | None = None
    center: str = "first"
    shift: tuple[tuple[float, ...], ...] = ()
    scale: tuple[tuple[float, ...], ...] = ()
    classes: tuple[str, ...] = ()
    window: int | None = None
    hop: int | None = None
    max_gap: float = 0.25

    @property
    def points(self) -> int:
        """V."""
        return len(self.layout)

    @property
    def width(self) -> int:
        """Values of one frame: V * C * M."""
        return self.points * len(self.channels) * self.persons

    def fitted(self, shift: np.ndarray, scale: np.ndarray) -> BodySpec:
        """The spec with these ``[V, C]`` numbers."""
        return replace(self, shift=_rows(shift), scale=_rows(scale))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = asdict(self)
        values["layout"] = self.layout.to_dict()
        for key in ("vectors", "shift", "scale"):
            values[key] = [list(row) for row in values[key]]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BodySpec:
        """Reads :meth:`to_dict` back."""
        values = dict(values) | {"layout": Layout.from_dict(values["layout"])}
        for key in ("vectors", "shift", "scale"):
            values[key] = tuple(tuple(row) for row in values[key])
        for key in ("channels", "classes"):
            values[key] = tuple(values[key])
        return cls(**values)


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in row) for row in values)


def axes_in(n_channels: int) -> tuple[tuple[int, ...], ...]:
    """Channels that turn together where nothing says so: pairs or triples of axes, else none."""
    if n_channels in (2, 3):
        return (tuple(range(n_channels)),)
    if n_channels % 3 == 0:
        return tuple(tuple(range(i, i + 3)) for i in range(0, n_channels, 3))
    return ()
