"""What is read from tables of interactions, users and items, and what is refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ssl_domains
from ssl_domains.core.errors import DataError
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.recommendation.interactions import InteractionOptions, hold_out
from ssl_domains.tabular.recommendation.spec import RecommendationSpec


def open_shop(shop, **changes):
    data = {**shop.data, **changes}
    return Tabular().open(**{key: value for key, value in data.items() if value is not None})


def test_batches_hold_the_features_of_both_sides(shop, source):
    batch = source.fetch([3, 100, 7])
    rows = shop.sales.iloc[[3, 100, 7]]
    items = shop.items.set_index("sku")
    assert source.items.ids(batch.meta["item"].numpy()) == list(rows.sku)
    assert source.users.ids(batch.meta["user"].numpy()) == [str(u) for u in rows.uid]
    item = batch.x["item"]
    categories = source.items.entity.table.categorical
    assert [c.name for c in categories] == ["sku", "kind", "maker"]
    for j, column in enumerate(categories[1:], 1):
        found = [column.categories[code - 2] for code in item["categorical"][:, j].tolist()]
        assert found == list(items.loc[rows.sku, column.name])
    known = source.items.entity.lists[0].values
    for codes, text in zip(item["lists"]["tags"].tolist(), items.loc[rows.sku, "tags"]):
        assert {known[c - 2] for c in codes if c} == set(text.split("|")) - {""}
    assert set(batch.x) == {"user", "item"}
    assert batch.label is None


def test_the_last_interactions_of_each_user_are_held_out(shop, source):
    split = np.full(len(shop.sales), "")
    split = split.astype(object)
    for name, rows in source.splits.items():
        split[rows] = name
    frame = shop.sales.assign(split=split)
    for _, mine in frame.groupby("uid"):
        ordered = mine.sort_values("at").split.tolist()
        assert ordered == ["train"] * 10 + ["valid"] + ["test"]


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (20, [16, 2, 2])]
)
def test_every_user_keeps_something_to_train_on(n, expected):
    user = np.repeat([0, 1], [n, 5])
    split = hold_out(user, np.arange(n + 5.0), InteractionOptions("u", "i"))
    assert np.bincount(split[:n], minlength=3).tolist() == expected
    assert (np.diff(split[:n]) >= 0).all()


def test_retrieval_asks_for_what_was_not_seen(source):
    task = source.retrieval("test")
    train, test = (source.splits[name] for name in ("train", "test"))
    batch = source.fetch(np.arange(len(source)))
    user, item = batch.meta["user"].numpy(), batch.meta["item"].numpy()
    place = int(np.flatnonzero(task.rows == 5)[0])
    mine = user == 5
    wanted = set(item[test][mine[test]])
    assert set(task.relevant.flat(np.array([place]))[1].tolist()) == wanted
    seen = set(task.seen.flat(np.array([place]))[1].tolist())
    assert seen == set(item[mine]) - wanted
    assert (task.popularity == np.bincount(item[train], minlength=len(source.items))).all()
    assert task.slices["head"].sum() == 8
    assert task.popularity[task.slices["head"]].min() >= task.popularity[task.slices["tail"]].max()
    valid = source.retrieval("valid")
    assert set(valid.seen.flat(np.array([place]))[1].tolist()) <= seen


def test_spec_survives_json(source):
    import json

    spec = source.spec
    assert RecommendationSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert isinstance(Tabular().spec_from_dict(spec.to_dict()), RecommendationSpec)


def test_ids_alone_are_enough(shop):
    source = open_shop(shop, items=None, users=None, time=None, lists=None)
    assert source.items.entity.features == ["sku"]
    assert len(source.items) == shop.sales.sku.nunique()
    assert source.fetch([0]).x["item"]["categorical"].shape == (1, 1)


def test_other_formats_and_lists_of_arrow(shop):
    items = pa.table(
        {
            "id": shop.items.sku.tolist(), "kind": shop.items.kind.tolist(),
            "tags": [[t for t in text.split("|") if t] for text in shop.items.tags],
        }
    )  # fmt: skip
    pq.write_table(items, shop.folder / "items.parquet")
    sales = shop.sales.assign(at=pd.to_datetime(shop.sales["at"], unit="s"))
    sales.to_parquet(shop.folder / "sales.parquet")
    other = open_shop(
        shop, source=str(shop.folder / "sales.parquet"), items=str(shop.folder / "items.parquet"),
        item_key="id", lists=None, users=shop.users,
    )  # fmt: skip
    plain = open_shop(shop)
    assert [c.name for c in other.items.entity.lists] == ["tags"]
    assert other.items.entity.lists[0].values == plain.items.entity.lists[0].values
    for name in plain.splits:
        assert (plain.splits[name] == other.splits[name]).all()


def test_a_label_of_the_items_is_for_probes_only(shop):
    source = open_shop(shop, label="kind")
    assert source.items.task == "classification"
    assert "kind" not in source.items.entity.features
    assert source.labels is None
    assert source.items.raw_features(np.arange(5)).shape[0] == 5


def test_unknown_items_can_be_dropped(shop):
    shop.items.iloc[5:].to_csv(shop.paths["items"], index=False)
    source = open_shop(shop, unknown="drop")
    gone = shop.sales.sku.isin(shop.items.sku[:5]).sum()
    assert len(source) == len(shop.sales) - gone
    assert source.card()["dropped interactions"] == gone


def write(shop, name, frame):
    frame.to_csv(shop.paths[name], index=False)


def duplicate(shop):
    write(shop, "items", pd.concat([shop.items, shop.items.iloc[[4]]]))


def unknown_item(shop):
    write(shop, "items", shop.items.iloc[1:])


def unknown_user(shop):
    write(shop, "users", shop.users[shop.users.uid != 7])


def no_item(shop):
    frame = shop.sales.astype({"sku": object})
    frame.loc[4, "sku"] = None
    write(shop, "sales", frame)


def no_time(shop):
    frame = shop.sales.astype({"at": object})
    frame.loc[4, "at"] = "soon"
    write(shop, "sales", frame)


def empty(name):
    return lambda shop: write(shop, name, getattr(shop, name).iloc[:0])


def singles(shop):
    write(shop, "sales", shop.sales.drop_duplicates("uid"))


def nothing(shop):
    pass


BAD = {
    "duplicate": (duplicate, {}, r"line 82 of .*: the item 'i004' stands here again \(first in line 6"),
    "unknown item": (unknown_item, {}, r"sales.csv: 'sku' is 'i000', which data.items does not hold"),
    "unknown user": (unknown_user, {}, r"'uid' is '7', which data.users does not hold; .*data.unknown: drop"),
    "no item": (no_item, {}, r"line 6 of .*'sku' is empty"),
    "no item, no table": (no_item, {"items": None, "lists": None}, r"line 6 of .*'sku' is empty"),
    "no time": (no_time, {}, r"line 6 of .*'at' is 'soon', expected a number"),
    "empty sales": (empty("sales"), {}, r"sales.csv holds a header but no rows"),
    "empty items": (empty("items"), {}, r"items.csv holds a header but no rows"),
    "single": (singles, {}, r"each of the 60 users has a single interaction"),
    "no column": (nothing, {"item": "skv"}, r"data.item: .*has no column 'skv'; did you mean 'sku'"),
    "no key": (nothing, {"item_key": "id"}, r"the id column of data.items: .*no column 'id'"),
    "no user": (nothing, {"user": None}, r"data.user is missing"),
    "same column": (nothing, {"user": "sku"}, r"are both 'sku'"),
    "unknown word": (nothing, {"unknown": "keep"}, r"data.unknown is 'keep'"),
    "share": (nothing, {"test": 0.6, "valid": 0.5}, r"leave no interaction to train on"),
    "head": (nothing, {"head": 0.0}, r"data.head"),
    "list": (nothing, {"lists": {"tag": "|"}}, r"data.lists: no column of .*'tag'; did you mean 'tags'"),
    "number list": (nothing, {"lists": {"price": "|"}}, r"data.lists: column 'price' .* holds double"),
    "excluded": (nothing, {"exclude": ["colour"]}, r"data.exclude: no column of .*'colour'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_a_sentence(case, shop):
    change, options, sentence = BAD[case]
    change(shop)
    with pytest.raises(DataError, match=sentence) as caught:
        open_shop(shop, **options)
    assert "\n" not in str(caught.value)


def test_empty_frames_are_refused(shop):
    with pytest.raises(DataError, match=r"the DataFrame holds no interactions; give at least two"):
        open_shop(shop, source=shop.sales.iloc[:0])
    with pytest.raises(DataError, match=r"the DataFrame holds no rows; give one for each item"):
        open_shop(shop, items=shop.items.iloc[:0])


def test_options_of_interactions_without_interactions(shop):
    with pytest.raises(DataError, match=r"data.items speaks of interactions"):
        Tabular().open(shop.data["source"], items=shop.data["items"])


def test_users_with_one_interaction_are_counted_and_never_asked(shop):
    once = shop.sales.drop(shop.sales[shop.sales.uid == 3].index[1:])
    write(shop, "sales", once)
    source = open_shop(shop)
    assert source.card()["users with one interaction (never tested)"] == 1
    assert 3 not in source.retrieval("test").rows


def test_inspect_prints_lines_that_open_the_data(shop):
    import yaml

    others = {key: value for key, value in shop.data.items() if key != "source"}
    found, lines = ssl_domains.inspect(shop.data["source"], **others)
    assert found["interactions"] == len(shop.sales)
    assert found["items never chosen in training"] >= 10
    assert found["item features"]["tags"]["kind"] == "list"
    again = yaml.safe_load(lines)
    assert again["data"] == shop.data
