"""What users get wrong ends in one sentence, with exit code 2 at a shell, and leaves nothing behind."""

import numpy as np
import pytest
from PIL import Image

from ssl_domains.cli import main
from ssl_domains.core.errors import DataError
from ssl_domains.image.domain import ImageDomain

from .conftest import pattern

OPEN = ImageDomain().open


def refused(match, *args, **data):
    with pytest.raises(DataError, match=match) as caught:
        OPEN(*args, **data)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    refused("does not exist; give a folder", str(tmp_path / "nowhere"))
    refused(r"holds no image \(it is empty\)", str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    refused(r"holds no image \(files: 1 .txt\)", str(tmp_path))
    refused("cannot tell what this file holds", str(tmp_path / "a.txt"))
    refused("int is no source of images", 3)


def test_all_broken(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("text")
    refused(r"0.png is no image that can be read \(3 such files in all\); check data.source", str(tmp_path))


def test_one_usable_image(tmp_path):
    Image.fromarray(pattern()).save(tmp_path / "one.png")
    refused("holds 1 usable image", str(tmp_path))


def test_table_with_missing_files(tmp_path, write_images):
    write_images(tmp_path / "img", 4, classes=())
    file = tmp_path / "list.csv"
    file.write_text("path\n" + "".join(f"img/{i:03d}.png\n" for i in range(6)))
    source = OPEN(str(file))
    assert len(source) == 4
    assert source.broken == ["img/004.png does not exist", "img/005.png does not exist"]
    refused("img/004.png does not exist", str(file), strict=True)
    file.write_text("path\nx/1.png\nx/2.png\n")
    refused(r"x/1.png does not exist \(2 such files in all\); check data.source and data.root", str(file))


def test_tables_that_do_not_fit(tmp_path, write_images):
    write_images(tmp_path, 2, classes=())
    file = tmp_path / "list.csv"
    file.write_text("a,b\n1,2\n")
    refused(r"no column of paths that can be told \(columns: a, b\)", str(file))
    refused("data.path: .* has no column 'c'", str(file), path="c")
    file.write_text("path,part\n000.png,train\n,test\n")
    refused("row 2 has no path", str(file))
    file.write_text("path,part\n000.png,train\n001.png,holdout\n")
    refused("row 2 has 'holdout' in the split column 'part'", str(file), split="part")
    refused("data.label: .* has no column 'kind'", str(file), label="kind")
    file.write_bytes(b"\xff\xfe\x00broken\n\x00")
    refused("list.csv", str(file))


def test_arrays_that_do_not_fit(tmp_path):
    refused("found 3 x 4$", np.zeros((3, 4)))
    refused("must not be negative", np.full((3, 4, 4), -0.5))
    refused("NaN or infinite", np.full((3, 4, 4), np.nan))
    refused("3 images but 2 labels", (np.zeros((3, 4, 4)), np.zeros(2)))
    refused("must be numbers", np.array([["a"]]))
    (tmp_path / "x.npz").write_bytes(b"PK no zip")
    refused("x.npz cannot be read", str(tmp_path / "x.npz"))
    np.savez(tmp_path / "y.npz", weights=np.zeros(3))
    refused(r"\(it holds: weights\)", str(tmp_path / "y.npz"))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("o.npy cannot be read", str(tmp_path / "o.npy"))
    (tmp_path / "t.tar").write_text("no tar")
    refused("t.tar is no tar file", str(tmp_path / "t.tar"))


def test_options_out_of_range(tmp_path, write_images):
    folder = str(write_images(tmp_path, 6))
    refused("data.size must be at least 1", folder, size=0)
    refused("data.limit must be at least 1", folder, limit=0)
    refused("data.valid is a share", folder, valid=1.5)
    refused("leave none of 6 images to train on", folder, valid=0.5, test=0.5)
    refused("no regular expression", folder, group="(")
    refused("does not match the path", folder, group="patient")
    refused("use label=folder for class folders", folder, label="kind")


def recipe(folder, **train):
    lines = "".join(f", {key}: {value}" for key, value in train.items())
    return f"""domain: image
data: {{source: {folder}}}
encoder: {{name: image_resnet, depth: 10, width: 8}}
method: {{name: joint_embedding, projector: [8, 8]}}
objective: nt_xent
train: {{steps: 2, device: cpu{lines}}}
evaluate: {{probes: [knn], seeds: 1, tree: false}}
"""


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["train.batch_size=64"], "train.batch_size is 64, but the training split has 10 rows"),
        (["encoder.depth=19"], "encoder.depth"),
        (["encoder.name=image_vit", "encoder.depth=2", "encoder.width=16"], "encoder"),
        (["encoder.name=timm", "encoder.width=null", "encoder.depth=null", "encoder.model=resnet19"], ""),
        (["views.family=simclear"], "views.family"),
        (["data.strict=true"], "note.png is no image that can be read"),
    ],
)
def test_exit_code_and_no_run(tmp_path, write_images, capsys, extra, says):
    folder = write_images(tmp_path / "images", 12)
    (folder / "cat" / "note.png").write_text("no image")
    (tmp_path / "r.yaml").write_text(recipe(folder, batch_size=4))
    code = main(["pretrain", str(tmp_path / "r.yaml"), f"run={tmp_path / 'run'}", "--quiet", *extra])
    found = capsys.readouterr().err
    assert code == 2, found
    assert says in found
    assert "Traceback" not in found
    assert not (tmp_path / "run").exists()


def test_a_folder_with_broken_files_trains(tmp_path, write_images, capsys):
    folder = write_images(tmp_path / "images", 14)
    (folder / "cat" / "note.png").write_text("no image")
    (tmp_path / "r.yaml").write_text(recipe(folder, batch_size=4, num_workers=1))
    assert main(["pretrain", str(tmp_path / "r.yaml"), f"run={tmp_path / 'run'}", "--quiet"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "cat/note.png is no image that can be read" in page
    capsys.readouterr()
