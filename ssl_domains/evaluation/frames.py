"""Probes on frames: which labelled stretch (phone) a frame is of, and ABX discrimination."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.probes import _positive
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score, plain
from ssl_domains.evaluation.token_states import (
    Featurizer,
    Reader,
    check_layer,
    has_states,
    long_rows,
    picked,
    split_rows,
)


def with_segments(source: Source, min_seconds: float = 0.0) -> np.ndarray:
    """``[n]`` rows that have labelled stretches and last ``min_seconds`` or longer."""
    if getattr(source, "segment_names", None) is None:
        return np.empty(0, dtype=np.int64)
    rows = long_rows(source, min_seconds)
    return np.array([i for i in rows if source.segments(i) is not None], dtype=np.int64)  # type: ignore[attr-defined]


def frame_labels(source: Source, row: int, times: np.ndarray) -> np.ndarray:
    """``[n]`` int64 number of the stretch that each time lies in; -1: none."""
    start, end, kind = source.segments(row)  # type: ignore[attr-defined]
    if not len(start):
        return np.full(len(times), -1)
    at = np.searchsorted(start, times, side="right") - 1
    inside = (at >= 0) & (times < end[at.clip(0)])
    return np.where(inside, kind[at.clip(0)], -1)


class _SegmentProbe(ProtocolProbe):
    """Base of probes on labelled stretches."""

    tunes_encoder = True
    min_seconds: float = 0.0

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if has_states(source):
            return has_states(source)
        if not len(with_segments(source, self.min_seconds)):
            return "This probe needs labelled stretches (phones): label files or a table (data.segments)."
        return ""

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        """The same on the source's plain frames."""
        return {"raw": self.score(Reader(source, None), 0)}

    def measure(self, features: Features, seed: int) -> list[Score]:
        return self.score(Reader.of(features), seed)

    def score(self, reader: Reader, seed: int) -> list[Score]:
        """The scores of a reader's states."""
        raise TypeError(f"{type(self).__name__} does not define score")


