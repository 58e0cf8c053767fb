"""Small pictures of recordings for the report."""

from __future__ import annotations

import numpy as np

SIZE = (80, 240)
"""Height and width in pixels of a spectrogram."""


def spectrogram(values: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """``[H, W, 3]`` uint8 of features ``[N, F]``: time to the right, low bands at the bottom."""
    n, f = values.shape
    rows = (np.arange(size[0]) * f // size[0])[::-1]
    columns = np.arange(size[1]) * n // size[1]
    shown = values[columns][:, rows].T
    low, high = np.quantile(shown, [0.05, 0.995])
    return coloured((shown - low) / max(float(high - low), 1e-9))


def coloured(values: np.ndarray) -> np.ndarray:
    """``[H, W, 3]`` uint8 of ``[H, W]`` values in [0, 1]: from dark blue over red to yellow."""
    stops = np.array([[12, 7, 60], [120, 28, 109], [225, 90, 60], [252, 250, 160]], dtype=np.float64)
    place = np.clip(values, 0.0, 1.0) * (len(stops) - 1)
    below = np.minimum(place.astype(np.int64), len(stops) - 2)
    share = (place - below)[..., None]
    return (stops[below] * (1 - share) + stops[below + 1] * share).round().astype(np.uint8)
