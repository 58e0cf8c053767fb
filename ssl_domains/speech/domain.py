"""The speech domain: what a recipe's ``domain: speech`` gets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain, Encoder, Figure, Source
from ssl_domains.core.registry import domain
from ssl_domains.speech.build import BuildOptions, build_source
from ssl_domains.speech.data import SpeechSource
from ssl_domains.speech.hub import open_dataset, read_dataset
from ssl_domains.speech.listing import SUFFIXES, Listing, Utterance
from ssl_domains.speech.readers import TABLES, Paths, ReadOptions, read_folder, read_manifest
from ssl_domains.speech.spec import SpeechSpec
from ssl_domains.speech.synthetic import generate, is_generated


@domain("speech")
class SpeechDomain(Domain):
    """Recordings of speech, or of other sound."""

    title: ClassVar[str] = "speech: folders of WAV, FLAC, OGG and MP3, manifests, Hugging Face datasets"
    defaults: ClassVar[dict[str, str]] = {
        "encoder": "speech_transformer",
        "views": "sound_augment",
        "mask": "span",
    }

    def open(  # type: ignore[override]
        self,
        source: Any,
        rate: int = 16000,
        label: str | None = "auto",
        speaker: str | None = None,
        text: str | None = None,
        path: str | None = None,
        start: str | None = None,
        end: str | None = None,
        split: str | None = None,
        root: str | None = None,
        segments: str | None = None,
        channel: str | int = "mix",
        max_seconds: float = 15.0,
        min_seconds: float = 0.1,
        cut: str = "fixed",
        task: str | None = None,
        group: str = "auto",
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        cache: bool = False,
    ) -> SpeechSource:
        """Opens recordings; only headers are read.

        Args:
            source: a folder; a CSV, TSV or Parquet manifest; one recording; a folder that Hugging Face's
                ``save_to_disk`` wrote, or ``hf://NAME``; ``generated://speech``; in Python also a dataset, a
                list of paths, or a pair (list of arrays, rate).
            rate: samples a second that all recordings are resampled to.
            label: a column; ``folder``; ``speaker``; for folders also a regular expression on the path;
                ``auto`` takes class folders or a column called label; null: none. Probes read it, nothing
                else.
            speaker: a column, or for folders a regular expression on the path.
            text: column of what is said. For folders ``*.trans.txt`` or a ``.txt`` beside a recording.
            path: column of the paths; usual names are found. The Audio column of a dataset.
            start: column of seconds from the beginning of the file.
            end: column of the seconds at which an utterance ends.
            split: column of train, valid, test. Folders of these names are found by themselves.
            root: folder that relative paths of a manifest start from; by default the manifest's.
            segments: folder of label files (.lab, .phn), or a table (path, start, end, segment), of phones or
                words with their times; files beside the recordings are found.
            channel: ``mix`` averages the channels; a number takes one of them.
            max_seconds: longer recordings are cut. Default 15, TERA's 1,500 frames.
            min_seconds: shorter ones are left out. Default 0.1.
            cut: ``fixed`` windows of ``max_seconds``, or at the quietest place of the second half of each
                (``silence``; reads long files once).
            task: classification or regression; inferred when not given.
            group: what stays on one side of a split: ``speaker``, ``file``, or ``auto``: the speaker where
                three or more are known and the label is another thing.
            valid: share of the speakers (else of the files) for validation.
            test: the same for the test.
            seed: of the split.
            limit: at most so many utterances, evenly spaced.
            strict: refuse broken recordings instead of leaving them out.
            cache: keep decoded samples on the disk, so that an epoch decodes and resamples nothing.

        Raises:
            DataError: one sentence with file, row or field, and what to do.
        """
        _positive(rate=rate, max_seconds=max_seconds, limit=limit)
        if min_seconds < 0 or min_seconds > max_seconds:
            raise DataError(f"data.min_seconds must lie between 0 and data.max_seconds, got {min_seconds}")
        if cut not in ("fixed", "silence"):
            raise DataError(f"data.cut is {cut!r}; use fixed or silence")
        if channel != "mix" and not str(channel).isdigit():
            raise DataError(f"data.channel is {channel!r}; use mix or the number of a channel, from 0")
        reading = ReadOptions(path, start, end, text, speaker, label, split, root, segments)
        spec = SpeechSpec(rate, str(channel), max_seconds, min_seconds, cut)
        options = BuildOptions(task, group, valid, test, seed, limit, strict, cache)
        return build_source(find(source, reading), spec, options)

    def spec_from_dict(self, values: dict[str, Any]) -> SpeechSpec:
        """Reads a spec back."""
        return SpeechSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: SpeechSpec,
        source: Any,
        label: str | None = "auto",
        speaker: str | None = None,
        text: str | None = None,
        path: str | None = None,
        start: str | None = None,
        end: str | None = None,
        split: str | None = None,
        root: str | None = None,
        segments: str | None = None,
        task: str | None = None,
        group: str = "auto",
        valid: float = 0.0,
        test: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        cache: bool = False,
        **fitted: Any,
    ) -> SpeechSource:
        """New recordings with the rate, channel and windows of an encoder. Arguments as of :meth:`open`;
        those that the spec has settled are taken and ignored.

        Raises:
            DataError: nothing can be read.
        """
        _positive(limit=limit)
        reading = ReadOptions(path, start, end, text, speaker, label, split, root, segments)
        options = BuildOptions(task, group, valid, test, seed, limit, strict, cache)
        return build_source(find(source, reading), spec, options, fitted=True)

    def inspect(self, source: Any, **data: Any) -> tuple[dict[str, Any], str]:  # type: ignore[override]
        """The card, and the recipe lines that use the recordings."""
        found = self.open(source, **data)
        where = os.fspath(source) if isinstance(source, str | os.PathLike) else "recordings"
        lines = ["domain: speech", "data:", f"  source: {where}"]
        lines += [f"  {key}: {value}" for key, value in data.items()]
        if "rate" not in data:
            lines.append(f"  rate: {found.spec.rate}   # all are resampled to it")
        if found.labels is None:
            lines.append(
                "  # label: speaker   (or a column, or an expression on the path; read by probes only)"
            )
        return found.card(), "\n".join(lines) + "\n"

    def figures(self, encoder: Encoder, source: Source, method: nn.Module | None = None) -> list[Figure]:
        """See :func:`ssl_domains.speech.figures.figures`."""
        from ssl_domains.speech.figures import figures

        assert isinstance(source, SpeechSource)
        return figures(encoder, source, method)


def find(source: Any, options: ReadOptions) -> Listing:
    """What a source holds, before any file is opened.

    Raises:
        DataError: it cannot be read, or its kind cannot be told.
    """
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], int):
        arrays = [np.asarray(a, dtype=np.float32) for a in source[0]]
        names = [f"array {i}" for i in range(len(arrays))]
        rows = [Utterance(i, name) for i, name in enumerate(names)]
        return Listing("the arrays", names, names, rows, arrays=arrays, rate=source[1])
    if isinstance(source, list) and source and isinstance(source[0], str | os.PathLike):
        paths = [os.fspath(p) for p in source]
        return Listing("the list", Paths(paths), paths, [Utterance(i, p) for i, p in enumerate(paths)])
    if type(source).__module__.split(".")[0] == "datasets":
        return read_dataset(source, "the dataset", options)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise DataError(f"data.source: {kind} is no source of sound; give a path, arrays or a dataset")
    name = os.fspath(source)
    if is_generated(name):
        return _labelled(generate(name), options)
    if name.startswith("hf://"):
        return read_dataset(open_dataset(name), name, options)
    place = Path(name).expanduser()
    if place.is_dir():
        if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
            return read_dataset(open_dataset(place), str(place), options)
        return _labelled(read_folder(place, options), options)
    if not place.is_file():
        raise DataError(f"data.source: {source} does not exist; give a folder, a manifest or a recording")
    if place.suffix.lower() in TABLES:
        return read_manifest(place, options)
    if place.suffix.lower() in SUFFIXES:
        return Listing(str(place), Paths([str(place)]), [place.name], [Utterance(0, place.name)])
    raise DataError(
        f"{place}: cannot tell what this file holds; give a folder, a table ({', '.join(TABLES)}) "
        "or a recording"
    )


def _labelled(found: Listing, options: ReadOptions) -> Listing:
    """``label: speaker`` or null, for sources without columns."""
    if options.label is None or options.label == "speaker":
        for row in found.rows:
            row.label = row.speaker if options.label else None
    return found


def _positive(**values: float | None) -> None:
    for key, value in values.items():
        if value is not None and not value > 0:
            raise DataError(f"data.{key} must be above 0, got {value}")
