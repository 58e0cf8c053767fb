"""SUPERB's protocols on a frozen encoder: a learned sum over layers and a light head (Yang et al., 2021)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, Prediction, labelled_rows
from ssl_domains.evaluation.probes import _positive
from ssl_domains.evaluation.protocols import Features, Score, plain
from ssl_domains.evaluation.state_heads import StateProbe
from ssl_domains.evaluation.token_states import Featurizer, Reader, has_states, mean_tokens, split_rows


class UtteranceHead(nn.Module):
    """Sum over layers, projection, mean over real frames, linear layer (SUPERB's KS, IC, SID, ER)."""

    def __init__(self, layers: int, features: int, width: int, classes: int, normalise: bool) -> None:
        super().__init__()
        self.sum = Featurizer(layers, normalise)
        self.project, self.out = nn.Linear(features, width), nn.Linear(width, classes)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """``[B, C]``."""
        return self.out(mean_tokens(self.project(self.sum(states)), lengths))


@register("probe", "superb_utterance")
class UtteranceProbe(StateProbe):
    """Classes of utterances (keyword, speaker, intent, emotion) from a frozen encoder, in SUPERB's manner.

    Args:
        of: ``label``: the data's own classes; ``speaker``: who speaks (SUPERB's SID), whatever the label is.
        lr: of Adam; the one value that SUPERB tunes. Default 1e-3.
        epochs: at most.
        width: of the projection. Default 256 (SUPERB).
        normalise: layer norm of each layer before the sum. Default True, since untrained encoders have layers
            of very different size; SUPERB's default is False.
        max_rows: of a split.
        patience: epochs without a better validation accuracy.
        layer: ``weighted`` sum of all, or the number of one (-1: the last).
    """

    main = "accuracy"

    def __init__(
        self,
        of: Literal["label", "speaker"] = "label",
        lr: float = 1e-3,
        epochs: int = 50,
        width: int = 256,
        normalise: bool = True,
        max_rows: int = 50_000,
        patience: int = 10,
        layer: str | int = "weighted",
    ) -> None:
        super().__init__(lr, epochs, width, normalise, max_rows, patience, layer)
        if of not in ("label", "speaker"):
            raise ValueError(f"of must be label or speaker, got {of!r}")
        self.of = of

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if has_states(source):
            return has_states(source)
        if self.of == "speaker":
            found = self._speakers(source)
            return found if isinstance(found, str) else ""
        if labelled is None or labelled.task != "classification":
            return "SUPERB's utterance probe needs classes (data.label)."
        return ""

    def _speakers(self, source: Source) -> LabelledRows | str:
        """The rows whose speaker is known, as classes; or why there are none. Speakers who are not in the
        training part cannot be named and are left out."""
        groups = getattr(source, "groups", None)
        if groups is None:
            return "Speaker identification needs speakers (data.speaker)."
        groups = np.asarray(groups)
        rows = split_rows(source, np.flatnonzero(groups >= 0), self.max_rows)
        known = np.unique(groups[rows["train"]])
        rows = {name: np.sort(found[np.isin(groups[found], known)]) for name, found in rows.items()}
        if len(known) < 2 or not all(map(len, rows.values())):
            return "Speaker identification needs two speakers that are in all splits (data.group=file)."
        return LabelledRows(rows, groups, "classification", int(groups.max()) + 1, [])

    def _labelled(self, source: Source) -> LabelledRows:
        found = self._speakers(source) if self.of == "speaker" else labelled_rows(source, self.max_rows)
        assert not isinstance(found, str), found
        return found

    def measure(self, features: Features, seed: int) -> list[Score]:
        return self._score(Reader.of(features), self._labelled(features.source), seed)

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        """The same head on the source's plain frames."""
        return {"raw": self._score(Reader(source, None), self._labelled(source), 0)}

    def _score(self, reader: Reader, labelled: LabelledRows, seed: int) -> list[Score]:
        parts = self.parts_of(reader, labelled.rows)
        labels = torch.from_numpy(np.asarray(labelled.labels, dtype=np.int64))
        _, states, _ = next(iter(parts["valid"]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = UtteranceHead(
                states.shape[1], states.shape[3], self.width, labelled.n_classes, self.normalise
            )

            def loss_of(net: nn.Module, rows: np.ndarray, states: Tensor, lengths: Tensor) -> Tensor:
                return F.cross_entropy(net(states, lengths), labels[rows])

            def predicted(net: nn.Module, part: str) -> tuple[np.ndarray, Prediction]:
                rows, out = [], []
                for some, states, lengths in parts[part]:
                    rows.append(some)
                    out.append(net(states, lengths).softmax(dim=1))
                scores = torch.cat(out).numpy()
                return labels[np.concatenate(rows)].numpy(), Prediction(scores.argmax(1), scores)

            def valid(net: nn.Module) -> float:
                y, guess = predicted(net, "valid")
                return float((guess.value == y).mean())

            net = self.fit(net, parts["train"], loss_of, valid)  # type: ignore[assignment]
            with torch.no_grad():
                y, guess = predicted(net, "test")
        return plain(metrics.score(y, guess, "classification"))


def equal_error_rate(same: np.ndarray, scores: np.ndarray) -> float:
    """Where as many true pairs are refused as false ones accepted; between two thresholds, on the line.

    Args:
        same: ``[n]`` bool: pairs of one speaker.
        scores: ``[n]``, higher for pairs that look like one.
    """
    from sklearn.metrics import roc_curve

    accepted_false, accepted_true, _ = roc_curve(same, scores)
    refused = 1 - accepted_true
    at = int(np.argmax(accepted_false >= refused))
    if at == 0 or accepted_false[at] == refused[at]:
        return float((accepted_false[at] + refused[at]) / 2)
    gap = (refused - accepted_false)[[at - 1, at]]
    share = gap[0] / (gap[0] - gap[1])
    return float(accepted_false[at - 1] + share * (accepted_false[at] - accepted_false[at - 1]))


@register("probe", "speaker_verification")
class SpeakerVerification(StateProbe):
    """Do two recordings have one speaker? Equal error rate over trials of the test part, by the cosine.

    ``train: true`` is SUPERB's: an x-vector network (TDNN, statistics pooling) with AM-softmax (s 30, m
    0.4) on the training speakers. Otherwise nothing is trained: pooled embeddings, less the mean of the
    training rows.

    Args:
        train: train the x-vector network.
        trials: at most so many pairs, half of them of one speaker.
        lr: of Adam.
        epochs: at most.
        width: of the network. Default 256 (SUPERB: 512 channels, 256 before).
        normalise: as of ``superb_utterance``.
        max_rows: of a split.
        patience: epochs without a better error rate on the validation part.
        layer: with ``train``, as of ``superb_utterance``.
    """

    main = "equal_error_rate"

    def __init__(
        self,
        train: bool = False,
        trials: int = 20_000,
        lr: float = 1e-3,
        epochs: int = 40,
        width: int = 256,
        normalise: bool = True,
        max_rows: int = 20_000,
        patience: int = 10,
        layer: str | int = "weighted",
    ) -> None:
        super().__init__(lr, epochs, width, normalise, max_rows, patience, layer)
        _positive("trials", trials)
        self.train, self.trials = train, trials
        self.draws = "draws of trials and initialisations" if train else "draws of trials"  # type: ignore[misc]
        self.tunes_encoder = train  # type: ignore[misc]

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        groups = getattr(source, "groups", None)
        if groups is None or has_states(source):
            return "Speaker verification needs speakers (data.speaker)."
        rows = split_rows(source, np.flatnonzero(groups >= 0), self.max_rows)["test"]
        counts = np.bincount(groups[rows]) if len(rows) else np.zeros(1)
        if (counts > 0).sum() < 2 or counts.max() < 2:
            return (
                "Speaker verification needs two speakers in the test part, and two recordings of one of them."
            )
        return ""

    def rows(self, source: Source) -> np.ndarray:
        groups = np.asarray(source.groups)  # type: ignore[attr-defined]
        found = split_rows(source, np.flatnonzero(groups >= 0), self.max_rows)
        return np.sort(np.concatenate(list(found.values())))

    def measure(self, features: Features, seed: int) -> list[Score]:
        groups = np.asarray(features.source.groups)  # type: ignore[attr-defined]
        rows = split_rows(features.source, np.flatnonzero(groups >= 0), self.max_rows)
        if self.train:
            z = self._trained(Reader.of(features), rows, groups, seed)
        else:
            mean = features.at(np.sort(rows["train"])).mean(axis=0)
            z = {name: features.at(found) - mean for name, found in rows.items()}
        return plain({"equal_error_rate": self._rate(z["test"], groups[rows["test"]], seed)})

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        """With ``train``, the same network on the source's plain frames."""
        if not self.train:
            return {}
        groups = np.asarray(source.groups)  # type: ignore[attr-defined]
        rows = split_rows(source, np.flatnonzero(groups >= 0), self.max_rows)
        z = self._trained(Reader(source, None), rows, groups, 0)
        return {"raw": plain({"equal_error_rate": self._rate(z["test"], groups[rows["test"]], 0)})}

    def _rate(self, z: np.ndarray, who: np.ndarray, seed: int) -> float:
        """EER over random pairs, half of them of one speaker where there are so many."""
        first, second = np.triu_indices(len(z), 1) if len(z) <= 1500 else _some_pairs(len(z), seed)
        same = who[first] == who[second]
        rng = np.random.default_rng(seed)
        keep = [rng.permutation(np.flatnonzero(same == kind))[: self.trials // 2] for kind in (True, False)]
        pick = np.concatenate(keep)
        unit = z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
        return equal_error_rate(same[pick], (unit[first[pick]] * unit[second[pick]]).sum(axis=1))

    def _trained(
        self, reader: Reader, rows: dict[str, np.ndarray], groups: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        known, code = np.unique(groups[rows["train"]], return_inverse=True)
        number = np.zeros(int(groups.max()) + 1, dtype=np.int64)
        number[groups[rows["train"]]] = code
        parts = self.parts_of(reader, rows)
        _, states, _ = next(iter(parts["valid"]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = XVector(states.shape[1], states.shape[3], self.width, len(known), self.normalise)

            def loss_of(net: nn.Module, some: np.ndarray, states: Tensor, lengths: Tensor) -> Tensor:
                assert isinstance(net, XVector)
                return net.loss(net(states, lengths), torch.from_numpy(number[groups[some]]))

            def embedded(net: nn.Module, part: str) -> np.ndarray:
                out = np.zeros((len(rows[part]), self.width), dtype=np.float32)
                order = np.argsort(rows[part])
                for some, states, lengths in parts[part]:
                    at = order[np.searchsorted(rows[part], some, sorter=order)]
                    out[at] = net(states, lengths).numpy()
                return out

            def valid(net: nn.Module) -> float:
                who = groups[rows["valid"]]
                return -self._rate(embedded(net, "valid"), who, 0) if len(np.unique(who)) > 1 else 0.0

            net = self.fit(net, parts["train"], loss_of, valid)  # type: ignore[assignment]
            with torch.no_grad():
                return {"test": embedded(net, "test")}


def _some_pairs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    first, second = rng.integers(0, n, (2, 2_000_000))
    return first[first != second], second[first != second]


class XVector(nn.Module):
    """SUPERB's speaker network: sum over layers, projection, dilated convolutions, mean and deviation over
    real frames, a vector; trained with AM-softmax (Wang et al., 2018)."""

    def __init__(self, layers: int, features: int, width: int, speakers: int, normalise: bool) -> None:
        super().__init__()
        self.sum, self.project = Featurizer(layers, normalise), nn.Linear(features, width)
        shapes = ((5, 1), (3, 2), (3, 3), (1, 1))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, k, dilation=d, padding=d * (k // 2)) for k, d in shapes
        )
        self.out = nn.Linear(2 * width, width)
        self.speakers = nn.Parameter(torch.randn(speakers, width) * 0.1)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """``[B, width]``."""
        values = self.project(self.sum(states))
        there = (torch.arange(values.shape[1]) < lengths[:, None])[..., None]
        for convolution in self.convolutions:
            values = convolution(values.masked_fill(~there, 0.0).transpose(1, 2)).transpose(1, 2).relu()
        mean = mean_tokens(values, lengths)
        spread = (mean_tokens((values - mean[:, None]).square(), lengths) + 1e-6).sqrt()
        return self.out(torch.cat([mean, spread], dim=1))

    def loss(self, z: Tensor, speaker: Tensor, scale: float = 30.0, margin: float = 0.4) -> Tensor:
        """AM-softmax; with margin 0 the softmax of scaled cosines."""
        cosine = F.normalize(z, dim=1) @ F.normalize(self.speakers, dim=1).T
        return F.cross_entropy(scale * (cosine - margin * F.one_hot(speaker, cosine.shape[1])), speaker)
