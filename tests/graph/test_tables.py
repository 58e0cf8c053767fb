"""Node and edge tables: formats, columns, and every bad input in one sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain

NODES = pd.DataFrame(
    {
        "id": ["a", "b", "c", "d", "e", "f"],
        "size": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "colour": ["red", "blue", "red", "blue", "red", "green"],
        "kind": ["x", "y", "x", "y", "x", "y"],
    }
)
EDGES = pd.DataFrame({"source": ["a", "b", "c", "d", "e"], "target": ["b", "c", "d", "e", "f"]})


def write(folder, name, table, ending):
    path = folder / f"{name}.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    return str(path)


def open_tables(nodes=NODES, edges=EDGES, **options):
    return GraphDomain().open(nodes=nodes, edges=edges, **options)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_formats_give_the_same_graph(ending, tmp_path):
    paths = [write(tmp_path, name, table, ending) for name, table in (("nodes", NODES), ("edges", EDGES))]
    source = open_tables(*paths, label="kind")
    plain = open_tables(label="kind")
    assert np.array_equal(source.features, plain.features)
    assert np.array_equal(source.edges.edge_index, plain.edges.edge_index)
    assert np.array_equal(source.labels, plain.labels)
    assert source.class_names == ["x", "y"]
    assert source.ids([0, 5]) == ["a", "f"]


def test_semicolons_and_quotes(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text('source;target\n"a";"b"\nb;c\n')
    assert open_tables(edges=str(path)).card()["edges"] == 4


def test_columns_are_scaled_and_one_hot_on_the_train_part():
    source = open_tables(
        label="kind", split="part", nodes=NODES.assign(part=["train"] * 4 + ["valid", "test"])
    )
    columns = {column.name: column for column in source.spec.columns}
    assert set(columns) == {"size", "colour"}
    assert columns["size"].mean == pytest.approx(2.5)
    assert columns["size"].std == pytest.approx(np.std([1, 2, 3, 4]))
    assert columns["colour"].words == ("blue", "red")
    want = (np.arange(1, 7) - 2.5) / np.std([1, 2, 3, 4])
    np.testing.assert_allclose(source.features[:, 0], want, rtol=1e-6)
    assert source.features[0, 1:].tolist() == [0.0, 1.0]
    assert source.features[5, 1:].tolist() == [0.0, 0.0]  # green was not in the train part
    assert source.splits["train"].tolist() == [0, 1, 2, 3]
    assert source.pretrain_index.tolist() == [0, 1, 2, 3, 4, 5]


def test_text_is_tf_idf_of_unit_length():
    text = ["red cat", "red dog", "blue cat cat", "blueDog", "fish_tank", "red fish"]
    source = open_tables(NODES[["id"]].assign(words=text), text=["words"], valid=0.0, test=0.0)
    column = source.spec.columns[0]
    assert column.words == ("blue", "cat", "dog", "fish", "red", "tank")
    np.testing.assert_allclose(np.linalg.norm(source.features, axis=1), 1.0, rtol=1e-5)
    cat, red, blue = (np.log(7 / (1 + df)) + 1 for df in (2, 3, 2))
    row = np.array([0, cat, 0, 0, red, 0])
    np.testing.assert_allclose(source.features[0], row / np.linalg.norm(row), rtol=1e-5)
    row = np.array([blue, (1 + np.log(2)) * cat, 0, 0, 0, 0])
    np.testing.assert_allclose(source.features[2], row / np.linalg.norm(row), rtol=1e-5)


def test_lists_of_identifiers_are_bags_of_words():
    lists = [["p", "q"], ["q"], ["r"], ["p"], ["r", "q"], []]
    source = open_tables(NODES[["id"]].assign(names=lists), valid=0.0, test=0.0)
    assert source.spec.columns[0].kind == "text"
    assert source.spec.columns[0].words == ("p", "q", "r")
    assert not source.features[5].any()


def test_kinds_can_be_given_and_columns_left_out():
    source = open_tables(columns={"size": "categorical"}, exclude=["colour", "kind"])
    assert [(c.name, c.kind) for c in source.spec.columns] == [("size", "categorical")]


def test_numbers_dates_and_unique_strings_are_guessed():
    nodes = pd.DataFrame(
        {
            "id": range(60),
            "when": pd.date_range("2024-01-01", periods=60),
            "code": [f"k{i}" for i in range(60)],
            "note": [f"the {i} quick fox {i % 7}" for i in range(60)],
            "flag": [i % 2 == 0 for i in range(60)],
        }
    )
    source = open_tables(nodes, pd.DataFrame({"u": range(59), "v": range(1, 60)}))
    assert {c.name: c.kind for c in source.spec.columns} == {
        "when": "numeric",
        "note": "text",
        "flag": "numeric",
    }
    assert any("'code'" in note for note in source.notes)


def test_without_node_table_nodes_get_their_degree():
    source = open_tables(nodes=None)
    assert source.spec.degree_cap == 2
    assert source.features.argmax(1).tolist() == [1, 2, 2, 2, 2, 1]
    assert any("degree" in note for note in source.notes)


def test_integer_ids_match_text_ids(tmp_path):
    nodes = write(tmp_path, "nodes", pd.DataFrame({"node_id": [1, 2, 3], "size": [1, 2, 4]}), "parquet")
    edges = tmp_path / "edges.csv"
    edges.write_text("from,to\n1,2\n2,3\n")
    assert open_tables(nodes, str(edges), valid=0.0, test=0.0).card()["edges"] == 4


def test_edge_columns_become_features_and_weight():
    edges = EDGES.assign(weight=[1.0, 2, 3, 4, 5], km=[5.0, 4, 3, 2, 1], name=list("vwxyz"))
    source = open_tables(edges=edges)
    assert source.spec.weighted
    assert source.spec.edge_columns == ("km",)
    x = source.fetch([0]).x
    place = int(((x.edge_index[0] == 0) & (x.edge_index[1] == 1)).int().argmax())
    scale = np.std([5.0, 4, 3, 2, 1])
    assert x.edge_attr[place].tolist() == pytest.approx([2.0 / scale])  # standardised over the edges
    assert x.edge_weight[place] == 1.0
    loop = int(((x.edge_index[0] == 1) & (x.edge_index[1] == 1)).int().argmax())
    assert x.edge_attr[loop].tolist() == pytest.approx([1.5 / scale])  # the mean over the edges into node 1
    assert x.edge_weight[loop] == 1.0


def test_directed_edges_stay_one_way():
    assert open_tables(directed=True).card()["edges"] == 5
    assert open_tables().card()["edges"] == 10


def test_self_loops_duplicates_and_isolated_nodes_are_noted():
    edges = pd.concat([EDGES.iloc[:3], EDGES.iloc[:1], pd.DataFrame({"source": ["a"], "target": ["a"]})])
    source = open_tables(edges=edges)
    card = source.card()
    assert (card["self_loops_found"], card["duplicates_found"], card["isolated"]) == (1, 1, 2)
    text = " ".join(card["notes"])
    assert "1 self-loops" in text
    assert "1 duplicate" in text
    assert "2 nodes have no edge" in text
    x = source.fetch([0]).x
    assert len(np.unique(x.edge_index.numpy(), axis=1).T) == x.edge_index.shape[1]
    loops = x.edge_index[0][x.edge_index[0] == x.edge_index[1]]
    assert loops.tolist() == list(range(6))
    without = open_tables(edges=edges, self_loops=False).fetch([0]).x.edge_index
    assert not bool((without[0] == without[1]).any())


def test_many_graphs_in_one_table():
    nodes = NODES.assign(molecule=["m", "n", "m", "n", "m", "n"], kind=["x", "y"] * 3)
    edges = pd.DataFrame({"source": ["a", "c", "b", "d"], "target": ["c", "e", "d", "f"]})
    source = open_tables(nodes, edges, graph="molecule", label="kind", valid=0.0, test=0.0)
    assert source.spec.level == "graph"
    assert len(source) == 2
    assert source.ids([0, 1]) == ["m", "n"]
    assert source.labels.tolist() == [0, 1]
    x = source.fetch([1, 0]).x
    assert x.ptr.tolist() == [0, 3, 6]
    assert x.node_index.tolist() == [3, 4, 5, 0, 1, 2]


BAD = {
    "unknown node": (
        {"edges": EDGES.replace({"target": {"c": "cc"}})},
        r"row 2, column 'target' names node 'cc'.*nearest is 'c'.*1 such rows",
    ),
    "duplicate ids": (
        {"nodes": NODES.replace({"id": {"c": "a"}})},
        "node id 'a' stands in row 1 and again in row 3",
    ),
    "empty node table": ({"nodes": NODES.iloc[:0]}, "node table has no rows"),
    "empty edge table": ({"edges": EDGES.iloc[:0]}, "edge table has no rows"),
    "one id column": ({"edges": EDGES[["source"]]}, "needs two id columns"),
    "three unknown columns": (
        {"edges": EDGES.rename(columns={"source": "p", "target": "q"}).assign(r=1)},
        "cannot tell the two id columns among p, q, r",
    ),
    "no id column": ({"nodes": NODES.rename(columns={"id": "key"})}, "no id column found.*data.node_id"),
    "wrong id column": ({"node_id": "idd"}, "data.node_id names column 'idd'.*nearest is 'id'"),
    "half of the ends": ({"edge_source": "source"}, "must both be given"),
    "missing label": (
        {"label": "kinds"},
        "data.label names column 'kinds', which is not there.*nearest is 'kind'",
    ),
    "missing split": ({"split": "part"}, "data.split names column 'part'"),
    "missing text": ({"text": ["colours"]}, "no column 'colours'.*nearest is 'colour'"),
    "wrong kind": ({"columns": {"size": "number"}}, "'size' cannot be 'number'"),
    "NaN": (
        {"nodes": NODES.assign(size=[1, 2, np.nan, 4, 5, 6])},
        "column 'size' is missing at node 'c'.*1 such",
    ),
    "inf": ({"nodes": NODES.assign(size=[1, 2, np.inf, 4, 5, 6])}, "column 'size' is inf at node 'c'"),
    "all missing": ({"nodes": NODES.assign(size=[np.nan] * 6)}, "column 'size' has no number at all"),
    "missing id": (
        {"edges": EDGES.assign(target=["b", None, "d", "e", "f"])},
        "row 2 has no value in the id column",
    ),
    "only self-loops": ({"edges": EDGES.assign(target=EDGES["source"])}, "needs edges.*only 5 self-loops"),
    "one class": ({"label": "one", "nodes": NODES.assign(one="x")}, "has 1 class"),
    "wrong task": ({"label": "kind", "task": "ranking"}, "'ranking' is not one of"),
    "text regression": ({"label": "kind", "task": "regression"}, "regression needs numbers"),
    "wrong split name": ({"split": "kind"}, "split 'x' is not one of train, valid, test"),
    "shares": ({"valid": 0.6, "test": 0.5}, "must leave some for training"),
    "NaN edge": ({"edges": EDGES.assign(km=[1, np.nan, 1, 1, 1])}, "row 2 has no number in edge column 'km'"),
    "negative weight": ({"edges": EDGES.assign(weight=[1, -1, 1, 1, 1])}, "row 2 has a negative edge weight"),
    "across graphs": ({"graph": "kind"}, "node 'a' and node 'b', which belong to different graphs"),
    "twice": ({"source": "import-graph://json"}, "not both"),
    "no edges given": ({"edges": None}, "data.edges is not"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_end_in_one_sentence(case):
    options, message = BAD[case]
    with pytest.raises(DataError, match=message) as error:
        open_tables(**options)
    assert "\n" not in str(error.value)


def test_duplicate_column_names():
    nodes = NODES.rename(columns={"colour": "size"})
    with pytest.raises(DataError, match="column name 'size' appears twice"):
        open_tables(nodes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"id,size\n", "has no rows"),
        (b"id,size\na,1\nb\n", "Expected 2 columns, got 1"),
        (b"id,size\na,1\nb,2,3\n", "Expected 2 columns, got 3"),
        (b"\x89PNG\r\n\0\0\0", "binary file"),
    ],
)
def test_bad_files(content, message, tmp_path):
    path = tmp_path / "nodes.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        open_tables(str(path))
    assert "nodes.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "nodes", NODES, "csv")
    with pytest.raises(DataError, match=r"no such file; the nearest is 'nodes\.csv'"):
        open_tables(str(tmp_path / "node.csv"))


def test_not_parquet(tmp_path):
    path = tmp_path / "nodes.parquet"
    path.write_text("id,size\n")
    with pytest.raises(DataError, match="not a Parquet file"):
        open_tables(str(path))


def test_constant_column_is_left_out_with_a_note():
    source = open_tables(NODES.assign(same=1.0))
    assert "same" not in {c.name for c in source.spec.columns}
    assert any("'same' is constant" in note for note in source.notes)


def test_a_folder_with_both_tables(tmp_path):
    write(tmp_path, "nodes", NODES, "csv")
    write(tmp_path, "edges", EDGES, "parquet")
    source = GraphDomain().open(str(tmp_path), label="kind")
    assert np.array_equal(source.features, open_tables(label="kind").features)
    (tmp_path / "edges.parquet").unlink()
    with pytest.raises(DataError, match=r"needs edges\.csv"):
        GraphDomain().open(str(tmp_path))
