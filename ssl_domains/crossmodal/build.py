"""From a table of pairs, or from sources of their own, to a :class:`PairSource`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import registry
from ssl_domains.core.cache import cache_folder, key_of
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.crossmodal.data import Links, PairSource
from ssl_domains.crossmodal.spec import PairSpec, PartSpec
from ssl_domains.crossmodal.tables import FILES, PairTable, column_of, endings_of, read_pairs
from ssl_domains.text.data import draw_splits
from ssl_domains.text.readers import Labels, read_labels

SPLITS = ("train", "valid", "test")
TIMED = ("speech", "video", "signals")
"""Domains whose cells may be stretches of a file."""


@dataclass(frozen=True)
class PairOptions:
    """Arguments of ``CrossModalDomain.open`` but the source and the parts."""

    columns: Mapping[str, str]
    root: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    start: str | None = None
    end: str | None = None


@dataclass
class Part:
    """A modality to be opened: from the recipe, or from the towers that are there.

    Attributes:
        domain: its name.
        data: its own ``data`` section.
        encoder: name of its tower.
        options: the tower's options.
        spec: fitted before, or None.
    """

    domain: str
    data: dict[str, Any]
    encoder: str
    options: dict[str, Any]
    spec: Any = None

    def open(self, **data: Any) -> Source:
        """Opens data; with a fitted spec as new data."""
        own = registry.load_domain(self.domain)()
        if self.spec is not None:
            return own.embed_source(self.spec, **{**self.data, **data})
        return own.open(**{**self.data, **data})


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


def keys_of(source: Source, what: str, domain: str) -> dict[str, int]:
    """Row by key: ids as text, of files without the ending.

    Raises:
        DataError: an id is there twice.
    """
    found: dict[str, int] = {}
    endings = endings_of(domain) if domain in (*FILES, "skeleton", "text") else ()
    for row, id in enumerate(source.ids(np.arange(len(source)))):
        path, sign, window = str(id).partition("#")
        ending = next((e for e in endings if path.lower().endswith(e)), "")
        key = path[: len(path) - len(ending)] + sign + window
        if key in found:
            raise DataError(
                f"{what}: the key {key!r} is there twice (rows {found[key]} and {row}); keys join pairs"
            )
        found[key] = row
    return found


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
        sources[p], rows[p] = _open_column(part, p, table, columns[p], usable, which, others, options)
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


def _open_column(
    part: Part, name: str, table: PairTable, column: str | None, usable: np.ndarray, which: np.ndarray,
    others: set[str], options: PairOptions,
) -> tuple[Source, np.ndarray]:  # fmt: skip
    """A part's source and ``[n]`` the row of it that each pair holds (-1: none)."""
    rows = np.full(len(table), -1, dtype=np.int64)
    if not len(usable):
        raise DataError(f"{table.name}: part {name} ({part.domain}): the column {column!r} is empty")
    if "source" in part.data or "nodes" in part.data:  # the column names ids of another source
        assert column is not None
        source = part.open()
        keys = keys_of(source, f"part {name}", part.domain)
        plain = {str(k): i for i, k in enumerate(source.ids(np.arange(len(source))))}
        cells = [str(table.columns[column][int(i)]) for i in usable]
        rows[usable] = [plain.get(c, keys.get(c, -1)) for c in cells]
        return source, rows
    if column is None:
        return _open_rest(part, table, usable, which, others, rows)
    values = table.columns[column]
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return _open_array(part, values, usable, which, rows)
    spans: list[Any] = [None] * len(usable)
    start = next((c for c in (f"{column}_start", options.start) if c in table.columns), None)
    if start is not None and part.domain in TIMED:
        end = next((c for c in (f"{column}_end", options.end) if c in table.columns), None)
        ends = table.columns[end] if end is not None else [None] * len(table)
        spans = [(table.columns[start][int(i)], ends[int(i)]) for i in usable]
    marked = [(str(values[int(i)]), span) for i, span in zip(usable, spans, strict=True)]
    unique = list(dict.fromkeys(marked))
    place = {cell: i for i, cell in enumerate(unique)}
    at = np.array([place[c] for c in marked])
    splits = np.full(len(unique), 2)
    np.minimum.at(splits, at, which[usable])  # an item of a train pair is a train item
    words = [SPLITS[int(s)] for s in splits]
    named, times = [c[0] for c in unique], [c[1] for c in unique]
    source, items = _open_items(part, table, named, times, words)
    rows[usable] = items[at]
    return source, rows


