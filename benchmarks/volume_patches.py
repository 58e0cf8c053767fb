"""Patches of volumes: speed against MONAI's dictionary transforms, and memory against the size of a volume.

    python benchmarks/volume_patches.py --volumes 8 --side 96 160 --patch 32
    python benchmarks/volume_patches.py --volumes 4 --side 181x217x181 --spacing 1 --patch 96 --size 4

The second line has the size of a brain at 1 mm and the patches of Swin UNETR; it takes some minutes.

Both read the same NIfTI files and cut patches of the same size at drawn corners, turned to RAS, resampled
and windowed. ``cold`` is the first pass over the files, ``warm`` any later one: here prepared volumes are
mapped from the cache; MONAI reads with ``LoadImaged, EnsureChannelFirstd, Orientationd, Spacingd,
ScaleIntensityRanged`` through its ``CacheDataset`` (all volumes in memory) or plain ``Dataset`` (files are
read again), and crops with ``SpatialCropd``, in its own ``DataLoader`` without workers. Memory is the growth
of the resident set of a process of its own. The last lines are ratios: how many times as many warm patches a
second as MONAI, and which share of the memory of volumes held in memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = (-160.0, 240.0)


def write(folder: Path, count: int, shape: tuple[int, ...]) -> list[str]:
    """NIfTI files of noise in HU, LPS, 1 mm."""
    import nibabel

    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        data = rng.normal(40, 60, shape).astype(np.int16)
        paths.append(str(folder / f"{number}.nii"))
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), paths[-1])
    return paths


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ours(folder: str, spacing: float, patch: int, batches: int, size: int) -> dict[str, float]:
    """Seconds of CPU a patch, cold and warm, and MB of memory that the open source and its batches take."""
    os.environ["SSL_DOMAINS_CACHE"] = f"{folder}-cache"
    from ssl_domains.medical3d.domain import MedicalDomain

    options: dict[str, Any] = {"patch": (patch,) * 3, "spacing": spacing, "window": WINDOW, "foreground": 0.0}
    MedicalDomain().open(folder, limit=1, **options).fetch([0])  # imports
    before, start = resident(), time.process_time()
    source = MedicalDomain().open(folder, **options)
    rows = np.random.default_rng(0).integers(0, len(source), (batches, size))
    source.fetch(rows[0])
    cold = time.process_time() - start
    start = time.process_time()
    for batch in rows:
        source.fetch(batch)
    warm = (time.process_time() - start) / rows.size
    return {"cold seconds": cold, "warm patches a second": 1 / warm, "MB": (resident() - before) / 2**20}


def monai(folder: str, spacing: float, patch: int, batches: int, size: int, cached: bool) -> dict[str, float]:
    """The same with MONAI."""
    from monai.data import CacheDataset, DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
        SpatialCropd,
    )

    files = sorted(str(p) for p in Path(folder).glob("*.nii"))
    read = [
        LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(spacing,) * 3, mode="bilinear"),
        ScaleIntensityRanged("image", *WINDOW, 0.0, 1.0, clip=True),
    ]  # fmt: skip
    Compose(read)({"image": files[0]})  # imports
    before, start = resident(), time.process_time()
    data: Any = [{"image": f} for f in files]
    kept = CacheDataset(data, Compose(read), progress=False) if cached else Dataset(data, Compose(read))
    shape = kept[0]["image"].shape[1:]
    cold = time.process_time() - start
    rng = np.random.default_rng(0)

    class Crops:
        """One crop a row: a volume and a corner."""

        rows = rng.integers(0, len(files), batches * size)
        corners = rng.integers(0, np.array(shape) - patch + 1, (batches * size, 3))

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> Any:
            corner = self.corners[i]
            return SpatialCropd("image", roi_start=corner, roi_end=corner + patch)(kept[int(self.rows[i])])[
                "image"
            ]

    start = time.process_time()
    for _ in DataLoader(Crops(), batch_size=size, num_workers=0):
        pass
    warm = (time.process_time() - start) / (batches * size)
    return {"cold seconds": cold, "warm patches a second": 1 / warm, "MB": (resident() - before) / 2**20}


def apart(function: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """In a process of its own, so that memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--side", nargs="+", default=["96", "160"], help="of the volumes: 96, or 181x217x181")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm that the files of 1 mm are brought to")
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--size", type=int, default=16)
    args = parser.parse_args()
    for side in args.side:
        sides = tuple(int(s) for s in side.split("x"))
        with tempfile.TemporaryDirectory() as root:
            folder = str(Path(root) / "volumes")
            Path(folder).mkdir()
            write(Path(folder), args.volumes, sides if len(sides) == 3 else sides * 3)
            common = (folder, args.spacing, args.patch)
            rows = {
                "ssl_domains": apart(ours, *common, args.batches, args.size),
                "MONAI, volumes in memory": apart(monai, *common, args.batches, args.size, True),
                "MONAI, files": apart(monai, *common, 1, args.size, False),
            }
        for name, found in rows.items():
            rounded = {k: round(v, 2) for k, v in found.items()}
            print(json.dumps({"side": side, "volumes": args.volumes, "form": name, **rounded}))
        own, held, read = rows.values()
        warm = "warm patches a second"
        print(
            f"side {side}, patches of {args.patch}: {own[warm] / held[warm]:.2f} x MONAI with volumes in "
            f"memory, {own[warm] / read[warm]:.1f} x with files; "
            f"{own['MB'] / max(held['MB'], 0.1):.2f} of its memory; "
            f"first pass {held['cold seconds'] / own['cold seconds']:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
