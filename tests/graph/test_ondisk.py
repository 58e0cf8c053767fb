"""Edges on disk: the same graph as in memory, within bounded memory, and every bad row in one sentence."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

import ssl_domains
from ssl_domains.core.errors import DataError
from ssl_domains.graph import ondisk
from ssl_domains.graph.domain import GraphDomain


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))


def tables(folder, n=200, m=2000, seed=0):
    rng = np.random.default_rng(seed)
    nodes = pd.DataFrame(
        {"id": [f"n{i}" for i in range(n)], "a": rng.normal(size=n), "y": rng.integers(0, 2, n)}
    )
    u, v = rng.integers(0, n, (2, m)) ** 2 // n
    edges = pd.DataFrame(
        {"source": [f"n{i}" for i in u], "target": [f"n{i}" for i in v], "weight": rng.random(m)}
    )
    edges = pd.concat(
        [edges, edges.iloc[:50], edges.iloc[50:90].rename(columns={"source": "target", "target": "source"})]
    )
    nodes.to_csv(folder / "nodes.csv", index=False)
    edges.to_csv(folder / "edges.csv", index=False)
    edges.to_parquet(folder / "edges.parquet", index=False)
    return {"nodes": str(folder / "nodes.csv"), "edges": str(folder / "edges.csv")}


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_same_graph_as_in_memory(tmp_path, monkeypatch, directed, ending):
    monkeypatch.setattr(ondisk, "BUCKET_EDGES", 300)  # many buckets
    monkeypatch.setattr(ondisk, "BLOCK_BYTES", 4000)  # many blocks
    data = tables(tmp_path)
    data["edges"] = str(tmp_path / f"edges.{ending}")
    plain = GraphDomain().open(**data, label="y", directed=directed, neighbors=[5, 5])
    kept = GraphDomain().open(**data, label="y", directed=directed, neighbors=[5, 5], on_disk=True)
    assert np.array_equal(kept.incoming.ptr, plain.incoming.ptr)
    assert np.array_equal(kept.incoming.source, plain.incoming.source)
    np.testing.assert_allclose(kept.edges.edge_weight, plain.edges.edge_weight, rtol=1e-5)
    a, b = kept.card(), plain.card()
    for key in (
        "nodes",
        "edges",
        "components",
        "isolated",
        "self_loops_found",
        "degree_quantiles",
        "homophily",
    ):
        assert a[key] == b[key], key
    np.testing.assert_allclose(kept.smoothed(), plain.smoothed(), rtol=1e-5, atol=1e-6)
    x, y = (s.fetch([3, 17, 40]).x for s in (kept, plain))
    assert x.edge_index.tolist() == y.edge_index.tolist()
    assert x.node_index.tolist() == y.node_index.tolist()
    assert isinstance(kept.incoming.source, np.memmap)


def test_nodes_that_only_edges_name_and_the_cache(tmp_path, monkeypatch):
    data = tables(tmp_path)
    del data["nodes"]
    kept = GraphDomain().open(**data, on_disk=True)
    plain = GraphDomain().open(**data)
    assert kept.ids(range(len(kept))) == plain.ids(range(len(plain)))
    assert np.array_equal(kept.incoming.source, plain.incoming.source)
    assert np.array_equal(kept.features, plain.features)  # degrees
    assert not list((tmp_path / "cache" / "graph").glob(".writing*"))
    monkeypatch.setattr(ondisk._Conversion, "run", lambda self: pytest.fail("converted twice"))
    assert len(GraphDomain().open(**data, on_disk=True)) == len(kept)


def test_memory_does_not_grow_with_the_edges(tmp_path, monkeypatch):
    """Ten times the edges take the same memory to convert: well below a tenth of what they hold."""
    monkeypatch.setattr(ondisk, "BUCKET_EDGES", 20_000)
    monkeypatch.setattr(ondisk, "BLOCK_BYTES", 100_000)
    peaks = []
    for m in (40_000, 400_000):
        rng = np.random.default_rng(0)
        edges = pd.DataFrame(rng.integers(0, 2000, (m, 2)), columns=["source", "target"])
        path = tmp_path / f"{m}.csv"
        edges.to_csv(path, index=False)
        raw = ondisk.read_large(
            None, path, node_id=None, edge_source=None, edge_target=None, label=None, split=None
        )
        tracemalloc.start()
        ondisk.stored(raw.streamed, raw.keys, False, "edges")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 12 * 2 * 400_000  # one byte short of holding all pairs


def test_training_and_embedding_from_disk(tmp_path):
    data = tables(tmp_path)
    run = ssl_domains.pretrain(
        "graph/graphmae", "train.steps=3", "train.batch_size=32", "train.device=cpu", "encoder.width=8",
        data={**data, "label": "y", "on_disk": True, "neighbors": [4, 4]},
        evaluate={"probes": ["linear"], "seeds": 1}, run=tmp_path / "run", progress=False,
    )  # fmt: skip
    out = ssl_domains.api.embed(run.path, out=tmp_path / "e.parquet", on_disk=True, **data)
    assert pd.read_parquet(out)["id"].tolist() == [f"n{i}" for i in range(200)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["n1", "nope", 1.0], "row 2091, column 'target' names node 'nope', which"),
        (["n1", "n2", -1.0], "row 2091 has the edge weight -1.0"),
        ([None, "n2", 1.0], "row 2091 has no value in the id column 'source'"),
    ],
)
def test_bad_rows_are_named_with_their_row_in_the_file(tmp_path, monkeypatch, row, message):
    monkeypatch.setattr(ondisk, "BLOCK_BYTES", 4000)
    data = tables(tmp_path)
    edges = pd.read_csv(data["edges"])
    edges.loc[len(edges)] = row
    edges.to_csv(data["edges"], index=False)
    with pytest.raises(DataError, match=message):
        GraphDomain().open(**data, on_disk=True)
    assert not list((tmp_path / "cache" / "graph").iterdir())


@pytest.mark.parametrize(
    "options",
    [{"link_test": 0.1}, {"inductive": True}, {"limit": 50}, {"random_walk": 3}, {"edge_type": "weight"}],
)
def test_what_wants_all_edges_at_once_is_refused(tmp_path, options):
    with pytest.raises(DataError, match="kept on disk"):
        GraphDomain().open(**tables(tmp_path), on_disk=True, **options)


def test_large_files_are_streamed_without_being_told(tmp_path, monkeypatch):
    data = tables(tmp_path)
    assert not ondisk.too_large(data["edges"], None)
    monkeypatch.setattr(ondisk.os, "sysconf", lambda name: 100)
    assert ondisk.too_large(data["edges"], None)
    with pytest.raises(DataError, match=r"data\.on_disk needs data\.edges"):
        ondisk.too_large(pd.DataFrame(), True)
