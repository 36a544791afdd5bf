"""Mixtral's experts: three matrices each in files as published, two tensors for all of them in the model.

    in a file                                                      in the model
    layers.0.block_sparse_moe.experts.3.w1.weight    (I, C)        layers.0.mlp.experts.gate_up_proj[3, :I]
    layers.0.block_sparse_moe.experts.3.w3.weight    (I, C)        layers.0.mlp.experts.gate_up_proj[3, I:]
    layers.0.block_sparse_moe.experts.3.w2.weight    (C, I)        layers.0.mlp.experts.down_proj[3]
    layers.0.block_sparse_moe.gate.weight            (E, C)        layers.0.mlp.gate.weight

Each matrix is a view of a tensor of the model, so that taking apart costs no memory, and putting together none but the
model's own. The ledger accounts for the matrices one by one, by their names in the file. Files that hold the model's
own tensors are read, too; files are written as published.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

PARTS = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
MIXTURE = re.compile(r"(.*\.)mlp\.(gate\.weight|experts\.(gate_up_proj|down_proj))")


def in_published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as published files have it; one without a mixture of experts as it is."""
    return {part: view for name, tensor in tensors.items() for part, view in apart(name, tensor).items()}


def apart(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What published files hold in place of one tensor of a model: itself, or views of it, a matrix each."""
    found = MIXTURE.fullmatch(name)
    if found is None:
        return {name: tensor}
    block, rest, stacked = found.groups()
    if stacked is None:
        return {f"{block}block_sparse_moe.{rest}": tensor}
    parts = PARTS[stacked]
    return {
        f"{block}block_sparse_moe.experts.{i}.{part}.weight": matrix
        for i, expert in enumerate(tensor.unbind())
        for part, matrix in zip(parts, expert.chunk(len(parts)), strict=True)
    }


def as_in_file(file: Iterable[str], model: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """What a file is expected to hold: name -> (parameter of the model, that parameter itself or a view of it)."""
    published = any(".block_sparse_moe." in key for key in file)
    return {
        part: (name, view)
        for name, tensor in model.items()
        for part, view in (apart(name, tensor) if published else {name: tensor}).items()
    }
