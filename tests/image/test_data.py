"""The source: every kind of input, splits, labels, the decode cache, what is left out."""

import gzip
import io
import json
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_domains.core.errors import DataError
from ssl_domains.image import pixels as stores
from ssl_domains.image.domain import ImageDomain

from .conftest import pattern

OPEN = ImageDomain().open


def test_class_folders(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 12)))
    assert len(source) == 12
    assert source.class_names == ["cat", "dog"]
    assert source.task == "classification"
    assert source.spec.size == (20, 20)
    batch = source.fetch([3, 0])
    assert batch.x.dtype == torch.uint8
    assert batch.x.shape == (2, 3, 20, 20)
    row = int(np.flatnonzero([i == "dog/003.png" for i in source.ids(np.arange(12))])[0])
    np.testing.assert_array_equal(source.fetch([row]).x[0].permute(1, 2, 0).numpy(), pattern(seed=3))
    assert source.describe(row) == "dog"
    assert source.picture(row).shape == (20, 20, 3)


def test_flat_folder_has_no_label(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 6, classes=())))
    assert source.labels is None
    assert source.fetch([0]).label is None


def test_folder_per_image_is_no_class(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 6, classes=[f"p{i}" for i in range(6)])))
    assert source.labels is None
    assert "single image" in source.card()["notes"][0]


def test_one_folder_is_no_label(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 6, classes=("only",))))
    assert source.labels is None
    assert "one folder" in source.card()["notes"][0]


def test_label_null_and_folder(tmp_path, write_images):
    folder = str(write_images(tmp_path, 6))
    assert OPEN(folder, label=None).labels is None
    assert OPEN(folder, label="folder").class_names == ["cat", "dog"]
    Image.fromarray(pattern()).save(tmp_path / "outside.png")
    assert OPEN(folder).labels is None
    with pytest.raises(DataError, match=r"1 images of .* lie in no class folder"):
        OPEN(folder, label="folder")


def test_split_folders(tmp_path, write_images):
    for name, n in (("train", 8), ("val", 4), ("test", 6)):
        write_images(tmp_path / name, n)
    source = OPEN(str(tmp_path))
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 8, "valid": 4, "test": 6}
    assert source.class_names == ["cat", "dog"]


def test_shares_and_groups(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 40, classes=())), valid=0.2, test=0.3)
    assert [len(source.splits[k]) for k in ("train", "valid", "test")] == [20, 8, 12]
    every = np.concatenate(list(source.splits.values()))
    assert sorted(every) == list(range(40))
    grouped = OPEN(str(tmp_path), group=r"(\d\d)\d\.png", valid=0.25, test=0.25)
    owners = [{grouped.listing.group[i] for i in rows} for rows in grouped.splits.values()]
    assert all(owners)
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]


def table(tmp_path, write_images, text: str):
    write_images(tmp_path / "img", 6, classes=())
    file = tmp_path / "list.csv"
    file.write_text(text)
    return file


def test_table_of_paths(tmp_path, write_images):
    rows = "\n".join(
        f"img/{i:03d}.png,{'ab'[i % 2]},{i * 0.5},{['train', 'train', 'test'][i % 3]},g{i // 2}"
        for i in range(6)
    )
    file = table(tmp_path, write_images, f"path,kind,size,part,who\n{rows}\n")
    source = OPEN(str(file), label="kind", split="part")
    assert source.class_names == ["a", "b"]
    assert len(source.splits["test"]) == 2
    assert source.ids(np.array([2])) == ["img/002.png"]
    assert OPEN(str(file), label="size").task == "regression"
    assert OPEN(str(file)).labels is None
    moved = tmp_path / "elsewhere.csv"
    (tmp_path / "sub").mkdir()
    moved = tmp_path / "sub" / "list.csv"
    moved.write_text(file.read_text())
    assert len(OPEN(str(moved), root=str(tmp_path))) == 6


def test_table_with_several_labels(tmp_path, write_images):
    rows = "\n".join(f"img/{i:03d}.png,{i % 2},{i // 3}" for i in range(6))
    source = OPEN(str(table(tmp_path, write_images, f"path,a,b\n{rows}\n")), label=["a", "b"])
    assert source.task == "multilabel"
    assert source.labels.shape == (6, 2)


def test_parquet(tmp_path, write_images):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_images(tmp_path / "img", 6, classes=())
    paths = [f"img/{i:03d}.png" for i in range(6)]
    pq.write_table(pa.table({"file": paths, "label": [0, 1] * 3}), tmp_path / "list.parquet")
    assert OPEN(str(tmp_path / "list.parquet")).class_names == ["0", "1"]


@pytest.mark.parametrize("layout", ["n h w c", "n c h w", "n h w"])
def test_arrays_of_every_layout(layout):
    x = np.stack([pattern(6, 8, i, 1 if layout == "n h w" else 3) for i in range(5)])
    given = {"n h w c": x, "n c h w": x.transpose(0, 3, 1, 2), "n h w": x[..., 0]}[layout]
    source = OPEN((given, np.array([0, 1, 0, 1, 0])))
    np.testing.assert_array_equal(source.fetch(range(5)).x.permute(0, 2, 3, 1).numpy(), x)
    assert source.spec.channels == x.shape[3]


