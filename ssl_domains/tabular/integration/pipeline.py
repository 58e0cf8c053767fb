"""Table integration from an encoder and a table: candidates, pairs, sets, one tuple a set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ssl_domains.core.errors import DataError, UserError
from ssl_domains.tabular.integration.candidates import CandidateOptions, Pairs, candidate_pairs
from ssl_domains.tabular.integration.encoder import TextCells
from ssl_domains.tabular.integration.facts import TableFacts
from ssl_domains.tabular.integration.resolve import Conflict, Resolver, resolver
from ssl_domains.tabular.integration.scoring import encode_rows, frozen, score_pairs
from ssl_domains.tabular.integration.sets import ALGORITHMS, DEFAULT, integrable_sets
from ssl_domains.tabular.integration.source import TextTableSource

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class IntegrateOptions:
    """What to do with a table.

    Attributes:
        threshold: pairs whose probability is above it are edges.
        sets: name of an algorithm of :data:`~ssl_domains.tabular.integration.sets.ALGORITHMS`.
        resolve: name, ``lm:FOLDER``, or a function; see
            :func:`~ssl_domains.tabular.integration.resolve.resolver`.
        candidates: which pairs are compared.
        batch_size: rows encoded, and 8 times as many pairs compared, at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of set algorithms that draw.
    """

    threshold: float = 0.5
    sets: str = DEFAULT
    resolve: str | Resolver = "vote"
    candidates: CandidateOptions = field(default_factory=CandidateOptions)
    batch_size: int = 1024
    device: str = "auto"
    seed: int = 0

    def checked(self) -> Resolver:
        """The resolver, after a look at everything that can be wrong.

        Raises:
            UserError: one sentence on what is wrong.
        """
        if self.sets not in ALGORITHMS:
            raise UserError(
                f"no way to form sets is called {self.sets!r}; use one of {', '.join(ALGORITHMS)}"
            )
        if not 0.0 <= self.threshold < 1.0:
            raise UserError(f"the threshold is a probability and must lie in [0, 1), got {self.threshold}")
        return resolver(self.resolve)


@dataclass(frozen=True)
class Choice:
    """A conflict and how it ended.

    Attributes:
        tuple_number: number of the tuple.
        column: name.
        chosen: row that the chosen cell comes from.
        others: rows that hold the other values, one for each.
    """

    tuple_number: int
    column: str
    chosen: int
    others: tuple[int, ...]


@dataclass
class Integrated:
    """A table integrated; nothing is written yet.

    Attributes:
        source: the table.
        pairs: the pairs that were compared.
        probability: ``[P]`` of each.
        sets: ``[n]`` number of the tuple that each row went into.
        origins: ``[tuples, columns]`` the row that each cell comes from; -1: no row has a value.
        choices: the conflicts.
        notes: what a reader should know, one sentence each.
    """

    source: TextTableSource
    pairs: Pairs
    probability: np.ndarray
    sets: np.ndarray
    origins: np.ndarray
    choices: list[Choice]
    notes: list[str]

    @property
    def n_tuples(self) -> int:
        """Number of tuples."""
        return len(self.origins)


def integrate_source(
    encoder: TextCells,
    source: TextTableSource,
    options: IntegrateOptions | None = None,
    progress: Progress | None = None,
) -> Integrated:
    """Integrates a table with a pretrained pair classifier.

    Memory: the table and ``[n, m, D]`` float16 tokens (in a file when over 512 MB), and the
    candidate pairs, at most ``neighbours`` a row.

    Raises:
        UserError: an option is wrong.
        DataError: no row has a value in a compared column.
    """
    options = options or IntegrateOptions()
    choose, say = options.checked(), progress or (lambda *_: None)
    if source.missing.all():
        raise DataError(f"{source.name}: no row has a value in a column that is compared; check data.include")
    pairs = candidate_pairs(source, options.candidates, lambda done, n: say("candidates", done, n))
    with frozen(encoder, pick_device(options.device)):
        size = options.batch_size
        tokens = encode_rows(encoder, source, size, lambda done, n: say("rows encoded", done, n))
        probability = score_pairs(
            encoder, tokens, source.missing, pairs, 8 * size, lambda done, n: say("pairs compared", done, n)
        )
    vectors = pooled(tokens, source.missing) if options.sets == "gnn" else None
    sets = integrable_sets(
        len(source),
        pairs.left,
        pairs.right,
        probability,
        options.sets,
        options.threshold,
        vectors,
        options.seed,
    )
    del tokens
    origins, choices = join_rows(TableFacts(source.table), sets, choose, lambda a, b: say("conflicts", a, b))
    return Integrated(source, pairs, probability, sets, origins, choices, _notes(source, pairs, options))


def pick_device(name: str) -> torch.device:
    """``auto``: a GPU when there is one."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pooled(tokens: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """``[n, D]`` float32 mean of the present cells of each row."""
    out = np.empty((len(tokens), tokens.shape[2]), dtype=np.float32)
    for start in range(0, len(tokens), 8192):
        part = slice(start, start + 8192)
        count = np.maximum((~missing[part]).sum(axis=1, keepdims=True), 1)
        out[part] = np.asarray(tokens[part], dtype=np.float32).sum(axis=1) / count
    return out


def join_rows(
    facts: TableFacts, sets: np.ndarray, choose: Resolver, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, list[Choice]]:
    """One tuple a set: the only value where there is one, the resolver's choice where there are more.

    Returns:
        ``[tuples, columns]`` rows that the cells come from (-1: none has a value), and the conflicts.
    """
    order = np.argsort(sets, kind="stable")
    begins = np.searchsorted(sets[order], np.arange(int(sets.max()) + 1))
    ends = np.append(begins[1:], len(sets))
    origins = np.full((len(begins), len(facts.names)), -1, dtype=np.int64)
    open_: list[tuple[int, int]] = []
    for j in range(len(facts.names)):
        codes = facts.codes[order, j]
        known = codes >= 0
        place = np.where(known, np.arange(len(order)), len(order))
        first = np.minimum.reduceat(place, begins)
        has = first < len(order)
        origins[has, j] = order[first[has]]
        top = np.maximum.reduceat(codes, begins)
        low = np.minimum.reduceat(np.where(known, codes, np.iinfo(np.int32).max), begins)
        open_ += [(int(number), j) for number in np.flatnonzero(has & (top != low))]
    choices = []
    for done, (number, j) in enumerate(sorted(open_), 1):
        rows = order[begins[number] : ends[number]]
        choice = _resolve(facts, number, j, rows, choose)
        origins[number, j] = choice.chosen
        choices.append(choice)
        if progress is not None and (done % 256 == 0 or done == len(open_)):
            progress(done, len(open_))
    return origins, choices


def _resolve(facts: TableFacts, number: int, j: int, rows: np.ndarray, choose: Resolver) -> Choice:
    codes = facts.codes[rows, j]
    rows_known, codes = rows[codes >= 0], codes[codes >= 0]
    values, first, votes = np.unique(codes, return_index=True, return_counts=True)
    by_place = np.argsort(first)
    conflict = Conflict(facts, j, rows, tuple(map(int, values[by_place])), tuple(map(int, votes[by_place])))
    place = choose(conflict)
    if not 0 <= int(place) < len(values):
        raise UserError(
            f"the resolver chose value {place} of {len(values)} in column {conflict.name!r}; it "
            f"must return a place in "
            "conflict.values"
        )
    holders = [int(rows_known[first[i]]) for i in by_place]
    chosen = holders.pop(int(place))
    return Choice(number, facts.names[j], chosen, tuple(holders))


def _notes(source: TextTableSource, pairs: Pairs, options: IntegrateOptions) -> list[str]:
    notes = source.notes()
    if pairs.alone:
        notes.append(
            f"{pairs.alone:,} rows share no rare n-gram with another row and were compared with "
            f"none; if they are "
            f"short or made of common words, raise max_block (now {options.candidates.max_block:,})"
        )
    return notes
