"""A second loader: its own order, the same after a resume, shared evenly by processes."""

import numpy as np
import pytest

from ssl_domains.core.errors import UserError
from ssl_domains.trainer.beside import order_of
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer


def trainer_of(toy, **config):
    given = {"batch_size": 8, "steps": 20, "guard_every": 0, "device": "cpu", **config}
    trainer = Trainer(toy.Regress(toy.Net(toy.Spec(6))), toy.Rows(), TrainConfig(**given), progress=False)
    trainer.prepare()
    return trainer


def rows_of(trainer, steps, name="items"):
    found = []
    for step in steps:
        trainer.step = step
        micro = trainer.beside(name, trainer.source, np.arange(30), 6)
        found.append(np.concatenate([batch.index.numpy() for batch in micro]))
    return found


def test_a_function_of_seed_and_step(toy):
    whole = rows_of(trainer_of(toy), range(12))
    assert all(len(np.unique(rows)) == 6 for rows in whole)
    assert sorted(np.concatenate(whole[:5])) == list(range(30))  # an epoch
    later = rows_of(trainer_of(toy), range(7, 12))
    for a, b in zip(whole[7:], later, strict=True):
        assert (a == b).all()
    cut = rows_of(trainer_of(toy, accumulate=2), range(12))
    for a, b in zip(whole, cut, strict=True):
        assert (a == b).all()
    workers = rows_of(trainer_of(toy, num_workers=1), range(4))
    for a, b in zip(whole, workers):
        assert (a == b).all()


def test_loaders_are_independent(toy):
    first, other = rows_of(trainer_of(toy), range(5)), rows_of(trainer_of(toy), range(5), "others")
    seed = rows_of(trainer_of(toy, seed=1), range(5))
    assert any((a != b).any() for a, b in zip(first, other))
    assert any((a != b).any() for a, b in zip(first, seed))
    own = [trainer_of(toy).order.batch(step) for step in range(5)]
    assert any((a != b[:6]).any() for a, b in zip(first, own))


def test_processes_share_a_batch():
    whole = order_of(np.arange(20), 8, 3, 1, 0, 1)
    parts = [order_of(np.arange(20), 8, 3, 1, rank, 2) for rank in (0, 1)]
    for step in range(6):
        joined = np.concatenate([part.shares(step)[0] for part in parts])
        assert (joined == whole.batch(step)).all()


def test_at_most_all_rows():
    assert len(order_of(np.arange(5), 64, 0, 1, 0, 1).batch(0)) == 5
    assert len(order_of(np.arange(5), 64, 0, 2, 0, 1).batch(0)) == 4
    with pytest.raises(UserError, match="cannot be cut into 4 pieces"):
        order_of(np.arange(3), 64, 0, 2, 0, 2)