@pytest.mark.parametrize(
    ("values", "expected"), [(np.float32(0.5), 128), (np.uint16(257 * 9), 9), (np.int64(7), 7)]
)
def test_number_types(values, expected):
    x = np.zeros((4, 5, 5), dtype=values.dtype)
    x[1:] = values
    assert int(OPEN(x).fetch([2]).x[0, 0, 0, 0]) == expected


def test_npz_with_splits(tmp_path):
    x = np.stack([pattern(seed=i) for i in range(10)])
    np.savez(
        tmp_path / "a.npz", x_train=x[:7], y_train=np.arange(7) % 2, x_test=x[7:], y_test=np.arange(3) % 2
    )
    source = OPEN(str(tmp_path / "a.npz"), valid=0.0)
    assert [len(source.splits[k]) for k in ("train", "valid", "test")] == [7, 0, 3]
    np.savez(tmp_path / "b.npz", images=x)
    assert OPEN(str(tmp_path / "b.npz")).labels is None
    np.save(tmp_path / "c.npy", x)
    assert len(OPEN(str(tmp_path / "c.npy"))) == 10


def test_idx_files(tmp_path):
    def write(name, values):
        head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(head + values.tobytes())

    x = np.stack([pattern(9, 9, i, 1)[..., 0] for i in range(12)])
    for name, part in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        write(f"{name}-images-idx3-ubyte.gz", x[part])
        write(f"{name}-labels-idx1-ubyte.gz", (np.arange(12)[part] % 3).astype(np.uint8))
    source = OPEN(str(tmp_path), valid=0.25)
    assert [len(source.splits[k]) for k in ("train", "valid", "test")] == [6, 2, 4]
    assert source.class_names == ["0", "1", "2"]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b junk")
    with pytest.raises(DataError, match="no complete idx file"):
        OPEN(str(tmp_path))


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def png(seed):
    out = io.BytesIO()
    Image.fromarray(pattern(seed=seed)).save(out, "PNG")
    return out.getvalue()


def test_tar_shards(tmp_path):
    for s in range(2):
        members = []
        for i in range(4):
            members += [(f"{s}{i}.png", png(4 * s + i)), (f"{s}{i}.cls", str(i % 2).encode())]
        shard(tmp_path / f"part-{s}.tar", members)
    for where in (tmp_path, tmp_path / "part-*.tar"):
        source = OPEN(str(where))
        assert len(source) == 8
        np.testing.assert_array_equal(source.fetch([6]).x[0].permute(1, 2, 0).numpy(), pattern(seed=6))
        np.testing.assert_array_equal(source.labels, [0, 1] * 4)
    described = []
    for i, kind in enumerate("xy"):
        described += [(f"{kind}.png", png(i)), (f"{kind}.json", json.dumps({"kind": kind}).encode())]
    shard(tmp_path / "json.tar", described)
    assert OPEN(str(tmp_path / "json.tar"), label="kind").class_names == ["x", "y"]
    shard(tmp_path / "zip.tar", [("a.png", png(0))], mode="w:gz")
    with pytest.raises(DataError, match="is compressed"):
        OPEN(str(tmp_path / "zip.tar"))


def test_hugging_face_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(pattern(seed=i)) for i in range(6)]
    kinds = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"picture": datasets.Image(), "kind": kinds})
    found = datasets.Dataset.from_dict({"picture": images, "kind": [0, 1] * 3}, features=features)
    source = OPEN(found)
    assert source.class_names == ["no", "yes"]
    np.testing.assert_array_equal(source.fetch([4]).x[0].permute(1, 2, 0).numpy(), pattern(seed=4))
    parts = datasets.DatasetDict({"train": found, "test": found.select([0, 1])})
    parts.save_to_disk(str(tmp_path / "saved"))
    source = OPEN(str(tmp_path / "saved"), valid=0.0)
    assert len(source.splits["test"]) == 2
    with pytest.raises(DataError, match="has no column 'sort'"):
        OPEN(found, label="sort")


def test_mixed_sizes_and_modes(tmp_path):
    for i, (size, mode) in enumerate(
        [((30, 20), "RGB"), ((200, 300), "L"), ((64, 64), "RGBA"), ((9, 50), "P")]
    ):
        Image.fromarray(pattern(*size, seed=i)).convert(mode).save(tmp_path / f"{i}.png")
    source = OPEN(str(tmp_path), size=[24, 32])
    assert source.fetch(range(4)).x.shape == (4, 3, 24, 32)
    assert source.card()["found_sizes"] == "9 to 200 high, 20 to 300 wide"
    assert OPEN(str(tmp_path)).spec.size == (224, 224)


