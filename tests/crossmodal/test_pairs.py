"""Sources of pairs: tables, folders, ids; what is missing, doubled or constant."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ssl_domains
from ssl_domains.core.errors import DataError, RecipeError
from ssl_domains.crossmodal.generated import generate
from ssl_domains.recipe.build import build, open_source
from ssl_domains.recipe.check import read_recipe

SMALL = {
    "a": {"domain": "image", "encoder": {"name": "image_resnet", "depth": 10, "width": 8}},
    "b": {"domain": "text", "encoder": {"name": "text_transformer", "width": 8, "depth": 1, "heads": 2}},
}


def recipe(data, a=None, b=None, **more):
    return {
        "domain": "crossmodal", "data": data, "a": SMALL["a"] | (a or {}), "b": SMALL["b"] | (b or {}),
        "encoder": {"name": "towers", "width": 16}, "method": "cross_modal", "objective": "clip",
        "train": {"batch_size": 8, "steps": 2, "device": "cpu"}, **more,
    }  # fmt: skip


def opened(data, **sections):
    return open_source(read_recipe(recipe(data, **sections)))[1]


@pytest.fixture
def table(tmp_path):
    """``table(rows)``: pictures on disk and a CSV (image, caption, ...) of pairs; rows edit the cells."""
    scenes = generate("generated://scenes?pairs=24")

    def make(edit=None, header="image,caption", extra=()):
        (tmp_path / "img").mkdir(exist_ok=True)
        rows = []
        for i in range(24):
            Image.fromarray(scenes.columns["image"][i]).save(tmp_path / "img" / f"{i}.png")
            rows.append([f"img/{i}.png", scenes.columns["text"][i].replace(",", "")])
        for number, cells in (edit or {}).items():
            rows[number] = cells
        lines = [header, *(",".join(row) for row in [*rows, *extra])]
        path = tmp_path / "pairs.csv"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return make


def test_a_table_of_pairs(table):
    source = opened({"source": table()})
    assert len(source) == 24
    batch = source.fetch([3, 1])
    assert set(batch.x) == {"a", "b"}
    assert batch.x["a"].shape == (2, 3, 32, 32)
    assert batch.index.tolist() == [3, 1]
    alone = source.fetch([3])
    assert (alone.x["a"][0] == batch.x["a"][0]).all()
    assert (alone.x["b"]["ids"][0] == batch.x["b"]["ids"][0]).all()
    rows = np.concatenate(list(source.splits.values()))
    assert sorted(rows) == list(range(24))
    name = source.part("a").ids(np.array([5]))[0]
    assert name.endswith("img/5.png")


def test_missing_partners_are_counted(table):
    source = opened(
        {"source": table(edit={2: ["img/2.png", ""], 5: ["", "a caption"], 7: ["img/no.png", "gone"]})}
    )
    assert len(source) == 21
    assert source.card()["missing partners"] == {"a": 2, "b": 1}
    assert "3 of 24 rows lack a partner" in source.card()["notes"]
    assert "img/no.png" in source.card()["notes"]
    with pytest.raises(DataError, match=r"files do not exist"):
        opened({"source": table(edit={7: ["img/no.png", "gone"]}), "strict": True})


def test_most_paths_wrong_is_an_error(table, tmp_path):
    path = table()
    with pytest.raises(DataError, match=r"24 of 24 files do not exist .*data.root"):
        opened({"source": path, "root": str(tmp_path / "elsewhere")})


def test_one_modality_constant(table):
    edit = {i: [f"img/{i}.png", "a picture"] for i in range(24)}
    with pytest.raises(DataError, match=r"part b \(text\) is the same sample in every train pair"):
        opened({"source": table(edit=edit)})


def test_a_single_pair(table):
    edit = {i: [f"img/{i}.png", ""] for i in range(1, 24)}
    with pytest.raises(DataError, match=r"1 complete pair to train on; contrast needs at least two"):
        opened({"source": table(edit=edit), "valid": 0.0, "test": 0.0})


def test_several_captions_of_a_picture_stay_together_and_are_one_item(table):
    extra = [[f"img/{i}.png", f"another caption of number {i}"] for i in range(24)]
    source = opened({"source": table(extra=extra), "test": 0.3})
    assert len(source) == 48
    assert len(np.unique(source.links.rows["a"])) == 24
    assert source.shares_items()
    which = {split: set(source.links.rows["a"][rows]) for split, rows in source.splits.items()}
    assert not which["train"] & which["test"]
    assert not which["train"] & which["valid"]


def test_long_captions_are_cut_and_counted(table):
    source = opened({"source": table()}, b={"data": {"length": 6}})
    assert source.parts["b"].card()["cut to the context"] > 0
    assert (source.parts["b"].fetch([0]).x["ids"][0] != source.parts["b"].spec.pad).all()


def test_vocabulary_is_of_the_train_pairs_only(table):
    from tokenizers import Tokenizer

    words = [f"word{chr(97 + i)}{chr(98 + i)}{chr(99 + i)}" for i in range(24)]
    edit = {i: [f"img/{i}.png", f"caption with {word} in it"] for i, word in enumerate(words)}
    source = opened({"source": table(edit=edit), "test": 0.5, "valid": 0.0})
    known = Tokenizer.from_str(source.parts["b"].spec.tokeniser).get_vocab()
    assert all(words[i] in known for i in source.splits["train"])
    assert len(source.splits["test"]) == 12
    assert not any(words[i] in known for i in source.splits["test"])


def test_ambiguous_column_names_what_to_do(table):
    with pytest.raises(DataError, match=r"which column is part b \(text\)\? Say data.columns.b=COLUMN"):
        opened({"source": table(header="image,something")})
    assert len(opened({"source": table(header="image,something"), "columns": {"b": "something"}})) == 24
    with pytest.raises(DataError, match=r"there is no column 'nix'"):
        opened({"source": table(), "label": "nix"})


def test_a_folder_of_equal_names(tmp_path):
    scenes = generate("generated://scenes?pairs=12")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for i in range(12):
        Image.fromarray(scenes.columns["image"][i]).save(tmp_path / "a" / f"{i:02d}.png")
        if i != 4:
            (tmp_path / "b" / f"{i:02d}.txt").write_text(scenes.columns["text"][i])
    source = opened({"source": str(tmp_path)})
    assert len(source) == 11
    assert source.card()["missing partners"] == {"a": 0, "b": 1}
    assert "04" not in list(source.ids(np.arange(11)))


def test_ids_join_sources_of_their_own(tmp_path):
    lines = ["id,text", *(f"n{i},the text of number {i}" for i in range(30))]
    (tmp_path / "texts.csv").write_text("\n".join(lines) + "\n")
    rows = ["id,x,y,label", *(f"n{i},{i * 0.5},{(i * 7) % 5},{i % 2}" for i in range(5, 40))]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    a = {"domain": "tabular", "encoder": {"name": "ft_transformer", "width": 8, "depth": 1, "heads": 2}}
    a["data"] = {"source": str(tmp_path / "table.csv"), "id": "id", "label": "label"}
    b = {"data": {"source": str(tmp_path / "texts.csv"), "id": "id"}}
    source = opened({}, a=a, b=b)
    assert len(source) == 25
    assert source.card()["missing partners"] == {"a": 5, "b": 10}
    assert source.class_names == ["0", "1"]
    names = [str(n) for n in source.part("a").ids(np.arange(25))]
    assert names == [str(n) for n in source.part("b").ids(np.arange(25))]


def test_duplicate_keys(tmp_path):
    (tmp_path / "texts.csv").write_text("id,text\nn1,one\nn1,two\nn2,three\n")
    (tmp_path / "more.csv").write_text("id,text\nn1,eins\nn2,zwei\n")
    a = {
        "domain": "text",
        "encoder": SMALL["b"]["encoder"],
        "data": {"source": str(tmp_path / "texts.csv"), "id": "id"},
    }
    b = {"data": {"source": str(tmp_path / "more.csv"), "id": "id"}}
    with pytest.raises(DataError, match=r"part a: the key 'n1' is there twice \(rows 0 and 1\)"):
        opened({}, a=a, b=b)


def test_no_data_for_a_part():
    with pytest.raises(DataError, match=r"part a \(image\): where are its data\?"):
        opened({})


def test_all_problems_of_the_parts_at_once():
    bad = recipe({"sorce": "x.csv"}, a={"encoder": {"name": "image_resnet", "dept": 3}}, b={"domain": "txt"})
    bad["e"] = {"domain": "image"}
    with pytest.raises(RecipeError) as error:
        read_recipe(bad)
    text = "\n".join(error.value.problems)
    for part in (
        "data.sorce",
        "a.encoder.dept",
        "did you mean 'depth'",
        "b.domain",
        "no domain is called 'txt'",
    ):
        assert part in text
    assert "e: unknown section" in text


def test_a_part_of_another_domain_takes_the_old_ones_options_away():
    found = read_recipe("crossmodal/clip", ["b.domain=image", "b.encoder=image_resnet", "b.encoder.width=8"])
    assert found.parts["b"].sections["encoder"].options == {"width": 8}
    moved = read_recipe("crossmodal/clip", ["a.domain=image", "a.encoder.width=8", "data.source=pairs.csv"])
    assert moved.parts["a"].sections["encoder"].options == {"depth": 10, "width": 8}
    again = read_recipe(dict(moved.resolved()))
    assert again.resolved() == moved.resolved()


def test_one_part_only():
    bad = recipe({"source": "generated://scenes?pairs=20"})
    del bad["b"]
    with pytest.raises(RecipeError, match=r"b: missing; domain 'crossmodal' needs it"):
        read_recipe(bad)


def test_an_objective_without_a_method_in_a_part():
    with pytest.raises(RecipeError, match=r"a.objective: this part has no method"):
        read_recipe(recipe({"source": "generated://scenes?pairs=20"}, a={"objective": "nt_xent"}))


def test_the_issue_line_runs_and_its_encoder_embeds(table, tmp_path):
    path = table()
    run = ssl_domains.pretrain(
        "crossmodal/clip", "a.domain=image", "b.domain=text", f"data.source={path}", "train.steps=2",
        "train.batch_size=8", "train.device=cpu", run=tmp_path / "run", progress=False,
    )  # fmt: skip
    keys = {row.probe for row in run.evaluation.rows}
    assert {"pair_retrieval_a_to_b", "pair_retrieval_b_to_a", "modality_gap_a_b"} <= keys
    assert [f["title"] for f in run.evaluation.figures] == ["Found: a to b", "Found: b to a"]
    both = run.encoder.embed(path)
    images = run.encoder.embed(str(tmp_path / "img"), part="a")
    width = both.shape[1] // 2
    order = [f"{i}.png" for i in range(24)]
    listed = sorted(order)
    np.testing.assert_allclose(both[:, :width], images[[listed.index(n) for n in order]], atol=1e-5)
    again = ssl_domains.evaluate(tmp_path / "run", progress=False)
    assert {r.probe: r.mean for r in again.evaluation.rows} == {r.probe: r.mean for r in run.evaluation.rows}


def test_a_tower_from_a_run(table, tmp_path):
    first = ssl_domains.pretrain(
        {"domain": "image", "data": {"source": str(table()).replace("pairs.csv", "img")},
         "encoder": SMALL["a"]["encoder"], "views": "image_augment",
         "method": {"name": "joint_embedding", "projector": [8]}, "objective": "nt_xent",
         "train": {"steps": 2, "batch_size": 8, "device": "cpu"}, "evaluate": {"probes": [], "seeds": 1}},
        run=tmp_path / "first", progress=False,
    )  # fmt: skip
    made = recipe({"source": table()}, a={"init_from": str(tmp_path / "first")})
    made["method"] = {"name": "cross_modal", "towers": {"a": "cached"}}
    experiment = build(read_recipe(made))
    own = first.encoder.encoder.state_dict()
    for name, value in experiment.method.encoder.part("a").state_dict().items():
        np.testing.assert_array_equal(value.numpy(), own[name].numpy())
    assert experiment.source.parts["a"].spec == first.encoder.spec


def test_long_recordings_of_pairs_are_embedded_a_few_at_a_time(tmp_path):
    """Two captions a recording, the long ones last: rows of pairs are not rows of the recordings."""
    import soundfile

    rng = np.random.default_rng(0)
    lines = ["audio,text"]
    for i in range(24):
        seconds = 0.3 if i < 12 else 4.0
        soundfile.write(tmp_path / f"{i:02d}.wav", rng.normal(0, 0.1, int(16000 * seconds)), 16000)
        lines += [f"{i:02d}.wav,first of {i}", f"{i:02d}.wav,second of {i}"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    recipe = {
        "domain": "crossmodal", "data": {"source": str(tmp_path / "pairs.csv")},
        "a": {
            "domain": "speech",
            "encoder": {"name": "speech_transformer", "width": 8, "depth": 1, "heads": 2},
        },
        "b": {"domain": "text", "encoder": {"name": "text_transformer", "width": 16, "depth": 1, "heads": 2}},
        "method": "cross_modal", "objective": "clip", "train": {"steps": 1},
    }  # fmt: skip
    source = open_source(read_recipe(recipe))[1]
    every = np.arange(len(source))
    for of in (source, source.part("a")):
        pieces = of.pieces(every, 1024)
        assert sorted(np.concatenate(pieces)) == every.tolist()
        sizes = [of.fetch(every[at]).x for at in pieces]
        values = [x["a"].values if isinstance(x, dict) else x.values for x in sizes]
        assert max(v.numel() for v in values) <= 20.5 * 16000  # seconds that a speech source allows on a CPU
    part = source.part("a")
    seconds = [float(part.fetch([row]).x.lengths[0]) / 16000 for row in range(0, 48, 7)]
    assert part.lengths[range(0, 48, 7)].tolist() == pytest.approx(seconds, abs=0.01)
    assert not hasattr(source.part("b"), "pieces")
    np.testing.assert_array_equal(source.lengths, part.lengths)
    sampler = build(read_recipe({**recipe, "sampler": {"name": "bucket", "budget": 8}})).sampler
    sampler.prepare(source)
    assert sampler.n_batches(source.splits["train"], 16) > 8  # two recordings of 4 s at a time
