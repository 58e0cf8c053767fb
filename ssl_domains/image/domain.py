"""The image domain: what it reads, and what it is made of."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from ssl_domains.core import file_lists
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain, Encoder, Figure, Source
from ssl_domains.core.registry import domain
from ssl_domains.image import arrays, files, hub, shards
from ssl_domains.image.data import ImageOptions, ImageSource, open_images
from ssl_domains.image.decode import MAX_PIXELS
from ssl_domains.image.listing import SUFFIXES, Listing, Paths
from ssl_domains.image.spec import ImageSpec

TABLES = (".csv", ".tsv", ".parquet")
Label = str | Sequence[str] | None


@domain("image")
class ImageDomain(Domain):
    """Photographs, drawings, scans: anything that PIL reads, or arrays."""

    title: ClassVar[str] = (
        "images: folders, CSV or Parquet of paths, arrays, Hugging Face datasets, tar shards"
    )
    defaults: ClassVar[dict[str, str]] = {
        "encoder": "image_resnet",
        "views": "image_augment",
        "mask": "random",
    }

    def open(  # type: ignore[override]
        self,
        source: Any,
        label: Label = "auto",
        *,
        size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        fit: Literal["crop", "squeeze", "pad"] = "crop",
        normalise: Literal["data", "imagenet"] = "data",
        path: str | None = None,
        root: str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        cache: bool | None = None,
        max_pixels: int = MAX_PIXELS,
        background: int = 255,
    ) -> ImageSource:
        """Opens images.

        Args:
            source: a folder; a CSV, TSV or Parquet file with a column of paths; ``.npz``, ``.npy``; a folder
            of
                idx files (MNIST, Fashion-MNIST); tar shards (a file or a glob); a folder that Hugging Face's
                ``save_to_disk`` wrote, or ``hf://NAME``; ``sklearn://digits``; in Python also an array, a
                pair (images, labels), a dataset, or a list of paths.
            label: a column; ``folder`` for class folders; ``auto`` takes class folders, a class-label column
            or
                a column called label where there is one; null: none. Probes read it; it never is input.
            size: side, or height and width, of the pixels kept. By default images of one size up to 128 stay
            as
                they are, others become 224 x 224.
            channels: 1 or 3; by default 1 when all images are grey.
            fit: how other shapes get this size: ``crop`` the middle, ``squeeze`` both sides (views then cut
                undistorted crops out of it), ``pad``.
            normalise: mean and deviation of the ``data``, or ``imagenet``'s (for pretrained weights).
            path: column of paths; usual names are guessed. The image column of a Hugging Face dataset.
            root: folder that relative paths of a table start from; by default the table's.
            split: column of train, valid, test. Folders of these names are found by themselves.
            group: a column, or for folders a regular expression on the path: its rows stay on one side of a
            split.
            task: classification, regression or multilabel; inferred when not given.
            valid: share of validation images.
            test: share of test images.
            seed: of the split.
            limit: at most this many images, evenly spaced.
            strict: refuse a set with broken images instead of leaving them out.
            cache: keep decoded pixels on disk, so that an epoch decodes nothing; by default when they fit
            into 4 GiB.
            max_pixels: larger images are left out.
            background: grey value under transparent pixels and around padded images.

        Raises:
            DataError: one sentence with file, row or field, and what to do.
        """
        options = ImageOptions(
            size=_pair(size),
            channels=channels,
            fit=fit,
            normalise=normalise,
            task=task,
            valid=valid,
            test=test,
            seed=seed,
            limit=_positive(limit),
            strict=strict,
            cache=cache,
            max_pixels=max_pixels,
            background=background,
        )
        return open_images(find(source, label, path, root, split, group), options)

    def spec_from_dict(self, values: dict[str, Any]) -> ImageSpec:
        """Reads an :class:`ImageSpec` back."""
        return ImageSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: ImageSpec,
        source: Any,
        label: Label = "auto",
        *,
        path: str | None = None,
        root: str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        valid: float = 0.0,
        test: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        cache: bool | None = False,
        max_pixels: int = MAX_PIXELS,
        **fitted: Any,
    ) -> ImageSource:
        """Opens new images with the size, channels and fit of an encoder. Arguments as of :meth:`open`; those
        that the spec has settled are taken and ignored. By default nothing is cached.

        Raises:
            DataError: nothing can be read.
        """
        options = ImageOptions(
            task=task, valid=valid, test=test, seed=seed, limit=_positive(limit), strict=strict, cache=cache,
            max_pixels=max_pixels,
        )  # fmt: skip
        return open_images(find(source, label, path, root, split, group), options, spec)

    def inspect(self, source: Any, **data: Any) -> tuple[dict[str, Any], str]:  # type: ignore[override]
        """The card, and the recipe lines that use the images."""
        opened = self.open(source, **data)
        where = os.fspath(source) if isinstance(source, str | os.PathLike) else "images.npz"
        lines = ["domain: image", "data:", f"  source: {where}"]
        lines += [f"  {key}: {value}" for key, value in data.items()]
        if "size" not in data:
            height, width = opened.spec.size
            lines.append(f"  size: {height if height == width else [height, width]}   # as found")
        return opened.card(), "\n".join(lines) + "\n"

    def figures(self, encoder: Encoder, source: Source, method: nn.Module | None = None) -> list[Figure]:
        """See :func:`ssl_domains.image.figures.figures`."""
        from ssl_domains.image.figures import figures

        assert isinstance(source, ImageSource)
        return figures(encoder, source, method)


def find(
    source: Any, label: Label, path: str | None, root: str | None, split: str | None, group: str | None
) -> Listing:
    """What a source holds, before any image is decoded.

    Raises:
        DataError: it cannot be read, or its kind cannot be told.
    """
    listing = _find(source, label, path, root, split, group)
    if label is None:
        listing.label = None
    return listing


def _find(
    source: Any, label: Label, path: str | None, root: str | None, split: str | None, group: str | None
) -> Listing:
    if isinstance(source, np.ndarray):
        return arrays.read_array(source, None, "the array")
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], str):
        return arrays.read_array(source[0], source[1], "the arrays")
    if isinstance(source, list) and source and isinstance(source[0], str | os.PathLike):
        names = [os.fspath(p) for p in source]
        return Listing("the list of paths", names, Paths(names))
    if type(source).__module__.split(".")[0] == "datasets":
        return hub.read_dataset(source, "the dataset", path, label, split, group)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise DataError(f"data.source: {kind} is no source of images; give a path, an array or a dataset")
    name = os.fspath(source)
    if name == "sklearn://digits":
        return arrays.read_digits()
    if name.startswith("hf://"):
        return hub.read_dataset(file_lists.open_hub(name), name, path, label, split, group)
    place = Path(name).expanduser()
    if place.is_dir():
        return _folder(place, label, path, split, group)
    if place.is_file():
        return _file(place, label, path, root, split, group)
    matches = [Path(p) for p in sorted(glob.glob(str(place), recursive=True)) if os.path.isfile(p)]
    if matches and all(p.suffix == ".tar" for p in matches):
        return shards.read_shards(matches, name, label)
    if matches:
        names = [str(p) for p in matches if p.suffix.lower() in SUFFIXES]
        if names:
            return Listing(name, names, Paths(names), mark=file_lists.file_marks(names))
    raise DataError(f"data.source: {source} does not exist; give a folder, a file or a glob of images")


def _folder(place: Path, label: Label, path: str | None, split: str | None, group: str | None) -> Listing:
    if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
        return hub.read_dataset(file_lists.open_saved(place), str(place), path, label, split, group)
    found = arrays.read_idx_folder(place)
    if found is not None:
        return found
    tars = sorted(place.glob("*.tar"))
    if tars:
        return shards.read_shards(tars, str(place), label)
    if label not in (None, "auto", "folder"):
        raise DataError(
            f"data.label: {place} is a folder of images; use label=folder for class folders, or give a table "
            "of paths with a label column"
        )
    return files.read_folder(place, label if label is None else str(label), group)


def _file(
    place: Path, label: Label, path: str | None, root: str | None, split: str | None, group: str | None
) -> Listing:
    ending = place.suffix.lower()
    if ending in TABLES:
        return files.read_table(place, path, label, split, group, root)
    if ending == ".npy":
        return arrays.read_npy(place)
    if ending == ".npz":
        return arrays.read_npz(place)
    if ending == ".tar":
        return shards.read_shards([place], str(place), label)
    if ending in SUFFIXES:
        return Listing(str(place), [place.name], Paths([str(place)]))
    raise DataError(
        f"{place}: cannot tell what this file holds; give a folder, a table ({', '.join(TABLES)}), "
        ".npz, .npy or .tar"
    )


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(pair) < 1:
        raise DataError(f"data.size must be at least 1, got {size}")
    return pair


def _positive(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise DataError(f"data.limit must be at least 1, got {limit}")
    return limit
