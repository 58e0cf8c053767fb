"""The video domain: what it reads, and what it is made of."""

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
from ssl_domains.video.data import VideoOptions, VideoSource, open_videos
from ssl_domains.video.listing import Listing
from ssl_domains.video.readers import arrays, files, generated, hub
from ssl_domains.video.recognise import SUFFIXES
from ssl_domains.video.spec import VideoSpec

TABLES = (".csv", ".tsv", ".parquet")
Label = str | Sequence[str] | None


@domain("video")
class VideoDomain(Domain):
    """Clips of moving pictures: anything that FFmpeg decodes, folders of frames, or arrays."""

    title: ClassVar[str] = (
        "videos: folders, CSV or Parquet of paths and seconds, frame folders, arrays, Hugging Face datasets"
    )
    defaults: ClassVar[dict[str, str]] = {"encoder": "video_vit", "views": "clip_augment", "mask": "tube"}

    def open(  # type: ignore[override]
        self,
        source: Any,
        label: Label = "auto",
        *,
        frames: int | None = None,
        stride: int | None = None,
        window: int | None = None,
        rate: float | None = None,
        clips_per_video: int = 1,
        size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        fit: Literal["crop", "squeeze", "pad"] = "crop",
        normalise: Literal["data", "imagenet"] = "data",
        path: str | None = None,
        start: str | None = None,
        end: str | None = None,
        root: str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        cache: bool = False,
    ) -> VideoSource:
        """Opens videos.

        Args:
            source: a folder of videos, or of folders that hold the frames of one video each; a CSV, TSV or
                Parquet file with a column of paths (and maybe of seconds); ``.npz`` or ``.npy`` of clips; a
                folder that Hugging Face's ``save_to_disk`` wrote, or ``hf://NAME``; ``generated://clips``; in
                Python also an array, a pair (clips, labels), a dataset, or a list of paths.
            label: a column; ``folder`` for class folders; ``auto`` takes class folders, a class-label column
                or a column called label where there is one; null: none. Probes read it; it never is input.
            frames: T of a clip; default 16 (VideoMAE), for arrays all frames.
            stride: frames of the video from one frame of the clip to the next; default 4, for arrays 1.
            window: frames that a batch holds, at least ``frames``: what views may cut clips out of (jitter in
                time and stride, clips far apart); default ``frames``.
            rate: frames a second to sample at, whatever the rate of a video; null: the video's own. Frames
                are found by their time stamps either way.
            clips_per_video: clips cut from each video, evenly spaced; each is a row.
            size: side, or height and width, of the pixels kept; default 224, for arrays up to 128 as they
                are.
            channels: 1 or 3.
            fit: how other shapes get this size: ``crop`` the middle, ``squeeze`` both sides, ``pad``.
            normalise: mean and deviation of the ``data``, or ``imagenet``'s (for pretrained weights).
            path: column of paths; usual names are guessed. The video column of a Hugging Face dataset.
            start: column of the second where a clip's stretch starts; ``start`` is found by itself.
            end: column of the second where it ends; ``end`` is found by itself.
            root: folder that relative paths of a table start from; by default the table's.
            split: column of train, valid, test. Folders of these names are found by themselves.
            group: a column, or for folders a regular expression on the path: its rows stay on one side of a
                split. Clips of one file always do.
            task: classification, regression or multilabel; inferred when not given.
            valid: share of validation videos.
            test: share of test videos.
            seed: of the split.
            limit: at most this many videos, evenly spaced.
            strict: refuse a set with broken videos instead of leaving them out.
            cache: keep decoded clips on disk, so that an epoch decodes nothing.

        Raises:
            DataError: one sentence with file, row or field, and what to do.
        """
        options = VideoOptions(
            frames=_positive("frames", frames),
            stride=_positive("stride", stride),
            window=_positive("window", window),
            rate=_rate(rate),
            clips_per_video=_positive("clips_per_video", clips_per_video) or 1,
            size=_pair(size),
            channels=channels,
            fit=fit,
            normalise=normalise,
            task=task,
            valid=valid,
            test=test,
            seed=seed,
            limit=_positive("limit", limit),
            strict=strict,
            cache=cache,
        )
        return open_videos(find(source, label, path, start, end, root, split, group), options)

    def spec_from_dict(self, values: dict[str, Any]) -> VideoSpec:
        """Reads a :class:`VideoSpec` back."""
        return VideoSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: VideoSpec,
        source: Any,
        label: Label = "auto",
        *,
        clips_per_video: int = 1,
        path: str | None = None,
        start: str | None = None,
        end: str | None = None,
        root: str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        valid: float = 0.0,
        test: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        **fitted: Any,
    ) -> VideoSource:
        """Opens new videos with the frames, rate, size and channels of an encoder. Arguments as of
        :meth:`open`; those that the spec has settled are taken and ignored.

        Raises:
            DataError: nothing can be read.
        """
        options = VideoOptions(
            clips_per_video=_positive("clips_per_video", clips_per_video) or 1,
            task=task, valid=valid, test=test, seed=seed, limit=_positive("limit", limit), strict=strict,
        )  # fmt: skip
        return open_videos(find(source, label, path, start, end, root, split, group), options, spec)

    def inspect(self, source: Any, **data: Any) -> tuple[dict[str, Any], str]:  # type: ignore[override]
        """The card, and the recipe lines that use the videos."""
        opened = self.open(source, **data)
        where = os.fspath(source) if isinstance(source, str | os.PathLike) else "clips.npz"
        lines = ["domain: video", "data:", f"  source: {where}"]
        lines += [f"  {key}: {value}" for key, value in data.items()]
        height, width = opened.spec.size
        found = {
            "frames": opened.spec.frames,
            "stride": opened.spec.stride,
            "size": height if height == width else [height, width],
        }
        lines += [f"  {key}: {value}   # as found" for key, value in found.items() if key not in data]
        return opened.card(), "\n".join(lines) + "\n"

    def figures(self, encoder: Encoder, source: Source, method: nn.Module | None = None) -> list[Figure]:
        """See :func:`ssl_domains.video.figures.figures`."""
        from ssl_domains.video.figures import figures

        assert isinstance(source, VideoSource)
        return figures(encoder, source, method)