def test_squeezed_images_remember_their_shape(tmp_path):
    Image.fromarray(pattern(20, 60)).save(tmp_path / "wide.png")
    Image.fromarray(pattern(50, 25)).save(tmp_path / "high.png")
    source = OPEN(str(tmp_path), size=16, fit="squeeze")
    assert source.fetch([0, 1]).meta["shape"].tolist() == [[50, 25], [20, 60]]


def test_grey_files_stay_grey(tmp_path):
    for i in range(4):
        Image.fromarray(pattern(seed=i, channels=1)[..., 0]).save(tmp_path / f"{i}.png")
    assert OPEN(str(tmp_path)).spec.channels == 1
    assert OPEN(str(tmp_path), channels=3).fetch([0]).x.shape[1] == 3


def test_statistics_are_those_of_train_images():
    x = np.zeros((40, 4, 4, 3), np.uint8)
    x[:, :, :, 0], x[:, 2:, :, 1] = 100, 200
    source = OPEN(x)
    assert source.spec.mean == pytest.approx((100 / 255, 100 / 255, 0), abs=1e-5)
    assert source.spec.std == pytest.approx(
        (1.0, 100 / 255, 1.0), abs=1e-5
    )  # still channels are not blown up
    assert OPEN(x, normalise="imagenet").spec.mean == (0.485, 0.456, 0.406)


def test_cached_and_decoded_on_the_way_are_the_same(tmp_path, write_images, monkeypatch):
    folder = str(write_images(tmp_path, 10, ending="jpg", size=(40, 30)))
    cached, lazy = OPEN(folder, size=16), OPEN(folder, size=16, cache=False)
    rows = np.array([7, 0, 3])
    assert torch.equal(cached.fetch(rows).x, lazy.fetch(rows).x)
    assert cached.spec == lazy.spec

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(stores, "decode", refuse)
    again = OPEN(folder, size=16)
    assert torch.equal(cached.fetch(rows).x, again.fetch(rows).x)


def test_a_changed_file_is_decoded_again(tmp_path, write_images):
    folder = write_images(tmp_path, 6)
    before = OPEN(str(folder)).fetch([0]).x
    Image.fromarray(255 - pattern(seed=0)).save(folder / "cat" / "000.png")
    assert not torch.equal(OPEN(str(folder)).fetch([0]).x, before)


def test_fetch_of_a_row_does_not_depend_on_the_batch(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 9)), cache=False)
    assert torch.equal(source.fetch([5]).x[0], source.fetch([1, 5, 8]).x[1])


@pytest.mark.parametrize("cache", [None, False])
def test_broken_files_are_left_out_and_listed(tmp_path, write_images, cache):
    folder = write_images(tmp_path, 10)
    (folder / "cat" / "note.png").write_text("no image at all")
    (folder / "dog" / "empty.jpg").touch()
    source = OPEN(str(folder), cache=cache)
    assert len(source) == 10
    card = source.card()
    assert card["left_out"] == 2
    assert "cat/note.png is no image that can be read" in card["left_out_files"]
    assert "dog/empty.jpg is empty" in card["left_out_files"]
    assert len(source.labels) == 10
    with pytest.raises(DataError, match=r"cat/note.png is no image .*2 such files in all.*mend or remove"):
        OPEN(str(folder), cache=cache, strict=True)


def test_a_file_that_breaks_later_becomes_grey(tmp_path, write_images):
    folder = write_images(tmp_path, 10, ending="jpg")
    source = OPEN(str(folder), cache=False)
    (folder / "cat" / "000.jpg").write_bytes(b"gone")
    with pytest.warns(UserWarning, match="plain grey takes its place"):
        batch = source.fetch([0, 1])
    assert (batch.x[0] == 127).all()
    assert not (batch.x[1] == 127).all()


def test_limit_spreads_over_the_set(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 12)), limit=4)
    assert len(source) == 4
    assert source.class_names == ["cat", "dog"]


def test_raw_features_are_small(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path, 6, size=(40, 40))))
    features = source.raw_features(np.arange(6))
    assert features.shape == (6, 3 * 16 * 16)
    assert features.min() >= 0
    assert features.max() <= 1


def test_embed_source_takes_the_fitted_spec(tmp_path, write_images):
    source = OPEN(str(write_images(tmp_path / "a", 6)), size=16)
    spec = ImageDomain().spec_from_dict(json.loads(json.dumps(source.spec.to_dict())))
    assert spec == source.spec
    new = ImageDomain().embed_source(spec, str(write_images(tmp_path / "b", 3, size=(50, 70))))
    assert new.fetch([0, 1, 2]).x.shape == (3, 3, 16, 16)
    assert len(new.splits["train"]) == 3


def test_inspect_gives_lines_that_open_it(tmp_path, write_images):
    import yaml

    folder = str(write_images(tmp_path, 6))
    card, lines = ImageDomain().inspect(folder)
    assert card["images"] == 6
    assert len(OPEN(**yaml.safe_load(lines)["data"])) == 6
