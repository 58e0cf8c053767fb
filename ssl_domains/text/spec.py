"""What encoders and views need to know of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TextSpec:
    """Facts about texts, and the tokeniser that cuts them up; travels with an encoder.

    Attributes:
        tokeniser: the tokeniser as JSON, in the format of the ``tokenizers`` package: new texts need no other
            file. Trained on the train split only, or read from a folder.
        size: number of different tokens.
        length: tokens of a text (the context), with the two that stand for its beginning and end. Longer
            texts are cut, shorter ones padded.
        pad, mask, begin, end: numbers of the special tokens; begin and end are -1 where there are none.
    """

    tokeniser: str
    size: int
    length: int
    pad: int
    mask: int
    begin: int = -1
    end: int = -1

    @property
    def special(self) -> tuple[int, ...]:
        """Numbers of tokens that are no content: never masked, dropped or predicted."""
        return tuple(sorted({n for n in (self.pad, self.begin, self.end) if n >= 0}))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextSpec:
        """Reads :meth:`to_dict` back."""
        return cls(**values)
