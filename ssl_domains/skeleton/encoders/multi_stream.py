"""Several streams of one clip, an encoder for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ssl_domains.core import registry
from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.registry import encoder
from ssl_domains.skeleton.spec import BodySpec


@encoder("multi_stream")
class MultiStream(Encoder):
    """One encoder a stream; ``pooled`` joins theirs (late fusion, as three-stream results are reported).

    Tokens, layout and targets are the streams' side by side. Methods that keep streams apart find
    them in ``branches``.

    Args:
        spec: the data.
        body: name and options of the encoder that each stream gets, such as
            ``{name: bigru, hidden: 1024}``.
        streams: default (joint, motion, bone), as in CMD and HaLP.

    Raises:
        ValueError: no such encoder, an option it does not take, or a stream twice.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: BodySpec,
        body: Mapping[str, Any] | None = None,
        streams: Sequence[str] = ("joint", "motion", "bone"),
    ) -> None:
        super().__init__()
        options = dict(body or {"name": "bigru"})
        name = options.pop("name", "bigru")
        if name == "multi_stream" or "stream" in options:
            raise ValueError("encoder.body names the encoder of one stream, without `stream`")
        if len(set(streams)) != len(streams) or not streams:
            raise ValueError(f"encoder.streams must be different streams, got {list(streams)}")
        cls = registry.get("encoder", name)
        try:
            self.branches = nn.ModuleList(cls(spec, stream=stream, **options) for stream in streams)
        except TypeError as error:
            raise ValueError(f"encoder.body: {error}") from None
        self.streams = tuple(streams)
        first = self.branches[0]
        self.one_width = int(first.pooled_width)  # type: ignore[arg-type]
        self.width = len(streams) * int(first.width)  # type: ignore[arg-type]

    @property
    def pooled_width(self) -> int:
        """Sum of the streams'."""
        return len(self.streams) * self.one_width

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, sum of D]`` and pooled vectors, the streams joined."""
        found = [branch(x, mask) for branch in self.branches]
        tokens = torch.cat([e.tokens.values for e in found], dim=-1)
        pooled = torch.cat([e.pooled for e in found], dim=-1)
        return Encoded(Tokens(tokens, found[0].tokens.layout), pooled, [tokens] if layers else None)

    def layout(self, x: Any) -> Any:
        """That of one stream; all have the same."""
        return self.branches[0].layout(x)  # type: ignore[operator]

    def targets(self, x: Any) -> Tokens:
        """What the tokens held in all streams."""
        found = [branch.targets(x) for branch in self.branches]  # type: ignore[operator]
        return Tokens(torch.cat([t.values for t in found], dim=-1), found[0].layout)

    @property
    def target_width(self) -> int:
        """Sum of the streams'."""
        return len(self.streams) * int(self.branches[0].target_width)  # type: ignore[arg-type]

    def predictor(self, output_width: int, **options: Any) -> nn.Module:
        """A transformer over the grid of one stream."""
        from ssl_domains.core.parts.grid_predictor import GridPredictor

        options = {"width": 256, "depth": 3, "heads": 8, **options}
        return GridPredictor(self.branches[0].grid, self.width, output_width, **options)  # type: ignore[arg-type]
