"""Why a call failed, in words. What PyTorch says of a batch that does not fit names none of its arguments.

It is asked after the failure: a call that goes well pays nothing.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

TENSORS = ("_ids", "_embeds", "labels", "_label", "_positions")  # arguments that end so
OF_A_TEXT = ("labels", "decoder_input_ids", "decoder_inputs_embeds", "start_positions", "end_positions")


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
        arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:  # which says itself what is wrong
        return None
    return misfit(arguments, model.get_input_embeddings().embedding_dim)


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


def misfit(arguments: dict[str, Any], width: int) -> Exception | None:
    """The first argument that is no tensor, or does not go with the ids.

    Args:
        width: of an embedding.
    """
    given = {name: x for name, x in arguments.items() if x is not None}
    for name, x in given.items():
        if name.endswith(TENSORS) and not isinstance(x, Tensor):
            return TypeError(
                f"{name} is a {type(x).__name__}, expected a tensor: torch.tensor(...) makes one, and "
                "tokenizer(text, return_tensors='pt') all that a model reads"
            )
    for side in ("", "decoder_"):
        embeds = given.get(side + "inputs_embeds")
        if embeds is not None and embeds.shape[-1] != width:
            return ValueError(
                f"{side}inputs_embeds has shape {tuple(embeds.shape)}, expected {width} channels, as the model's "
                "embeddings have"
            )
        ids = given.get(side + "input_ids", None if embeds is None else embeds[..., 0])
        if ids is None:
            continue
        for name in (side + "token_type_ids", side + "position_ids"):
            if name in given and (wrong := beside(name, given[name], ids)) is not None:
                return wrong
    texts = given.get("input_ids", given.get("inputs_embeds"))
    for name in OF_A_TEXT:
        if texts is not None and name in given and given[name].shape[:1] != texts.shape[:1]:
            return ValueError(f"{name} has shape {tuple(given[name].shape)}, for a batch of {len(texts)} texts")
    return None


def beside(name: str, x: Tensor, ids: Tensor) -> ValueError | None:
    """What is told of each token: whole numbers, (B, T) or (1, T) or (T,) for ids (B, T)."""
    if x.dtype not in (torch.int64, torch.int32):
        return ValueError(f"{name} is {x.dtype}, expected int64")
    rows = all(own in (1, there) for own, there in zip(x.shape[::-1][1:], ids.shape[::-1][1:], strict=False))
    if x.dim() == 0 or x.shape[-1] != ids.shape[-1] or not rows:
        return ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(ids.shape)}: one for each token")
    return None
