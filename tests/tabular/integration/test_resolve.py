"""Facts about values, and the choice among several."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import mutual_info_score

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.integration.facts import TableFacts, mutual_information
from ssl_domains.tabular.integration.pipeline import join_rows
from ssl_domains.tabular.integration.resolve import Conflict, first, longest, neighbours, resolver, vote


def facts_of(columns):
    return TableFacts(pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False))


def conflict(facts, name, rows):
    column = facts.names.index(name)
    codes = facts.codes[rows, column]
    values, start, votes = np.unique(codes[codes >= 0], return_index=True, return_counts=True)
    order = np.argsort(start)
    return Conflict(facts, column, np.array(rows), tuple(values[order]), tuple(votes[order]))


def test_equal_values():
    facts = facts_of(
        {"year": ["1999", "1999.0", " 1999 ", "2000", None], "s": ["A  b", "a b", "c", "", "A b"]}
    )
    assert facts.codes[:, 0].tolist() == [0, 0, 0, 1, -1]
    assert facts.codes[:, 1].tolist() == [0, 0, 1, -1, 0]
    assert facts.counts[0].tolist() == [3, 1]


def test_lists_and_empty_columns_are_values_too():
    table = pa.table({"l": pa.array([[1], [1], [2], None]), "e": pa.nulls(4)})
    facts = TableFacts(table)
    assert facts.codes.T.tolist() == [[0, 0, 1, -1], [-1] * 4]


def test_mutual_information_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 300)
    b = (a + rng.integers(0, 2, 300)) % 6
    assert mutual_information(a, b) == pytest.approx(mutual_info_score(a, b))
    a[:50] = -1
    assert mutual_information(a, b) == pytest.approx(mutual_info_score(a[50:], b[50:]))
    assert mutual_information(np.array([-1]), np.array([0])) == 0.0


def test_numbers_are_binned():
    rng = np.random.default_rng(1)
    x = rng.normal(size=2000)
    facts = facts_of({"x": x.round(4).astype(str), "y": np.where(x > 0, "up", "down")})
    weight = facts.weights(1)
    assert weight[1] == 0.0
    assert weight[0] == pytest.approx(np.log(2), abs=0.05), "ten quantiles tell the sign"


def test_rules():
    facts = facts_of({"city": ["bern", "bren", "bern", "basel", "bern"], "n": ["x", "xyz", "y", "w", "v"]})
    tie = conflict(facts, "city", [1, 0])
    assert tie.texts == ["bren", "bern"]
    assert vote(tie) == 1, "a typing error is rare in the column"
    assert vote(conflict(facts, "city", [1, 3, 1])) == 0
    assert (first(tie), longest(conflict(facts, "n", [0, 1, 2]))) == (0, 1)
    assert vote(conflict(facts, "n", [0, 1, 2])) == 1, "all alike: the longest"


def towns():
    zips = {"bern": "3000", "basel": "4000", "genf": "1200"}
    town = np.array(["bern", "basel", "genf"])[np.arange(60) % 3]
    return {"town": town, "zip": [zips[t] for t in town], "noise": [str(i * 7 % 13) for i in range(60)]}


def test_neighbours_know_what_goes_together():
    columns = towns()
    columns["zip"][0], columns["zip"][3] = "3000", "4000"  # row 3 is in bern: the zip of another town
    facts = facts_of(columns)
    case = conflict(facts, "zip", [3, 0])
    assert case.texts == ["4000", "3000"]
    assert neighbours(case) == 1
    demos = case.demonstrations()
    assert len(demos) == 10
    assert not {0, 3} & set(demos)
    assert all(columns["town"][i] == "bern" for i in demos)
    prompt = case.prompt().splitlines()
    assert len(prompt) == 11
    assert "town is bern" in prompt[0]
    assert prompt[0].endswith("then zip is 3000.")
    assert prompt[-1].endswith("then zip is")


def test_rows_are_joined_cell_by_cell():
    facts = facts_of(
        {
            "a": ["x", None, "x", "q"],
            "b": [None, "7", "8", None],
            "c": [None, None, None, "z"],
            "d": ["1", "2", "2", "3"],
        }
    )
    origins, choices = join_rows(facts, np.array([0, 0, 0, 1]), vote)
    assert origins.tolist() == [[0, 1, -1, 1], [3, -1, 3, 3]]
    assert [(c.tuple_number, c.column, c.chosen, c.others) for c in choices] == [
        (0, "b", 1, (2,)),
        (0, "d", 1, (0,)),
    ]
    everything = {c.chosen for c in choices} | {row for c in choices for row in c.others}
    assert everything == {0, 1, 2}, "no value is lost: chosen or listed"


def test_resolvers_of_the_user():
    facts = facts_of({"a": ["x", "y"]})
    _, choices = join_rows(facts, np.array([0, 0]), lambda conflict: len(conflict.values) - 1)
    assert choices[0].chosen == 1
    with pytest.raises(UserError, match="place in"):
        join_rows(facts, np.array([0, 0]), lambda conflict: 5)
    assert resolver("vote") is vote
    with pytest.raises(UserError, match="'votes'"):
        resolver("votes")
    with pytest.raises(UserError, match="no folder of a language model"):
        resolver("lm:/nowhere")


def test_a_language_model_in_a_folder(tmp_path):
    """A tiny model that is trained here to say 3000 after bern; it must choose by the context."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    torch.manual_seed(0)
    words = ["[UNK]", "if", "then", "and", "town", "is", "bern", "basel", "zip", "3000", "4000", ".", ","]
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    raw.normalizer = tokenizers.normalizers.Lowercase()
    raw.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]").save_pretrained(tmp_path)
    nothing = {
        "bos_token_id": None,
        "eos_token_id": None,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }
    sizes = {"vocab_size": len(words), "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, **nothing)
    model = transformers.GPT2LMHeadModel(config)
    lines = ["if town is bern , then zip is 3000 .", "if town is basel , then zip is 4000 ."]
    ids = torch.tensor([raw.encode(line).ids for line in lines])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    chosen = resolver(f"lm:{tmp_path}")
    scores = chosen.scores("if town is bern , then zip is", ["4000", "3000"])
    assert scores[1] > scores[0] + 1
    assert chosen.scores("if town is basel , then zip is", ["4000", "3000"])[0] > -0.5
    facts = facts_of({"town": ["bern", "bern", "basel", "bern"], "zip": ["4000", "3000", "4000", "3000"]})
    assert chosen(conflict(facts, "zip", [0, 1])) in (0, 1)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        resolver(f"lm:{tmp_path}")
