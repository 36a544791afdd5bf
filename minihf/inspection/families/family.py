"""How the parity harness is told of an architecture."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """Fields of the config that change the arithmetic."""

    fields: dict
    classes: tuple[str, ...] | None = None
    """Only these classes know the difference; None: all."""
    half_blind: bool = False
    """The reference computes this in float32 whatever it is given: no comparison in float64."""


@dataclass(frozen=True)
class Family:
    config: dict
    """Of the architecture: tiny, and no size fits where it does not belong."""
    special: dict[str, dict] = field(default_factory=dict)
    """Class -> fields that it needs besides."""
    variants: dict[str, Variant] = field(default_factory=dict)
    positions_from_mask: bool = False
    """minihf counts positions over the mask's real tokens, so the reference must be told them."""
