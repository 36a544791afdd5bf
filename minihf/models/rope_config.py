"""Configs of models with rotary positions: one record of the rotation, from either spelling of `config.json`.

Files up to 2025 have `rope_theta` and `rope_scaling` (whose kind is its `type`, later its `rope_type`); newer ones have
both in `rope_parameters`. A config here holds and writes `rope_parameters`, complete; the old names can be given, read
and set.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from minihf.models.config import Config
from minihf.nn.rope import NEEDED, check_rope


@dataclass(init=False)
class RopeConfig(Config):
    """A config with `rope_parameters`; its architecture has `head_dim` and `max_position_embeddings` besides."""

    default_theta: ClassVar[float] = 10_000.0

    rope_parameters: dict | None = None
    """`rope_type`, `rope_theta`, and what the type needs: see `minihf.nn.rope`."""

    def __init__(self, **values: Any):
        values = apart(values)
        theta, scaling = values.pop("rope_theta", None), values.pop("rope_scaling", None)
        part = values.pop("partial_rotary_factor", None)
        own = {"rope_theta": self.default_theta if theta is None else theta}
        if part is not None:
            own["partial_rotary_factor"] = part
        super().__init__(**values, rope_parameters={**own, **(scaling or {})})

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> "RopeConfig":
        return super().from_dict(apart(values), **apart(changes))

    def whole_rope(self) -> dict[str, Any]:
        """`rope_parameters` with all that its type needs, checked; for `check`, and for a model that is being built."""
        given = self.rope_parameters or {}
        nested = [name for name, value in given.items() if isinstance(value, dict)]
        if nested:
            raise ValueError(f"rope_parameters for each kind of layer ({', '.join(nested)}) are not implemented")
        kind = given.get("rope_type") or given.get("type") or "default"
        whole = {"rope_theta": self.default_theta, **given, "rope_type": kind}
        whole.pop("type", None)
        if "original_max_position_embeddings" in NEEDED.get(kind, ()):
            beside = getattr(self, "original_max_position_embeddings", None)  # where Phi-3's files have it
            whole["original_max_position_embeddings"] = (
                beside or given.get("original_max_position_embeddings") or self.max_position_embeddings
            )
        check_rope(whole, self.head_dim)
        return whole

    @property
    def rope_theta(self) -> float:
        """The former place of `rope_parameters["rope_theta"]`."""
        return self.rope_parameters["rope_theta"]

    @rope_theta.setter
    def rope_theta(self, theta: float) -> None:
        self.rope_parameters = {**(self.rope_parameters or {}), "rope_theta": theta}

    @property
    def rope_scaling(self) -> dict[str, Any]:
        """The former name of `rope_parameters`. Setting it keeps theta; None is no scaling."""
        return self.rope_parameters

    @rope_scaling.setter
    def rope_scaling(self, scaling: dict[str, Any] | None) -> None:
        self.rope_parameters = {"rope_theta": self.rope_theta, **(scaling or {})}


def apart(values: dict[str, Any]) -> dict[str, Any]:
    """Theta and the scaling under two keys, the old ones, so that a change of one leaves the other as it is."""
    values = dict(values)
    new = values.pop("rope_parameters", None)
    scaling = values.get("rope_scaling") or new
    if scaling is not None:
        if not isinstance(scaling, dict):
            raise ValueError(f"rope_parameters (once rope_scaling) is {scaling!r}: expected a dict")
        values["rope_scaling"] = {name: value for name, value in scaling.items() if name != "rope_theta"}
        theta = scaling.get("rope_theta", (new or {}).get("rope_theta"))
        if theta is not None:
            values["rope_theta"] = theta
    return values
