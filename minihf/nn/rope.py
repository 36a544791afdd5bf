"""Rotary position embeddings (Su et al., 2021, arXiv 2104.09864): a token's place is a rotation of its query and key.

Channel i of a head's first half and channel i of its second half are a point in a plane; at position p the point is
turned by the angle p * f_i. Turning both by the same angle changes no product, so that the product of a query and a key
knows only how far apart they are. The frequencies f_i fall from 1 to 1 / theta: the first channels tell neighbours
apart, the last ones pages.

A model that was trained on L tokens has never seen the slow planes turn further than L * f_i. All kinds of rope but the
first are ways to read longer texts without angles of which it knows nothing:

    default        f_i as they are
    linear         all divided by `factor`: positions are squeezed (arXiv 2306.15595)
    dynamic        a larger theta, grown with the length of the text beyond L ("NTK-aware")
    yarn           fast planes as they are, slow ones divided, a ramp between; softer scores (arXiv 2309.00071)
    longrope       each divided by a searched factor, one list for short texts, one for long (arXiv 2402.13753)
    llama3         as yarn, with bounds and a ramp on wavelengths (Llama 3.1's model card)
    proportional   only the first share of the planes turn, the others stand still

The numbers are the reference's to the last bit: checkpoints were trained with frequencies of float32, whatever the
model's own precision, and cosines of any other are another model's.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

# The keys, beside `rope_theta`, without which a kind says nothing.
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "proportional": (),
}
NUMBERS = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NUMBERS += ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "partial_rotary_factor")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the planes of queries or keys x (B, H, T, D); cos and sin (B or 1, 1, T, D) are `RotaryEmbedding`'s.

    (a, b) becomes (a cos - b sin, b cos + a sin), in which b, a is x with its halves exchanged: a roll by D / 2.
    """
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


class RotaryEmbedding(nn.Module):
    """From positions to the cosines and sines of their angles, made once in a forward, for all layers.

    It has nothing to learn and nothing to save. For the two kinds that depend on the length of the text (dynamic,
    longrope), that is the largest position of the batch, plus one, at each call, as in the reference. So one long row
    of a batch changes the frequencies of the others; and keys that are in a cache stay as they were turned, so that a
    text which passes the original length between two calls differs from one that is read at once. No earlier call is
    remembered: the reference keeps dynamic frequencies of a longer text for the next shorter one.

    Args:
        parameters: a config's `rope_parameters`, checked (`check_rope`).
        head_dim: D.
        max_position_embeddings: the length beyond which "dynamic" grows, and what a `factor` of null is reckoned from.
    """

    def __init__(self, parameters: dict[str, Any], head_dim: int, max_position_embeddings: int):
        super().__init__()
        self.rope, self.head_dim, self.limit = parameters, head_dim, max_position_embeddings
        self.kind = parameters["rope_type"]
        self.scale = attention_factor(parameters, max_position_embeddings)
        # A plain tensor on the CPU, float32: a buffer would be rounded by model.half(), and be lost on the meta device.
        self.inv_freq = inverse_frequencies(parameters, head_dim, max_position_embeddings)
        self.here = self.inv_freq  # its copy on the device where the model was last called

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (B or 1, T, D) in the dtype of x, computed in float32 at least.

        The first half of sin is negative: it is what the other half of a vector adds to this one (see `rotate`).
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        angles = position_ids[..., None] * self.frequencies(position_ids, x.device).to(wide)  # (B, T, D / 2)
        cos, sin = angles.cos(), angles.sin()
        if self.scale != 1:
            cos, sin = cos * self.scale, sin * self.scale
        return torch.cat([cos, cos], -1).to(x.dtype), torch.cat([-sin, sin], -1).to(x.dtype)

    def frequencies(self, position_ids: Tensor, device: torch.device) -> Tensor:
        """(D / 2,), for a text that reaches as far as these positions."""
        if self.here.device != device:
            self.here = self.inv_freq.to(device)
        if self.kind not in ("dynamic", "longrope"):
            return self.here
        length = position_ids.max() + 1
        if self.kind == "longrope":
            short, long = self.here
            return torch.where(length > self.rope["original_max_position_embeddings"], long, short)
        grown = dynamic_frequencies(self.rope, self.head_dim, self.limit, length.clamp(min=self.limit))
        return torch.where(length > self.limit, grown, self.here)

    def extra_repr(self) -> str:
        return f"{self.head_dim}, {self.kind}, theta={self.rope['rope_theta']}"


# Frequencies. The order of operations is the reference's: another rounds otherwise.


def periods(theta: float, dim: int) -> Tensor:
    """1 / f_i = theta ** (2 i / dim), i < dim / 2: the tokens in which plane i turns by one radian."""
    return theta ** (torch.arange(0, dim, 2, device="cpu").to(torch.float32) / dim)


