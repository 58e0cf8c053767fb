"""The loop: budgets, order of samples, accumulation, clipping, precision, hooks, several optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ssl_domains.core.errors import UserError
from ssl_domains.core.methods.base import Progress
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loader import BatchOrder
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import SGD, AdamW
from ssl_domains.trainer.run import RunDirectory

# --- budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"steps": 7}, (10, 10, 7)),
        ({"epochs": 2}, (10, 10, 20)),
        ({"epochs": 0.25}, (10, 10, 3)),
        ({"samples": 101}, (10, 10, 11)),
        ({"epochs": 2, "drop_last": False}, (10, 11, 22)),
        ({"epochs": 3, "batch_size": "full"}, (105, 1, 3)),
    ],
)
def test_budgets(train: dict[str, Any], expected: tuple[int, int, int]) -> None:
    budget = TrainConfig(**({"batch_size": 10} | train)).budget(105)
    assert (budget.batch_size, budget.steps_per_epoch, budget.total_steps) == expected


@pytest.mark.parametrize("train", [{}, {"steps": 1, "epochs": 1}, {"steps": 0}, {"steps": 1, "stepps": 2}])
def test_wrong_sections_are_refused(train: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(**train)


def test_impossible_batches_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="training split has 50 rows; set it to 50 or less, or to full"):
        TrainConfig(batch_size=64, steps=1).budget(50)
    with pytest.raises(UserError, match=r"multiple of 6 \(nearest: 60\)"):
        TrainConfig(batch_size=64, steps=1, accumulate=3).budget(500, world_size=2)
    with pytest.raises(UserError, match="no rows"):
        TrainConfig(steps=1).budget(0)
    with pytest.raises(UserError, match="accumulate must be 1"):
        TrainConfig(steps=1, accumulate=2).budget(100, full_batch=True)


# --- order ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(12, 80), batch=st.integers(1, 3), accumulate=st.integers(1, 2), world=st.integers(1, 2),
    drop=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_an_epoch_holds_every_row_at_most_once_however_it_is_cut(
    n, batch, accumulate, world, drop, seed
) -> None:
    config = TrainConfig(batch_size=batch * 4, epochs=2, accumulate=accumulate, drop_last=drop)
    budget, rows = config.budget(n, world_size=world), np.arange(n) * 3
    args = (rows, budget.batch_size, budget.steps_per_epoch, seed)
    orders = [BatchOrder(*args, accumulate=accumulate, rank=r, world_size=world) for r in range(world)]
    seen = 0
    for epoch in range(2):
        steps = range(epoch * budget.steps_per_epoch, (epoch + 1) * budget.steps_per_epoch)
        joined = [np.concatenate([o.shares(s)[m] for m in range(accumulate) for o in orders]) for s in steps]
        assert all((part == orders[0].batch(s)).all() for part, s in zip(joined, steps))
        flat = np.concatenate(joined)
        assert len(set(flat)) == len(flat)
        assert set(flat) <= set(rows)
        left = n - len(flat)
        assert left < (budget.batch_size if drop else accumulate * world)
        seen += len(flat)
        assert orders[0].samples(steps[-1] + 1) == seen
    assert orders[0].samples(1) == len(orders[0].batch(0))


def test_order_depends_on_seed_and_epoch_only() -> None:
    order = BatchOrder(np.arange(40), 8, 5, seed=1)
    first = [order.batch(s).tolist() for s in range(10)]
    again = BatchOrder(np.arange(40), 8, 5, seed=1)
    assert again.batch(7).tolist() == first[7]
    assert again.batch(2).tolist() == first[2]
    assert first[:5] != first[5:]
    assert BatchOrder(np.arange(40), 8, 5, seed=2).batch(0).tolist() != first[0]
    assert order.position(7) == (1, 2)


# --- training ---------------------------------------------------------------------------------


def train(toy: Any, method: Any = None, source: Any = None, optimizer: Any = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    source = source or toy.Rows()
    method = method or toy.Regress(toy.Net(source.spec))
    config = TrainConfig(**({"batch_size": 8, "steps": 12, "log_every": 4, "guard_every": 0} | settings))
    trainer = Trainer(method, source, config, optimizer=optimizer or AdamW(lr=0.01), progress=False)
    trainer.result = trainer.fit()
    return trainer


def test_loss_falls_and_rows_are_means(toy) -> None:
    trainer = train(toy, steps=60, log_every=20)
    rows = trainer.result.rows
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert all(row["loss"] == pytest.approx(row["mse"]) for row in rows)
    assert rows[-1]["samples"] == 480 == trainer.result.samples


def test_only_the_training_split_is_seen_and_labels_are_taken_away(toy) -> None:
    trainer = train(toy)
    held_out = set(trainer.source.splits["test"].tolist())
    assert not held_out & {i for rows in trainer.source.fetched for i in rows}
    assert all(batch.label is None for batch in trainer.method.seen)

    class Supervised(toy.Regress):
        uses_labels = True

    assert train(toy, Supervised(toy.Net(toy.Spec(6)))).method.seen[0].label is not None


def test_full_batch_is_one_step_an_epoch(toy) -> None:
    trainer = train(toy, source=toy.Rows(full_batch=True), steps=3)
    train_rows = trainer.source.splits["train"].tolist()
    assert trainer.source.fetched == [train_rows] * 3
    assert trainer.result.rows[-1]["epoch"] == 3


def test_accumulating_equals_the_whole_batch_for_a_mean_loss(toy) -> None:
    runs = [
        train(
            toy,
            toy.Regress(toy.Net(toy.Spec(6))).double(),
            toy.Rows(dtype=torch.float64),
            SGD(),
            accumulate=n,
        )
        for n in (1, 4)
    ]
    assert len(runs[1].method.seen) == 4 * len(runs[0].method.seen)
    for a, b in zip(runs[0].method.parameters(), runs[1].method.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert runs[0].result.rows[0]["loss"] == pytest.approx(runs[1].result.rows[0]["loss"], rel=1e-9)


def test_workers_give_the_same_run(toy) -> None:
    plain, ahead = train(toy), train(toy, num_workers=2)
    assert all(torch.equal(a, b) for a, b in zip(plain.method.parameters(), ahead.method.parameters()))


def test_clip_norm_and_value_bound_the_step(toy) -> None:
    start = toy.Regress(toy.Net(toy.Spec(6)))
    torch.manual_seed(0)
    before = [p.detach().clone() for p in toy.Regress(toy.Net(toy.Spec(6))).parameters()]
    free, norm, value = (
        train(toy, None, None, SGD(lr=1.0, momentum=0.0, weight_decay=0.0), steps=1, log_every=1, **clip)
        for clip in ({}, {"clip_norm": 0.01}, {"clip_value": 0.001})
    )
    moves = [
        torch.cat([(p.detach() - q).flatten() for p, q in zip(t.method.parameters(), before)])
        for t in (free, norm, value)
    ]
    assert len(before) == len(list(start.parameters()))
    assert moves[0].norm() > 0.1
    assert float(moves[1].norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(moves[2].abs().max()) == pytest.approx(0.001, rel=1e-3)
    assert norm.result.rows[0]["grad_norm"] == pytest.approx(float(moves[0].norm()), rel=1e-4)


def test_bf16_runs_products_in_bf16_and_keeps_weights_in_float32(toy) -> None:
    trainer = train(toy, precision="bf16")
    assert all(p.dtype == torch.float32 for p in trainer.method.parameters())
    assert np.isfinite(trainer.result.rows[-1]["loss"])
    with trainer._autocast():
        assert trainer.method.encoder.net(trainer.source.x[:2]).dtype == torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        train(toy, precision="fp16", device="cpu")


def test_hooks_come_in_order_with_where_the_run_stands(toy) -> None:
    calls: list[Any] = []

    class Watched(toy.Regress):
        def before_training(self, source: Any) -> None:
            calls.append("training")

        def before_epoch(self, source: Any, epoch: int) -> None:
            calls.append(epoch)

        def after_step(self, progress: Progress) -> None:
            calls.append((progress.step, progress.epoch, progress.samples, progress.total_steps))

    train(toy, Watched(toy.Net(toy.Spec(6))), batch_size=30, steps=3)  # two batches an epoch
    assert calls == ["training", 0, (1, 0, 30, 3), (2, 1, 60, 3), 1, (3, 1, 90, 3)]


def test_a_method_may_own_its_step_and_several_optimizers(toy, tmp_path) -> None:
    class Alternating(toy.Regress):
        def optimizers(self, build: Any) -> dict[str, Any]:
            return {"encoder": build([{"params": self.encoder.parameters()}]),
                    "head": build([{"params": self.head.parameters(), "lr_scale": 10.0}])}  # fmt: skip

        def training_step(self, batches: Any, trainer: Trainer) -> Any:
            output = trainer.forward(batches[0])
            trainer.backward(output.loss)
            name = "head" if trainer.step % 2 else "encoder"
            trainer.update(name)
            trainer.optimizers["head" if name == "encoder" else "encoder"].zero_grad()
            return output

    run = RunDirectory.create(tmp_path / "run")
    torch.manual_seed(0)
    method, source = Alternating(toy.Net(toy.Spec(6))), toy.Rows()
    head = method.head.weight.detach().clone()
    body = method.encoder.net[0].weight.detach().clone()
    config = TrainConfig(batch_size=8, steps=1, log_every=1, guard_every=0)
    Trainer(method, source, config, optimizer=AdamW(lr=0.01), run=run, progress=False).fit()
    assert torch.equal(method.head.weight, head)
    assert not torch.equal(method.encoder.net[0].weight, body)
    longer = Trainer(
        method,
        source,
        config.model_copy(update={"steps": 2}),
        optimizer=AdamW(lr=0.01),
        run=run,
        progress=False,
    )
    longer.fit(resume=True)
    assert not torch.equal(method.head.weight, head)
    assert longer.optimizers["head"].param_groups[0]["lr"] == pytest.approx(0.1)


def test_schedule_sets_the_rate_of_the_step_it_is_for(toy) -> None:
    class Ramp:
        def apply(self, optimizer: Any, step: int) -> None:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * step

    torch.manual_seed(0)
    method = toy.Regress(toy.Net(toy.Spec(6)))
    config = TrainConfig(batch_size=8, steps=3, log_every=1, guard_every=0)
    trainer = Trainer(method, toy.Rows(), config, optimizer=SGD(lr=0.5), schedule=Ramp(), progress=False)
    assert [row["lr"] for row in trainer.fit().rows] == [0.0, 0.5, 1.0]


def test_preconditions_are_told_all_at_once(toy) -> None:
    class Picky(toy.Regress):
        def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
            return [f"needs 100 rows, got {batch_size}; raise it", "needs two views; add one"]

    with pytest.raises(UserError, match="needs 100 rows, got 8; raise it\nneeds two views"):
        train(toy, Picky(toy.Net(toy.Spec(6))))


def test_progress_is_lines_when_there_is_no_terminal(toy, capfd, monkeypatch) -> None:
    from ssl_domains.trainer import display

    monkeypatch.setattr(display, "LINE_SECONDS", 0.0)
    config = TrainConfig(batch_size=8, steps=4, log_every=1, guard_every=2)
    Trainer(toy.Regress(toy.Net(toy.Spec(6))), toy.Rows(), config).fit()
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("step 4/4  loss ")
    assert "samples/s" in lines[-1]
    assert "rank " in lines[-1]
    Trainer(toy.Regress(toy.Net(toy.Spec(6))), toy.Rows(), config, progress=False).fit()
    assert capfd.readouterr().err == ""
