"""What encoders and views need to know of the data; travels with the encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SpeechSpec:
    """Recordings of one rate, of any length.

    Attributes:
        rate: samples a second after resampling.
        channel: ``mix`` (mean of the channels), or the number of the channel that is read.
        max_seconds: longer recordings are cut.
        min_seconds: shorter ones are left out.
        cut: where they are cut: ``fixed`` or ``silence``.
        classes: names of the classes, so that new data get the same numbers.
        phones: names of the labelled segments, in the order of their numbers.
        symbols: characters of the texts, for recognition; number 0 is CTC's blank and not among them.
    """

    rate: int = 16000
    channel: str = "mix"
    max_seconds: float = 15.0
    min_seconds: float = 0.1
    cut: str = "fixed"
    classes: tuple[str, ...] = ()
    phones: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SpeechSpec:
        """Reads it back."""
        lists = {key: tuple(values.get(key, ())) for key in ("classes", "phones", "symbols")}
        return cls(**{**values, **lists})
