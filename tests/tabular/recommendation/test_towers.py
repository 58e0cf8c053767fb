"""Towers: what a hidden feature, a new id and an empty list become, and where gradient goes."""

import numpy as np
import pytest
import torch

from ssl_domains.core.batch import Mask
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.recommendation.spec import ListSpec, RecommendationSpec
from ssl_domains.tabular.recommendation.towers import ListTokens, TwoTower


@pytest.fixture
def towers(source):
    torch.manual_seed(0)
    return TwoTower(source.spec, width=6, hidden=[10], cell_width=4)


def test_both_sides_have_vectors_of_one_width(source, towers):
    for name, side in (("item", source.items), ("user", source.users)):
        encoded = towers(side.fetch(range(7)).x)
        assert encoded.pooled.shape == (7, 6)
        assert encoded.tokens.values.shape == (7, len(side.entity.features), 4)
        assert towers.layout({name: None}).n_tokens == len(side.entity.features)


def test_one_row_and_the_same_row_in_a_batch_agree(source, towers):
    whole = towers(source.items.fetch(np.arange(20)).x).pooled
    for row in (0, 13):
        assert torch.allclose(towers(source.items.fetch([row]).x).pooled[0], whole[row], atol=1e-6)


def test_hidden_features_say_nothing_and_get_no_gradient(source, towers):
    x = source.items.fetch(np.arange(6)).x
    k = len(source.items.entity.features)
    hidden = torch.zeros(6, k, dtype=torch.bool)
    place = source.items.entity.id_place
    hidden[:, place] = hidden[:, -1] = True  # the id, and the tags
    tower = towers.towers["item"]
    encoded = towers(x, Mask(hidden))
    assert torch.equal(encoded.tokens.values[:, -1], tower.default[-1].expand(6, 4))
    inside = towers({"item": {**x["item"], "hidden": hidden}})
    assert torch.equal(inside.pooled, encoded.pooled)
    encoded.pooled.square().sum().backward()
    assert tower.lists[0].embedding.weight.grad.abs().sum() == 0
    ids = x["item"]["categorical"][:, 0] + tower.columns.offsets[0]
    assert tower.columns.embedding.weight.grad[ids].abs().sum() == 0
    kinds = x["item"]["categorical"][:, 1] + tower.columns.offsets[1]
    assert (tower.columns.embedding.weight.grad[kinds].abs().sum(1) > 0).all()


def test_a_new_id_has_the_vector_of_a_hidden_one(shop, source, towers):
    new = shop.items.iloc[:2].assign(sku=["brand-new", "i001"])
    opened = Tabular().embed_source(source.spec, new)
    x = opened.fetch([0, 1]).x
    known = source.items.fetch([0, 1]).x
    place = source.items.entity.id_place
    hidden = torch.zeros(2, len(source.items.entity.features), dtype=torch.bool)
    hidden[0, place] = True
    with torch.no_grad():
        towers.towers["item"].default.normal_()
    assert torch.allclose(towers(x).pooled, towers(known, Mask(hidden)).pooled)


def test_the_mean_of_a_list():
    part = ListTokens(ListSpec("tags", "|", ("a", "b", "c")), 3)
    w = part.embedding.weight
    out = part(torch.tensor([[2, 4, 0], [0, 0, 0], [0, 3, 0]]))
    assert torch.allclose(out, torch.stack([(w[2] + w[4]) / 2, w[0], w[3]]))


def test_encoders_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs interactions"):
        TwoTower(object())
    assert RecommendationSpec.__name__ in str(TwoTower.__init__.__annotations__["spec"])
