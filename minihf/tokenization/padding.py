"""Padding of what was encoded before: the work of a data collator, where rows of many calls meet in one batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from minihf.tokenization.encoding import BatchEncoding, to_lists
from minihf.tokenization.options import padding_settings

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer


def pad(
    tokenizer: "Tokenizer",
    encoded_inputs: Any,
    padding: bool | str = True,
    max_length: int | None = None,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
    return_attention_mask: bool | None = None,
    return_tensors: str | None = None,
    verbose: bool = True,
) -> BatchEncoding:
    """Pad what was encoded before: one row, a mapping of rows, or a list of mappings, such as a data loader gathers.

    Padded are `input_ids`, `attention_mask` (made where there is none), `token_type_ids` and `special_tokens_mask`.
    Anything else, such as labels, is passed on as it is. Tensors and arrays come back as such. The options are those of
    a call.

    Raises:
        TypeError: what are no rows. ValueError: rows that do not agree, options that cannot be met, ragged tensors.
    """
    data = _columns(encoded_inputs)
    if "input_ids" not in data:
        raise ValueError(f"padding needs input_ids; there is {', '.join(map(repr, data)) or 'nothing'}")
    return_tensors = return_tensors or _kind(data["input_ids"])
    data = {key: to_lists(value) for key, value in data.items()}
    ids = data["input_ids"]
    if return_attention_mask is None:
        return_attention_mask = "attention_mask" in tokenizer.model_input_names
    if not ids:
        return BatchEncoding(data | ({"attention_mask": []} if return_attention_mask else {}))

    single = not isinstance(ids[0], list)
    if single:
        data = {key: [value] for key, value in data.items()}
        ids = [ids]
    counts = {key: len(value) if isinstance(value, list) else "none" for key, value in data.items()}
    if set(counts.values()) != {len(ids)}:
        raise ValueError(f"these have different numbers of rows: {counts}")
    if return_attention_mask and "attention_mask" not in data:
        data["attention_mask"] = [[1] * len(row) for row in ids]
    settings = padding_settings(tokenizer, padding, max_length, pad_to_multiple_of, padding_side, verbose=verbose)
    if settings is not None:
        fill = {"input_ids": settings["pad_id"], "token_type_ids": settings["pad_type_id"], "special_tokens_mask": 1}
        if return_attention_mask:
            fill["attention_mask"] = 0
        length = max(map(len, ids)) if settings["length"] is None else settings["length"]
        length += -length % (pad_to_multiple_of or 1)
        left = settings["direction"] == "left"
        for key in fill.keys() & data.keys():
            gaps = [[fill[key]] * (length - len(row)) for row in ids]
            rows = zip(gaps, data[key], strict=True)
            data[key] = [gap + row if left else row + gap for gap, row in rows]
    if single:
        data = {key: value[0] for key, value in data.items()}
    return BatchEncoding(data, tensor_type=return_tensors)


def _columns(encoded: Any) -> dict[str, Any]:
    """A list of rows, each a mapping -> one mapping of columns, which is also accepted."""
    if isinstance(encoded, Mapping):
        columns = dict(encoded)
    elif isinstance(encoded, list | tuple) and encoded and all(isinstance(row, Mapping) for row in encoded):
        for i, row in enumerate(encoded):
            if row.keys() != encoded[0].keys():
                raise ValueError(f"row {i} has the keys {list(row)}, row 0 has {list(encoded[0])}; they must agree")
        columns = {key: [row[key] for row in encoded] for key in encoded[0]}
    else:
        empty = "n empty " if encoded == [] else " "
        raise TypeError(
            f"padding takes what tokenizer(...) returns, or a list of such, not a{empty}{type(encoded).__name__}"
        )
    return columns


def _kind(ids: Any) -> str | None:
    """ "pt" or "np" where ids came as tensors or arrays, in whatever nesting."""
    while isinstance(ids, list | tuple):
        filled = [item for item in ids if not isinstance(item, list | tuple) or item]
        if not filled:
            return None
        ids = filled[0]
    return "pt" if isinstance(ids, torch.Tensor) else "np" if isinstance(ids, np.ndarray) else None
