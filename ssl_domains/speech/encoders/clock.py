"""A speech encoder's hidden states on the clock of another modality: what a brain decoder learns to find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ssl_domains.core import registry
from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.speech.sound import Sound
from ssl_domains.speech.spec import SpeechSpec

FITTED = 2000
"""Train recordings, at most, that mean and deviation are fitted on."""


@encoder("speech_clock")
class SpeechClock(Encoder):
    """The mean of some hidden states of a speech encoder, tick by tick: the target of the brain decoder
    (Defossez et al., arXiv 2208.12266).

    A tick takes the nearest frame in time. All values are centred and scaled by one mean and one deviation
    of the train recordings (:meth:`fit`). ``pooled`` ``[B, D * T]`` holds the ticks of one feature side by
    side, as ``brain_conv`` has them; tokens ``[B, T, D]``. Each recording is to be ``seconds`` long; a
    shorter one repeats its last frame.

    Args:
        spec: the data.
        inner: name and options of the encoder inside, for example ``{name: speech_wav2vec2, weights:
            FOLDER}``.
        layers: first and last hidden state of the mean; 0 is the input of the first block, negative ones
            count from the end. Default 14 to 18, of wav2vec2-large-xlsr-53 (the paper's).
        rate: ticks a second; 120 (the paper's).
        seconds: of a recording; 3 (the paper's).
        trim: seconds dropped at the beginning and the end; [0, 0.15] with [0.15, 0] of the brain moves the
            one by 150 ms against the other (the paper's).

    Raises:
        ValueError: no such encoder or option, layers that it does not have, or nothing left of a recording.
    """

    drops_hidden: ClassVar[bool] = False
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        spec: SpeechSpec,
        inner: Mapping[str, Any],
        layers: tuple[int, int] = (14, 18),
        rate: float = 120.0,
        seconds: float = 3.0,
        trim: tuple[float, float] = (0.0, 0.15),
    ) -> None:
        super().__init__()
        own = dict(inner)
        name = own.pop("name", None)
        if not isinstance(name, str):
            raise ValueError("encoder.inner wants a name, such as {name: speech_wav2vec2, weights: FOLDER}")
        try:
            made = registry.get("encoder", name)(spec, **own)
        except (KeyError, TypeError) as error:
            raise ValueError(f"encoder.inner: {error.args[0] if error.args else error}") from None
        if not hasattr(made, "token_times"):
            raise ValueError(f"encoder.inner: {name} has no frames in time; use one of the speech domain")
        head, tail = (round(s * rate) for s in trim)
        self.ticks = round(seconds * rate) - head - tail
        if self.ticks < 1:
            raise ValueError(f"encoder.trim {list(trim)} leaves nothing of {seconds} s")
        self.spec, self.inner, self.layers, self.width = spec, made, tuple(layers), made.width
        times = (np.arange(self.ticks) + head + 0.5) / rate
        frames = made.token_times(int(np.ceil(seconds * spec.rate / made.step)) + 1)
        nearest = np.abs(times[:, None] - frames[None]).argmin(1)
        self.register_buffer("nearest", torch.from_numpy(nearest), persistent=False)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    @property
    def pooled_width(self) -> int:
        """D * T."""
        return self.width * self.ticks

    def fit(self, source: Source, rows: np.ndarray) -> None:
        """Mean and deviation of all values of some recordings, at most 2,000 of them, evenly spaced."""
        some = rows[np.linspace(0, len(rows) - 1, min(len(rows), FITTED)).astype(np.int64)]
        count, total, squares = 0, 0.0, 0.0
        for part in np.array_split(some, -(-len(some) // 16)):
            with torch.no_grad():
                values = self._on_clock(source.fetch(part).to(self.mean.device).x).double()
            count, total = count + values.numel(), total + float(values.sum())
            squares += float(values.square().sum())
        mean = total / max(count, 1)
        self.mean.fill_(mean)
        self.deviation.fill_(max(squares / max(count, 1) - mean**2, 1e-12) ** 0.5)

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """See the class."""
        values = (self._on_clock(x) - self.mean) / self.deviation
        return Encoded(Tokens(values, self.layout(x)), values.transpose(1, 2).flatten(1))

    def _on_clock(self, x: Sound) -> Tensor:
        """``[B, T, D]``, not scaled."""
        encoded = self.inner(x, layers=True)
        states = encoded.layers
        assert states is not None
        first, last = (i + len(states) if i < 0 else i for i in self.layers)
        if not 0 <= first <= last < len(states):
            raise ValueError(
                f"encoder.layers: [{self.layers[0]}, {self.layers[1]}] are not all there; the encoder has "
                f"hidden states 0 to {len(states) - 1}"
            )
        mean = torch.stack(states[first : last + 1]).mean(0)
        lengths = self.inner.token_lengths(x.lengths)  # type: ignore[operator]
        at = torch.minimum(self.nearest, lengths[:, None] - 1)  # type: ignore[arg-type]
        return mean.gather(1, at[..., None].expand(-1, -1, mean.shape[2])).float()

    def layout(self, x: Any) -> Grid:
        """Ticks."""
        return Grid((self.ticks,))

    def as_saved(self, options: Mapping[str, Any], spec: Any) -> tuple[dict[str, Any], Any]:
        """The inner encoder's own, too."""
        kept, spec = super().as_saved(options, spec)
        own = dict(options["inner"])
        name = own.pop("name")
        inner, spec = self.inner.as_saved(own, spec)
        return {**kept, "inner": {"name": name, **inner}}, spec