def inverse_frequencies(parameters: dict[str, Any], dim: int, limit: int) -> Tensor:
    """f_i of each plane, (dim / 2,), on the CPU in float32; for longrope two rows, of short and of long texts.

    Args:
        parameters: `rope_parameters`, checked.
        dim: D, how many channels are turned.
        limit: the config's `max_position_embeddings`.
    """
    kind, theta, factor = parameters["rope_type"], parameters["rope_theta"], parameters.get("factor")
    if kind == "linear":
        return 1.0 / periods(theta, dim) / factor
    if kind == "dynamic":
        return 1.0 / periods(grown_theta(theta, factor, dim, limit, limit), dim)
    if kind == "yarn":
        return yarn_frequencies(parameters, dim, limit)
    if kind == "longrope":
        lists = torch.tensor([parameters["short_factor"], parameters["long_factor"]], dtype=torch.float32, device="cpu")
        return 1.0 / (lists * periods(theta, dim))
    if kind == "llama3":
        return llama3_frequencies(parameters, dim)
    if kind == "proportional":
        turning = int(parameters.get("partial_rotary_factor", 1.0) * dim // 2)
        frequencies = (1.0 / periods(theta, dim)) / (1.0 if factor is None else factor)
        return frequencies * (torch.arange(dim // 2, device="cpu") < turning)
    return 1.0 / periods(theta, dim)


def grown_theta(theta: float, factor: float, dim: int, limit: int, length: int | Tensor) -> float | Tensor:
    """The theta with which the slowest plane turns as far over `length` tokens as theta's does over `limit`."""
    return theta * ((factor * length / limit) - (factor - 1)) ** (dim / (dim - 2))


def dynamic_frequencies(parameters: dict[str, Any], dim: int, limit: int, length: Tensor) -> Tensor:
    """Of a text of `length` tokens, `limit` or more."""
    theta = grown_theta(parameters["rope_theta"], parameters["factor"], dim, limit, length)
    return 1.0 / (theta ** (torch.arange(0, dim, 2, device=length.device).to(torch.float32) / dim))


def yarn_frequencies(parameters: dict[str, Any], dim: int, limit: int) -> Tensor:
    """Planes that turn often within the original length stay, those that turn less than once are divided."""
    theta, original = parameters["rope_theta"], parameters["original_max_position_embeddings"]
    factor = limit / original if parameters["factor"] is None else parameters["factor"]

    def plane(turns: float) -> float:
        """Which plane (a fraction) turns so many times over the original length."""
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = plane(parameters.get("beta_fast") or 32), plane(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # a step, where no ramp is possible
    kept = 1 - ((torch.arange(dim // 2, device="cpu").to(torch.float32) - low) / (high - low)).clamp(0, 1)
    slow = periods(theta, dim)
    return 1.0 / (factor * slow) * (1 - kept) + 1.0 / slow * kept


def llama3_frequencies(parameters: dict[str, Any], dim: int) -> Tensor:
    """Waves short beside the original length stay, long ones are divided by `factor`, those between by less."""
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    frequencies = 1.0 / periods(parameters["rope_theta"], dim)
    waves = 2 * math.pi / frequencies
    kept = (original / waves - low) / (high - low)
    between = (1 - kept) * frequencies / factor + kept * frequencies
    divided = torch.where(waves > original / low, frequencies / factor, between)
    return torch.where(waves < original / high, frequencies, divided)


def attention_factor(parameters: dict[str, Any], limit: int) -> float:
    """What cos and sin are multiplied with, so that scores over long texts stay as sharp: 1 for most kinds."""
    if parameters["rope_type"] not in ("yarn", "longrope"):
        return 1.0
    if parameters.get("attention_factor") is not None:
        return parameters["attention_factor"]
    original = parameters["original_max_position_embeddings"]
    factor = limit / original if parameters.get("factor") is None else parameters["factor"]
    if factor <= 1:
        return 1.0
    if parameters["rope_type"] == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original))
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if above and below:
        return (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
    return 0.1 * math.log(factor) + 1


def check_rope(parameters: dict[str, Any], head_dim: int) -> None:
    """Refuse `rope_parameters` that make no rotation of heads of that size.

    Raises:
        ValueError: it names the key, what it holds and what was expected.
    """
    kind = parameters["rope_type"]
    if kind not in NEEDED:
        raise ValueError(f"rope_type={kind!r} is not implemented; known are {', '.join(map(repr, NEEDED))}")
    if head_dim % 2 or (kind == "dynamic" and head_dim == 2):
        raise ValueError(f"head_dim={head_dim} makes no rope of type {kind!r}: halves of a head turn together")
    missing = [name for name in NEEDED[kind] if name not in parameters]
    if missing:
        raise ValueError(f"rope_type={kind!r} needs {', '.join(missing)} beside what rope_parameters has: {parameters}")
    for name in NUMBERS:
        value = parameters.get(name)
        optional = name not in NEEDED[kind] or (kind == "yarn" and name == "factor")
        unset = (None, 0) if name.startswith(("beta", "mscale")) else (None,)
        if value in unset and optional and name != "rope_theta":
            continue
        least = 1 if name in ("rope_theta", "original_max_position_embeddings") else 0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < math.inf:
            raise ValueError(f"{name}={value!r} in rope_parameters: expected a number above {least}")
    for name in ("short_factor", "long_factor") if kind == "longrope" else ():
        values = parameters[name]
        numbers = isinstance(values, list) and all(type(x) in (int, float) and 0 < x < math.inf for x in values)
        if not numbers or len(values) != head_dim // 2:
            raise ValueError(f"{name}={values!r} in rope_parameters: expected {head_dim // 2} numbers above 0")
    if kind == "llama3" and parameters["high_freq_factor"] <= parameters["low_freq_factor"]:
        raise ValueError(
            f"high_freq_factor={parameters['high_freq_factor']} in rope_parameters: expected more than "
            f"low_freq_factor={parameters['low_freq_factor']}"
        )
    part = parameters.get("partial_rotary_factor")
    if part is not None and part != 1 and not (kind == "proportional" and part < 1):
        raise ValueError(f"partial_rotary_factor={part} is not implemented for rope_type={kind!r}: whole heads turn")
