"""More tokens, or fewer: every table that has a row for each token gets another number of rows.

A vocabulary is spread over a model: word embeddings (an encoder-decoder has up to three tables of them), the output
layer's weight, its bias, Marian's and BART's `final_logits_bias`. What is tied, is one parameter, and stays one.

New rows are the mean of the old ones, of a bias their mean too (John Hewitt, "Initializing new word embeddings", 2021):
a model then gives a new token about the probability of an average old one. A new row of zeros, or a small random one,
would often win over every old token. The reference draws around that mean, so closely (its covariance times 1e-9) that
rows are equal to the mean within 3e-5 of the table's spread; here they are the mean itself.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minihf.models.config import Config

if TYPE_CHECKING:
    from minihf.models.base import Model


def resize(model: "Model", rows: int | None, multiple: int | None, mean: bool, *, decoder: bool = False) -> None:
    """`Model.resize_token_embeddings`; with `decoder`, of the decoder's own vocabulary, where a Marian has two."""
    config = model.config
    two = not getattr(config, "share_encoder_decoder_embeddings", True) and config.is_encoder_decoder
    names = {name for name in vocabulary(model) if not two or decoder != ("encoder.embed_tokens" in name)}
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if not isinstance(layer, nn.Embedding | nn.Linear | None):
            raise TypeError(
                f"an adapter lies over the vocabulary, a {type(layer).__name__}: resize the model before it gets one, "
                "or after merge_and_unload()"
            )
    state = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    tables = [state[name] for name in sorted(names) if name in state]  # random rows follow the seed
    old = next(len(table) for table in tables if isinstance(table, nn.Parameter))
    rows = new_rows(config, old, rows, multiple)
    if rows == old:
        return
    std = None if mean else initial_std(config)
    resized = {id(table): resized_table(table, rows, std) for table in tables}
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                kind[name] = resized.get(id(tensor), tensor)
        if isinstance(module, nn.Embedding):
            module.num_embeddings = len(module.weight)
        elif isinstance(module, nn.Linear):
            module.out_features = len(module.weight)
        if isinstance(getattr(module, "config", None), Config):
            if not decoder:
                module.config.vocab_size = rows
            if hasattr(module.config, "decoder_vocab_size") and two == decoder:
                module.config.decoder_vocab_size = rows
    model.vocabulary_changed = True


def vocabulary(model: "Model") -> set[str]:
    """The names of all that has a row for each token, some of which a model may not have."""
    inputs = f"{model.base_model_prefix}." if model.base_model is not model else ""
    names = {f"{inputs}{model.input_embeddings}.weight", "final_logits_bias"}
    if model.output_embeddings:
        names |= {f"{model.output_embeddings}.weight", f"{model.output_embeddings}.bias"}
    return names.union(*type(model).tied.items())


def new_rows(config: Config, old: int, rows: int | None, multiple: int | None) -> int:
    """The number of rows, checked.

    Raises:
        ValueError: no positive number, or one that leaves a special token without a row.
    """
    rows = old if rows is None else rows
    for name, value in (("new_num_tokens", rows), ("pad_to_multiple_of", 1 if multiple is None else multiple)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r}: expected a positive integer")
    rows = math.ceil(rows / (multiple or 1)) * (multiple or 1)
    special = {name: id for name, id in vars(config).items() if name.endswith("_token_id") and type(id) is int}
    lost = [f"{name}={id}" for name, id in special.items() if rows <= id < old]
    if lost:
        raise ValueError(
            f"a vocabulary of {rows} tokens, where there were {old}, leaves no row for {', '.join(lost)}: set another "
            "id in model.config first, or keep more tokens"
        )
    return rows


def resized_table(table: Tensor, rows: int, std: float | None) -> Tensor:
    """The first rows of a table, and new ones: the mean of all old ones, or with `std` random. (V, C) -> (rows, C)

    A bias (V,) is a table of numbers; its random new ones are zero, as are those of a buffer (1, V), not learned.
    """
    if not isinstance(table, nn.Parameter):
        old = table[:, :rows]
        return torch.cat([old, old.new_zeros(1, rows - old.shape[1])], dim=1)  # (1, V) -> (1, rows)
    old, added = table.data[:rows], max(rows - len(table), 0)
    if std is None:
        exact = torch.promote_types(table.dtype, torch.float32)  # a sum of many half-precision rows is no mean
        new = table.data.to(exact).mean(0, keepdim=True).to(table.dtype).expand(added, *table.shape[1:])
    else:
        new = old.new_zeros(added, *table.shape[1:])
        new = new.normal_(std=std) if table.dim() == 2 else new
    return nn.Parameter(torch.cat([old, new]), requires_grad=table.requires_grad)


def initial_std(config: Config) -> float:
    """Of an embedding's first values, under the three names that configs have for it."""
    names = ("initializer_range", "init_std", "initializer_factor")
    return next(getattr(config, name) for name in names if hasattr(config, name))


def check_fits(new: nn.Module, old: nn.Module) -> None:
    """That a layer put in another's place knows as many tokens, of that width, and has a bias where that had one."""
    if len(new.weight) != len(old.weight):
        raise ValueError(
            f"the vocabulary has {len(old.weight)} tokens, and the new layer {len(new.weight)}: "
            "resize_token_embeddings changes their number"
        )
    if new.weight.shape != old.weight.shape:
        width, other = old.weight.shape[1], new.weight.shape[1]
        raise ValueError(f"the model has {width} numbers a token there, and the new layer {other}: give it {width}")
    if getattr(old, "bias", None) is not None and new.bias is None:
        raise ValueError("the model's output layer has a bias, and the new one has none: make it with bias=True")
