"""Molecules: atoms and bonds as RDKit has them, every way in, what does not parse, scaffold splits."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.graph.chemistry import scaffold_split
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.features import CodedFeatures

Chem = pytest.importorskip("rdkit.Chem")

SMILES = ["CCO", "c1ccccc1O", "C[C@H](N)C(=O)O", "F/C=C/F", "[Na+].[Cl-]", "C#N", "O", "CC(=O)Nc1ccccc1"]


def open_smiles(smiles=SMILES, **options):
    frame = pd.DataFrame({"smiles": smiles, "y": np.arange(len(smiles)) * 0.5})
    return GraphDomain().open(frame, smiles="smiles", **options)


def test_atoms_and_bonds_are_those_of_rdkit():
    source = open_smiles()
    where, edges = source.spec.slices(), source.spec.edge_slices()
    for i, text in enumerate(SMILES):
        molecule = Chem.MolFromSmiles(text)
        x = source.fetch([i]).x
        element = x.x[:, where["element"]]
        assert element.sum(1).tolist() == [1.0] * molecule.GetNumAtoms()
        assert element.argmax(1).tolist() == [a.GetAtomicNum() for a in molecule.GetAtoms()]
        columns = {c.name: c for c in source.spec.columns}
        for name, read in (("charge", "GetFormalCharge"), ("hydrogens", "GetTotalNumHs")):
            words = [columns[name].words[k] for k in x.x[:, where[name]].argmax(1)]
            assert words == [str(getattr(a, read)()) for a in molecule.GetAtoms()]
        assert x.x[:, where["aromatic"]][:, 0].tolist() == [
            float(a.GetIsAromatic()) for a in molecule.GetAtoms()
        ]
        real = x.edge_index[0] != x.edge_index[1]
        pairs = {tuple(e) for e in x.edge_index[:, real].T.tolist()}
        want = {(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()}
        assert pairs == want | {(b, a) for a, b in want}
        kinds = x.edge_attr[real][:, edges["type"]].argmax(1).tolist()
        for (a, b), kind in zip(x.edge_index[:, real].T.tolist(), kinds):
            assert (
                source.spec.edge_columns[kind] == f"type={molecule.GetBondBetweenAtoms(a, b).GetBondType()}"
            )
    assert source.fetch([4]).x.edge_index.shape[1] == 2  # two ions: self-loops only
    assert source.fetch([6]).x.x.shape[0] == 1  # water without its hydrogens: one node


def test_chirality_and_direction_are_kept():
    source = open_smiles(["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "F/C=C/F", "F/C=C\\F"])
    chirality, direction = source.spec.slices()["chirality"], source.spec.edge_slices()["direction"]
    left, right, e, z = (source.fetch([i]).x for i in range(4))
    assert left.x[:, chirality].argmax(1).tolist() != right.x[:, chirality].argmax(1).tolist()
    assert not np.array_equal(e.edge_attr[:, direction], z.edge_attr[:, direction])


def test_every_way_in_gives_the_same_graphs(tmp_path):
    plain = open_smiles(SMILES[:4])
    pd.DataFrame({"SMILES": SMILES[:4]}).to_csv(tmp_path / "m.csv", index=False)
    (tmp_path / "m.smi").write_text(
        "smiles name\n" + "".join(f"{s} mol{i}\n" for i, s in enumerate(SMILES[:4]))
    )
    with gzip.open(tmp_path / "m.smi.gz", "wt") as file:
        file.write((tmp_path / "m.smi").read_text())
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, text in enumerate(SMILES[:4]):
        (folder / f"{i}.sdf").write_text(Chem.MolToMolBlock(Chem.MolFromSmiles(text)) + "$$$$\n")
    sources = [
        GraphDomain().open(str(tmp_path / "m.csv"), smiles="SMILES"),
        GraphDomain().open(str(tmp_path / "m.smi")),
        GraphDomain().open(str(tmp_path / "m.smi.gz")),
        GraphDomain().open(str(folder)),
    ]
    for source in sources:
        assert np.array_equal(source.raw.ptr, plain.raw.ptr)
        assert np.array_equal(source.edges.edge_index, plain.edges.edge_index)
        element = source.spec.slices()["element"]
        assert np.array_equal(source.features[:, element], plain.features[:, element])
    assert sources[1].ids([0, 3]) == ["mol0", "mol3"]
    assert sources[0].ids([0]) == ["CCO"]


def sdf(path, properties):
    blocks = []
    for text, values in zip(SMILES, properties):
        lines = "".join(f">  <{k}>\n{v}\n\n" for k, v in values.items())
        blocks.append(Chem.MolToMolBlock(Chem.MolFromSmiles(text)) + lines + "$$$$\n")
    path.write_text("".join(blocks))
    return str(path)


def test_properties_of_sdf_are_labels(tmp_path):
    path = sdf(tmp_path / "a.sdf", [{"logS": 0.5 * i, "kind": "ab"[i % 2], "ID": f"m{i}"} for i in range(8)])
    source = GraphDomain().open(path, label="logS", graph="ID")
    assert source.task == "regression"
    assert source.labels.tolist() == [0.5 * i for i in range(8)]
    assert source.ids([3]) == ["m3"]
    assert GraphDomain().open(path, label="kind").class_names == ["a", "b"]
    with pytest.raises(DataError, match="no molecule has the property 'logs'; the nearest is 'logS'"):
        GraphDomain().open(path, label="logs")


def test_what_does_not_parse_is_counted_and_listed():
    source = open_smiles(["CCO", "C1CC", "", "c1ccccc1", "C(C)(C)(C)(C)C"], label="y")
    card = source.card()
    assert (card["samples"], card["skipped"], len(card["skipped_list"])) == (2, 3, 3)
    assert source.labels.tolist() == [0.0, 1.5]
    note = next(n for n in card["notes"] if "cannot be read" in n)
    assert "3 of 5" in note
    assert "row 2: 'C1CC'" in note
    assert "row 5" in note
    assert "valence" in card["skipped_list"][2]


def test_strict_refuses_the_first():
    with pytest.raises(DataError, match=r"row 2: 'C1CC' (is not a valid|cannot be)"):
        open_smiles(["CCO", "C1CC"], strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"atoms": ["elment"]}, "data.atoms: there is no column 'elment'; the nearest is 'element'"),
        ({"bonds": ["typ"]}, "data.bonds: there is no column 'typ'; the nearest is 'type'"),
        ({"smiles": "smile"}, "names column 'smile', which is not there; the nearest is 'smiles'"),
        ({"label": "z"}, "names column 'z', which is not there"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(DataError, match=message):
        GraphDomain().open(pd.DataFrame({"smiles": SMILES, "y": 1.0}), **{"smiles": "smiles", **options})


def test_nothing_parses(tmp_path):
    (tmp_path / "bad.smi").write_text("not_a_molecule\nx\n")
    with pytest.raises(DataError, match="none of the 2 molecules can be read; first: line 1"):
        GraphDomain().open(str(tmp_path / "bad.smi"))
    with pytest.raises(DataError, match="no such file"):
        GraphDomain().open(str(tmp_path / "absent.smi"))


def test_scaffolds_do_not_cross_splits():
    # by hand: 4 of "a", 3 of "b", 2 of "c", 1 of "d"; 60 % train holds a and then c, 20 % valid holds d
    names = ["a", "b", "c", "a", "b", "a", "c", "a", "b", "d"]
    split = scaffold_split(names, 0.2, 0.2)
    of = {name: {split[i] for i, n in enumerate(names) if n == name} for name in "abcd"}
    assert all(len(found) == 1 for found in of.values())
    assert of["a"] == {"train"}
    assert of["c"] == {"train"}
    assert of["b"] == {"test"}
    assert of["d"] == {"valid"}
    rings = ["c1ccccc1" + "C" * i for i in range(6)] + ["C1CCCCC1" + "C" * i for i in range(2)] + ["C", "CC"]
    source = open_smiles(rings, split="scaffold", label="y", valid=0.2, test=0.2)
    assert source.splits["train"].tolist() == list(range(6))


def test_new_molecules_are_embedded_with_the_columns_of_training():
    domain = GraphDomain()
    spec = open_smiles(atoms=["element"], bonds=["type"]).spec
    again = domain.spec_from_dict(spec.to_dict())
    assert again == spec
    new = domain.embed_source(again, pd.DataFrame({"s": ["[U]C", "CC"]}), smiles="s")
    assert new.spec.features == spec.features == 119
    assert new.fetch([0, 1]).x.edge_attr.shape[1] == 5
    assert new.features[0].argmax() == 92


def test_limit_is_taken_before_parsing():
    source = open_smiles([*SMILES, "C1CC"], limit=3)
    assert len(source) == 2
    assert any("data.limit: 3 of 9" in note for note in source.notes)


def test_coded_features_are_one_hot_rows():
    coded = CodedFeatures([np.array([0, 2, -1], np.int8), np.array([0.5, 0, 1], np.float32)], [3, 1])
    want = [[1, 0, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert np.asarray(coded).tolist() == want
    assert coded[np.array([2, 0])].tolist() == [want[2], want[0]]
    assert coded.sparsity() == pytest.approx(np.mean(np.array(want) == 0))
    assert coded.take(np.array([1]))[:].tolist() == [want[1]]
