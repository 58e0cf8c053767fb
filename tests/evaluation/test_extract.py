"""Extraction: exact, frozen, and nothing half-written."""

from __future__ import annotations

import csv
import os
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ssl_domains.core.errors import DataError, UserError
from ssl_domains.evaluation import embed_to_file, extract, writer


@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_equals_one_forward_pass_in_eval_mode(toy: SimpleNamespace, batch_size: int) -> None:
    source, encoder = toy.blobs(50), toy.Encoder()
    rows = np.random.default_rng(0).permutation(50)[:33]
    z = extract(encoder, source, rows, batch_size=batch_size)
    encoder.eval()
    with torch.no_grad():
        want = encoder(torch.from_numpy(source.x[rows])).pooled.numpy()
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, want, rtol=0, atol=1e-6)


def test_gives_back_every_modules_mode_and_leaves_statistics_and_gradients(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(40), toy.Encoder()
    encoder.train()
    encoder.net[1].eval()  # a norm layer that somebody froze
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    extract(encoder, source, np.arange(40))
    assert encoder.training
    assert encoder.net[2].training
    assert not encoder.net[1].training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert torch.is_grad_enabled()
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters())


def test_modes_come_back_after_an_error(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(40), toy.Encoder(inputs=5)
    encoder.train()
    with pytest.raises(RuntimeError):
        extract(encoder, source, np.arange(40))
    assert all(module.training for module in encoder.modules())


def test_half_precision_encoder_is_embedded_in_float32(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(40), toy.Encoder().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = extract(encoder, source, np.arange(40))
    exact = toy.Encoder()
    exact.load_state_dict({k: v.float() for k, v in encoder.state_dict().items()})
    np.testing.assert_array_equal(z, extract(exact, source, np.arange(40)))
    assert next(encoder.parameters()).dtype == torch.bfloat16


def test_full_batch_source_takes_one_forward_pass(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(40), toy.Encoder()
    source.full_batch = True
    extract(encoder, source, np.arange(40), batch_size=8)
    assert source.fetched == [40]


def test_progress_and_no_rows(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(20), toy.Encoder()
    seen: list[tuple[int, int]] = []
    extract(encoder, source, np.arange(20), batch_size=8, progress=lambda *a: seen.append(a))
    assert seen == [(8, 20), (16, 20), (20, 20)]
    assert extract(encoder, source, []).shape == (0, 8)


@pytest.mark.parametrize("name", ["z.parquet", "z.csv", "z.npy"])
def test_files_hold_ids_and_exact_numbers(toy: SimpleNamespace, tmp_path, name: str) -> None:
    source, encoder = toy.blobs(25), toy.Encoder()
    path = embed_to_file(encoder, source, tmp_path / "new" / name, batch_size=8)
    want = extract(encoder, source, np.arange(25), batch_size=8)
    if name.endswith(".npy"):
        np.testing.assert_array_equal(np.load(path, allow_pickle=False), want)
        return
    if name.endswith(".csv"):
        head, *body = csv.reader(path.open())
        ids, z = [r[0] for r in body], np.array([r[1:] for r in body], dtype=np.float32)
    else:
        table = pq.read_table(path)
        head, ids = table.column_names, table["id"].to_pylist()
        z = np.stack([table[f"e{d}"].to_numpy() for d in range(8)], axis=1)
    assert head == ["id", *(f"e{d}" for d in range(8))]
    assert ids == [f"row-{i}" for i in range(25)]
    np.testing.assert_array_equal(z, want)
    assert os.listdir(tmp_path / "new") == [name]


@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_row_groups_change_nothing(toy: SimpleNamespace, tmp_path, monkeypatch, rows: int) -> None:
    source, encoder = toy.blobs(25), toy.Encoder()
    monkeypatch.setattr(writer, "ROW_GROUP", rows)
    path = embed_to_file(encoder, source, tmp_path / "z.parquet", batch_size=4)
    table = pq.read_table(path)
    assert table["id"].to_pylist() == [f"row-{i}" for i in range(25)]
    want = extract(encoder, source, np.arange(25), batch_size=4)
    np.testing.assert_array_equal(np.stack([table[f"e{d}"] for d in range(8)], axis=1), want)
    assert pq.ParquetFile(path).num_row_groups == {1: 7, 10: 3, 1000: 1}[rows]


def test_list_layout(toy: SimpleNamespace, tmp_path) -> None:
    source, encoder = toy.blobs(12), toy.Encoder()
    path = embed_to_file(encoder, source, tmp_path / "z.parquet", indices=np.array([5, 2]), layout="list")
    table = pq.read_table(path)
    want = extract(encoder, source, [5, 2])
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), want)
    assert table["id"].to_pylist() == ["row-5", "row-2"]


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_one_row_a_recording_is_the_mean_of_its_rows(toy: SimpleNamespace, tmp_path, batch: int) -> None:
    source, encoder = toy.blobs(25), toy.Encoder()
    source.recordings = np.random.default_rng(0).permutation(np.repeat([4, 0, 9, 7], [1, 12, 3, 9]))
    path = embed_to_file(encoder, source, tmp_path / "z.parquet", per="recording", batch_size=batch)
    table, z = pq.read_table(path), extract(encoder, source, np.arange(25))
    assert table["id"].to_pylist() == [0, 4, 7, 9]
    want = np.stack([z[source.recordings == number].mean(0) for number in (0, 4, 7, 9)])
    np.testing.assert_allclose(np.stack([table[f"e{d}"] for d in range(8)], axis=1), want, atol=1e-5)
    source.recording_ids = lambda numbers: [f"film {number}" for number in numbers]
    embed_to_file(encoder, source, tmp_path / "z.npy", per="recording", batch_size=batch)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), want, atol=1e-5)
    embed_to_file(encoder, source, tmp_path / "z.csv", per="recording", batch_size=batch)
    assert [row[0] for row in csv.reader((tmp_path / "z.csv").open())][1:3] == ["film 0", "film 4"]
    with pytest.raises(UserError, match="do not say which rows are of one recording"):
        embed_to_file(encoder, toy.blobs(5), tmp_path / "z.npy", per="recording")


