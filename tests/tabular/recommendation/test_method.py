"""The method: both losses against their formulas, who gets gradient, and the two loaders."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from ssl_domains.core.batch import Batch
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.objectives.contrastive import InfoNCE, NTXent
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.recommendation.masking import FeatureMasking
from ssl_domains.tabular.recommendation.method import CATALOGUE, ItemRecommendation
from ssl_domains.tabular.recommendation.towers import TwoTower
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer


def make(source, objective=None, views=None, **options):
    torch.manual_seed(0)
    encoder = TwoTower(source.spec, width=8, hidden=[16], cell_width=4)
    method = ItemRecommendation(
        encoder, objective or InfoNCE(0.2), views or FeatureMasking(source.spec), source.spec, **options
    )
    method.before_training(source)
    return method


def step_batch(source, rows=range(24), items=range(20, 44)):
    batch, more = source.fetch(list(rows)), source.items.fetch(list(items))
    return Batch(batch.x, batch.index, None, {**batch.meta, CATALOGUE: {"x": more.x, "index": more.index}})


def literal_main(user, item, weight, temperature):
    """-1/B sum log softmax(s / t - ln q), with q the frequency 1 / weight."""
    total = 0.0
    user, item = user.detach(), item.detach()
    logits = F.normalize(user) @ F.normalize(item).T / temperature
    for i in range(len(user)):
        corrected = [float(logits[i, j]) - math.log(1.0 / weight[j]) for j in range(len(item))]
        total += math.log(sum(math.exp(c) for c in corrected)) - corrected[i]
    return total / len(user)


@pytest.mark.parametrize("correction", ["counts", "none"])
def test_main_loss_is_the_corrected_batch_softmax(source, correction):
    method = make(source, alpha=0.0, correction=correction).double()
    batch = source.fetch(range(24))
    out = method(batch, Draw(0, 0, batch.index))
    user, item = (method.encoder({name: batch.x[name]}).pooled for name in ("user", "item"))
    counts = np.bincount(source.fetch(source.splits["train"]).meta["item"], minlength=len(source.items))
    frequency = counts.clip(1) / counts.clip(1).sum()
    weight = 1 / frequency[batch.meta["item"]] if correction == "counts" else np.ones(24)
    assert float(out.loss.detach()) == pytest.approx(literal_main(user, item, weight, 0.2), rel=1e-5)


def test_self_supervised_loss_by_hand():
    equal = InfoNCE(0.1)(torch.ones(4, 3), torch.ones(4, 3)).total
    assert float(equal) == pytest.approx(math.log(4), rel=1e-6)
    apart = InfoNCE(0.1)(torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)).total
    assert float(apart) == pytest.approx(math.log(1 + 3 * math.exp(-10)), rel=1e-6)  # 1.362e-4


def test_the_sum_of_both_losses(source):
    method = make(source, alpha=0.7, temperature=0.15)
    batch = step_batch(source)
    draw = Draw(0, 3, batch.index)
    out = method(batch, draw)
    items = Batch(batch.meta[CATALOGUE]["x"], batch.meta[CATALOGUE]["index"])
    views = method.views(items, Draw(0, 3, batch.index).fork("items").at(items.index))
    a, b = (F.normalize(method.encoder(v.x).pooled) for v in views)
    expected = float(F.cross_entropy(a @ b.T / 0.15, torch.arange(24)).detach())
    assert float(out.parts["self/loss"]) == pytest.approx(expected, rel=1e-5)
    total = float(out.parts["main/loss"]) + 0.7 * expected
    assert float(out.loss.detach()) == pytest.approx(total, rel=1e-5)


def test_alpha_zero_is_the_plain_two_tower_model(source):
    plain, joint = make(source, alpha=0.0), make(source, alpha=0.5)
    batch = step_batch(source)
    draw = Draw(0, 0, batch.index)
    assert torch.equal(plain(batch, draw).loss, joint(batch, draw).parts["main/loss"])
    assert "self/loss" not in plain(batch, draw).parts


def id_gradient(method, source, rows):
    tower = method.encoder.towers["item"]
    codes = source.items.fetch(rows).x["item"]["categorical"][:, 0] + tower.columns.offsets[0]
    return tower.columns.embedding.weight.grad[codes].abs().sum(1)


def test_items_that_nobody_chose_get_gradient_from_the_second_task_alone(source):
    cold = np.flatnonzero(np.bincount(source.fetch(range(len(source))).meta["item"], minlength=80) == 0)
    assert len(cold) >= 10
    for alpha, learns in ((0.0, False), (0.5, True)):
        method = make(source, alpha=alpha, views=FeatureMasking(source.spec, "random"))
        batch = step_batch(source, items=cold[:8])
        method(batch, Draw(0, 0, batch.index)).loss.backward()
        assert bool((id_gradient(method, source, cold[:8]) > 0).all()) == learns


def test_logged_items_take_those_of_the_batch(source):
    method = make(source, items="logged", alpha=1.0)
    batch = source.fetch(range(16))
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    outside = np.setdiff1d(np.arange(80), batch.meta["item"].numpy())
    assert id_gradient(method, source, outside).sum() == 0


def test_embeddings_alone_may_be_shared(source):
    method = make(source, share="embeddings", mode="pretrain")
    batch = step_batch(source)
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    tower = method.encoder.towers["item"]
    assert all(p.grad is None for p in tower.mlp.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.own_head.parameters())
    assert tower.columns.embedding.weight.grad.abs().sum() > 0


def test_repeated_items_can_be_left_out(source):
    method = make(
        source, InfoNCE(0.2, exclude_positives=True), alpha=0.0, correction="none", repeats="remove"
    )
    batch = source.fetch(range(40))
    item = batch.meta["item"].numpy()
    assert max(Counter(item.tolist()).values()) > 1
    user, vectors = (F.normalize(method.encoder({name: batch.x[name]}).pooled) for name in ("user", "item"))
    logits = user @ vectors.T / 0.2
    same = torch.from_numpy(item[:, None] == item[None]) & ~torch.eye(40, dtype=torch.bool)
    expected = F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(40)).detach()
    loss = method(batch, Draw(0, 0, batch.index)).loss.detach()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def trainer_of(source, method, **config):
    return Trainer(
        method, source, TrainConfig(batch_size=48, device="cpu", guard_every=0, **config), progress=False
    )


def test_the_second_loader_is_uniform_and_without_replacement(source):
    trainer = trainer_of(source, make(source), steps=500)
    trainer.prepare()
    counts = np.zeros(80)
    for _ in range(50):
        rows = np.concatenate(
            [b.index.numpy() for b in trainer.beside("items", source.items, np.arange(80), 16)]
        )
        assert len(np.unique(rows)) == 16
        counts[rows] += 1
        trainer.step += 1
    assert counts.min() == counts.max() == 10  # 50 x 16 / 80: an epoch holds each item once
    first = [trainer.beside(str(i), source.items, np.arange(80), 16)[0].index.numpy() for i in range(60)]
    spread = np.bincount(np.concatenate(first), minlength=80)
    assert stats.chisquare(spread).pvalue > 0.001


def test_a_trained_model_meets_the_items_it_was_shown(source):
    method = make(source)
    seen = []
    inner = method.views.__call__
    method.views = lambda batch, draw: (seen.append(batch.index), inner(batch, draw))[1]
    method.views.prepare = lambda source: None
    trainer_of(source, method, epochs=1, accumulate=2).fit()
    assert len(torch.cat(seen).unique()) == 80  # the ten that nobody ever bought, too
    assert all(len(rows) == 24 for rows in seen)


def test_pretraining_first(source):
    method = make(source, mode="pretrain_finetune", pretrain=0.5, alpha=9.0)
    weights = []
    for step in range(4):
        method.set_stage(Progress(step, 4))
        weights.append(method.weights)
    assert weights == [(0.0, 1.0)] * 2 + [(1.0, 0.0)] * 2
    result = trainer_of(source, method, steps=4, log_every=1).fit()
    named = [{key for key in row if key.endswith("/loss")} for row in result.rows]
    assert named == [{"self/loss"}] * 2 + [{"main/loss"}] * 2


def test_streaming_frequencies_move_once_a_step(source):
    method = make(source, correction="streaming")
    trainer_of(source, method, steps=30, accumulate=2).fit()
    assert int(method.frequency.updates.max()) <= 30
    counts = np.bincount(source.fetch(source.splits["train"]).meta["item"], minlength=80)
    often, seldom = counts.argmax(), np.flatnonzero(counts == 1)
    weight = method.frequency.weight(torch.arange(80), 30)
    assert float(weight[often]) < float(weight[seldom].mean())


@pytest.mark.parametrize(
    ("options", "objective", "sentence"),
    [
        ({"alpha": -1.0}, None, "method.alpha"),
        ({"pretrain": 1.0}, None, "method.pretrain"),
        ({"item_batch": 1}, None, "method.item_batch"),
        ({"rate": 0.0, "correction": "streaming"}, None, "method.rate"),
        ({"repeats": "remove"}, None, "exclude_positives"),
        ({}, NTXent(), "set objective: info_nce"),
    ],
)
def test_options_that_do_not_fit(source, options, objective, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(source, objective, **options)


def measured(source, rows, items, correction):
    """Loss, gradients, and streaming gaps after one step."""
    method = make(source, alpha=0.5, correction=correction)
    batch = step_batch(source, rows, items)
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    method.after_step(Progress(1, 2))
    gap = method.frequency.gap if method.frequency else torch.zeros(1)
    return out.loss.detach(), [p.grad for p in method.encoder.parameters()], gap


CORRECTIONS = ("counts", "streaming")


def halves(rank, data, rows, items):
    """The same of this process's share."""
    source = Tabular().open(**data)
    share = np.array_split(rows, 2)[rank], np.array_split(items, 2)[rank]
    return [measured(source, *share, correction) for correction in CORRECTIONS]


def test_two_processes_give_the_loss_of_one(shop):
    rows, items = np.arange(30), np.arange(20, 40)
    source = Tabular().open(**shop.data)
    found = run_processes(halves, 2, shop.data, rows, items)
    for place, correction in enumerate(CORRECTIONS):
        loss, gradients, gap = measured(source, rows, items, correction)
        first, second = (found[rank][place] for rank in (0, 1))
        for part in (first, second):
            assert torch.allclose(part[0], loss, atol=1e-6)
            assert torch.equal(part[2], gap)
        for whole, a, b in zip(gradients, first[1], second[1], strict=True):
            assert torch.allclose((a + b) / 2, whole, atol=1e-6)


def test_a_copy_of_the_method_trains_alike(source):
    method = make(source)
    twin = copy.deepcopy(method)
    for each in (method, twin):
        trainer_of(source, each, steps=3).fit()
    for a, b in zip(method.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
