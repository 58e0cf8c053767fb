"""The recipe's ``train`` section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssl_domains.core.errors import UserError


@dataclass(frozen=True)
class Budget:
    """A run's length, once the data are known.

    Attributes:
        batch_size: samples of one optimizer step, over all processes and micro-batches.
        steps_per_epoch: optimizer steps that go once through the training split.
        total_steps: optimizer steps of the whole run.
    """

    batch_size: int
    steps_per_epoch: int
    total_steps: int


class TrainConfig(BaseModel):
    """How long and how to train. Give exactly one of ``steps``, ``epochs``, ``samples``.

    Raises:
        pydantic.ValidationError: an unknown key, a wrong type or range, no budget or several.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    batch_size: int | Literal["full"] = 256
    """Samples of one optimizer step over ALL processes and micro-batches, or "full": the whole
    training split in every step. A source that always holds all data (a graph) is "full"."""
    steps: int | None = Field(default=None, ge=1)
    """Budget in optimizer steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes through the training split; fractions are rounded up to a step."""
    samples: int | None = Field(default=None, ge=1)
    """Budget in samples seen over all processes; rounded up to a step."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches that a step's batch is cut into, to save memory. Losses that look across the
    batch (contrast, redundancy, Sinkhorn) then see one micro-batch at a time: for these a step is
    not the same as with the whole batch."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest global 2-norm of the gradient; None: no clipping."""
    clip_value: float | None = Field(default=None, gt=0)
    """Largest absolute value of a gradient entry; applied after ``clip_norm``. None: no clipping."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of matrix products (autocast); weights stay float32. fp16 (CUDA) scales the loss."""
    rows: str | None = None
    """A file of ``ssl-domains curate``: pretraining goes over the rows that it keeps. Or a rule that leaves
    out what is nearly the same within a recording (volume, video): ``dhash:6``, ``phash:6``,
    ``mutual_information:0.5``, ``raw:0.98``, ``every:10``. None: all of them."""
    seed: int = 0
    """Seed of the batch order, views, masks and dropout."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that fetch batches ahead; 0: the training process fetches by itself."""
    drop_last: bool = True
    """Leave out an epoch's last, smaller batch. False: it is used, cut to equal shares."""
    log_every: int = Field(default=20, ge=1)
    """Steps between two rows of the metrics; a row holds means over these steps."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between two checkpoints; 0: none by steps. One is always written at the end."""
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """Minutes between two checkpoints; 0: none by time."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay on disk."""
    guard_every: int = Field(default=100, ge=0)
    """Steps between two looks of the guard at every stage; 0: never."""
    guard_warmup: int | None = Field(default=None, ge=0)
    """Steps in which the guard measures but does not judge. None: a tenth of the run."""
    on_collapse: Literal["warn", "stop", "off"] = "warn"
    """What a finding of the guard does. NaN ends the run under ``warn``, too: nothing after it is of use."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto``: CUDA, then MPS, then the CPU."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2); else they are copied (DDP)."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; a bit-exact resume on a GPU needs it. Slower."""
    probe_every: float = Field(default=0, ge=0)
    """Epochs between two probes of the encoder while training; 0: only at the end."""

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        given = [name for name in ("steps", "epochs", "samples") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give exactly one of steps, epochs, samples (found {found})")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError("batch_size must be at least 1, or 'full'")
        return self

    def budget(
        self, n_samples: int, *, full_batch: bool = False, world_size: int = 1, per_epoch: int | None = None
    ) -> Budget:
        """Resolves batch and budget for a training split of ``n_samples`` rows.

        Args:
            n_samples: rows of the training split.
            full_batch: the source always holds the whole data (:attr:`Source.full_batch`).
            world_size: number of processes.
            per_epoch: batches of an epoch where the sampler counts them; None: by ``batch_size``.

        Raises:
            UserError: an empty split, a batch larger than it, or one that cannot be cut evenly.
        """
        if n_samples < 1:
            raise UserError("the training split has no rows; give it some, or another split")
        whole = full_batch or self.batch_size == "full"
        if whole and full_batch and self.accumulate > 1:
            raise UserError("train.accumulate must be 1 here: this source always holds the whole data")
        batch = n_samples if self.batch_size == "full" or full_batch else int(self.batch_size)
        if batch > n_samples:
            raise UserError(
                f"train.batch_size is {batch}, but the training split has {n_samples} rows; "
                f"set it to {n_samples} or less, or to full"
            )
        pieces = self.accumulate * world_size
        if batch % pieces and not whole:
            near = max(batch // pieces, 1) * pieces
            raise UserError(
                f"train.batch_size {batch} cannot be cut into {world_size} processes x {self.accumulate} "
                f"micro-batches; set it to a multiple of {pieces} (nearest: {near})"
            )
        if n_samples < pieces:
            raise UserError(f"{n_samples} training rows are fewer than the {pieces} pieces of a batch")
        return self._lengths(n_samples, batch - batch % pieces, pieces, per_epoch)

    def _lengths(self, n_samples: int, batch: int, pieces: int, counted: int | None) -> Budget:
        per_epoch, rest = divmod(n_samples, batch)
        if not self.drop_last and rest >= pieces:
            per_epoch += 1
        if counted is not None:
            per_epoch = counted
        if self.steps is not None:
            total = self.steps
        elif self.epochs is not None:
            total = math.ceil(round(self.epochs * per_epoch, 6))
        else:
            total = math.ceil((self.samples or 0) / batch)
        return Budget(batch, per_epoch, max(total, 1))
