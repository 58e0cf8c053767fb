"""What a domain provides: source, spec, views, masker, encoder, and the class that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Encoded, Mask, Tokens, View
from ssl_domains.core.layout import Layout
from ssl_domains.core.parts.mixup import mixup
from ssl_domains.core.random import Draw


@runtime_checkable
class Source(Protocol):
    """Turns files into batches.

    Attributes:
        spec: frozen description of the data (columns, widths ...); encoders, views and
            maskers are built from it. ``spec.to_dict()`` is JSON; ``type(spec).from_dict``
            reads it back. Statistics in it (scalers, vocabularies) are fitted on the train
            split only.
        splits: ``{"train": [n] int64, "valid": ..., "test": ...}`` global row numbers;
            disjoint. Methods train on "train".
        labels: ``[len]`` or ``[len, L]`` array aligned with the rows, float for regression,
            int64 for classes (-1: unknown), bool for multi-label; or None.
        task: "classification", "regression", "multilabel" or None.
        class_names: names of the classes, or None.
        full_batch: True when one batch always holds the whole data (a graph that fits):
            ``fetch(indices)`` then returns the whole ``x`` and pools only ``indices``.
    """

    spec: Any
    splits: dict[str, np.ndarray]
    labels: np.ndarray | None
    task: str | None
    class_names: list[str] | None
    full_batch: bool

    def __len__(self) -> int:
        """Number of samples."""

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these global row numbers, as one batch on the CPU."""

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        """``[n, F]`` float32: the domain's plain features for the baseline probe, or None."""

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The user's own ids of these rows (row number, node id, file name)."""

    def card(self) -> dict[str, Any]:
        """Numbers about the data for ``inspect`` and the report (counts, types, missing ...)."""


def pretrain_rows(source: Source) -> np.ndarray:
    """``[n]`` int64: the rows that pretraining goes over.

    ``source.pretrain_index`` where the source has one (all nodes of a transductive graph: their
    features and edges are known, only labels are held out), else the train split.
    """
    rows = getattr(source, "pretrain_index", None)
    return np.asarray(source.splits["train"] if rows is None else rows, dtype=np.int64)


def pretrain_source(source: Source) -> Source:
    """The data as pretraining may see them: ``source.for_pretraining()`` where the source has it (an
    inductive graph without its held-out nodes), else the source itself."""
    make = getattr(source, "for_pretraining", None)
    return source if make is None else make()


def evaluation_source(source: Source) -> Source:
    """What is embedded and probed after training.

    ``source.evaluation_source`` where rows to train on are not rows to embed (interactions of users
    with items), else the source itself.
    """
    found: Source = getattr(source, "evaluation_source", source)
    return found


@dataclass(frozen=True)
class Figure:
    """A picture for the report of a run.

    Attributes:
        title: a few words.
        caption: what is seen, in one or two sentences.
        pixels: ``[H, W, 3]`` uint8.
    """

    title: str
    caption: str
    pixels: np.ndarray


class Encoder(nn.Module):
    """Base of all encoders.

    Attributes:
        width: D of the tokens.
        drops_hidden: True when a mask makes the encoder drop tokens (sequences), False when
            it replaces them (graphs).

    The constructor's first argument is ``spec``; the others are the recipe's keys.
    """

    width: int
    drops_hidden: ClassVar[bool] = True

    @property
    def pooled_width(self) -> int:
        """Width of ``pooled``; that of the tokens unless pooling joins several."""
        return self.width

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Encodes a batch; with a mask, sees only what the mask leaves visible."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def layout(self, x: Any) -> Layout:
        """Layout of the tokens of ``x``; maskers work on it."""
        raise TypeError(f"{type(self).__name__} does not define layout")

    def targets(self, x: Any) -> Tokens:
        """What each token held: the target of masked reconstruction, on the token axes."""
        raise TypeError(f"{type(self).__name__} does not define targets")

    @property
    def target_width(self) -> int:
        """T of :meth:`targets`."""
        raise TypeError(f"{type(self).__name__} does not define target_width")

    def predictor(self, output_width: int, **options: Any) -> nn.Module:
        """A module ``p(encoded, mask, x) -> [M, output_width]``: from visible tokens to hidden
        ones, rows in the order of ``Tokens.select(mask)``."""
        raise TypeError(f"{type(self).__name__} does not define predictor")

    def encode_mixture(self, first: Any, second: Any, rows: Tensor, share: float) -> Encoded:
        """Encodes ``share * first[i] + (1 - share) * second[rows[i]]`` (mixup).

        Default: interpolates the inputs. An encoder whose inputs have no value between two values
        (categories) may interpolate their embeddings instead.

        Args:
            first: inputs of B samples.
            second: inputs of the same samples, seen otherwise.
            rows: ``[B]`` int64, the partner of each row.
            share: in [0, 1], one for the batch.

        Raises:
            UserError: the inputs cannot be interpolated.
        """
        return self(mixup(first, second, rows, share))  # type: ignore[no-any-return]

    def as_saved(self, options: Mapping[str, Any], spec: Any) -> tuple[dict[str, Any], Any]:
        """Constructor options and spec that build this encoder again around its own saved weights.

        Default: the same without ``weights`` and ``pretrained``, since files that training started from need
        not be there where the encoder is used. An encoder whose sizes come from such a file puts them into
        the options.
        """
        return {k: v for k, v in options.items() if k not in ("weights", "pretrained")}, spec

    def input_parameters(self) -> list[nn.Parameter]:
        """Parameters of the tokeniser (frozen by some recipes, as MoCo v3 does)."""
        return []