@pytest.mark.parametrize("name", ["z.parquet", "z.csv", "z.npy"])
@pytest.mark.parametrize("there", [False, True])
def test_interrupted_write_leaves_the_old_file_or_none(
    toy: SimpleNamespace, tmp_path, name: str, there: bool
) -> None:
    source, encoder = toy.blobs(30), toy.Encoder()
    if there:
        (tmp_path / name).write_text("old")

    def stop(done: int, total: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_to_file(encoder, source, tmp_path / name, batch_size=8, progress=stop)
    assert os.listdir(tmp_path) == ([name] if there else [])
    assert not there or (tmp_path / name).read_text() == "old"


def test_bad_requests_are_one_sentence(toy: SimpleNamespace, tmp_path, monkeypatch) -> None:
    source, encoder = toy.blobs(10), toy.Encoder()
    with pytest.raises(UserError, match=r"must end in one of \.parquet"):
        embed_to_file(encoder, source, tmp_path / "z.txt")
    with pytest.raises(UserError, match="layout"):
        embed_to_file(encoder, source, tmp_path / "z.csv", layout="list")
    source.x[7] = np.nan
    with pytest.raises(DataError, match="row-7"):
        embed_to_file(encoder, source, tmp_path / "z.csv")
    source.x[7] = 0
    source.ids = lambda rows: [int(r) if r < 4 else f"row-{r}" for r in rows]
    monkeypatch.setattr(writer, "ROW_GROUP", 4)
    with pytest.raises(DataError, match="ids begin as int64"):
        embed_to_file(encoder, source, tmp_path / "z.parquet", batch_size=4)
    assert os.listdir(tmp_path) == []
