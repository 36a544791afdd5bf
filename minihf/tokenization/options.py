"""The words that people use for padding and truncation, made into the engine's settings.

The reference's rules, in one place: `True` and its long names, which `max_length` counts, and what is refused.
"""

import warnings
from typing import TYPE_CHECKING, Any

from minihf.tokenization.inputs import Row

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer

PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("right", "left")
UNLIMITED = int(1e20)  # a model_max_length above this means that there is none; files write 1e30


def padding_settings(
    tokenizer: "Tokenizer",
    padding: bool | str,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    side: str | None,
    truncation: dict | None = None,
    verbose: bool = True,
) -> dict[str, Any] | None:
    """The engine's `enable_padding` arguments, `length` None meaning the longest row; None: no padding.

    Raises:
        ValueError: unknown values; padding without a pad token; a truncation length that is no multiple of
            `pad_to_multiple_of`.
    """
    strategy = _chosen("padding", padding, PADDINGS, "do_not_pad")
    side = known("padding_side", tokenizer.padding_side if side is None else side, SIDES)
    if strategy == "max_length" and max_length is None:
        max_length = _model_limit(tokenizer, "padding='max_length'", verbose)
    if strategy == "do_not_pad" or (strategy == "max_length" and max_length is None):
        return None
    if tokenizer.pad_token is None:
        raise ValueError(
            "padding needs a pad token and this tokenizer has none: choose one of its tokens, tokenizer.pad_token = "
            "tokenizer.eos_token, or add one, tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
        )
    pad_id = tokenizer.backend_tokenizer.token_to_id(tokenizer.pad_token)
    if pad_id is None:
        raise ValueError(
            f"the pad token {tokenizer.pad_token!r} is not in the vocabulary: add it with "
            f"tokenizer.add_special_tokens({{'pad_token': {tokenizer.pad_token!r}}})"
        )
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of}; a positive number was expected")
    if truncation and pad_to_multiple_of and truncation["max_length"] % pad_to_multiple_of:
        raise ValueError(
            f"rows are cut at {truncation['max_length']}, no multiple of pad_to_multiple_of={pad_to_multiple_of}; pass "
            "a max_length that is one"
        )
    if verbose and strategy == "longest" and max_length is not None and not truncation:
        warnings.warn(
            "max_length is ignored: padding=True pads to the longest text, and nothing is truncated. Pass "
            "padding='max_length' to pad to it, truncation=True to cut at it.",
            stacklevel=3,
        )
    return {
        "length": max_length if strategy == "max_length" else None,
        "direction": side,
        "pad_id": pad_id,
        "pad_token": tokenizer.pad_token,
        "pad_type_id": tokenizer.pad_token_type_id,
        "pad_to_multiple_of": pad_to_multiple_of,
    }


def truncation_settings(
    tokenizer: "Tokenizer",
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    rows: list[Row],
    add_special_tokens: bool,
    verbose: bool = True,
) -> dict[str, Any] | None:
    """The engine's `enable_truncation` arguments; None: no truncation.

    Raises:
        ValueError: unknown values; a length without room for special tokens or stride; `only_second` without pairs.
    """
    strategy = _chosen("truncation", truncation, TRUNCATIONS, "do_not_truncate")
    if strategy == "do_not_truncate":
        return None
    if max_length is None:
        max_length = _model_limit(tokenizer, f"truncation={truncation!r}", verbose)
        if max_length is None:
            return None
    paired = [isinstance(row, tuple) for row in rows]
    if strategy == "only_second" and not all(paired):
        raise ValueError(f"truncation='only_second' needs pairs, and text {paired.index(False)} has no second text")
    special = tokenizer.num_special_tokens_to_add(any(paired)) if add_special_tokens else 0
    room = max_length - special
    if room < 0:
        raise ValueError(f"max_length={max_length} has no room for the {special} special tokens")
    if stride < 0 or stride >= max(room, 1):
        raise ValueError(
            f"stride={stride} tokens are to stand in two parts, and a part has {room} beside the special ones: "
            "the stride must be less, and not negative"
        )
    side = known("truncation_side", tokenizer.truncation_side, SIDES)
    return {"max_length": max_length, "stride": stride, "strategy": strategy, "direction": side}


def known(name: str, value: Any, values: tuple[str, ...]) -> Any:
    if value not in values:
        raise ValueError(f"{name}={value!r} is unknown: pass one of {', '.join(map(repr, values))}")
    return value


def _chosen(name: str, value: bool | str | None, values: tuple[str, ...], off: str) -> str:
    """True is the first of the values, False and None are `off`."""
    if value is True:
        return values[0]
    if value is False or value is None:
        return off
    if value not in values:
        raise ValueError(f"{name}={value!r} is unknown: pass True, False or one of {', '.join(map(repr, values))}")
    return value


def _model_limit(tokenizer: "Tokenizer", what: str, verbose: bool) -> int | None:
    if tokenizer.model_max_length <= UNLIMITED:
        return tokenizer.model_max_length
    if verbose:
        warnings.warn(
            f"{what} does nothing here: the tokenizer knows no largest length. Pass max_length=, or set "
            "tokenizer.model_max_length.",
            stacklevel=4,
        )
    return None