@register("probe", "frames")
class FrameProbe(_SegmentProbe):
    """Frame-wise phone classification (CPC's protocol, on a learned sum of all layers): frame accuracy.

    A weighted sum over layers and a linear layer (or one hidden layer) are trained on frames of the
    training rows; the epoch is chosen on the validation rows. Frames outside labelled stretches are left out.

    Args:
        layer: ``weighted`` sum, or the number of one layer (negative: from the end; -1 is the last).
        context: frames on either side that are joined to each, CPC's "concatenated neighbours". Default 0.
        hidden: width of a hidden layer; 0: linear.
        lr: of AdamW on standardised features. Default 1e-2.
        epochs: passes over the frames.
        max_frames: at most so many frames of a split, drawn at random.
        max_rows: at most so many rows of a split.
        train_rows: at most so many training rows, for a curve over the number of labels; None: all.
        min_seconds: shorter rows are left out (words that are rows beside the sentences they are cut out of).
    """

    draws = "draws of frames and initialisations"
    main = "frame_accuracy"

    def __init__(
        self,
        layer: str | int = "weighted",
        context: int = 0,
        hidden: int = 0,
        lr: float = 1e-2,
        epochs: int = 30,
        max_frames: int = 20_000,
        max_rows: int = 2_000,
        train_rows: int | None = None,
        min_seconds: float = 0.0,
    ) -> None:
        self.min_seconds = min_seconds
        for name, value in (
            ("lr", lr),
            ("epochs", epochs),
            ("max_frames", max_frames),
            ("max_rows", max_rows),
        ):
            _positive(name, value)
        if context < 0 or hidden < 0:
            raise ValueError("context and hidden cannot be negative")
        self.layer, self.context, self.hidden = check_layer(layer), context, hidden
        self.lr, self.epochs = lr, epochs
        if train_rows is not None:
            _positive("train_rows", train_rows)
        self.max_frames, self.max_rows, self.train_rows = max_frames, max_rows, train_rows

    def score(self, reader: Reader, seed: int) -> list[Score]:
        rows = split_rows(reader.source, with_segments(reader.source, self.min_seconds), self.max_rows, seed)
        rows["train"] = rows["train"][: self.train_rows]
        data = {name: self._frames(reader, found, seed) for name, found in rows.items()}
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            return plain(self._trained(data, len(reader.source.segment_names)))  # type: ignore[attr-defined]

    def _frames(self, reader: Reader, rows: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """States ``[M, L, D]`` float16 and labels ``[M]`` of labelled frames."""
        rng, xs, ys = np.random.default_rng(seed), [], []
        share = max(self.max_frames // max(len(rows), 1), 1)
        for states in reader.read(rows):
            times = reader.times(states.layers.shape[2])
            layers = states.layers if reader.encoder is None else picked(states.layers, self.layer)
            for i, at in enumerate(states.at):
                n = int(states.lengths[i])
                label = frame_labels(reader.source, int(rows[at]), times[:n])
                keep = rng.permutation(np.flatnonzero(label >= 0))[:share]
                xs.append(_neighbours(layers[i, :, :n], keep, self.context).half())
                ys.append(torch.from_numpy(label[keep]))
        return torch.cat(xs), torch.cat(ys)

    def _trained(self, data: dict[str, tuple[Tensor, Tensor]], classes: int) -> dict[str, float]:
        x, y = data["train"]
        mean, spread = x.float().mean(dim=0), x.float().std(dim=0).clamp_min(1e-5)
        width = x.shape[2]
        parts: list[nn.Module] = [Featurizer(x.shape[1])]
        parts += [nn.Linear(width, self.hidden), nn.ReLU()] if self.hidden else []
        net = nn.Sequential(*parts, nn.Linear(self.hidden or width, classes))
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=1e-4)
        best, found = -1.0, {"frame_accuracy": 0.0}
        for _ in range(self.epochs):
            for part in torch.randperm(len(x)).split(256):
                loss = nn.functional.cross_entropy(net((x[part].float() - mean) / spread), y[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                right = {
                    name: _share(net, (data[name][0], data[name][1]), mean, spread)
                    for name in ("valid", "test")
                }
            if right["valid"] > best:
                best, found = right["valid"], {"frame_accuracy": right["test"]}
        return found


def _neighbours(layers: Tensor, keep: np.ndarray, context: int) -> Tensor:
    """``[M, L, (2 c + 1) D]``: frames ``keep`` of ``layers [L, N, D]``, with those around them."""
    at = keep[:, None] + np.arange(-context, context + 1)
    picked = layers[:, torch.from_numpy(at.clip(0, layers.shape[1] - 1))]  # [L, M, 2 c + 1, D]
    return picked.flatten(2).transpose(0, 1)


def _share(net: nn.Module, data: tuple[Tensor, Tensor], mean: Tensor, spread: Tensor) -> float:
    hits = [
        (net((x.float() - mean) / spread).argmax(dim=1) == y).float()
        for x, y in zip(data[0].split(4096), data[1].split(4096), strict=True)
    ]
    return float(torch.cat(hits).mean()) if hits else 0.0


@register("probe", "abx")
class ABXProbe(_SegmentProbe):
    """ABX discrimination (Schatz et al., Interspeech 2013): X is of A's kind; how often is it nearer to B?
    Nothing is trained. Distances are those of dynamic time warping over angles between frames, divided by
    the length of the path; a tie counts half. 0 is perfect, 0.5 chance.

    Args:
        layer: number of the layer; -1: the last.
        triples: how many are drawn.
        across: A and B of one speaker and X of another, where speakers are known.
        max_rows: at most so many rows, from the test part.
        shortest: stretches of fewer tokens are left out.
        longest: of longer ones the middle is taken.
        min_seconds: as of ``frames``.
    """

    draws = "draws of triples"
    main = "abx_error"

    def __init__(
        self,
        layer: int = -1,
        triples: int = 2_000,
        across: bool = False,
        max_rows: int = 300,
        shortest: int = 2,
        longest: int = 20,
        min_seconds: float = 0.0,
    ) -> None:
        self.min_seconds = min_seconds
        for name, value in (("triples", triples), ("max_rows", max_rows), ("shortest", shortest)):
            _positive(name, value)
        if longest < shortest:
            raise ValueError(f"longest must be at least shortest, got {longest} and {shortest}")
        self.layer, self.triples, self.across, self.max_rows = layer, triples, across, max_rows
        self.shortest, self.longest = shortest, longest

    def score(self, reader: Reader, seed: int) -> list[Score]:
        source: Any = reader.source
        rows = split_rows(source, with_segments(source, self.min_seconds), self.max_rows)["test"]
        pieces, kind, who = self._pieces(reader, rows)
        a, b, x = self._triples(kind, who, np.random.default_rng(seed))
        if not len(a):
            return [Score("abx_error", float("nan"))]
        near, far = (dtw([pieces[i] for i in x], [pieces[i] for i in other]) for other in (a, b))
        wrong = (near > far).float() + 0.5 * (near == far).float()
        return [Score("abx_error", float(wrong.mean()), float(wrong.std() / len(wrong) ** 0.5), len(wrong))]

    def _pieces(self, reader: Reader, rows: np.ndarray) -> tuple[list[Tensor], np.ndarray, np.ndarray]:
        """Frames ``[n, D]`` of unit length of each stretch, its kind and its speaker."""
        source: Any = reader.source
        groups, pieces, kinds, who = getattr(source, "groups", None), [], [], []
        for states in reader.read(rows):
            times = reader.times(states.layers.shape[2])
            layers = states.layers[:, -1:] if reader.encoder is None else picked(states.layers, self.layer)
            for i, at in enumerate(states.at):
                row, n = int(rows[at]), int(states.lengths[i])
                z = nn.functional.normalize(layers[i, 0, :n], dim=1)
                for start, end, kind in zip(*source.segments(row), strict=True):
                    inside = np.flatnonzero((times[:n] >= start) & (times[:n] < end))
                    if len(inside) < self.shortest:
                        continue
                    cut = max((len(inside) - self.longest) // 2, 0)
                    pieces.append(z[inside[cut : cut + self.longest]])
                    kinds.append(int(kind))
                    who.append(-1 if groups is None else int(groups[row]))
        return pieces, np.array(kinds), np.array(who)

    def _triples(
        self, kind: np.ndarray, who: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A, B, X: kinds are drawn alike, whatever their frequency."""
        found: list[tuple[int, int, int]] = []
        kinds = [k for k in np.unique(kind) if (kind == k).sum() >= 2] if len(kind) else []
        for _ in range(20 * self.triples if len(kinds) >= 2 else 0):
            one, two = rng.choice(len(kinds), 2, replace=False)
            a = int(rng.choice(np.flatnonzero(kind == kinds[one])))
            same = who == who[a]
            b = np.flatnonzero((kind == kinds[two]) & same)
            x = np.flatnonzero((kind == kinds[one]) & (~same if self.across else same))
            x = x[x != a]
            if len(b) and len(x):
                found.append((a, int(rng.choice(b)), int(rng.choice(x))))
            if len(found) == self.triples:
                break
        empty = np.empty(0, dtype=np.int64)
        return tuple(np.array(column) for column in zip(*found, strict=True)) if found else (empty,) * 3  # type: ignore[return-value]


def dtw(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """``[M]``: the mean angle (in units of pi) along the cheapest path of pairs of sequences of unit
    vectors ``[n, D]``; all pairs at once."""
    n, m = (torch.tensor([len(z) for z in side]) for side in (first, second))
    a, b = (nn.utils.rnn.pad_sequence(side, batch_first=True) for side in (first, second))
    angle = torch.arccos(torch.einsum("bnd,bmd->bnm", a, b).clamp(-1, 1)) / torch.pi
    angle = torch.where(angle < 1e-3, 0.0, angle)  # the arccosine of rounding errors
    rows, columns = angle.shape[1:]
    cost = torch.full((len(first), rows + 1, columns + 1), torch.inf)
    steps = torch.zeros(len(first), rows + 1, columns + 1)
    cost[:, 0, 0] = 0.0
    for i in range(rows):
        for j in range(columns):
            before = torch.stack([cost[:, i, j], cost[:, i, j + 1], cost[:, i + 1, j]], dim=1)
            best = before.argmin(dim=1, keepdim=True)
            walked = torch.stack([steps[:, i, j], steps[:, i, j + 1], steps[:, i + 1, j]], dim=1)
            cost[:, i + 1, j + 1] = angle[:, i, j] + before.gather(1, best)[:, 0]
            steps[:, i + 1, j + 1] = walked.gather(1, best)[:, 0] + 1
    at = torch.arange(len(first))
    return cost[at, n, m] / steps[at, n, m]
