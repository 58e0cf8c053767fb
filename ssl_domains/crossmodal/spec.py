"""What the towers need to know: the spec and the encoder of each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssl_domains.core import registry


@dataclass(frozen=True)
class PartSpec:
    """One modality.

    Attributes:
        domain: its name.
        spec: of its data, as its own domain fitted it on the train pairs.
        encoder: name of the tower.
        options: the tower's options.
    """

    domain: str
    spec: Any
    encoder: str
    options: dict[str, Any]


@dataclass(frozen=True)
class PairSpec:
    """Modalities by the name of their section (``a``, ``b`` ...); travels with the towers."""

    parts: dict[str, PartSpec]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "parts": {
                name: {
                    "domain": part.domain,
                    "spec": part.spec.to_dict(),
                    "encoder": part.encoder,
                    "options": part.options,
                }
                for name, part in self.parts.items()
            }
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PairSpec:
        """Reads :meth:`to_dict` back."""
        parts = {}
        for name, part in values["parts"].items():
            own = registry.load_domain(part["domain"])()
            parts[name] = PartSpec(
                part["domain"], own.spec_from_dict(part["spec"]), part["encoder"], dict(part["options"])
            )
        return cls(parts)
