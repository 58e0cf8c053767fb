"""Recognition of characters or phones with CTC from a frozen encoder, in SUPERB's manner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.protocols import Features, Score, plain
from ssl_domains.evaluation.state_heads import StateProbe
from ssl_domains.evaluation.token_states import Featurizer, Reader, has_states, long_rows, split_rows


def edits(guess: Sequence[Any], truth: Sequence[Any]) -> int:
    """Levenshtein distance: insertions, deletions and substitutions."""
    row = np.arange(len(truth) + 1)
    there = np.array([hash(t) for t in truth], dtype=np.int64)
    for i, item in enumerate(guess, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (there != hash(item)))
        fresh = np.empty_like(row)
        fresh[0] = i
        # Insertions run along the row: a running minimum of value minus place.
        fresh[1:] = best
        fresh = np.minimum.accumulate(fresh - np.arange(len(fresh))) + np.arange(len(fresh))
        row = fresh
    return int(row[-1])


def error_rate(guesses: Sequence[Sequence[Any]], truths: Sequence[Sequence[Any]]) -> float:
    """Edits over the number of true items; can exceed 1."""
    total = sum(len(t) for t in truths)
    return sum(edits(g, t) for g, t in zip(guesses, truths, strict=True)) / max(total, 1)


def greedy(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """The likeliest symbol of each frame, repeats joined, blanks (0) taken out."""
    found = []
    for path, n in zip(logits.argmax(dim=-1), lengths.tolist(), strict=True):
        joined = torch.unique_consecutive(path[:n])
        found.append(joined[joined != 0].tolist())
    return found


class CTCHead(nn.Module):
    """Sum over layers, projection, LSTM layers, linear layer."""

    def __init__(
        self, layers: int, features: int, width: int, lstm: int, classes: int, normalise: bool
    ) -> None:
        super().__init__()
        self.sum, self.project = Featurizer(layers, normalise), nn.Linear(features, width)
        self.lstm = nn.LSTM(width, width, lstm, bidirectional=True, batch_first=True) if lstm else None
        self.out = nn.Linear(2 * width if lstm else width, classes)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """``[B, N, C]`` logits; the LSTM stops at a recording's end."""
        values = self.project(self.sum(states))
        if self.lstm is not None:
            packed = nn.utils.rnn.pack_padded_sequence(
                values, lengths, batch_first=True, enforce_sorted=False
            )
            values, _ = nn.utils.rnn.pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=values.shape[1]
            )
        return self.out(values)


@register("probe", "recognition")
class RecognitionProbe(StateProbe):
    """CTC on a frozen encoder: ``phones`` from labelled stretches (SUPERB's PR: linear), or ``characters``
    from texts (SUPERB's ASR: ``lstm: 2``). Decoding is greedy, without a language model. Lower is better.

    Args:
        units: ``characters`` (error rates of characters and words) or ``phones``.
        lstm: bidirectional LSTM layers. Default 0.
        lr: of Adam. Default 1e-3 (SUPERB's for phones is 1e-2 with 100,000 steps).
        epochs: at most.
        width: of the projection and the LSTM. Default 256 (SUPERB's PR; its ASR has 1024).
        normalise: as of ``superb_utterance``.
        max_rows: of a split.
        patience: epochs without a better validation error rate.
        layer: as of ``superb_utterance``.
        min_seconds: shorter rows are left out, as of ``frames``.
    """

    def __init__(
        self,
        units: Literal["characters", "phones"] = "characters",
        lstm: int = 0,
        lr: float = 1e-3,
        epochs: int = 60,
        width: int = 256,
        normalise: bool = True,
        max_rows: int = 5_000,
        patience: int = 10,
        layer: str | int = "weighted",
        min_seconds: float = 0.0,
    ) -> None:
        super().__init__(lr, epochs, width, normalise, max_rows, patience, layer)
        if units not in ("characters", "phones"):
            raise ValueError(f"units must be characters or phones, got {units!r}")
        self.units, self.lstm, self.min_seconds = units, lstm, min_seconds
        self.main = "character_error_rate" if units == "characters" else "phone_error_rate"

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if has_states(source):
            return has_states(source)
        what = "texts (data.text)" if self.units == "characters" else "labelled phones (data.segments)"
        return "" if len(self._targets(source)) >= 10 else f"Recognition of {self.units} needs {what}."

    def _targets(self, source: Any) -> dict[int, list[int]]:
        """Numbers of the symbols of each row that has some; 0 is the blank."""
        long = long_rows(source, self.min_seconds)
        if self.units == "characters":
            place = {c: i + 1 for i, c in enumerate(source.spec.symbols)}
            texts = getattr(source, "texts", [None] * len(source))
            return {row: [place[c] for c in texts[row] if c in place] for row in long if texts[row]}
        if getattr(source, "segment_names", None) is None:
            return {}
        rows = {row: source.segments(row) for row in long}
        return {row: [int(k) + 1 for k in found[2]] for row, found in rows.items() if found and len(found[2])}

    def measure(self, features: Features, seed: int) -> list[Score]:
        return self._score(Reader.of(features), seed)

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        """The same head on the source's plain frames."""
        return {"raw": self._score(Reader(source, None), 0)}

    def _score(self, reader: Reader, seed: int) -> list[Score]:
        source: Any = reader.source
        targets = self._targets(source)
        names = source.spec.symbols if self.units == "characters" else source.segment_names
        rows = split_rows(source, np.array(sorted(targets)), self.max_rows)
        parts = self.parts_of(reader, rows)
        _, states, _ = next(iter(parts["valid"]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = CTCHead(
                states.shape[1], states.shape[3], self.width, self.lstm, len(names) + 1, self.normalise
            )

            def loss_of(net: nn.Module, some: np.ndarray, states: Tensor, lengths: Tensor) -> Tensor:
                log = F.log_softmax(net(states, lengths), dim=-1).transpose(0, 1)
                wanted = [targets[int(row)] for row in some]
                flat = torch.tensor([k for one in wanted for k in one], dtype=torch.int64)
                sizes = torch.tensor([len(one) for one in wanted])
                # A recording with more symbols than frames has no alignment: its infinite loss is left out.
                return F.ctc_loss(log, flat, lengths, sizes, zero_infinity=True)

            def decoded(net: nn.Module, part: str) -> tuple[list[list[int]], list[list[int]]]:
                guess, truth = [], []
                for some, states, lengths in parts[part]:
                    guess += greedy(net(states, lengths), lengths)
                    truth += [targets[int(row)] for row in some]
                return guess, truth

            net = self.fit(net, parts["train"], loss_of, lambda n: -error_rate(*decoded(n, "valid")))  # type: ignore[assignment]
            with torch.no_grad():
                guess, truth = decoded(net, "test")
        found = {self.main: error_rate(guess, truth)}
        if self.units == "characters":
            words = [["".join(names[k - 1] for k in one).split() for one in side] for side in (guess, truth)]
            found["word_error_rate"] = error_rate(*words)
        return plain(found)
