"""Texts: tokenisers, sources, encoder, masked words, views, bad input."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import DataError, UserError
from ssl_domains.core.random import Draw
from ssl_domains.text.bodies import FAMILIES
from ssl_domains.text.domain import TextDomain
from ssl_domains.text.encoders import TextTransformer, content_of
from ssl_domains.text.objectives import MaskedTokens
from ssl_domains.text.views import TextAugment

LINES = [f"the {c} {a} {v} over the {d}" for c in ("old", "red") for a in ("fox", "cat", "owl")
         for v in ("ran", "flew") for d in ("hill", "sea", "roof")]  # fmt: skip
SMALL = {"width": 16, "depth": 2, "heads": 2, "dropout": 0.0}


@pytest.fixture
def source():
    return TextDomain().open(LINES, length=12)


def test_a_source_is_what_a_source_must_be(source):
    assert len(source) == 36
    batch = source.fetch([5, 2])
    alone = source.fetch([2])
    assert (batch.x["ids"][1] == alone.x["ids"][0]).all()
    assert batch.x["ids"].shape == (2, 12)
    assert batch.x["ids"][0, 0] == source.spec.begin
    n = int(batch.x["length"][0])
    assert batch.x["ids"][0, n - 1] == source.spec.end
    assert (batch.x["ids"][0, n:] == source.spec.pad).all()
    rows = np.concatenate(list(source.splits.values()))
    assert sorted(rows) == list(range(36))
    assert source.raw_features(np.array([0, 1])).shape[0] == 2
    again = TextDomain().spec_from_dict(source.spec.to_dict())
    assert again == source.spec
    new = TextDomain().embed_source(again, ["the red fox ran"])
    assert len(new) == 1


def test_a_tokeniser_is_the_same_in_every_process():
    code = (
        "from ssl_domains.text.domain import TextDomain; import hashlib; s = TextDomain().open("
        "'python://topics', limit=400, vocabulary=900); "
        "print(hashlib.sha256(s.spec.tokeniser.encode()).hexdigest())"
    )
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
             for _ in range(2)}  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_tokenisers_read_back_what_was_written(kind, tmp_path):
    opened = TextDomain().open(LINES, tokeniser=kind, length=20)
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(opened.spec.tokeniser)
    assert made.decode(made.encode(LINES[0]).ids).strip() == LINES[0]
    (tmp_path / "tokenizer.json").write_text(opened.spec.tokeniser)
    again = TextDomain().open(LINES, tokeniser=str(tmp_path), length=20)
    assert (again.fetch([3]).x["ids"] == opened.fetch([3]).x["ids"]).all()


def test_special_tokens_in_a_text_are_not_special_places(source):
    long = TextDomain().embed_source(source.spec, ["the " * 40])
    assert long.cut == 1
    ids = long.fetch([0]).x["ids"][0]
    assert ids[-1] == source.spec.end
    assert long.card()["cut to the context"] == 1


def test_hidden_words_are_not_seen_and_padding_never_counts(source):
    torch.manual_seed(0)
    encoder = TextTransformer(source.spec, **SMALL).eval()
    x = source.fetch(np.arange(4)).x
    hidden = torch.zeros(4, 12, dtype=torch.bool)
    hidden[:, [2, 4, 11]] = True  # the last one is padding
    mask = Mask(hidden)
    seen = encoder(x, mask)
    other = {**x, "ids": torch.where(hidden & content_of(source.spec, x["ids"]), 7, x["ids"])}
    torch.testing.assert_close(encoder(other, mask).pooled, seen.pooled)
    target = encoder.targets(x).select(mask)
    head = encoder.predictor(source.spec.size)
    assert head(seen, mask).shape == (8, source.spec.size)
    assert target[:, 0].tolist() == [int(x["ids"][b, k]) for b in range(4) for k in (2, 4)]
    loss = MaskedTokens(source.spec)(head(seen, mask), target)
    torch.testing.assert_close(loss.total, F.cross_entropy(head(seen, mask), target[:, 0]))
    assert loss.trivial["uniform"] == pytest.approx(math.log(source.spec.size))
    assert head.out.weight is encoder.body.get_input_embeddings().weight
    wide = {"ids": F.pad(x["ids"], (0, 0)), "length": x["length"]}
    torch.testing.assert_close(encoder(wide).pooled, encoder(x).pooled)


def test_substitutes(source):
    encoder = TextTransformer(source.spec, **SMALL).eval()
    x = source.fetch(np.arange(2)).x
    hidden = torch.zeros(2, 12, dtype=torch.bool)
    hidden[:, 2] = True
    take = torch.full((2, 12), -1)
    take[0, 2] = 12 + 3  # the third word of the other text
    mixed = encoder(x, Mask(hidden, substitute=take)).pooled
    by_hand = x["ids"].clone()
    by_hand[0, 2], by_hand[1, 2] = x["ids"][1, 3], source.spec.mask
    states = encoder._encode(x["ids"], encoder._words(by_hand, None), Mask(hidden), False)
    torch.testing.assert_close(mixed, states.pooled)


def test_mixtures(source):
    encoder = TextTransformer(source.spec, **SMALL).eval()
    x = source.fetch(np.arange(4)).x
    rows = torch.arange(4)
    torch.testing.assert_close(encoder.encode_mixture(x, x, rows, 0.3).pooled, encoder(x).pooled)


def test_views_keep_words_in_order_and_do_not_depend_on_the_batch(source):
    spec = source.spec
    views = TextAugment(spec, drop=0.4, mask=0.0)
    batch = source.fetch(np.arange(30))
    first, second = views(batch, Draw(0, 1, batch.index))
    assert (first.x["ids"] != second.x["ids"]).any()
    some = source.fetch(np.arange(10, 15))
    again = views(some, Draw(0, 1, some.index))[0].x["ids"]
    assert (again == first.x["ids"][10:15]).all()
    for before, after in zip(batch.x["ids"].tolist(), first.x["ids"].tolist(), strict=True):
        words = iter(before)
        kept = [t for t in after if t != spec.pad]
        assert all(t in words for t in kept)  # a subsequence
        assert kept[0] == spec.begin
        assert kept[-1] == spec.end
        assert len(kept) >= 3
    lengths = (first.x["ids"] != spec.pad).sum(1)
    assert (lengths == first.x["length"]).all()


def test_span_masks_meet_their_share(source):
    long = TextDomain().open(["word " * 60] * 200 + LINES, length=62, valid=0.0, test=0.0)
    batch = long.fetch(np.arange(200))
    view = TextAugment(long.spec, drop=0.0, mask=0.2, span=3)(batch, Draw(0, 0, batch.index))[0]
    content = content_of(long.spec, batch.x["ids"])
    share = float(view.params["corrupted"].sum() / content.sum())
    assert share == pytest.approx(0.2, abs=0.02)
    assert ((view.x["ids"] == long.spec.mask) == view.params["corrupted"]).all()
    assert not (view.params["corrupted"] & ~content).any()


def test_encoder_from_a_folder(source, tmp_path):
    encoder = TextTransformer(source.spec, **SMALL).eval()
    encoder.body.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(source.spec.tokeniser)
    opened = TextDomain().open(LINES, tokeniser=str(tmp_path), length=12)
    again = TextTransformer(opened.spec, weights=str(tmp_path)).eval()
    x = source.fetch([0, 1]).x
    torch.testing.assert_close(again(x).pooled, encoder(x).pooled)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        TextTransformer(opened.spec, weights=str(tmp_path / "nothing"))
    longer = TextDomain().open(LINES, tokeniser=str(tmp_path), length=30)
    with pytest.raises(UserError, match=r"has 12 places; lower data\.length"):
        TextTransformer(longer.spec, weights=str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_give_the_states_of_transformers_and_are_built_again(source, tmp_path, family):
    torch.manual_seed(0)
    encoder = TextTransformer(source.spec, **SMALL, family=family).eval()
    x = source.fetch([0, 1, 2]).x
    there = (x["ids"] != source.spec.pad).to(torch.int64)
    theirs = encoder.body(input_ids=x["ids"], attention_mask=there).last_hidden_state
    real = there.bool()
    torch.testing.assert_close(encoder(x).tokens.values[real], theirs[real], atol=1e-5, rtol=1e-4)
    assert len(encoder(x, layers=True).layers) == SMALL["depth"]
    encoder.body.save_pretrained(tmp_path)
    loaded = TextTransformer(source.spec, weights=str(tmp_path)).eval()
    torch.testing.assert_close(loaded(x).pooled, encoder(x).pooled)
    options, spec = loaded.as_saved({"weights": str(tmp_path), "pool": "mean"}, source.spec)
    again = TextTransformer(spec, **options).eval()
    again.load_state_dict(loaded.state_dict())
    torch.testing.assert_close(again(x).pooled, encoder(x).pooled)


def test_families_that_there_are_not(source, tmp_path):
    with pytest.raises(ValueError, match=r"encoder\.family must be one of"):
        TextTransformer(source.spec, **SMALL, family="gpt2")
    with pytest.raises(ValueError, match=r"BertConfig has no field 'hidden_sizes'"):
        TextTransformer(source.spec, **SMALL, config={"hidden_sizes": 3})
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="it is a gpt2; known are"):
        TextTransformer(source.spec, weights=str(tmp_path))


def test_readers(tmp_path):
    (tmp_path / "lines.txt").write_text("one line\n\nanother line\nthird\n")
    opened = TextDomain().open(str(tmp_path / "lines.txt"))
    assert len(opened) == 3
    assert opened.ids(np.arange(3)) == ["line 1", "line 3", "line 4"]
    assert "1 of 4 texts are empty (the first: 'line 2')" in opened.card()["notes"]
    with pytest.raises(DataError, match="1 of 4 texts are empty"):
        TextDomain().open(str(tmp_path / "lines.txt"), strict=True)
    for kind in ("a", "b"):
        (tmp_path / "docs" / kind).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "docs" / kind / f"{i}.txt").write_text(f"document {i} of {kind}")
    docs = TextDomain().open(str(tmp_path / "docs"))
    assert docs.class_names == ["a", "b"]
    assert "a/0.txt" in list(docs.ids(np.arange(12)))
    rows = [
        "caption,kind,who,part",
        *(f'"caption, number {i}",{i % 3},{i // 4},{"test" if i > 15 else "train"}' for i in range(20)),
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    table = TextDomain().open(str(tmp_path / "t.csv"), label="kind", split="part")
    assert table.texts[3].as_py() == "caption, number 3"
    assert table.splits["test"].tolist() == [16, 17, 18, 19]
    grouped = TextDomain().open(str(tmp_path / "t.csv"), group="who", test=0.4)
    sides = [{i // 4 for i in rows} for rows in grouped.splits.values()]
    assert not sides[0] & sides[2]


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        ("a,b\n1,2\n", {}, "which column holds the texts"),
        ("text\nx\n", {"column": "nix"}, "there is no column 'nix'"),
        ("text\n\n\n", {}, "holds no text|cannot be read|no text"),
        ("text,y\none,1\ntwo\n", {}, "cannot be read as a table"),
        ("text\none\ntwo\n", {"valid": 0.6, "test": 0.4}, "leave none of 2 texts"),
        ("text\none\ntwo\n", {"tokeniser": "nowhere"}, "is no tokeniser; give wordpiece, bpe"),
    ],
)
def test_bad_tables(content, options, text, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=text):
        TextDomain().open(str(tmp_path / "t.csv"), **options)


def test_other_bad_input(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        TextDomain().open(str(tmp_path / "no.txt"))
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        TextDomain().open(str(tmp_path))
    (tmp_path / "latin.txt").write_bytes("grün\n".encode("latin-1"))
    with pytest.raises(DataError, match="this is no text in UTF-8"):
        TextDomain().open(str(tmp_path / "latin.txt"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as a tokeniser"):
        TextDomain().open(LINES, tokeniser=str(tmp_path))


def test_real_texts_that_ship():
    topics = TextDomain().open("python://topics", limit=200, rare=5)
    assert topics.task == "classification"
    named = TextDomain().open("python://docstrings/torch_geometric", id=None)
    assert len(named) > 300
    assert "torch_geometric.nn.conv.gat_conv" in set(named.ids(np.arange(len(named))))
    registry.scan_core()
