"""Views: what is hidden together, what is never hidden twice, and what depends on what."""

import numpy as np
import pandas as pd
import pytest
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.recommendation.masking import FeatureMasking, correlated_sets


def draws(n, size=5):
    return [Draw(3, step, torch.arange(size)) for step in range(n)]


def test_a_block_of_copies_is_hidden_together():
    information = np.kron(np.eye(2), np.full((3, 3), 0.7)) + 0.01
    sets = correlated_sets(information)
    for seed, masked in enumerate(sets):
        block = np.arange(6) // 3 == seed // 3
        assert masked[seed]
        assert masked[block].all()
        assert masked.sum() == 4  # the seed, and floor(6 / 2) others


def test_correlated_masking_finds_blocks_in_data(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    columns = {f"a{j}": [f"v{(v + j) % 5}" for v in first] for j in range(3)}
    columns |= {f"b{j}": [f"v{(v * 2 + j) % 5}" for v in second] for j in range(3)}
    items = pd.DataFrame({"item": range(300), **columns})
    sales = pd.DataFrame({"user": np.arange(600) % 20, "item": np.arange(600) % 300})
    source = Tabular().open(sales, user="user", item="item", items=items)
    views = FeatureMasking(source.spec, normalized=True)
    views.prepare(source)
    names = views.features
    for draw in draws(20):
        hidden, rest = views.sets(draw)
        assert bool((hidden ^ rest).all())  # each feature exactly once
        chosen = {names[j] for j in range(7) if hidden[j]}
        assert {"a0", "a1", "a2"} <= chosen or {"b0", "b1", "b2"} <= chosen or "item" in chosen


@pytest.mark.parametrize("masking", ["correlated", "random"])
def test_complementary_views_hide_each_feature_once(masking, source):
    views = FeatureMasking(source.spec, masking)
    views.prepare(source)
    batch = source.items.fetch(range(5))
    seen = set()
    for draw in draws(30):
        first, second = views(batch, draw)
        a, b = first.params["hidden"], second.params["hidden"]
        assert bool((a ^ b).all())
        assert bool((a == a[0]).all())  # the same for all items of a step
        assert (first.x["item"]["hidden"] == a).all()
        seen.add(tuple(a[0].tolist()))
    assert len(seen) > 1  # drawn anew each step


def test_independent_halves_may_meet(source):
    views = FeatureMasking(source.spec, "independent")
    pairs = [views.sets(draw) for draw in draws(40)]
    assert any(bool((a & b).any()) for a, b in pairs)
    assert all(int(a.sum()) == len(views.features) // 2 == int(b.sum()) for a, b in pairs)


def test_values_of_a_list_are_dropped_one_by_one(source):
    views = FeatureMasking(source.spec, "none", dropout=0.4)
    rows = np.arange(len(source.items))
    batch = source.items.fetch(rows)
    before = batch.x["item"]["lists"]["tags"]
    kept = total = 0
    for step in range(40):
        first, second = (v.x["item"]["lists"]["tags"] for v in views(batch, Draw(0, step, batch.index)))
        assert bool(((first == before) | (first == 0)).all())
        assert not torch.equal(first, second)
        kept, total = kept + int((first != 0).sum()), total + int((before != 0).sum())
    assert kept / total == pytest.approx(0.6, abs=0.03)


def test_a_view_does_not_depend_on_the_batch(source):
    views = FeatureMasking(source.spec, "none", dropout=0.5, feature_dropout=0.3)
    whole = source.items.fetch(np.arange(40))
    part = source.items.fetch(np.array([30, 7]))
    a = views(whole, Draw(0, 4, whole.index))[0].x["item"]
    b = views(part, Draw(0, 4, part.index))[0].x["item"]
    assert torch.equal(a["hidden"][[30, 7]], b["hidden"])
    wide, narrow = a["lists"]["tags"][[30, 7]], b["lists"]["tags"]
    assert torch.equal(wide[:, : narrow.shape[1]], narrow)


def test_too_few_features_are_refused(shop):
    data = {k: v for k, v in shop.data.items() if k not in ("items", "lists")}
    spec = Tabular().open(**data).spec
    with pytest.raises(ValueError, match="needs at least 3 features of an item, and there are 1"):
        FeatureMasking(spec)
    assert FeatureMasking(spec, "none").features == ["sku"]
    with pytest.raises(ValueError, match=r"views.dropout"):
        FeatureMasking(spec, "none", dropout=1.0)


def test_users_can_be_masked_too(source):
    views = FeatureMasking(source.spec, "random", side="user")
    batch = source.users.fetch(range(4))
    assert set(views(Batch(batch.x, batch.index), Draw(0, 0, batch.index))[0].x) == {"user"}
