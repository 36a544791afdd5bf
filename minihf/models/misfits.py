"""Why a call failed, in words. What PyTorch says of a batch that does not fit names none of its arguments.

It is asked after the failure: a call that goes well pays nothing. Whatever else may have failed keeps its own words:
only what PyTorch says of sizes, of the numbers in an index, and of what is no tensor, is looked into.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

OF_TOKENS = ("token_type_ids", "position_ids")
SIZES = ("must match", "cannot be multiplied", "input with shape", "invalid for input of size", "expanded size")
INDICES = "'indices' to have one of the following scalar types"


def explained(error: Exception, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Exception | None:
    """A better error than the one that a model's forward raised for these arguments; None: there is none."""
    if isinstance(error, IndexError):  # PyTorch's words for an id that its embedding does not have
        return outside(model) if "out of range in self" in str(error) else None
    if model.is_part:  # the whole knows more
        return None
    if isinstance(error, RuntimeError) and model.device.type == "meta":
        return RuntimeError(
            "the model is on the meta device, where tensors have shapes and no values (device_map='meta'). What "
            f"depends on shapes alone runs there; this does not: {error}"
        )
    try:
        given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:  # which says itself what is wrong
        return None
    given = {name: x for name, x in given.items() if x is not None}
    words = str(error)
    if not isinstance(error, RuntimeError):
        return no_tensor(given, words)
    if type(error) is not RuntimeError:  # memory that ran out, and the like
        return None
    if INDICES in words:
        return no_indices(given)
    width = getattr(model.get_input_embeddings(), "embedding_dim", None)
    return misfit(given, width) if any(known in words for known in SIZES) else None


def outside(model: nn.Module) -> IndexError:
    """An embedding's own message does not say which table was too small."""
    tables = ", ".join(
        f"{name} has {module.num_embeddings} rows"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    )
    return IndexError(
        f"an id is outside its table ({tables}). Does the tokenizer belong to this model, with no token added?"
    )


def no_tensor(given: dict[str, Any], words: str) -> TypeError | None:
    """A list came, or an array, and something asked it for what tensors have."""
    for name in ("input_ids", "decoder_input_ids", *OF_TOKENS, "labels", "start_positions", "end_positions"):
        kind = type(given.get(name)).__name__
        if name in given and not isinstance(given[name], Tensor) and kind in words:
            return TypeError(
                f"{name} is a {kind}, expected a tensor: torch.tensor(...) makes one, and tokenizer(text, "
                "return_tensors='pt') all that a model reads"
            )
    return None


def no_indices(given: dict[str, Any]) -> ValueError | None:
    for name in OF_TOKENS:
        if name in given and given[name].dtype not in (torch.int64, torch.int32):
            return ValueError(f"{name} is {given[name].dtype}, expected int64")
    return None


def misfit(given: dict[str, Any], width: int | None) -> ValueError | None:
    """The first argument that does not go with the ids.

    Args:
        width: of an embedding, where it is known.
    """
    for side in ("", "decoder_"):
        name, embeds = side + "inputs_embeds", given.get(side + "inputs_embeds")
        if embeds is not None and width is not None and embeds.shape[-1] != width:
            shape = tuple(embeds.shape)
            return ValueError(f"{name} has shape {shape}, expected {width} channels, as the model's embeddings have")
    ids = given.get("input_ids", given["inputs_embeds"][..., 0] if "inputs_embeds" in given else None)
    if ids is None:
        return None
    for name in [name for name in OF_TOKENS if name in given]:
        shape = tuple(given[name].shape)
        if any(own not in (1, there) for own, there in zip(shape[::-1], ids.shape[::-1], strict=False)):
            return ValueError(f"{name} has shape {shape}, expected {tuple(ids.shape)}: one for each token")
    if "encoder_outputs" in given:  # which are the batch, whatever the ids are
        return None
    for name in [name for name in ("decoder_input_ids", "labels") if name in given]:
        shape = tuple(given[name].shape)
        if len(shape) == 2 and shape[0] != len(ids):
            return ValueError(f"{name} has shape {shape}, for a batch of {len(ids)} texts")
    return None
