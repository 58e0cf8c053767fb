"""Molecules from SMILES and SDF files: a graph each, atoms are nodes, bonds are edges."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.chemistry import (
    ATOMS,
    BONDS,
    DEFAULT_ATOMS,
    DEFAULT_BONDS,
    Describer,
    atom_columns,
    bond_columns,
    check_columns,
    rdkit,
    scaffold,
    scaffold_split,
)
from ssl_domains.graph.features import CodedFeatures
from ssl_domains.graph.raw import RawGraph, nearest

SMILES_COLUMNS = ("smiles", "canonical_smiles", "smile", "isosmiles", "mol")
_SMILES_FILES = (".smi", ".smiles", ".ism")
_BLOCKS = (".sdf", ".mol")
_TABLES = (".csv", ".tsv", ".parquet")
LISTED = 100
"""Molecules that do not parse are listed up to so many; all of them are counted."""


class Entry(NamedTuple):
    """One molecule before parsing: where it stands, its text or block, name, and side values."""

    where: str
    text: str
    name: Any
    sides: dict[str, Any]


@dataclass
class Options:
    """What the readers of molecules are told; see :meth:`GraphDomain.open`."""

    smiles: str | None = None
    label: str | None = None
    split: str | None = None
    graph: str | None = None
    atoms: Sequence[str] | None = None
    bonds: Sequence[str] | None = None
    strict: bool = False
    valid: float = 0.1
    test: float = 0.1
    limit: int | None = None
    sides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.atoms = check_columns(DEFAULT_ATOMS if self.atoms is None else self.atoms, ATOMS, "atoms")
        self.bonds = check_columns(DEFAULT_BONDS if self.bonds is None else self.bonds, BONDS, "bonds")
        by_scaffold = self.split == "scaffold"
        self.sides = [name for name in (self.label, None if by_scaffold else self.split, self.graph) if name]


def is_molecules(source: Any, smiles: str | None) -> bool:
    """Whether a source holds molecules: by ``data.smiles``, by the ending, or by what is in a folder."""
    if smiles is not None:
        return True
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    if path.is_dir():
        endings = {_ending(p) for p in path.iterdir()}
        return bool(endings & {*_BLOCKS, *_SMILES_FILES}) and not (path / "edges.csv").exists()
    return _ending(path) in (*_BLOCKS, *_SMILES_FILES)


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_molecules(source: Any, options: Options) -> RawGraph:
    """Molecules of a SMILES file (``SMILES name`` a line), an SDF or MOL file, a folder of them, or a
    table with a column of SMILES.

    What does not parse is left out and counted, with the list in ``RawGraph.skipped``.

    Raises:
        DataError: nothing parses; with ``strict``: the first molecule that does not.
    """
    chem = rdkit()
    origin = str(source) if isinstance(source, str | Path) else "molecules"
    entries = list(_entries(source, options))
    total = len(entries)
    if options.limit is not None and options.limit < total:
        picked = np.linspace(0, total - 1, options.limit).round().astype(np.int64)
        entries = [entries[i] for i in picked]
    if not entries:
        raise DataError(f"{origin}: there are no molecules")
    raw = _Reading(chem, origin, options).read(entries)
    if len(entries) < total:
        raw.notes.append(f"data.limit: {len(entries)} of {total} molecules, evenly spaced")
    return raw


class _Reading:
    """Parses entries one after another and collects what they are made of."""

    def __init__(self, chem: Any, origin: str, options: Options) -> None:
        assert options.atoms is not None
        assert options.bonds is not None
        self.chem, self.origin, self.options = chem, origin, options
        self.atoms, self.bonds = Describer(options.atoms, ATOMS), Describer(options.bonds, BONDS)
        self.kept: list[Entry] = []
        self.sizes: list[int] = []
        self.n_atoms = 0
        self.edges: list[np.ndarray] = []
        self.skipped: list[tuple[str, str]] = []
        self.scaffolds: list[str] = []

    def read(self, entries: Iterable[Entry]) -> RawGraph:
        """All of them as one raw graph."""
        from rdkit import rdBase

        blocked = rdBase.BlockLogs()  # RDKit's own messages; ours name file and row
        try:
            for entry in entries:
                self._one(entry)
        finally:
            del blocked
        if not self.kept:
            where, why = self.skipped[0]
            raise DataError(
                f"{self.origin}: none of the {len(self.skipped)} molecules can be read; first: {where}: {why}"
            )
        return self._raw()

    def _one(self, entry: Entry) -> None:
        molecule, why = parse(self.chem, entry.text)
        if molecule is None:
            if self.options.strict:
                raise DataError(
                    f"{self.origin}: {entry.where}: {why}; correct it, or leave such molecules out "
                    f"with data.strict=false"
                )
            self.skipped.append((entry.where, why))
            return
        bonds = list(molecule.GetBonds())
        first = self.n_atoms
        self.sizes.append(molecule.GetNumAtoms())
        self.n_atoms += self.sizes[-1]
        ends = [(b.GetBeginAtomIdx() + first, b.GetEndAtomIdx() + first) for b in bonds]
        self.edges.append(np.array(ends, dtype=np.int64).reshape(-1, 2).T)
        self.atoms.add(list(molecule.GetAtoms()))
        self.bonds.add(bonds)
        self.kept.append(entry)
        if self.options.split == "scaffold":
            self.scaffolds.append(scaffold(molecule))

    def _raw(self) -> RawGraph:
        options = self.options
        sides = {
            name: np.array([e.sides.get(name) for e in self.kept], dtype=object) for name in options.sides
        }
        split = sides.get(options.split) if options.split else None
        if options.split == "scaffold":
            split = scaffold_split(self.scaffolds, options.valid, options.test)
        attr = CodedFeatures(self.bonds.columns(), self.bonds.widths)
        raw = RawGraph(
            self.origin,
            np.concatenate(self.edges, axis=1),
            range(self.n_atoms),
            coded=CodedFeatures(self.atoms.columns(), self.atoms.widths),
            columns=atom_columns(options.atoms or ()),
            edge_attr=np.asarray(attr) if options.bonds else None,
            edge_columns=bond_columns(options.bonds or ()),
            labels=_labels(sides.get(options.label) if options.label else None),
            split=split,
            level="graph",
            graph_ptr=np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64),
            graph_ids=self._ids(sides.get(options.graph) if options.graph else None),
            skipped=[f"{where}: {why}" for where, why in self.skipped[:LISTED]],
            n_skipped=len(self.skipped),
            molecules=True,
        )
        if self.skipped:
            raw.notes.append(_skipped_note(self.skipped, len(self.kept)))
        return raw

    def _ids(self, given: np.ndarray | None) -> list[Any]:
        return list(given) if given is not None else [e.name for e in self.kept]


def parse(chem: Any, text: str) -> tuple[Any, str]:
    """(molecule, "") of a SMILES or a MOL block, or (None, why not)."""
    block = "\n" in text
    if not text.strip():
        return None, "the molecule is empty"
    read = chem.MolFromMolBlock if block else chem.MolFromSmiles
    molecule = read(text)
    shown = "the block" if block else repr(text if len(text) <= 60 else text[:57] + "...")
    if molecule is None:
        return None, f"{shown} {_why(chem, read(text, sanitize=False), block)}"
    if molecule.GetNumAtoms() == 0:
        return None, f"{shown} has no atoms"
    return molecule, ""


def _why(chem: Any, molecule: Any, block: bool) -> str:
    """Why a molecule that was read without checks fails them."""
    if molecule is None:
        return f"cannot be read as {'a molecule' if block else 'SMILES'}"
    try:
        chem.SanitizeMol(molecule)
    except ValueError as error:
        return f"is not a valid molecule ({' '.join(str(error).split())})"
    return "is not a valid molecule"


def _skipped_note(skipped: Sequence[tuple[str, str]], kept: int) -> str:
    first = "; ".join(f"{where}: {why}" for where, why in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return (
        f"{len(skipped)} of {len(skipped) + kept} molecules cannot be read and are left out ({first}{more}); "
        f"data.strict=true refuses them"
    )


def _labels(values: np.ndarray | None) -> np.ndarray | None:
    """Labels of SDF properties are text: numbers where all known ones are."""
    import pandas as pd

    if values is None:
        return None
    series = pd.Series(values).replace("", None)
    numbers = pd.to_numeric(series, errors="coerce")
    if bool((numbers.notna() == series.notna()).all()) and bool(series.notna().any()):
        return numbers.to_numpy(dtype=np.float64)
    return series.to_numpy(dtype=object)


def _entries(source: Any, options: Options) -> Iterator[Entry]:
    if not isinstance(source, str | Path):
        yield from _of_table(source, options)
        return
    path = Path(source)
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if _ending(p) in (*_BLOCKS, *_SMILES_FILES)]
        for file in found:
            for entry in _of_file(file, options):
                yield entry._replace(where=f"{file.name}, {entry.where}")
        return
    if not path.is_file():
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise DataError(f"{path}: no such file{near}")
    yield from _of_file(path, options)


def _of_file(path: Path, options: Options) -> Iterator[Entry]:
    ending = _ending(path)
    if ending in _BLOCKS:
        return _of_sdf(path, options)
    if ending in _SMILES_FILES:
        if options.sides:
            raise DataError(
                f"{path}: a SMILES file has no column {options.sides[0]!r}; "
                f"give a table (CSV, Parquet) or SDF"
            )
        return _of_lines(path)
    if ending in _TABLES:
        return _of_table(path, options)
    raise DataError(
        f"{path}: molecules are read from {', '.join((*_SMILES_FILES, *_BLOCKS, *_TABLES))}, not {ending!r}"
    )


def _open(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _of_lines(path: Path) -> Iterator[Entry]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            parts = line.strip().split(maxsplit=1)
            header = number == 1 and parts[:1] and parts[0].lower() in SMILES_COLUMNS
            if parts and not header and not line.startswith("#"):
                yield Entry(f"line {number}", parts[0], parts[1] if len(parts) > 1 else parts[0], {})


def _of_table(source: Any, options: Options) -> Iterator[Entry]:
    from ssl_domains.graph.tables import read_table

    table, name = read_table(source, "table of molecules", [c for c in (options.smiles,) if c])
    lower = {str(c).lower(): c for c in table.columns}
    column = options.smiles or next((lower[c] for c in SMILES_COLUMNS if c in lower), None)
    if column is None:
        raise DataError(f"{name}: no column of SMILES found; name it with data.smiles")
    keys = {options.label: "label", options.split: "split", options.graph: "graph", column: "smiles"}
    for wanted in (column, *options.sides):
        if wanted not in table.columns:
            raise DataError(
                f"{name}: data.{keys[wanted]} names column {wanted!r}, "
                f"which is not there{nearest(wanted, table.columns)}"
            )
    sides = [table[side].to_list() for side in options.sides]
    for row, text in enumerate(table[column].to_list()):
        text = text.strip() if isinstance(text, str) else ""
        yield Entry(f"row {row + 1}", text, text, dict(zip(options.sides, (side[row] for side in sides))))


def _of_sdf(path: Path, options: Options) -> Iterator[Entry]:
    """Blocks between lines of ``$$$$``; properties are ``>  <NAME>`` and the line below."""
    seen: set[str] = set()
    number = 0
    lines: list[str] = []
    with _open(path) as file:
        for line in file:
            if line.startswith("$$$$"):
                number += 1
                yield _block(number, lines, options, seen)
                lines = []
            else:
                lines.append(line)
    if any(line.strip() for line in lines):
        yield _block(number + 1, lines, options, seen)
        number += 1
    missing = [name for name in options.sides if number and name not in seen]
    if missing:
        raise DataError(
            f"{path}: no molecule has the property {missing[0]!r}{nearest(missing[0], seen)} "
            f"(there are: {', '.join(sorted(seen)) or 'none'})"
        )


def _block(number: int, lines: Sequence[str], options: Options, seen: set[str]) -> Entry:
    end = next((i for i, line in enumerate(lines) if line.startswith("M  END")), len(lines) - 1)
    properties: dict[str, Any] = {}
    for i in range(end + 1, len(lines) - 1):
        if lines[i].startswith(">") and "<" in lines[i]:
            properties[lines[i].split("<", 1)[1].rsplit(">", 1)[0]] = lines[i + 1].strip()
    seen.update(properties)
    name = lines[0].strip() if lines else ""
    sides = {side: properties.get(side) for side in options.sides}
    return Entry(f"molecule {number}", "".join(lines[: end + 1]), name or f"molecule {number}", sides)
