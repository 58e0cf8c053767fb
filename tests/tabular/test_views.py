"""Views: how many cells, where values come from, what decides them."""

import numpy as np
import pandas as pd
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.views import ColumnCorruption, ColumnNoise, RowCutMix

N, ROWS = 7, 400


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    # Disjoint ranges: a value tells its column.
    frame = pd.DataFrame({f"n{j}": rng.random(ROWS) + 10 * j for j in range(4)})
    frame.loc[::4, "n1"] = np.nan
    for j in range(3):
        frame[f"c{j}"] = [f"{j}{value}" for value in rng.choice(list("abcde"), ROWS)]
    return Tabular().open(frame, valid=0.2, test=0.2)


def cells(x):
    """``[B, N]`` values in token order, NaN where missing."""
    numeric = x["numeric"].double().masked_fill(x["missing"], float("nan"))
    return torch.cat([numeric, x["categorical"].double()], dim=1)


def same(a, b):
    return (a == b) | (a.isnan() & b.isnan())


def two(views, source, rows, step=0):
    views.prepare(source)
    batch = source.fetch(rows)
    return batch, views(batch, Draw(3, step, batch.index))


@pytest.mark.parametrize(("rate", "count"), [(0.6, 4), (0.3, 2), (0.01, 1), (0.0, 0), (1.0, 7)])
def test_corruption_rate_and_places(source, rate, count):
    batch, (clean, corrupted) = two(ColumnCorruption(rate), source, np.arange(200))
    where = corrupted.params["corrupted"]
    assert (where.sum(dim=1) == count).all()
    assert (clean.role, corrupted.role) == ("clean", "corrupted")
    assert not clean.params["corrupted"].any()
    assert torch.equal(cells(clean.x).nan_to_num(), cells(batch.x).nan_to_num())
    assert same(cells(corrupted.x), cells(batch.x))[~where].all()
    if 0 < count < 7:
        share = where.float().mean(dim=0)
        assert (share - count / N).abs().max() < 0.17  # five standard errors


@pytest.mark.parametrize("views", [ColumnCorruption(0.3, per_cell=True), RowCutMix(0.3, per_cell=True)])
def test_cells_may_be_drawn_one_by_one(source, views):
    _, (_, corrupted) = two(views, source, np.arange(ROWS))
    where = corrupted.params["corrupted"]
    assert abs(where.float().mean() - 0.3) < 0.04  # five standard errors
    counts = torch.bincount(where.sum(dim=1), minlength=N + 1) / ROWS
    binomial = torch.distributions.Binomial(N, torch.tensor(0.3)).log_prob(torch.arange(N + 1.0)).exp()
    assert (counts - binomial).abs().max() < 0.12


def test_corrupted_values_come_from_the_columns_training_values(source):
    train = cells(source.fetch(source.splits["train"]).x)
    _, (_, view) = two(ColumnCorruption(1.0), source, np.arange(ROWS))
    values = cells(view.x)
    for j in range(N):
        own = train[:, j]
        known = set(own[~own.isnan()].tolist())
        assert set(values[:, j][~values[:, j].isnan()].tolist()) <= known
    # the marginal: the missing quarter of n1, and the mean of n0
    assert abs(view.x["missing"][:, 1].float().mean() - train[:, 1].isnan().float().mean()) < 0.1
    assert abs(values[:, 0].mean() - train[:, 0].mean()) < 0.25
    # cells are independent: two columns do not come from one row
    pairs = set(zip(train[:, 0].tolist(), train[:, 2].tolist()))
    assert sum(pair in pairs for pair in zip(values[:, 0].tolist(), values[:, 2].tolist())) < 20


def test_a_small_reservoir_is_enough(source):
    views = ColumnCorruption(1.0, reservoir=5)
    _, (_, view) = two(views, source, np.arange(100))
    assert len(set(view.x["numeric"][:, 0].tolist())) <= 5


