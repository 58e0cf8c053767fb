"""Perturbed texts: what each operation does to known cells, and what none may do."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.integration import perturb
from ssl_domains.tabular.integration.equivalents import Equivalents, built_in, from_file, from_wordnet
from ssl_domains.tabular.integration.views import OPERATIONS, TextPerturbations

KNOWN = Equivalents.of(built_in())


def coded(*texts, length=40):
    out = torch.zeros(len(texts), length, dtype=torch.int32)
    for i, text in enumerate(texts):
        out[i, : len(text)] = torch.tensor([ord(c) for c in text], dtype=torch.int32)
    return out


def told(chars):
    return ["".join(chr(c) for c in row if c) for row in chars.tolist()]


def same(n, value, *shape):
    return torch.full((n, *shape), value)


def test_words_of_a_cell():
    words = perturb.Words.of(coded("ab c", "", "x", length=6))
    assert words.count.squeeze(1).tolist() == [2, 0, 1]
    assert words.number[0, :4].tolist() == [0, 0, 0, 1]
    assert words.place[0, :4].tolist() == [0, 1, 2, 0]


def test_known_rewrites():
    cells = coded("very large data bases", "7 main street", "1999", "", "x")
    assert told(perturb.initials(cells)) == ["vldb", "7 main street", "1999", "", "x"]
    assert told(perturb.move_words(cells, same(5, 0.0, 1)))[:2] == ["large very data bases", "main 7 street"]
    assert told(perturb.move_words(cells, same(5, 0.99, 1)))[:2] == ["very large bases data", "7 street main"]
    short = perturb.shorten_words(cells, same(5, 0.0, 40), 1.0, same(5, 1, 1))
    assert told(short) == ["v l d b", "7 m s", "1999", "", "x"]
    uniform = torch.tensor([0.9, 0.1, 0.8, 0.7]).repeat(5, 10)
    assert told(perturb.drop_words(cells, uniform, 0.3)) == ["very data bases", "7 street", "1999", "", "x"]
    draws = same(5, 0.0, 2, 40)
    assert told(perturb.equivalents(cells, draws, 0.3, KNOWN))[:2] == ["very lg data bases", "7 main st"]
    signs = coded("310/246-1501", "-3.5", "...")
    assert told(perturb.change_signs(signs, same(3, 0.2, 1))) == ["3102461501", "-3.5", "..."]
    assert told(perturb.change_signs(signs, same(3, 0.7, 1))) == ["310 246 1501", "-3.5", "..."]


@pytest.mark.parametrize(
    ("error", "wanted"), [(0.1, "wqter"), (0.3, "waqter"), (0.6, "wter"), (0.8, "wtaer")], ids=str
)
def test_each_typing_error(error, wanted):
    draws = torch.zeros(1, 4, 40)
    draws[0, 1, 1] = 0.9  # the second letter
    draws[0, 2] = error
    assert told(perturb.typos(coded("water"), draws, 0.3)) == [wanted]


def test_numbers_are_known():
    cells = coded("1999", "3.14", "-5", "+1,5", "", "1.2.3", "5-6", "x1", "-")
    assert perturb.is_number(cells).tolist() == [True] * 4 + [False] * 5


words = st.text(alphabet="abcxyz0123456789.-'é", min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5),
    st.integers(0, 999),
)
def test_nothing_breaks_a_cell(texts, seed):
    """No operation empties a cell, breaks its spaces, makes a number unreadable, or grows too wide."""
    cells = coded(*texts, length=48)
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(len(texts), 5, 48, generator=generator)
    numbers = perturb.is_number(cells)
    results = {
        "drop": perturb.drop_words(cells, u[:, 0], 0.5),
        "move": perturb.move_words(cells, u[:, 4, :1]),
        "shorten": perturb.shorten_words(cells, u[:, 0], 0.5, 1 + (u[:, 4, :1] * 4).long()),
        "initials": perturb.initials(cells),
        "signs": perturb.change_signs(cells, u[:, 4, :1]),
        "equivalents": perturb.equivalents(cells, u[:, :2], 0.5, KNOWN),
        "typos": perturb.typos(cells, u[:, :4], 0.5),
    }
    for name, out in results.items():
        assert out.shape == cells.shape
        for old, new, number in zip(texts, told(out), numbers.tolist(), strict=True):
            assert new, (name, old)
            assert new == " ".join(new.split()), (name, old, new)
            if number:
                float(new.replace(",", "."))
            if name == "move":
                assert sorted(new.split(" ")) == sorted(old.split(" "))


@pytest.fixture
def source(people):
    return Tabular().open(people.drop(columns="person"), cells="text")


def test_views_leave_rows_and_draws_alone(source):
    views = TextPerturbations(positives=3)
    batch = source.fetch(np.arange(40))
    made = views(batch, Draw(1, 5, batch.index))
    assert [view.role for view in made] == ["clean"] + ["positive"] * 3
    assert made[0].x is batch.x
    for view in made[1:]:
        assert view.x["chars"].shape == batch.x["chars"].shape
        assert view.params["corrupted"].any(dim=1).float().mean() > 0.8
        assert not (~batch.x["missing"].all(1) & view.x["missing"].all(1)).any(), "a row lost its last cell"
        assert not view.x["chars"][view.x["missing"]].any()
        kept = ~view.params["corrupted"]
        assert torch.equal(view.x["chars"][kept], batch.x["chars"][kept])
    again = views(batch, Draw(1, 5, batch.index))
    assert all(torch.equal(a.x["chars"], b.x["chars"]) for a, b in zip(made, again, strict=True))


def test_draws_do_not_depend_on_the_batch(source):
    """Row 3 is perturbed alike in any batch; only replaced cells come from the others."""
    views = TextPerturbations(positives=1, operations=[name for name in OPERATIONS if name != "replace_cell"])
    wide, narrow = source.fetch([3, 9, 12, 30, 41, 17]), source.fetch([12, 3])
    first = views(wide, Draw(0, 2, wide.index))[1].x["chars"]
    second = views(narrow, Draw(0, 2, narrow.index))[1].x["chars"]
    assert told(first[2]) == told(second[0])
    assert told(first[0]) == told(second[1])


def test_strength_zero_is_the_identity(source):
    batch = source.fetch(np.arange(10))
    made = TextPerturbations(positives=1, strength=0.0)(batch, Draw(0, 0, batch.index))
    assert torch.equal(made[1].x["chars"], batch.x["chars"])
    assert not made[1].params["corrupted"].any()


def test_both_ways_of_choosing_cells_agree(source, monkeypatch):
    """On an accelerator all cells are computed and some are taken; the result is the same."""
    from ssl_domains.tabular.integration import views as module

    batch = source.fetch(np.arange(30))
    picked = TextPerturbations(positives=2)(batch, Draw(0, 0, batch.index))

    def everywhere(where, chars, uniform, rewrite):
        return torch.where(where[:, None], rewrite(chars, uniform), chars)

    monkeypatch.setattr(module, "_where", everywhere)
    computed = TextPerturbations(positives=2)(batch, Draw(0, 0, batch.index))
    assert all(torch.equal(a.x["chars"], b.x["chars"]) for a, b in zip(picked, computed, strict=True))


def test_synonyms_of_the_user(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("# a comment\nautomobile, car\nbig, large, huge\n")
    known = Equivalents.of(from_file(file))
    cells = coded("red automobile", "huge car")
    assert told(perturb.equivalents(cells, torch.zeros(2, 2, 40), 1.0, known)) == ["red car", "big car"]
    file.write_text("lonely\n")
    with pytest.raises(DataError, match=r"line 1 .* one word"):
        list(from_file(file))
    with pytest.raises(DataError, match="cannot be read"):
        list(from_file(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="no WordNet files"):
        list(from_wordnet(tmp_path))


def test_wordnet_lines(tmp_path):
    (tmp_path / "data.noun").write_text(
        "  1 the licence\n00001740 03 n 02 automobile 0 car 0 001 @ 00001930 n 0000 | a thing\n"
        "00001930 03 n 02 motor_car 0 machine 0 000 | another\n"
    )
    assert list(from_wordnet(tmp_path)) == [["automobile", "car"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positives": 0}, "positives"),
        ({"strength": 1.5}, "strength"),
        ({"operations": ["typo"]}, "'typo' is none"),
        ({"operations": []}, "empty"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        TextPerturbations(**options)


def test_views_of_numbers_say_what_they_miss():
    frame = pd.DataFrame({"a": ["x", "y", "z"], "b": ["1", "2", "3"]})
    source = Tabular().open(frame, cells="text", valid=0.0, test=0.0)
    from ssl_domains.tabular.views import ColumnNoise, RowCutMix

    with pytest.raises(DataError, match=r"data.cells is text"):
        ColumnNoise().prepare(source)
    batch = source.fetch([0, 1])
    with pytest.raises(DataError, match="use views: text_perturbations"):
        RowCutMix()(batch, Draw(0, 0, batch.index))
