"""C3D motion capture, through ezc3d."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.layouts import make, numbered
from ssl_domains.skeleton.readers.files import ReadOptions, about, files_of
from ssl_domains.skeleton.recordings import Recording, Recordings, same_points


def read(path: Path, options: ReadOptions) -> Recordings:
    """Markers of all ``.c3d`` files at a place; a marker with a negative residual or NaN is missing.

    Markers have names and no bones; ``data.layout`` may give them some.

    Raises:
        DataError: ezc3d is not installed, a broken file, or two with different markers.
    """
    try:
        import ezc3d
    except ImportError:
        raise DataError(
            f"{path}: C3D files need the package ezc3d: pip install 'ssl-domains[skeleton]'"
        ) from None
    items, names = [], []
    for file in files_of(path, ".c3d"):
        try:
            found: Any = ezc3d.c3d(str(file))
        except Exception as error:  # the library raises plain exceptions of several kinds
            raise DataError(f"{file}: cannot be read as C3D: {error}") from None
        labels = [str(name) for name in found["parameters"]["POINT"]["LABELS"]["value"]]
        points = found["data"]["points"][:3].transpose(2, 1, 0).astype(np.float32)  # [T, V, 3]
        residual = np.asarray(found["data"]["meta_points"]["residuals"])[0].T  # [T, V]
        points[residual < 0] = np.nan
        if points.shape[1] == 0:
            raise DataError(f"{file}: holds no marker")
        rate = float(found["header"]["points"]["frame_rate"]) or None
        items.append(Recording(file.name, points[:, None], rate=rate, **about(file, path)))
        names.append(labels[: points.shape[1]])
    if items:
        same_points(items, names)
    layout = None
    if names:
        layout = make("c3d", names[0]) if len(set(names[0])) == len(names[0]) else numbered(len(names[0]))
    return Recordings(items, ("x", "y", "z"), layout)
