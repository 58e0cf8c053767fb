"""Near-duplicates: what is found, by hash and by embedding, and a recipe that trains on what is kept."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.cli import main
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import pretrain_rows
from ssl_domains.curation.curate import remove_duplicates
from ssl_domains.curation.duplicates import near_duplicates
from ssl_domains.curation.filter import kept_rows
from ssl_domains.curation.hashing import perceptual_hash, source_hashes


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow(x, threshold, fixed=0):
    """Row by row: a row leaves when an earlier row that stays is near."""
    x, kept = unit(x), []
    for i in range(len(x)):
        if i < fixed or not any(x[i] @ x[j] >= threshold - 1e-6 for j in kept):
            kept.append(i)
    return kept


@given(st.integers(0, 500), st.floats(0.5, 1.0), st.integers(0, 8), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_as_row_by_row_whatever_the_chunks(seed, threshold, fixed, chunk):
    x = np.random.default_rng(seed).normal(size=(24, 3)).astype(np.float32)
    found = near_duplicates(x, threshold, fixed, chunk=chunk)
    assert np.flatnonzero(found.kept).tolist() == slow(x, threshold, fixed)
    for i in np.flatnonzero(~found.kept):
        assert found.kept[found.of[i]]
        assert found.similarity[i] == pytest.approx(float(unit(x)[i] @ unit(x)[found.of[i]]), abs=1e-4)
    assert (found.of[found.kept] == -1).all()


def test_held_out_rows_stay_though_they_are_alike():
    x = np.ones((4, 2), dtype=np.float32)
    found = near_duplicates(x, 0.9, fixed=2)
    assert found.kept.tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="threshold is a cosine"):
        near_duplicates(x, 1.5)


def photo(seed, side=48):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 1, 7, 7, generator=generator)
    return torch.nn.functional.interpolate(small, (side, side), mode="bicubic")[0]


def bits(a, b):
    return int((perceptual_hash(a) != perceptual_hash(b)).sum())


def test_hashes_of_changed_copies_are_near_and_of_others_far():
    noise = 0.02 * torch.randn(1, 48, 48, generator=torch.Generator().manual_seed(1))
    for seed in range(8):
        x = photo(seed)
        smaller = torch.nn.functional.interpolate(x[None], (30, 30), mode="area")[0]
        for copy in (0.6 * x + 0.2, x + noise, smaller, 255 * x):
            assert bits(x, copy) <= 6
    assert np.mean([bits(photo(i), photo(i + 20)) for i in range(10)]) > 20


def image_source(folder, images, **data):
    pytest.importorskip("PIL")
    from ssl_domains.image.domain import ImageDomain

    np.savez(folder / "x.npz", x=images)
    return ImageDomain().open(str(folder / "x.npz"), **data)


def some_images(n=12, copies=4):
    x = np.stack([(photo(i)[0].clamp(0, 1).numpy() * 255).astype(np.uint8) for i in range(n)])
    near = (x[:copies].astype(int) + np.random.default_rng(0).integers(-3, 4, x[:copies].shape)).clip(0, 255)
    return np.concatenate([x, near.astype(np.uint8)])


def test_copies_leave_by_hash(tmp_path):
    source = image_source(tmp_path, some_images(), valid=0.0, test=0.0)
    found = remove_duplicates(source, tmp_path / "kept.parquet")
    assert (found.rows, found.kept, found.of_held_out) == (16, 12, 0)
    table = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert [r["duplicate_of"] for r in table if not r["kept"]] == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(kept_rows(source, found.path), np.arange(12))


def test_twins_of_held_out_rows_leave(tmp_path):
    source = image_source(tmp_path, some_images(), valid=0.0, test=0.0)
    source.splits = {"train": np.arange(4, 16), "valid": np.array([], int), "test": np.arange(4)}
    found = remove_duplicates(source, tmp_path / "kept.csv")
    assert (found.rows, found.kept, found.of_held_out) == (12, 8, 4)
    assert remove_duplicates(source, tmp_path / "all.csv", held_out=False).kept == 12


def test_by_embedding_in_any_domain(tmp_path):
    class Rows:
        splits = {"train": np.arange(6)}

        def __len__(self):
            return 6

        def ids(self, rows):
            return [f"r{i}" for i in rows]

    z = np.eye(6, dtype=np.float32)
    z[5] = z[2] + 0.01
    found = remove_duplicates(Rows(), tmp_path / "kept.parquet", embed=lambda rows: z[rows])
    assert found.kept == 5
    assert found.examples[0][:2] == ("r5", "r2")
    with pytest.raises(DataError, match="no pictures to hash"):
        source_hashes(Rows(), np.arange(6))


def test_pictures_one_by_one_hash_alike(tmp_path):
    source = image_source(tmp_path, some_images())

    class Pictured:
        def picture(self, row):
            return source.picture(row)

    np.testing.assert_array_equal(
        source_hashes(Pictured(), np.arange(4)), source_hashes(source, np.arange(4))
    )


def test_files_that_do_not_fit(tmp_path):
    source = image_source(tmp_path, some_images(), valid=0.0, test=0.0)
    path = remove_duplicates(source, tmp_path / "kept.csv").path
    with pytest.raises(DataError, match="does not exist"):
        kept_rows(source, tmp_path / "no.csv")
    other = image_source(tmp_path, some_images(8, 0))
    with pytest.raises(DataError, match="made for other data"):
        kept_rows(other, path)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no column 'row'"):
        kept_rows(source, tmp_path / "bad.csv")
    with pytest.raises(DataError, match=r"write to a .parquet or .csv file"):
        remove_duplicates(source, tmp_path / "kept.txt")
    assert not list(tmp_path.glob(".kept*"))


RECIPE = """domain: image
data: {{source: {source}, valid: 0.2, test: 0.2}}
encoder: {{name: image_resnet, depth: 10, width: 8}}
method: {{name: joint_embedding, projector: [8, 8]}}
objective: nt_xent
train: {{steps: 2, batch_size: 4, device: cpu, rows: {rows}}}
evaluate: {{probes: [], seeds: 1, tree: false}}
"""


def test_at_a_shell_and_in_a_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))
    image_source(tmp_path, some_images(20, 6))
    source, rows = str(tmp_path / "x.npz"), str(tmp_path / "kept.parquet")
    assert main(["curate", source, "data.valid=0.2", "data.test=0.2", "--out", rows]) == 0
    said = capsys.readouterr().out
    assert "left out as near-duplicates" in said
    assert f"train.rows={rows}" in said.replace("\n", "")
    (tmp_path / "r.yaml").write_text(RECIPE.format(source=source, rows=rows))
    run = tmp_path / "run"
    assert main(["pretrain", str(tmp_path / "r.yaml"), f"run={run}", "--quiet"]) == 0
    from ssl_domains.recipe.build import build
    from ssl_domains.recipe.check import read_recipe

    built = build(read_recipe(str(tmp_path / "r.yaml")))
    kept = {r["row"] for r in pq.read_table(rows).to_pylist() if r["kept"]}
    assert set(pretrain_rows(built.source).tolist()) == kept
    capsys.readouterr()
    by_embedding = ["curate", source, "data.valid=0.2", "data.test=0.2", "--encoder", str(run), "--out", rows]
    assert main([*by_embedding, "--threshold", "0.9999"]) == 0
    assert main([*by_embedding, "--threshold", "7"]) == 2
    assert "threshold is a cosine" in capsys.readouterr().err
    assert main(["pretrain", str(tmp_path / "r.yaml"), "train.rows=no.csv", "--quiet"]) == 2
    assert "no.csv does not exist" in capsys.readouterr().err