class Views:
    """Base of all views: ``views(batch, draw) -> list[View]`` by batched tensor operations on
    the batch's device, per-sample parameters drawn from ``draw``.

    Constructor arguments are the recipe's keys.
    """

    n_views: int = 2

    def prepare(self, source: Source) -> None:
        """Once before training: what needs the data (marginals for column corruption ...)."""

    def unaugmented(self) -> Views:
        """The same views without augmentation, for prediction. Default: these."""
        return self

    def target_width(self, name: str, spec: Any) -> int:
        """Width W of the recorded parameter ``params[name]`` that a pretext task predicts:
        ``[B, W]`` booleans or numbers, or the number of classes of a ``[B]`` class number.

        Raises:
            KeyError: these views record no such parameter; names those they do.
        """
        raise KeyError(f"{type(self).__name__} records no parameter {name!r} that can be predicted")

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        raise TypeError(f"{type(self).__name__} does not define __call__")


class Masker:
    """Base of all maskers: ``masker(layout, draw) -> Mask``, for any layout it declares.

    Constructor arguments are the recipe's keys. ``draw.index`` holds the counters of the
    rows: samples for Grid and Set, nodes for Graph.
    """

    layouts: ClassVar[tuple[type, ...]] = ()

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        raise TypeError(f"{type(self).__name__} does not define __call__")

    def masks(self, layout: Layout, draw: Draw) -> list[Mask]:
        """All masks of one step, for methods whose loss is a mean over several masks of a sample; one by
        default."""
        return [self(layout, draw)]


class Domain:
    """Names what a domain has. A subclass is registered with ``@domain("tabular")``.

    Attributes:
        title: one line for ``ssl-domains list``.
        defaults: ``{"encoder": name, "views": name, "mask": name}``.
        parts: names of recipe sections that each describe a domain of their own (its data, encoder,
            views, and a method of its own). ``open`` gets them checked, by name; the first two must be
            there. The source and the encoder of such a domain have ``part(name)``.
    """

    title: ClassVar[str] = ""
    defaults: ClassVar[dict[str, str]] = {}
    parts: ClassVar[tuple[str, ...]] = ()

    def open(self, **data: Any) -> Source:
        """Opens the recipe's ``data`` section. Explicit keyword arguments in subclasses.

        Raises:
            DataError: the data cannot be used; names the file, row or field.
        """
        raise TypeError(f"{type(self).__name__} does not define open")

    def spec_from_dict(self, values: dict[str, Any]) -> Any:
        """Reads a spec back from a run directory."""
        raise TypeError(f"{type(self).__name__} does not define spec_from_dict")

    def embed_source(self, spec: Any, **data: Any) -> Source:
        """Opens new raw data with a fitted spec (no label needed), for ``embed``."""
        raise TypeError(f"{type(self).__name__} does not define embed_source")

    def inspect(self, **data: Any) -> tuple[dict[str, Any], str]:
        """What was found, and the YAML lines that use it."""
        raise TypeError(f"{type(self).__name__} does not define inspect")

    def figures(self, encoder: Encoder, source: Source, method: nn.Module | None = None) -> list[Figure]:
        """Pictures of what a trained encoder does, for the report: where it looks, what it fills in.

        Args:
            encoder: the exported encoder, in any mode, on any device; must be left as it was.
            source: the run's data.
            method: the trained method, or None when only the encoder is at hand.
        """
        return []

    def tree_baseline(self) -> bool:
        """True when gradient-boosted trees on raw features are a customary baseline."""
        return False
