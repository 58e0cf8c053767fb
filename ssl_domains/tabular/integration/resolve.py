"""Which of several values of a joined tuple is right: rules, neighbours, or a language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.integration.facts import TableFacts

DEMONSTRATIONS = 10
LEAST_INFORMATION = 0.1


@dataclass(frozen=True)
class Conflict:
    """A column in which the rows of one set hold different values.

    Attributes:
        facts: of the whole table.
        column: number of the column.
        rows: ``[k]`` rows of the set, in the order of the table.
        values: codes of the different values, in the order in which they come.
        votes: number of rows that hold each.
    """

    facts: TableFacts
    column: int
    rows: np.ndarray
    values: tuple[int, ...]
    votes: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the column."""
        return self.facts.names[self.column]

    @property
    def texts(self) -> list[str]:
        """Of the values, normalised."""
        return [self.facts.text(self.column, value) for value in self.values]

    def known(self) -> np.ndarray:
        """``[M]`` what the set says about every column: the value of most of its rows; -1 where none is
        known,
        and in the column of the conflict."""
        cells = self.facts.codes[self.rows]
        out = np.full(cells.shape[1], -1, dtype=np.int64)
        for j in range(cells.shape[1]):
            values, counts = np.unique(cells[cells[:, j] >= 0, j], return_counts=True)
            if len(values) and j != self.column:
                out[j] = values[counts.argmax()]
        return out

    def demonstrations(self, k: int = DEMONSTRATIONS) -> list[int]:
        """The k rows outside the set that agree best with it, where the column is known.

        Agreement is the sum of the mutual information with the column over the columns of equal
        value (arXiv 2412.00324); rows that agree in nothing are left out.
        """
        agreement, rows = self.agreement()
        best = np.lexsort((rows, -agreement))[:k]
        return [int(rows[i]) for i in best if agreement[i] > 0]

    def agreement(self) -> tuple[np.ndarray, np.ndarray]:
        """Agreement of the sampled rows outside the set in which the column is known, and their numbers."""
        rows = self.facts.sample()
        rows = rows[(self.facts.codes[rows, self.column] >= 0) & ~np.isin(rows, self.rows)]
        known = self.known()
        same = (self.facts.codes[rows] == known) & (known >= 0)
        return same @ self.facts.weights(self.column), rows

    def prompt(self, k: int = DEMONSTRATIONS) -> str:
        """Demonstrations and the question, in "if ... then" form; columns of mutual information 0.1 and
        more."""
        told = [j for j, w in enumerate(self.facts.weights(self.column)) if w >= LEAST_INFORMATION]
        rows = [self.facts.codes[row] for row in self.demonstrations(k)]
        lines = [
            self._line(row, told) + f" {self.facts.text(self.column, row[self.column])}." for row in rows
        ]
        return "\n".join([*lines, self._line(self.known(), told)])

    def _line(self, codes: np.ndarray, told: list[int]) -> str:
        names = self.facts.names
        parts = [f"{names[j]} is {self.facts.text(j, codes[j])}" for j in told if codes[j] >= 0]
        start = f"If {' and '.join(parts)}, then" if parts else "Then"
        return f"{start} {self.name} is"


class Resolver(Protocol):
    """Chooses a value. Any function ``conflict -> place in conflict.values`` will do."""

    def __call__(self, conflict: Conflict, /) -> int:
        """Place of the right value in ``conflict.values``."""


def vote(conflict: Conflict) -> int:
    """The value of most rows; of several, that which is most frequent in the whole column (a typing error is
    rare); then the longest; then the first."""
    counts = conflict.facts.counts[conflict.column]
    ranks = [
        (votes, int(counts[value]), len(text), -i)
        for i, (votes, value, text) in enumerate(
            zip(conflict.votes, conflict.values, conflict.texts, strict=True)
        )
    ]
    return max(range(len(ranks)), key=ranks.__getitem__)


def first(conflict: Conflict) -> int:
    """The value of the first row that has one."""
    return 0


def longest(conflict: Conflict) -> int:
    """The longest text; of several, the one with more votes."""
    keys = [(len(text), votes) for text, votes in zip(conflict.texts, conflict.votes, strict=True)]
    return max(range(len(keys)), key=lambda i: (*keys[i], -i))


def neighbours(conflict: Conflict) -> int:
    """The value that most of the 10 rows which agree best with the set hold, each counted by its agreement;
    :func:`vote` when they hold none of the values."""
    agreement, rows = conflict.agreement()
    held = conflict.facts.codes[rows, conflict.column]
    useful = np.isin(held, conflict.values) & (agreement > 0)
    agreement, held = agreement[useful], held[useful]
    best = np.argsort(-agreement, kind="stable")[:DEMONSTRATIONS]
    if not len(best):
        return vote(conflict)
    support = [float(agreement[best][held[best] == value].sum()) for value in conflict.values]
    keys = [(support[i], conflict.votes[i], -i) for i in range(len(support))]
    return max(range(len(keys)), key=keys.__getitem__)


RULES: dict[str, Callable[[Conflict], int]] = {
    "vote": vote,
    "neighbours": neighbours,
    "longest": longest,
    "first": first,
}
"""Resolvers by name, all offline."""


def resolver(how: str | Resolver) -> Resolver:
    """A resolver by name, ``lm:FOLDER`` for a causal language model in a local folder, or a function as it
    is.

    Raises:
        UserError: no such name or folder, or a package is missing.
    """
    if not isinstance(how, str):
        return how
    if how.startswith("lm:"):
        from ssl_domains.tabular.integration.language_model import LanguageModel

        return LanguageModel(how.removeprefix("lm:"))
    if how not in RULES:
        raise UserError(
            f"no way to resolve conflicts is called {how!r}; use one of {', '.join(RULES)}, or "
            f"lm:FOLDER for a "
            "causal language model in a local folder"
        )
    return RULES[how]
