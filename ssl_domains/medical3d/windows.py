"""Intensity windows: from a scanner's numbers to a scale that networks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.errors import DataError

# Level and width of the customary CT windows, in Hounsfield units.
_LEVELS = {
    "abdomen": (40, 400),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (30, 150),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
}
PRESETS = {name: (level - width / 2, level + width / 2) for name, (level, width) in _LEVELS.items()}
"""(low, high) in HU; what lies between them becomes 0 to 1."""
PERCENTILES = (0.5, 99.5)
"""Of the voxels that are not background, as nnU-Net clips CT (Isensee et al., Nature Methods 2021)."""
OTHERS = ("percentile", "zscore", "none")


def parse(window: str | Sequence[float]) -> tuple[str, tuple[float, float] | None]:
    """Name and limits of ``data.window``.

    Args:
        window: a preset of :data:`PRESETS`; ``[low, high]`` in the volumes' own units; ``percentile`` (clips
            each volume at two percentiles of its foreground, to 0 to 1); ``zscore`` (mean 0 and deviation 1
            over each volume's foreground, for MR); ``none``.

    Raises:
        DataError: an unknown name, or a window without width.
    """
    if isinstance(window, str):
        if window in PRESETS:
            return window, PRESETS[window]
        if window == "percentile":
            return window, PERCENTILES
        if window in OTHERS:
            return window, None
        known = ", ".join([*PRESETS, *OTHERS])
        raise DataError(f"data.window is {window!r}; use one of {known}, or [low, high]")
    values = [float(v) for v in window]
    if len(values) != 2 or not values[0] < values[1]:
        raise DataError(f"data.window must be [low, high] with low < high, got {values}")
    return "range", (values[0], values[1])


def apply(x: np.ndarray, window: str, limits: tuple[float, float] | None) -> np.ndarray:
    """``[D, H, W]`` float32 on the window's scale.

    A volume without any contrast becomes 0 under ``percentile`` and ``zscore``.
    """
    x = x.astype(np.float32, copy=False)
    if window == "none":
        return x
    if window == "zscore":
        inside = foreground(x)
        mean, std = float(inside.mean()), float(inside.std())
        return (x - mean) / std if std > 1e-6 else np.zeros_like(x)
    assert limits is not None
    low, high = limits
    if window == "percentile":
        low, high = (float(v) for v in np.percentile(foreground(x), limits))
        if not high > low:
            return np.zeros_like(x)
    return ((x - low) / (high - low)).clip(0.0, 1.0)


def foreground(x: np.ndarray) -> np.ndarray:
    """The voxels that are not background: above the smallest value where that value is common (at least 5 %
    of the voxels: air, or what a skull-stripping tool left), else all of them."""
    low = x.min()
    inside: np.ndarray = x[x > low]
    return inside if 0.05 * x.size <= x.size - inside.size < x.size else x.reshape(-1)
