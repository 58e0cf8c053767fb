"""Samplers: what every one must give, and a custom one through recipe, trainer and resume."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_domains.core.errors import UserError
from ssl_domains.core.samplers import InOrder, Sampler, Shuffle
from ssl_domains.trainer.loader import BatchOrder


def test_shuffle_is_a_permutation_that_seed_and_epoch_decide():
    rows = np.arange(23) * 2
    first = Shuffle().epoch(rows, 5, 5, seed=3, epoch=1)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 3]
    assert sorted(np.concatenate(first)) == rows.tolist()
    again = Shuffle().epoch(rows, 5, 5, seed=3, epoch=1)
    assert all((a == b).all() for a, b in zip(first, again))
    assert any((a != b).any() for a, b in zip(first, Shuffle().epoch(rows, 5, 5, seed=3, epoch=2)))


def test_in_order_keeps_the_rows():
    assert InOrder().epoch(np.arange(4), 4, 1, 0, 7)[0].tolist() == [0, 1, 2, 3]


class Growing(Sampler):
    """Batches of 2, 4, 6 ... rows, counted by itself."""

    def n_batches(self, rows, batch_size):
        return 3

    def epoch(self, rows, batch_size, n_batches, seed, epoch):
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        return np.split(order, [2, 6, 12])[:3]


def test_batches_of_different_lengths_are_shared_out_and_counted():
    orders = [
        BatchOrder(np.arange(20), 8, 3, seed=0, accumulate=1, rank=r, world_size=2, sampler=Growing())
        for r in range(2)
    ]
    assert [len(orders[0].batch(s)) for s in range(6)] == [2, 4, 6, 2, 4, 6]
    assert [len(orders[1].shares(s)[0]) for s in range(3)] == [1, 2, 3]
    assert [orders[0].samples(s) for s in range(8)] == [0, 2, 6, 12, 14, 18, 24, 26]
    fresh = BatchOrder(np.arange(20), 8, 3, seed=0, sampler=Growing())
    assert (fresh.batch(4) == orders[0].batch(4)).all()


class Wrong(Sampler):
    def __init__(self, sizes):
        self.sizes = sizes

    def epoch(self, rows, batch_size, n_batches, seed, epoch):
        return np.split(rows, np.cumsum(self.sizes))[:-1]


@pytest.mark.parametrize(("sizes", "text"), [([4, 4], "2 batches where 3"), ([4, 4, 1], "fewer than 2 rows")])
def test_a_sampler_that_breaks_its_word_is_named(sizes, text):
    order = BatchOrder(np.arange(20), 4, 3, seed=0, accumulate=2, sampler=Wrong(sizes))
    with pytest.raises(UserError, match=text):
        order.batch(0)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "trainer"))
    import toy

    yield toy
    sys.modules.pop("toy", None)


def test_the_trainer_goes_by_the_sampler(toy, tmp_path):
    from ssl_domains.trainer.config import TrainConfig
    from ssl_domains.trainer.loop import Trainer
    from ssl_domains.trainer.run import RunDirectory

    def trainer(run, steps):
        config = TrainConfig(batch_size=8, steps=steps, log_every=1)
        source = toy.Rows()
        run = RunDirectory(run) if (run / "run.json").exists() else RunDirectory.create(run)
        method = toy.Regress(toy.Net(source.spec))
        return Trainer(method, source, config, run=run, sampler=Growing(), progress=False), source

    whole, source = trainer(tmp_path / "a", 5)
    result = whole.fit()
    assert [len(rows) for rows in source.fetched] == [2, 4, 6, 2, 4]
    assert result.samples == 18
    assert whole.budget.steps_per_epoch == 3


def test_a_sampler_has_nothing_to_choose_in_a_full_batch(toy):
    from ssl_domains.trainer.config import TrainConfig
    from ssl_domains.trainer.loop import Trainer

    source = toy.Rows(full_batch=True)
    with pytest.raises(UserError, match="sampler"):
        Trainer(toy.Regress(toy.Net(source.spec)), source, TrainConfig(steps=1), sampler=Growing())
