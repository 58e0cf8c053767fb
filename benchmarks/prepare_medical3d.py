"""Turns two real brains into a table of studies: bent copies of one for training, the other for testing.

    python benchmarks/prepare_medical3d.py ROOT

Writes ``brains/*.nii.gz`` and ``brains/brains.csv`` into ROOT where the files that ``fetch.sh --volumes``
unpacked are there: Colin27 (Debian's mricron-data, skull-stripped) and MNI152 (nilearn's), both at 2 mm, with
eight coarse structures of the AAL atlas, left and right together. No package ships a cohort of people, so the
"patients" of the training part are smooth random deformations of Colin27 with contrast, shading and noise of
their own; the test part is MNI152 (an average of 152 people, another scanner) and deformations of it. What is
measured on them says how methods compare on real tissue, and nothing about variation between people. What is
there stays.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

TEMPLATES = "files/usr/share/mricron/templates"
MNI = "files/nilearn/nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SHAPE, SPACING, ORIGIN = (91, 109, 91), 2.0, (-90.0, -125.0, -71.0)
TRAIN, VALID, TEST = 16, 2, 3
BEND, SMOOTH = 6.0, 12.0
"""Root mean square of the displacement in mm, and its smoothness (sigma, in voxels)."""
# First and last number in AAL of each structure, left and right together.
STRUCTURES = (
    ("frontal", 1, 28),
    ("insula and cingulum", 29, 36),
    ("medial temporal", 37, 42),
    ("occipital", 43, 56),
    ("parietal", 57, 70),
    ("basal ganglia and thalamus", 71, 78),
    ("temporal", 79, 90),
    ("cerebellum", 91, 116),
)


def on_grid(path: Path, order: int) -> np.ndarray:
    """A volume on the common grid of 2 mm in Talairach space, by its own affine."""
    image = nibabel.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    if order:  # finer than the grid: smoothed before it is sampled
        data = gaussian_filter(data, 0.5 * np.sqrt(3) * SPACING / 2)
    axes = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    world = np.stack([a * SPACING + o for a, o in zip(axes, ORIGIN, strict=True)] + [np.ones(SHAPE)])
    voxel = np.tensordot(np.linalg.inv(image.affine), world, axes=1)[:3]
    return map_coordinates(data, voxel, order=order, mode="constant")


def structures(aal: np.ndarray) -> np.ndarray:
    """AAL numbers as 1 to 8; 0 elsewhere."""
    out = np.zeros(aal.shape, dtype=np.uint8)
    for number, (_, low, high) in enumerate(STRUCTURES, start=1):
        out[(aal >= low) & (aal <= high)] = number
    return out


def bent(image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random deformation with scale, contrast, shading and noise of its own."""
    rng = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(rng.normal(size=SHAPE), SMOOTH) for _ in range(3)])
    field *= BEND / SPACING / np.sqrt((field**2).mean())
    middle = (np.array(SHAPE) - 1) / 2
    scale = rng.uniform(0.94, 1.06, 3)
    grid = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    where = [(g - m) * s + m + f for g, m, s, f in zip(grid, middle, scale, field, strict=True)]
    moved = map_coordinates(image, where, order=1, mode="constant")
    shading = 1 + 0.15 * gaussian_filter(rng.normal(size=SHAPE), 20) / 0.005
    moved = np.clip(moved, 0, None) ** rng.uniform(0.8, 1.25) * np.clip(shading, 0.7, 1.3)
    moved = moved + rng.normal(0, 0.03, SHAPE) * (moved > 0.05)
    return moved, map_coordinates(mask, where, order=0, mode="constant")


def unit(image: np.ndarray) -> np.ndarray:
    """0 to 1."""
    return np.clip(image / np.percentile(image[image > 0], 99.5), 0, 1)


def write(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    """Image as 16 bits, mask as 8."""
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = ORIGIN
    scaled = (np.clip(image, 0, 2) * 1000).round().astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(scaled, affine), folder / f"{name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), affine), folder / f"{name}_mask.nii.gz")


def main(root: Path) -> None:
    folder = root / "brains"
    if (folder / "brains.csv").exists():
        print("have brains")
        return
    templates, mni = root / TEMPLATES, root / MNI
    if not (templates / "aal.nii.gz").exists() or not mni.exists():
        sys.exit(f"no volumes in {root}: run `bash benchmarks/fetch.sh --volumes`")
    folder.mkdir(exist_ok=True)
    mask = structures(on_grid(templates / "aal.nii.gz", 0))
    brains = {"colin": unit(on_grid(templates / "ch2bet.nii.gz", 1)), "mni": unit(on_grid(mni, 1))}
    rows = []
    for number in range(TRAIN + VALID + TEST):
        split = "train" if number < TRAIN else "valid" if number < TRAIN + VALID else "test"
        source = "mni" if split == "test" else "colin"
        plain = number == TRAIN + VALID  # MNI152 as it is
        made = (brains[source], mask) if plain else bent(brains[source], mask, number)
        name = f"{source}{number:02d}"
        write(folder, name, *made)
        rows.append([f"{name}.nii.gz", f"{name}_mask.nii.gz", name, split])
    with (folder / "brains.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "mask", "patient", "split"], *rows])
    print(f"brains: {len(rows)} volumes in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