def find(
    source: Any,
    label: Label,
    path: str | None = None,
    start: str | None = None,
    end: str | None = None,
    root: str | None = None,
    split: str | None = None,
    group: str | None = None,
) -> Listing:
    """What a source holds, before anything is decoded; arguments as of :meth:`VideoDomain.open`.

    Raises:
        DataError: it cannot be read, or its kind cannot be told.
    """
    if isinstance(source, np.ndarray):
        return arrays.read_arrays(source, None, "the array")
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], str):
        return arrays.read_arrays(source[0], source[1] if label is not None else None, "the arrays")
    if isinstance(source, list) and source and isinstance(source[0], str | os.PathLike):
        return _paths("the list of paths", [os.fspath(p) for p in source])
    if type(source).__module__.split(".")[0] == "datasets":
        return hub.read_dataset(source, "the dataset", path, label, split, group)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise DataError(f"data.source: {kind} is no source of videos; give a path, an array or a dataset")
    name = os.fspath(source)
    if generated.is_generated(name):
        return generated.generate(name, label if label is None else str(label))
    if name.startswith("hf://"):
        return hub.read_dataset(file_lists.open_hub(name), name, path, label, split, group)
    place = Path(name).expanduser()
    if place.is_dir():
        return _folder(place, label, path, split, group)
    if place.is_file():
        ending = place.suffix.lower()
        if ending in TABLES:
            return files.read_table(place, path, start, end, label, split, group, root)
        if ending in (".npz", ".npy"):
            return arrays.read_file(place, label, split, group)
        if ending in SUFFIXES:
            return _paths(str(place), [str(place)])
        raise DataError(
            f"{place}: cannot tell what this file holds; give a folder, a table ({', '.join(TABLES)}), .npz, "
            f".npy or a video ({', '.join(SUFFIXES[:5])} ...)"
        )
    matches = [p for p in sorted(glob.glob(str(place), recursive=True)) if p.lower().endswith(SUFFIXES)]
    if matches:
        return _paths(name, matches)
    raise DataError(f"data.source: {source} does not exist; give a folder, a file or a glob of videos")


def _paths(name: str, paths: list[str]) -> Listing:
    return Listing(name, paths, files.Files(paths), mark=file_lists.file_marks(paths))


def _folder(place: Path, label: Label, path: str | None, split: str | None, group: str | None) -> Listing:
    if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
        return hub.read_dataset(file_lists.open_saved(place), str(place), path, label, split, group)
    if label not in (None, "auto", "folder"):
        raise DataError(
            f"data.label: {place} is a folder of videos; use label=folder for class folders, or give a table "
            "of paths with a label column"
        )
    return files.read_folder(place, label if label is None else str(label), group)


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(pair) < 1:
        raise DataError(f"data.size must be at least 1, got {size}")
    return pair


def _positive(key: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise DataError(f"data.{key} must be at least 1, got {value}")
    return value


def _rate(rate: float | None) -> float | None:
    if rate is not None and not 0 < rate <= 1000:
        raise DataError(f"data.rate is frames a second, above 0 and at most 1000, got {rate}")
    return rate