def _open_items(
    part: Part, table: PairTable, values: list[str], spans: list[Any], words: list[str]
) -> tuple[Source, np.ndarray]:
    """Different items of a column, and ``[m]`` the row of the source that each became (-1: left out)."""
    if part.domain == "text":
        source = part.open(
            source={"text": values, "split": words, "key": list(range(len(values)))},
            column="text",
            split="split",
            id="key",
        )
        rows = np.full(len(values), -1, dtype=np.int64)
        rows[np.array(source.ids(np.arange(len(source))), dtype=np.int64)] = np.arange(len(source))
        return source, rows
    if part.domain == "graph":
        import pandas as pd

        frame = pd.DataFrame({"smiles": values, "split": words})
        source = part.open(source=frame, smiles="smiles", split="split")
        return source, _matched(source, values)
    folder = table.folder or Path()
    paths = [str((folder / v).resolve()) for v in values]
    head, cells = ["path"], [paths]
    if spans[0] is not None:
        head += ["start", "end"]
        cells += [[s[0] for s in spans], [s[1] for s in spans]]
    head.append("split")
    cells.append(words)
    file = cache_folder() / "crossmodal" / f"{key_of([head, cells])}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(head)
        writer.writerows(zip(*cells, strict=True))
    more = {"start": "start", "end": "end"} if len(head) > 2 else {}
    source = part.open(source=str(file), path="path", split="split", **more)
    return source, _matched(source, paths)


def _matched(source: Source, values: list[str]) -> np.ndarray:
    """``[m]``: the row of each value: the order is kept, and what was left out is told by the ids."""
    if len(source) == len(values):
        return np.arange(len(values))
    ids: dict[str, int] = {}  # stretches of a file are told by "#second" where the source says so
    for row, id in enumerate(source.ids(np.arange(len(source)))):
        ids.setdefault(str(id).partition("#")[0], row)
    return np.array([ids.get(v, -1) for v in values], dtype=np.int64)


def _open_array(
    part: Part, values: np.ndarray, usable: np.ndarray, which: np.ndarray, rows: np.ndarray
) -> tuple[Source, np.ndarray]:
    """Samples in memory: the spec is fitted on those of train pairs, then all are opened with it."""
    rows[usable] = np.arange(len(usable))
    train = usable[which[usable] == 0]
    fitted = part
    if part.spec is None:
        first = part.open(source=values[train], valid=0.0, test=0.0)
        fitted = Part(part.domain, part.data, part.encoder, part.options, first.spec)
    source = fitted.open(source=values[usable])
    source.splits = {split: np.flatnonzero(which[usable] == n) for n, split in enumerate(SPLITS)}
    return source, rows


def _open_rest(
    part: Part, table: PairTable, usable: np.ndarray, which: np.ndarray, others: set[str], rows: np.ndarray
) -> tuple[Source, np.ndarray]:
    """A row of the table itself, without the other parts' columns, the label and the split."""
    import pandas as pd

    columns = {key: value for key, value in table.columns.items() if key not in others and key != "key"}
    columns = {k: v for k, v in columns.items() if not (isinstance(v, np.ndarray) and v.ndim > 1)}
    if not columns:
        raise DataError(f"{table.name}: no column is left for the tabular part; say which with data.columns")
    frame = pd.DataFrame({key: [value[int(i)] for i in usable] for key, value in columns.items()})
    words = "_pair_split"
    frame[words] = [SPLITS[int(which[i])] for i in usable]
    source = part.open(source=frame, split=words)
    rows[usable] = np.arange(len(usable))
    return source, rows


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
