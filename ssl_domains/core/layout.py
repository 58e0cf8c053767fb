"""Where tokens sit: what a masker and a positional code need to know, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Tokens on a regular grid: ``Grid((T,))`` speech, ``Grid((H, W))`` image,
    ``Grid((T, H, W))`` video, ``Grid((T, V))`` skeleton, ``Grid((D, H, W))`` volumes.

    Attributes:
        shape: of the padded grid.
        lengths: ``[B]`` int64 real tokens of each sample along the first axis, where samples have different
            lengths (speech); the others are padding, which no masker hides. None: all are real.
        channels: numbers in a token that a masker may alter one by one (bands of a spectrogram); None: a
            token is altered as a whole.
    """

    shape: tuple[int, ...]
    lengths: Tensor | None = field(default=None, compare=False)
    channels: int | None = None

    @property
    def n_tokens(self) -> int:
        """Number of maskable tokens a sample."""
        return prod(self.shape)


@dataclass(frozen=True)
class Set:
    """An unordered, fixed set of tokens a sample: the columns of a table, groups of points.

    Attributes:
        n_tokens: number of maskable tokens a sample. Register tokens are not counted: they
            are the encoder's own and no mask reaches them.
    """

    n_tokens: int


@dataclass(frozen=True)
class Graph:
    """Nodes of one block-diagonal graph.

    Attributes:
        n_tokens: number of nodes in the batch.
        edge_index: ``[2, E]`` int64, source and target node.
        segment: ``[n_tokens]`` int64, the graph that each node belongs to.
        n_segments: number of graphs.
        index: ``[n_tokens]`` int64 global node numbers (they seed the masks).
        seeds: ``[n_tokens]`` bool, nodes that losses may use (neighbour sampling adds others
            for context only); None when all of them count.
    """

    n_tokens: int
    edge_index: Tensor
    segment: Tensor
    n_segments: int
    index: Tensor
    seeds: Tensor | None = None


Layout = Grid | Set | Graph