@pytest.mark.parametrize(
    "views", [ColumnCorruption(0.6), ColumnCorruption(0.6, both=True), ColumnNoise(0.1, 0.5)]
)
def test_a_row_gets_the_same_view_in_any_batch(source, views):
    _, whole = two(views, source, np.arange(50))
    rows = np.array([40, 7, 23])
    _, part = two(views, source, rows)
    for a, b in zip(whole, part, strict=True):
        for key in a.x:
            assert torch.equal(a.x[key][rows], b.x[key])
        assert torch.equal(a.params["corrupted"][rows], b.params["corrupted"])
    _, later = two(views, source, np.arange(50), step=1)
    assert not torch.equal(later[1].params["corrupted"], whole[1].params["corrupted"])


def test_both_views_differ(source):
    _, (first, second) = two(ColumnCorruption(0.6, both=True), source, np.arange(50))
    assert first.role == second.role == "corrupted"
    assert not torch.equal(first.params["corrupted"], second.params["corrupted"])


def test_noise(source):
    batch, (first, second) = two(ColumnNoise(0.5, 0.3), source, np.arange(ROWS))
    change = (second.x["numeric"] - batch.x["numeric"])[~batch.x["missing"]]
    assert abs(change.mean()) < 0.08
    assert abs(change.std() - 0.5) < 0.05
    assert torch.equal(second.x["missing"], batch.x["missing"])
    assert not second.x["numeric"][batch.x["missing"]].any()
    flipped = second.params["corrupted"][:, 4:]
    assert abs(flipped.float().mean() - 0.3) < 0.06
    assert torch.equal(second.x["categorical"] != batch.x["categorical"], flipped)
    assert torch.equal(second.params["corrupted"][:, :4], ~batch.x["missing"])
    assert second.x["categorical"].min() >= 2
    assert (second.x["categorical"].amax(0) <= torch.tensor(source.spec.cardinalities) - 1).all()
    assert not torch.equal(first.x["numeric"], second.x["numeric"])


def test_flips_are_uniform_over_the_other_categories(source):
    views = ColumnNoise(0.0, 1.0, both=False)
    views.prepare(source)
    batch = source.fetch(np.zeros(1, np.int64))
    row = {key: value.expand(4000, -1) for key, value in batch.x.items()}
    _, view = views(batch.with_x(row).__class__(row, torch.arange(4000)), Draw(0, 0, torch.arange(4000)))
    counts = torch.bincount(view.x["categorical"][:, 0], minlength=7)
    own = int(batch.x["categorical"][0, 0])
    assert counts[own] == counts[0] == counts[1] == 0
    others = [int(c) for code, c in enumerate(counts) if code >= 2 and code != own]
    assert min(others) > 850
    assert max(others) < 1150


def test_missing_categories_stay_missing(source):
    views = ColumnNoise(0.0, 1.0)
    views.prepare(source)
    batch = source.fetch(np.arange(5))
    batch.x["categorical"][:] = 0
    _, view = views(batch, Draw(0, 0, batch.index))
    assert not view.x["categorical"].any()
    assert not view.params["corrupted"].any()


def test_cutmix(source):
    batch, (clean, mixed) = two(RowCutMix(0.5), source, np.arange(40))
    where, partner = mixed.params["corrupted"], mixed.params["partner"]
    assert (where.sum(dim=1) == 3).all()
    assert (partner != torch.arange(40)).all()
    assert clean.role == "clean"
    own = cells(batch.x)
    want = torch.where(where, own[partner], own)
    assert same(cells(mixed.x), want).all()
    assert len(set(partner.tolist())) > 15


def test_refused_options(source):
    with pytest.raises(ValueError, match=r"views.rate"):
        ColumnCorruption(1.5)
    with pytest.raises(ValueError, match=r"views.std"):
        ColumnNoise(-1)
    batch = source.fetch([0, 1])
    for views in (ColumnCorruption(), ColumnNoise()):
        with pytest.raises(DataError, match="prepare"):
            views(batch, Draw(0, 0, batch.index))


def test_what_a_pretext_task_can_predict(source):
    assert ColumnCorruption().target_width("corrupted", source.spec) == N
    with pytest.raises(KeyError, match="partner"):
        RowCutMix().target_width("partner", source.spec)
