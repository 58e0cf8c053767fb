"""The training loop: one function that reads from top to bottom.

Accelerate starts the processes (``accelerate launch``, one machine or several) and chooses
backend and device. The rest is plain torch, for these reasons: its optimizer, scheduler and
data-loader wrappers keep state of their own, which would have to be unwrapped for checkpoints
without pickle and for schedules in global steps; its state is one per Python process, which
forbids two runs of different precision in one script; and its FSDP2 preparation wants model
and optimizer at once, before a method can make several optimizers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Source, pretrain_rows
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.random import Draw
from ssl_domains.core.samplers import Sampler
from ssl_domains.trainer import saving, setup
from ssl_domains.trainer.beside import Beside
from ssl_domains.trainer.config import Budget, TrainConfig
from ssl_domains.trainer.display import Display
from ssl_domains.trainer.distributed import agree, full_tensor, is_main, rank, world_size
from ssl_domains.trainer.guard import Guard, check_preconditions
from ssl_domains.trainer.loader import BatchOrder, batches, count_batches
from ssl_domains.trainer.logging import MetricsLog
from ssl_domains.trainer.meter import Meter
from ssl_domains.trainer.optimizers import AdamW, OptimizerConfig
from ssl_domains.trainer.outcome import FitResult, Fork
from ssl_domains.trainer.rounds import Rounds
from ssl_domains.trainer.run import RunDirectory
from ssl_domains.trainer.signals import Interrupted, Interrupts

AGREE_EVERY = 10
"""With several processes, steps between two looks at whether one was interrupted or time is up."""


class Trainer:
    """Trains a method on a source.

    Args:
        method: what to train.
        source: the rows of :func:`~ssl_domains.core.interfaces.pretrain_rows` are used.
        config: the recipe's ``train`` section.
        optimizer: default AdamW with its defaults.
        schedule: an object with ``apply(optimizer, step)`` (:mod:`ssl_domains.core.schedules`), or
            a callable that makes one from ``total_steps=``; None: constant.
        run: where to save; None: nothing is written.
        sampler: how the rows of an epoch become batches; None: shuffled.
        probe: ``probe(encoder, step) -> {name: number}`` every ``train.probe_every`` epochs, on the
            main process; must not change the encoder's weights. Its random numbers do not
            disturb the run's.
        progress: False: print nothing.
        trackers: ``tensorboard``, ``wandb``: also send the metrics there.

    Attributes:
        step: optimizer steps done.
        before: seconds of the earlier parts of a resumed run.
        saved: the newest checkpoint, once there is one.

    Raises:
        UserError: method, objective, batch and data do not fit together; all reasons at once.
    """

    def __init__(
        self,
        method: Method,
        source: Source,
        config: TrainConfig,
        *,
        optimizer: OptimizerConfig | None = None,
        schedule: Any = None,
        run: RunDirectory | None = None,
        sampler: Sampler | None = None,
        probe: Callable[[Encoder, int], dict[str, float]] | None = None,
        progress: bool | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        self.method, self.source, self.config, self.run, self.probe = method, source, config, run, probe
        self.device = setup.device_for(config)
        rows = pretrain_rows(source)
        per_epoch = count_batches(sampler, source, rows, config.batch_size)
        self.budget: Budget = config.budget(
            len(rows), full_batch=source.full_batch, world_size=world_size(), per_epoch=per_epoch
        )
        check_preconditions(method, self.budget.batch_size, len(rows))
        self.order = BatchOrder(
            rows, self.budget.batch_size, self.budget.steps_per_epoch, config.seed,
            accumulate=config.accumulate, rank=rank(), world_size=world_size(),
            shuffle=self.budget.batch_size + config.accumulate * world_size() <= len(rows), sampler=sampler,
        )  # fmt: skip
        self.optimizer_config = optimizer or AdamW()
        total, each = self.budget.total_steps, self.budget.steps_per_epoch
        self.starts = [0, *(epoch * each for epoch in method.restarts() if 0 < epoch * each < total)]
        makes = schedule is not None and not hasattr(schedule, "apply")
        if makes and len(self.starts) > 1:
            self.schedule: Any = Rounds(schedule, self.starts, total)
        else:
            self.schedule = schedule(total_steps=total) if makes else schedule
        self.step, self._ready = 0, False
        self._wanted, self._trackers = progress, trackers
        self._beside = Beside()

    # --- the loop ----------------------------------------------------------------------------

    def fit(self, resume: bool = False, fork: Fork | None = None) -> FitResult:
        """Trains until the budget is used.

        Args:
            resume: go on from the newest intact checkpoint of ``run``, bit for bit; from the
                start when it has none yet.
            fork: begin a new run with the whole state of another run's checkpoint.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the run is saved.
            CollapseError: the guard stopped the run.
            RunError: nothing to resume from, or the disk is full.
        """
        self.prepare(resume, fork)
        total, method = self.budget.total_steps, self.method
        stream = self.stream()
        with Interrupts() as interrupts, Display(total, self.step, self._wanted, is_main()) as display:
            while self.step < total:
                epoch, number = self.order.position(self.step)
                if number == 0:
                    method.before_epoch(self.source, epoch)
                    if self.step in self.starts[1:]:  # moments of weights that are gone
                        for optimizer in self.optimizers.values():
                            optimizer.state.clear()

                micro_batches = self.fetch(stream)

                if self._owns_step:
                    output = method.training_step(micro_batches, self)  # type: ignore[operator]
                else:
                    output = self.accumulate(micro_batches)
                    self.update()
                self._record(output)
                self.step += 1
                self._schedule()
                method.after_step(self.progress())

                if self.guard.due(self.step):
                    self._guard(output, display)
                if self.step % self.config.log_every == 0 or self.step == total:
                    display.row(self._log())
                if self._probe_due():
                    self._run_probe()
                display.step(self.step)
                stop, save = self._stop_or_save(interrupts)
                if stop:
                    raise Interrupted(self.step, self.save())
                if save:
                    self.save()
        return self._result()

    # --- pieces of a step (methods with a training_step of their own use them, too) ------------

    def fetch(self, stream: Iterator[list[Batch]]) -> list[Batch]:
        """The next step's micro-batches, on the device."""
        begin = time.perf_counter()
        found = next(stream)
        self._waited += time.perf_counter() - begin
        return found if self.device.type == "cpu" else [batch.to(self.device) for batch in found]

    def accumulate(self, micro_batches: Sequence[Batch]) -> Output:
        """Forward and backward of a step's micro-batches; the last output, which the loop records."""
        output = Output(torch.zeros(()))
        for i, batch in enumerate(micro_batches):
            if i:
                self._record(output)
            with self._synchronise(last=i == len(micro_batches) - 1):
                output = self.forward(batch)
                self.backward(output.loss)
        return output

    def forward(self, batch: Batch) -> Output:
        """Views, encoder and loss, under autocast. The draw depends on seed, step and sample only, so
        micro-batches get the numbers of the whole batch."""
        with self._autocast():
            return self.wrapped(batch, Draw(self.config.seed, self.step, batch.index))

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a micro-batch's share of the step's mean loss."""
        share = loss if self.config.accumulate == 1 else loss / self.config.accumulate
        (self.scaler.scale(share) if self.scaler is not None else share).backward()

    def update(self, name: str | None = None) -> None:
        """Clips, steps and clears one optimizer, or all of them."""
        chosen = self.optimizers.values() if name is None else [self.optimizers[name]]
        for optimizer in chosen:
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
            self._clip([p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step() if self.scaler is None else self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        if self.scaler is not None:
            self.scaler.update()

    def progress(self) -> Progress:
        """Where the run stands."""
        step = self.step
        return Progress(step, self.budget.total_steps, self.order.position(step)[0], self.order.samples(step))

    def stream(self) -> Iterator[list[Batch]]:
        """Micro-batches of the steps that are left."""
        return batches(
            self.source, self.order, self.step, self.budget.total_steps,
            workers=self.config.num_workers, pin=self.device.type == "cuda", labels=self.method.uses_labels,
        )  # fmt: skip

    def beside(self, name: str, source: Source, rows: Any, batch_size: int) -> list[Batch]:
        """This step's micro-batches of a second loader: ``batch_size`` of the row numbers ``rows``, over
        all processes and micro-batches, on the device; see :mod:`ssl_domains.trainer.beside`."""
        return self._beside.next(self, name, source, rows, batch_size)

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.config.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            self.meter.add("grad_norm", full_tensor(norm))
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.config.clip_value)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def _synchronise(self, last: bool) -> AbstractContextManager[Any]:
        """DDP sends gradients once a step, with the last micro-batch."""
        no_sync = getattr(self.wrapped, "no_sync", None)
        return nullcontext() if last or no_sync is None else no_sync()

    def _schedule(self) -> None:
        self._rate = float(
            next(iter(self.optimizers.values())).param_groups[0]["lr"]
        )  # of the step just done
        for optimizer in self.optimizers.values():
            if self.schedule is not None:
                self.schedule.apply(optimizer, self.step)
            self.optimizer_config.set_weight_decay(optimizer, self.step / self.budget.total_steps)

    # --- before the loop -----------------------------------------------------------------------

    def prepare(self, resume: bool = False, fork: Fork | None = None) -> None:
        """Device, hooks, wrapping, optimizers, and the checkpoint when resuming. :meth:`fit` calls it.

        Order on a resume: ``before_training`` and ``before_epoch`` run first, then the
        checkpoint is loaded over what they did. So what a hook computes from weights must be
        a buffer of the method.
        """
        found = fork.checkpoint if fork else saving.to_resume(self.run) if resume else None
        setup.seed_everything(self.config.seed, self.config.deterministic)
        if not self._ready:
            self.method.to(self.device).train()
            self.method.before_training(self.source)
            sharded = self.config.fsdp and world_size() > 1
            self._template = copy.deepcopy(self.method.encoder_for_export()).cpu() if sharded else None
            self.wrapped = setup.wrap(self.method, self.config.fsdp)
            self._ready = True
        self.optimizers = setup.make_optimizers(self.method, self.optimizer_config, self.budget.batch_size)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.config.precision == "fp16" else None
        self.meter = Meter()
        self.guard = Guard(self.config, self.budget.total_steps, self.run, self.method.remedies)
        self.step, self.before, self._waited = 0, 0.0, 0.0
        self.saved: Path | None = None
        self._owns_step = hasattr(self.method, "training_step")
        if found is not None:
            saving.restore(self, found, same_run=fork is None)
        if fork is not None and fork.anneal:
            saving.start_annealing(self)
        self._schedule()
        folder = self.run.path if self.run is not None and is_main() else None
        self.metrics = MetricsLog(folder, self.step if resume else None, self._trackers if is_main() else ())
        self._began = self._logged = self._saved_at = time.monotonic()
        self._logged_step = self.step
        if fork is not None:
            self.save()  # from here on the new run resumes by itself

    # --- after a step --------------------------------------------------------------------------

    def _record(self, output: Output) -> None:
        self.meter.add("loss", output.loss)
        for name, value in output.parts.items():
            self.meter.add(name, value)

    def _log(self) -> dict[str, Any]:
        """Writes one row of means."""
        self._check_finite()
        now, progress = time.monotonic(), self.progress()
        row: dict[str, Any] = {"step": self.step, "epoch": progress.epoch, "samples": progress.samples}
        row |= self.meter.means() | {"lr": self._rate}
        took = max(now - self._logged, 1e-9)
        done = progress.samples - self.order.samples(self._logged_step)
        row |= {
            "time/seconds": self.seconds(),
            "time/samples_per_second": done / took,
            "time/data_wait": self._waited / took,
        }
        self.meter.clear()
        self._logged, self._logged_step, self._waited = now, self.step, 0.0
        self.metrics.write(row)
        return row | {"rank": self.guard.encoder_rank}

    def _guard(self, output: Output, display: Display) -> None:
        self._check_finite()
        measures = self.guard.look(self.step, output) if is_main() else {}
        if is_main():
            self.metrics.write({"step": self.step} | measures)
        self.guard.judge(display.say)

    def _check_finite(self) -> None:
        """NaN or infinity in the losses since the last row: names the step, and how to replay it."""
        ago = self.meter.first_bad() if self.config.on_collapse != "off" and self.scaler is None else None
        if agree([ago is not None], self.device)[0]:
            step = self.step - 1 - ((ago or 1) - 1) // self.config.accumulate
            self.guard.not_finite(step, self.order, self.saved)

    def _probe_due(self) -> bool:
        if self.probe is None or not self.config.probe_every:
            return False
        every = max(round(self.config.probe_every * self.budget.steps_per_epoch), 1)
        return self.step % every == 0

    def _run_probe(self) -> None:
        encoder = self.export_encoder()
        if not is_main() or self.probe is None:
            return
        with setup.undisturbed(encoder):
            found = self.probe(encoder, self.step)
        self.metrics.write({"step": self.step} | {f"probe/{name}": value for name, value in found.items()})

    def _stop_or_save(self, interrupts: Interrupts) -> tuple[bool, bool]:
        """Whether to end now, and whether to save; the same on all processes."""
        config, step = self.config, self.step
        minutes = (time.monotonic() - self._saved_at) / 60
        late = is_main() and 0 < config.checkpoint_minutes <= minutes
        stop = interrupts.asked
        if world_size() > 1:
            stop, late = agree([stop, late], self.device) if step % AGREE_EVERY == 0 else (False, False)
        due = config.checkpoint_every > 0 and step % config.checkpoint_every == 0
        return stop, due or late or step == self.budget.total_steps

    def save(self) -> Path | None:
        """Writes a checkpoint of this moment; None without a run directory. All processes must call it."""
        if self.run is None:
            return None
        self._check_finite()
        self.saved = saving.save(self, self.run)
        self._saved_at = time.monotonic()
        return self.saved

    def _result(self) -> FitResult:
        samples, found = self.order.samples(self.step), list(self.guard.findings)
        return FitResult(self.step, samples, self.seconds(), self.metrics.rows, found, self.saved)

    def seconds(self) -> float:
        """Time in the loop so far, earlier parts of a resumed run included."""
        return self.before + time.monotonic() - self._began

    # --- the encoder ---------------------------------------------------------------------------

    def export_encoder(self) -> Encoder:
        """The encoder that probes and users get, whole: the method's own, or under FSDP2 a copy on
        the CPU. All processes must call it."""
        encoder = self.method.encoder_for_export()
        if self._template is None:
            return encoder
        weights = encoder.state_dict().items()
        self._template.load_state_dict({name: full_tensor(value).cpu() for name, value in weights})
        return self._template
