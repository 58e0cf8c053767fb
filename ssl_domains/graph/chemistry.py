"""What an atom and a bond are described by, and scaffolds; on RDKit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError, UserError
from ssl_domains.graph.features import code_type
from ssl_domains.graph.raw import nearest
from ssl_domains.graph.spec import NodeColumn

_SYMBOLS = (  # by atomic number
    "* H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb "
    "Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf "
    "Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
_ELEMENTS = tuple(_SYMBOLS.split())
_CHIRALITY = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "other")
_HYBRID = ("SP", "SP2", "SP3", "SP3D", "SP3D2", "other")
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "other")
_DIRECTIONS = ("NONE", "ENDUPRIGHT", "ENDDOWNRIGHT", "other")
_STEREO = ("STEREONONE", "STEREOANY", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS")

Words = Sequence[str]
Reading = tuple[Words, Callable[[Any], Any]]


def _counts(low: int, high: int) -> tuple[str, ...]:
    return (*map(str, range(low, high + 1)), "other")


# name -> (categories, value of an atom); no categories: a number. The first two are what molecules are
# usually pretrained on (Hu et al., ICLR 2020, appendix C: 119 atom types and chirality); the rest are those
# of the Open Graph Benchmark (Hu et al., NeurIPS 2020).
ATOMS: dict[str, Reading] = {
    "element": (_ELEMENTS, lambda a: a.GetAtomicNum()),
    "chirality": (_CHIRALITY, lambda a: str(a.GetChiralTag())),
    "degree": (_counts(0, 10), lambda a: str(a.GetTotalDegree())),
    "charge": (_counts(-5, 5), lambda a: str(a.GetFormalCharge())),
    "hydrogens": (_counts(0, 8), lambda a: str(a.GetTotalNumHs())),
    "radicals": (_counts(0, 4), lambda a: str(a.GetNumRadicalElectrons())),
    "hybridization": (_HYBRID, lambda a: str(a.GetHybridization())),
    "aromatic": ((), lambda a: a.GetIsAromatic()),
    "ring": ((), lambda a: a.IsInRing()),
    "mass": ((), lambda a: a.GetMass() / 100.0),
}
DEFAULT_ATOMS = tuple(name for name in ATOMS if name != "mass")
BONDS: dict[str, Reading] = {
    "type": (_BONDS, lambda b: str(b.GetBondType())),
    "direction": (_DIRECTIONS, lambda b: str(b.GetBondDir())),
    "stereo": ((*_STEREO, "other"), lambda b: str(b.GetStereo())),
    "conjugated": ((), lambda b: b.GetIsConjugated()),
    "ring": ((), lambda b: b.IsInRing()),
}
DEFAULT_BONDS = ("type", "direction", "conjugated", "ring")


def rdkit() -> Any:
    """The module ``rdkit.Chem``.

    Raises:
        UserError: RDKit is not installed; says how.
    """
    try:
        from rdkit import Chem
    except ImportError:
        raise UserError("molecules are read by RDKit: pip install 'ssl-domains[molecules]'") from None
    return Chem


def check_columns(names: Sequence[str], known: dict[str, Reading], key: str) -> tuple[str, ...]:
    """The names, when all of them exist.

    Raises:
        DataError: one does not; names the nearest.
    """
    for name in names:
        if name not in known:
            raise DataError(
                f"data.{key}: there is no column {name!r}{nearest(name, known)} "
                f"(there are: {', '.join(known)})"
            )
    if key == "atoms" and not names:
        raise DataError(f"data.atoms must name at least one of {', '.join(known)}")
    return tuple(names)


def atom_columns(names: Sequence[str]) -> tuple[NodeColumn, ...]:
    """Columns of a spec with categories that do not depend on the data."""
    return tuple(
        NodeColumn(name, "categorical", words=tuple(words)) if words else NodeColumn(name, "numeric")
        for name, (words, _) in ((name, ATOMS[name]) for name in names)
    )


def bond_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the bond features: ``type=SINGLE`` ... for categories, the column's name for numbers."""
    out: list[str] = []
    for name in names:
        words, _ = BONDS[name]
        out += [f"{name}={word}" for word in words] if words else [name]
    return tuple(out)


def bond_names(columns: Sequence[str]) -> tuple[str, ...]:
    """The names that :func:`bond_columns` was called with."""
    return tuple(dict.fromkeys(column.split("=")[0] for column in columns))


class Describer:
    """Collects the atoms or bonds of many molecules.

    Args:
        names: columns.
        known: :data:`ATOMS` or :data:`BONDS`.
    """

    def __init__(self, names: Sequence[str], known: dict[str, Reading]) -> None:
        self.read = [known[name][1] for name in names]
        self.words = [tuple(known[name][0]) for name in names]
        self.places = [{word: i for i, word in enumerate(words)} for words in self.words]
        self.values: list[list[Any]] = [[] for _ in names]

    def add(self, items: Sequence[Any]) -> None:
        """Appends the values of these atoms or bonds."""
        for values, read, places in zip(self.values, self.read, self.places):
            if not places:
                values.extend(float(read(item)) for item in items)
            else:
                last = len(places) - 1
                found = [read(item) for item in items]
                values.extend(v if isinstance(v, int) else places.get(v, last) for v in found)

    def columns(self) -> list[np.ndarray]:
        """Codes of categorical columns, float32 of the others."""
        return [
            np.array(values, dtype=code_type(len(words)) if words else np.float32)
            for values, words in zip(self.values, self.words)
        ]

    @property
    def widths(self) -> list[int]:
        """Features of each column."""
        return [len(words) or 1 for words in self.words]


def scaffold(molecule: Any) -> str:
    """SMILES of the Bemis-Murcko scaffold, without chirality; empty for a molecule without rings."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=False))


def scaffold_split(scaffolds: Sequence[str], valid: float, test: float) -> np.ndarray:
    """``[n]`` of train, valid, test: no scaffold in two of them, the most frequent ones in train.

    The rule of MoleculeNet and of Hu et al. (ICLR 2020): groups from large to small (ties: the
    first molecule) fill train, then validation, then test.

    Args:
        scaffolds: one a molecule.
        valid: share of validation.
        test: share of the test.
    """
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(scaffolds):
        groups.setdefault(name, []).append(i)
    ordered = sorted(groups.values(), key=lambda rows: (-len(rows), rows[0]))
    n, out = len(scaffolds), np.full(len(scaffolds), "test", dtype=object)
    n_train = n_valid = 0
    for rows in ordered:
        if n_train + len(rows) <= round((1.0 - valid - test) * n):
            out[rows], n_train = "train", n_train + len(rows)
        elif n_valid + len(rows) <= round(valid * n):
            out[rows], n_valid = "valid", n_valid + len(rows)
    return out
