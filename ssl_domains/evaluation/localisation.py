"""Localisation in volumes: where a sample lies, and the bounding boxes of structures by votes of samples."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import LabelledRows, subset
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score

ALPHAS = (1e4, 1e3, 100.0, 10.0, 1.0, 0.1, 1e-3)


@runtime_checkable
class PlacedSource(Protocol):
    """What the probe needs of a source; all lengths in mm from the first corner of the sample's volume.

    Attributes:
        recordings: ``[n]`` int64 volume of each sample.
        dense_classes: names of the structures, background first; None without masks.
        splits: see :class:`~ssl_domains.core.interfaces.Source`.
    """

    recordings: np.ndarray
    dense_classes: list[str] | None
    splits: dict[str, np.ndarray]

    def centres(self, indices: np.ndarray) -> np.ndarray:
        """``[n, 3]`` middles of samples."""

    def boxes(self) -> np.ndarray:
        """``[v, S, 2, 3]`` low and high corner of each structure in each volume; NaN where it is absent."""


@register("probe", "localisation")
class LocalisationProbe(ProtocolProbe):
    """Ridge regression from frozen embeddings to places in the volume, in mm; the penalty is chosen on the
    validation volumes.

    ``position``: the middle of a sample. ``distance_mm`` is the mean distance to where it is, ``median_mm``
    the median. ``box``: each sample says how far the six walls of a structure's bounding box lie from its own
    middle, and the median of a volume's samples is the box (votes as of Criminisi et al., Medical Image
    Analysis 2013). ``wall_mm`` is the mean absolute distance of the walls (their measure), ``centre_mm`` that
    of the box's middle, ``iou`` the overlap; means over the structures and the test volumes, and ``wall_mm``
    of each structure. The baseline ``mean`` always answers the mean of the training part.

    Places count from the corner of the volume, so they mean something where volumes show the same part of the
    body.

    Args:
        target: ``position`` or ``box`` (needs masks).
        max_rows: at most so many samples of a split, a fixed random subset.
    """

    spread: ClassVar[str] = "test volumes"

    def __init__(self, target: Literal["position", "box"] = "position", max_rows: int = 20_000) -> None:
        if target not in ("position", "box") or max_rows < 2:
            raise ValueError(
                f"target must be position or box and max_rows at least 2, got {target!r} and {max_rows}"
            )
        self.target, self.max_rows = target, max_rows
        self.main = "distance_mm" if target == "position" else "wall_mm"

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if not hasattr(source, "centres"):
            return "The localisation probe needs volumes that know where their samples lie."
        if self.target == "box" and source.dense_classes is None:  # type: ignore[attr-defined]
            return "Localisation of boxes needs masks (data.mask); none were found."
        if not len(source.splits["test"]):
            return "The localisation probe needs test volumes; there are too few patients to hold some out."
        return ""

    def rows(self, source: Source) -> np.ndarray:
        return np.unique(np.concatenate(list(self._rows(source).values())))

    def counts(self, source: Source) -> dict[str, int]:
        return {"test volumes": len(np.unique(source.recordings[source.splits["test"]]))}  # type: ignore[attr-defined]

    def _rows(self, source: Source) -> dict[str, np.ndarray]:
        rows = {name: subset(np.sort(part), self.max_rows) for name, part in source.splits.items()}
        if not len(rows["valid"]):  # a fifth of the training volumes
            volumes = source.recordings[rows["train"]]  # type: ignore[attr-defined]
            some = np.unique(volumes)
            held = np.isin(volumes, some[len(some) - len(some) // 5 :])
            rows["train"], rows["valid"] = rows["train"][~held], rows["train"][held]
        return rows

    def measure(self, features: Features, seed: int) -> list[Score]:
        source = features.source
        rows = self._rows(source)
        scaler = StandardScaler().fit(features.at(rows["train"]).astype(np.float64))
        x = {name: scaler.transform(features.at(part).astype(np.float64)) for name, part in rows.items()}
        assert isinstance(source, PlacedSource)
        if self.target == "position":
            said = _chosen(x, {name: source.centres(part) for name, part in rows.items()})
            return self._position(source, rows["test"], said)
        return self._boxes(source, self._votes(source, rows, x))

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        """What the mean of the training part scores."""
        rows = self._rows(source)
        assert isinstance(source, PlacedSource)
        if self.target == "position":
            mean = source.centres(rows["train"]).mean(0)
            said = np.broadcast_to(mean, (len(rows["test"]), 3))
            return {"mean": self._position(source, rows["test"], said)}
        train, test = (np.unique(source.recordings[rows[name]]) for name in ("train", "test"))
        mean_box = _nanmean(source.boxes()[train], 0)  # [S, 2, 3]
        return {"mean": self._boxes(source, {int(v): mean_box for v in test})}

    @staticmethod
    def _position(source: PlacedSource, rows: np.ndarray, said: np.ndarray) -> list[Score]:
        far = np.linalg.norm(said - source.centres(rows), axis=1)
        volumes = source.recordings[rows]
        each = np.array([far[volumes == v].mean() for v in np.unique(volumes)])  # samples of one are alike
        return [
            Score("distance_mm", float(far.mean()), _error(each), len(each)),
            Score("median_mm", float(np.median(far)), float("nan"), len(each)),
        ]

    @staticmethod
    def _votes(
        source: PlacedSource, rows: dict[str, np.ndarray], x: dict[str, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """``[S, 2, 3]`` box of each structure by test volume; NaN for structures that training lacks."""
        boxes = source.boxes()
        target = {}
        for name, part in rows.items():
            centre = source.centres(part)
            target[name] = (boxes[source.recordings[part]] - centre[:, None, None]).reshape(len(part), -1, 6)
        said = np.full(target["test"].shape, np.nan)
        known = np.isfinite(target["train"]).all(2)  # [n, S]
        # Structures that the same samples know are fitted together.
        patterns, which = np.unique(known, axis=1, return_inverse=True)
        for number, some in enumerate(patterns.T):
            if not some.any():
                continue
            of = np.flatnonzero(which.ravel() == number)
            valid = np.isfinite(target["valid"][:, of]).all((1, 2))
            chosen_x = {"train": x["train"][some], "valid": x["valid"][valid], "test": x["test"]}
            chosen_y = {
                "train": target["train"][some][:, of].reshape(int(some.sum()), -1),
                "valid": target["valid"][valid][:, of].reshape(int(valid.sum()), -1),
            }
            said[:, of] = _chosen(chosen_x, chosen_y).reshape(len(said), len(of), 6)
        said = said.reshape(*said.shape[:2], 2, 3) + source.centres(rows["test"])[:, None, None]
        volumes = source.recordings[rows["test"]]
        return {int(v): np.median(said[volumes == v], axis=0) for v in np.unique(volumes)}

    @staticmethod
    def _boxes(source: PlacedSource, said: dict[int, np.ndarray]) -> list[Score]:
        assert source.dense_classes is not None
        truth = source.boxes()[list(said)]  # [v, S, 2, 3]
        guess = np.stack(list(said.values()))
        wall = np.abs(guess - truth).mean((2, 3))  # [v, S]
        centre = np.linalg.norm((guess - truth).mean(2), axis=2)
        overlap = iou(guess, truth)
        scores = []
        for name, values in (("wall_mm", wall), ("centre_mm", centre), ("iou", overlap)):
            each = _nanmean(values, 1)
            each = each[np.isfinite(each)]
            scores.append(Score(name, float(each.mean()) if len(each) else np.nan, _error(each), len(each)))
        for number, name in enumerate(source.dense_classes[1:]):
            each = wall[np.isfinite(wall[:, number]), number]
            if len(each):
                scores.append(Score("wall_mm", float(each.mean()), _error(each), len(each), name))
        return scores


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``[...]`` intersection over union of boxes ``[..., 2, 3]``; a box turned inside out is empty."""
    low, high = np.maximum(one[..., 0, :], other[..., 0, :]), np.minimum(one[..., 1, :], other[..., 1, :])
    both = np.clip(high - low, 0, None).prod(-1)
    sizes = [np.clip(box[..., 1, :] - box[..., 0, :], 0, None).prod(-1) for box in (one, other)]
    return np.asarray(both / np.maximum(sizes[0] + sizes[1] - both, 1e-12))


def _chosen(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> np.ndarray:
    """``[m, K]`` predictions for the test rows by the ridge with the smallest squared validation error (ties:
    the stronger penalty)."""
    best, least = None, np.inf
    for alpha in ALPHAS if len(x["valid"]) else (1.0,):
        model = Ridge(alpha=alpha).fit(x["train"], y["train"])
        error = float(((model.predict(x["valid"]) - y["valid"]) ** 2).mean()) if len(x["valid"]) else 0.0
        if error < least:
            best, least = model, error
    assert best is not None
    return np.asarray(best.predict(x["test"]))


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    count = finite.sum(axis)
    total = np.where(finite, values, 0.0).sum(axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _error(values: np.ndarray) -> float:
    """Standard error of a mean; NaN of a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
