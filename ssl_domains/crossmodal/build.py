"""From a table of pairs, or from sources of their own, to a :class:`PairSource`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.crossmodal.data import Links, PairSource
from ssl_domains.crossmodal.parts import SPLITS, PairOptions, Part, keys_of, open_column
from ssl_domains.crossmodal.spec import PairSpec, PartSpec
from ssl_domains.crossmodal.tables import FILES, PairTable, column_of, read_pairs
from ssl_domains.text.data import draw_splits
from ssl_domains.text.readers import Labels, read_labels


def build_pairs(source: Any, parts: Mapping[str, Part], options: PairOptions) -> PairSource:
    """Joins the modalities.

    Args:
        source: what holds the pairs; None: each part has a source of its own, and ids join them.
        parts: by name.
        options: see ``CrossModalDomain.open``.

    Raises:
        DataError: one sentence with the file, row or key, and what to do.
    """
    found = _from_ids(parts, options) if source is None else _from_table(source, parts, options)
    sources, links, name, labels, groups = found
    _check(links, parts, name)
    spec = PairSpec(
        {p: PartSpec(part.domain, sources[p].spec, part.encoder, part.options) for p, part in parts.items()}
    )
    if labels.values is None and options.label is None:
        labels = _labels_of(sources, links)
    return PairSource(spec, sources, links, name, labels.values, labels.task, labels.names, groups)


def _check(links: Links, parts: Mapping[str, Part], name: str) -> None:
    _enough(name, len(links.splits["train"]), links.missing)
    for part, rows in links.rows.items():
        train = rows[links.splits["train"]]
        if len(np.unique(train[train >= 0])) < 2:
            raise DataError(
                f"{name}: part {part} ({parts[part].domain}) is the same sample in every train pair, so "
                "there is "
                f"nothing to tell apart; check data.columns.{part}"
            )


def _enough(name: str, n: int, missing: Mapping[str, int]) -> None:
    """A sentence for fewer than two train pairs."""
    if n < 2:
        lacking = {p: count for p, count in missing.items() if count}
        why = f"; partners are missing: {lacking}" if lacking else ""
        raise DataError(
            f"{name}: {n} complete pair{'s' * (n != 1)} to train on; contrast needs at least two{why}"
        )


def _labels_of(sources: Mapping[str, Source], links: Links) -> Labels:
    """Labels of the first modality that has some."""
    for part, source in sources.items():
        if source.labels is None:
            continue
        rows = links.rows[part]
        values = np.asarray(source.labels)[np.maximum(rows, 0)]
        if (rows < 0).any():
            values = values.astype(np.float64) if values.dtype.kind == "f" else values.copy()
            values[rows < 0] = (
                np.nan if values.dtype.kind == "f" else -1 if values.dtype.kind == "i" else False
            )
        return Labels(values, source.task, source.class_names)
    return Labels()


Built = tuple[dict[str, Source], Links, str, Labels, np.ndarray | None]


def _from_ids(parts: Mapping[str, Part], options: PairOptions) -> Built:
    """Each part has its own source; equal ids (without folders' endings) are one pair."""
    for p, part in parts.items():
        if not part.data.keys() & {"source", "nodes"}:
            raise DataError(
                f"part {p} ({part.domain}): where are its data? Give a table of pairs as data.source, "
                f"or {p}.data.source"
            )
    sources = {p: part.open() for p, part in parts.items()}
    keys = {p: keys_of(source, f"part {p}", parts[p].domain) for p, source in sources.items()}
    every = list(dict.fromkeys(k for p in parts for k in keys[p]))
    if options.limit is not None and options.limit < len(every):
        every = [every[int(i)] for i in np.linspace(0, len(every) - 1, options.limit)]
    rows = {p: np.array([keys[p].get(k, -1) for k in every], dtype=np.int64) for p in parts}
    together = np.sum([r >= 0 for r in rows.values()], axis=0) >= 2
    missing = {p: int((r < 0).sum()) for p, r in rows.items()}
    name = " and ".join(str(part.data.get("source", part.data.get("nodes", ""))) for part in parts.values())
    if not together.any():
        shown = {p: next(iter(keys[p]), None) for p in parts}
        raise DataError(f"{name}: no id is in two parts (the first ids: {shown}); write a table of pairs")
    kept = np.flatnonzero(together)
    rows = {p: r[kept] for p, r in rows.items()}
    lead = next(iter(parts))
    where = np.zeros(len(sources[lead]), dtype=np.int8)
    for number, split in enumerate(SPLITS):
        where[sources[lead].splits.get(split, np.empty(0, np.int64))] = number
    which = np.where(rows[lead] >= 0, where[np.maximum(rows[lead], 0)], 0)
    splits = {split: np.flatnonzero(which == number) for number, split in enumerate(SPLITS)}
    notes = [f"splits are those of part {lead}"]
    if any(missing.values()):
        counted = ", ".join(f"{n} without {p}" for p, n in missing.items() if n)
        notes.append(f"{len(every) - len(kept)} of {len(every)} ids have no partner ({counted})")
        if options.strict:
            raise DataError(f"{name}: {notes[-1]}; mend them, or leave out data.strict")
    links = Links(rows, splits, [every[int(i)] for i in kept], notes, missing)
    return sources, links, name, Labels(), None


def _from_table(source: Any, parts: Mapping[str, Part], options: PairOptions) -> Built:
    domains = {p: part.domain for p, part in parts.items()}
    table = read_pairs(source, domains, options.columns)
    if options.root is not None:
        table.folder = Path(options.root)
    if options.limit is not None and options.limit < len(table):
        table = table.take(np.linspace(0, len(table) - 1, options.limit).astype(np.int64))
    columns: dict[str, str | None] = {}
    for p, part in parts.items():
        columns[p] = column_of(table, p, part.domain, options.columns, [c for c in columns.values() if c])
    label = options.label or ("label" if "label" in table.columns else None)
    labels = read_labels(None if label is None else table.column(label, "data.label"), None)
    values: dict[str, Any] = {p: None if c is None else table.columns[c] for p, c in columns.items()}
    there = {p: _there(v, len(table)) for p, v in values.items()}
    for p, part in parts.items():
        if part.domain in FILES and values[p] is not None and "source" not in part.data:
            there[p] &= _files(table, p, values[p], options.strict)
    enough: np.ndarray = np.sum(list(there.values()), axis=0) >= 2
    which, groups = _splits(table, options, values, enough)
    others = {c for c in (*columns.values(), label, options.split, options.group) if c}
    _enough(table.name, int((which[enough] == 0).sum()), {p: int((~v).sum()) for p, v in there.items()})
    sources, rows = {}, {}
    for p, part in parts.items():
        usable = np.flatnonzero(there[p] & enough)
        sources[p], rows[p] = open_column(part, p, table, columns[p], usable, which, others, options)
    present, wanted = {p: r >= 0 for p, r in rows.items()}, enough.copy()
    enough &= np.sum(list(present.values()), axis=0) >= 2
    splits = {split: np.flatnonzero((which == n) & enough) for n, split in enumerate(SPLITS)}
    missing = {p: int((~there[p]).sum() + (there[p] & wanted & ~v).sum()) for p, v in present.items()}
    notes = list(table.notes)
    if not enough.all():
        first = int(np.flatnonzero(~enough)[0])
        lacking = ", ".join(f"{n} without {p}" for p, n in missing.items() if n)
        notes.append(
            f"{int((~enough).sum())} of {len(table)} rows lack a partner ({lacking}; the first: row "
            f"{first + 1})"
        )
        if options.strict:
            raise DataError(f"{table.name}: {notes[-1]}; mend them, or leave out data.strict")
    kept = np.flatnonzero(enough)  # rows without a pair are counted and go
    place = np.full(len(table), -1)
    place[kept] = np.arange(len(kept))
    splits = {split: place[r] for split, r in splits.items()}
    if labels.values is not None:
        labels = Labels(labels.values[kept], labels.task, labels.names)
    keys = table.columns["key"] if "key" in table.columns else list(range(len(table)))
    links = Links({p: r[kept] for p, r in rows.items()}, splits, [keys[int(i)] for i in kept], notes, missing)
    return sources, links, table.name, labels, None if groups is None else groups[kept]


def _there(values: Any, n: int) -> np.ndarray:
    """``[n]`` bool: cells that hold something."""
    if values is None or isinstance(values, np.ndarray):
        return np.ones(n, dtype=bool)
    return np.array([v is not None and v == v and str(v).strip() != "" for v in values], dtype=bool)


def _files(table: PairTable, part: str, values: Sequence[Any], strict: bool) -> np.ndarray:
    """``[n]`` bool: cells whose file exists.

    Raises:
        DataError: most do not, or one does not and ``strict``.
    """
    if isinstance(values, np.ndarray):
        return np.ones(len(values), dtype=bool)
    folder = table.folder or Path()
    known: dict[str, bool] = {}
    for v in values:
        if v is not None and str(v) not in known:
            known[str(v)] = (folder / str(v)).exists()
    gone = [v for v, there in known.items() if not there]
    if gone and (strict or len(gone) * 2 > len(known)):
        raise DataError(
            f"{table.name}: part {part}: {len(gone)} of {len(known)} files do not exist (the first: "
            f"{folder / gone[0]}); "
            "set data.root to the folder that paths start from"
        )
    if gone:
        table.notes.append(
            f"part {part}: {len(gone)} of {len(known)} files do not exist (the first: {gone[0]})"
        )
    return np.array([v is not None and known.get(str(v), False) for v in values], dtype=bool)


def _splits(
    table: PairTable, options: PairOptions, values: Mapping[str, Any], enough: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """``[n]`` number of each row's split, and its group; rows that share the first part's item stay "
    "together."""
    lead = next(v for v in values.values())
    group = table.column(options.group, "data.group") if options.group else None
    codes = None if group is None else np.unique([str(g) for g in group], return_inverse=True)[1]
    if options.split is not None:
        words = [str(w).lower() for w in table.column(options.split, "data.split")]
        odd = [i for i, w in enumerate(words) if w not in SPLITS]
        if odd:
            raise DataError(
                f"{table.name}: row {odd[0] + 1}: data.split is {words[odd[0]]!r}; use train, valid or test"
            )
        return np.array([SPLITS.index(w) for w in words]), codes
    if group is None and lead is not None and not isinstance(lead, np.ndarray):
        group = [f"{v}\0{i if v is None else ''}" for i, v in enumerate(lead)]
    rows = np.flatnonzero(enough)
    which = np.zeros(len(table), dtype=np.int64)
    if not len(rows):
        return which, codes
    drawn = draw_splits(
        len(rows),
        options.valid,
        options.test,
        options.seed,
        None if group is None else [group[int(i)] for i in rows],
    )
    for number, split in enumerate(SPLITS):
        which[rows[drawn[split]]] = number
    return which, codes


def join_sources(
    sources: Mapping[str, Source],
    towers: Mapping[str, tuple[str, str, dict[str, Any]]],
    rows: Mapping[str, np.ndarray] | None = None,
    splits: Mapping[str, np.ndarray] | None = None,
    name: str = "sources in memory",
) -> PairSource:
    """Pairs of sources that are open already, for use from Python.

    Args:
        sources: by part.
        towers: by part: domain, name of the encoder, its options.
        rows: by part ``[n]`` rows that belong together, -1 where there is none; None: row i with row i,
            as far as the shortest source goes.
        splits: rows of pairs; None: all train.
    """
    if rows is None:
        n = min(len(source) for source in sources.values())
        rows = dict.fromkeys(sources, np.arange(n))
    n = len(next(iter(rows.values())))
    every = {"train": np.arange(n), "valid": np.arange(0), "test": np.arange(0)}
    missing = {part: int((r < 0).sum()) for part, r in rows.items()}
    links = Links(dict(rows), dict(splits or every), list(range(n)), [], missing)
    parts = {p: PartSpec(towers[p][0], s.spec, towers[p][1], towers[p][2]) for p, s in sources.items()}
    labels = _labels_of(sources, links)
    return PairSource(PairSpec(parts), sources, links, name, labels.values, labels.task, labels.names)
