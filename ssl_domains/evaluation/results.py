"""What an evaluation found: rows of scores, diagnostics, neighbours; to and from disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import RunError
from ssl_domains.evaluation.metrics import LOWER_IS_BETTER

VERSION = 1
FILE = "evaluation.json"
MAP_FILE = "evaluation_map.npz"


@dataclass(frozen=True)
class Row:
    """One score of one probe on one kind of features.

    Attributes:
        features: "pretrained", "random", "raw" (or "raw:name"), "trees".
        probe: key of the probe.
        metric: name of the score.
        mean: the score, averaged over ``n`` repeats where repeats refit the probe.
        std: standard deviation over what ``spread`` says; NaN when there is one repeat.
        n: number of repeats behind ``std``.
        spread: what the repeats differ in.
        main: True for the task's main metric.
    """

    features: str
    probe: str
    metric: str
    mean: float
    std: float
    n: int
    spread: str
    main: bool = False


@dataclass
class MapSample:
    """Rows for the two-dimensional map.

    Attributes:
        index: ``[n]`` global row numbers.
        embeddings: features by name, ``[n, D]``: "pretrained", and "random" when there is one.
        labels: ``[n]`` or ``[n, L]`` labels (-1 or NaN: unknown), or None.
    """

    index: np.ndarray
    embeddings: dict[str, np.ndarray]
    labels: np.ndarray | None = None


@dataclass
class Evaluation:
    """Result of :func:`~ssl_domains.evaluation.evaluate.evaluate_encoder`.

    Attributes:
        task: "classification", "regression", "multilabel" or None.
        n_rows: labelled rows by split that the probes used.
        rows: scores.
        diagnostics: ``{"pretrained": {"rankme": ...}, "random": {...}}``.
        neighbours: ``[{"id": ..., "near": [{"id": ..., "cosine": ...}, ...]}, ...]``, each maybe with a
            ``picture``.
        notes: what the reader must know, one sentence each.
        class_names: names of the classes or labels.
        width: D of the embeddings.
        figures: ``[{"title", "caption", "picture"}, ...]``, the picture as a data URI.
        seconds: wall time by part.
        sample: rows for the map; saved beside, not in the JSON.
    """

    task: str | None
    n_rows: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    diagnostics: dict[str, dict[str, float]] = field(default_factory=dict)
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    class_names: list[str] | None = None
    width: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sample: MapSample | None = None
    figures: list[dict[str, str]] = field(default_factory=list)

    def find(self, probe: str, features: str = "pretrained", metric: str | None = None) -> Row | None:
        """The row of a probe; ``metric`` None: the main one. ``few_shot`` also finds its only variant."""
        mine = [r for r in self.rows if r.features == features]
        wanted = [r for r in mine if (r.main if metric is None else r.metric == metric)]
        exact = [r for r in wanted if r.probe == probe]
        variants = [r for r in wanted if r.probe.split("(")[0] == probe]
        return exact[0] if exact else variants[0] if len(variants) == 1 else None

    def value(self, key: str) -> float:
        """A number by name.

        ``linear`` is the pretrained main score; ``linear.random``, ``linear.raw`` and
        ``linear.macro_f1`` (also ``linear.raw.macro_f1``) other features and metrics;
        ``linear_gain`` pretrained minus random, ``linear_gain.raw`` pretrained minus raw;
        ``trees`` the trees on raw features; ``rankme`` and other diagnostics of the
        pretrained encoder, ``rankme.random`` of the random one.

        Raises:
            KeyError: nothing is called so, with the names that exist.
        """
        head, parts = self._split(key)
        gain = head.endswith("_gain")
        features, metric = self._address(parts, "random" if gain else "pretrained")
        if head in self.diagnostics.get("pretrained", {}) and metric is None:
            return self._known(self.diagnostics.get(features, {}).get(head), key)
        if head == "trees":
            return self._known(self._mean("trees", "trees", metric), key)
        if not gain:
            return self._known(self._mean(head, features, metric), key)
        probe = head.removesuffix("_gain")
        ours = self._known(self._mean(probe, "pretrained", metric), key)
        return ours - self._known(self._mean(probe, features, metric), key)

    @staticmethod
    def _split(key: str) -> tuple[str, list[str]]:
        """Probe keys may hold dots in their options: ``label_fraction(fraction=0.1).random``."""
        close = key.rfind(")") + 1
        rest = key[close:].split(".")
        return key[:close] + rest[0], rest[1:]

    def _address(self, parts: list[str], default: str) -> tuple[str, str | None]:
        names = {row.features for row in self.rows} | {"pretrained", "random", "raw", "trees"}
        features = [p for p in parts if p in names]
        others = [p for p in parts if p not in names]
        return (features[0] if features else default), (others[0] if others else None)

    def _mean(self, probe: str, features: str, metric: str | None) -> float | None:
        row = self.find(probe, features, metric)
        return None if row is None else row.mean

    def _known(self, value: float | None, key: str) -> float:
        if value is None:
            raise KeyError(f"the evaluation has no {key!r} (there are: {', '.join(self.keys()) or 'none'})")
        return value

    def keys(self) -> list[str]:
        """Names that :meth:`value` takes, without metrics."""
        probes = dict.fromkeys(r.probe for r in self.rows if r.features != "trees")
        tails = {"": "pretrained", ".random": "random", ".raw": "raw", "_gain": "random", "_gain.raw": "raw"}
        names = [f"{p}{tail}" for p in probes for tail, features in tails.items() if self.find(p, features)]
        extra = ["trees"] if any(r.features == "trees" for r in self.rows) else []
        return names + extra + list(self.diagnostics.get("pretrained", {}))

    def best(self, probe: str, metric: str) -> float:
        """The best value in a column of the table."""
        column = [r.mean for r in self.rows if (r.probe, r.metric) == (probe, metric)]
        values = [value for value in column if math.isfinite(value)]
        if not values:
            return float("nan")
        return min(values) if metric in LOWER_IS_BETTER else max(values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; NaN becomes None. Without :attr:`sample`."""
        values = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in ("rows", "sample")}
        return _plain({"version": VERSION, **values, "rows": [asdict(row) for row in self.rows]})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """Reads :meth:`to_dict` back.

        Raises:
            RunError: written by a newer version, or incomplete.
        """
        values = dict(values)
        version = values.pop("version", None)
        if version != VERSION:
            raise RunError(f"the evaluation has format {version}, not {VERSION}; evaluate again")
        try:
            rows = [Row(**{**r, **{k: _number(r[k]) for k in ("mean", "std")}}) for r in values.pop("rows")]
            found = cls(rows=rows, **values)
        except (TypeError, KeyError) as error:
            raise RunError(f"the evaluation is incomplete ({error}); evaluate again") from None
        found.diagnostics = {
            name: {key: _number(v) for key, v in each.items()} for name, each in found.diagnostics.items()
        }
        return found

    def save(self, folder: str | Path) -> Path:
        """Writes ``evaluation.json``, and the map's rows to ``evaluation_map.npz``; each by rename."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.sample is not None:
            arrays = {f"embeddings/{name}": z for name, z in self.sample.embeddings.items()}
            if self.sample.labels is not None:
                arrays["labels"] = self.sample.labels
            partial = folder / f".{MAP_FILE}.partial.npz"
            np.savez_compressed(partial, index=self.sample.index, **arrays)  # type: ignore[arg-type]
            os.replace(partial, folder / MAP_FILE)
        partial = folder / f".{FILE}.partial"
        partial.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, folder / FILE)
        return folder / FILE

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Reads what :meth:`save` wrote (nothing is unpickled).

        Raises:
            RunError: there is no evaluation, or it cannot be read.
        """
        path = Path(folder) / FILE
        try:
            found = cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunError(f"{path} is not there; run evaluate on this run first") from None
        except json.JSONDecodeError as error:
            raise RunError(f"{path} is damaged ({error}); evaluate again") from None
        if (Path(folder) / MAP_FILE).exists():
            with np.load(Path(folder) / MAP_FILE, allow_pickle=False) as arrays:
                names = [k for k in arrays if k.startswith("embeddings/")]
                z = {k.removeprefix("embeddings/"): arrays[k] for k in names}
                labels = arrays["labels"] if "labels" in arrays.files else None
                found.sample = MapSample(arrays["index"], z, labels)
        return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _plain(value: Any) -> Any:
    """Numpy scalars to Python's, NaN to None, keys to text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, str | bool | None | int):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    return str(value)
