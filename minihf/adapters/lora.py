"""LoRA: a layer keeps its weights, and beside them a product of two thin matrices learns what to add.

    y = W x + s B A x        A (r, in), B (out, r), s = alpha / r

W has in * out numbers, A and B together r * (in + out): of BERT's 110 million, queries and values at rank 8 leave 0.3
to train. B begins as zero, so that training begins at the model as it is. As B A has W's shape, it can be added to W,
after which the model is as fast as ever.

From "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021). Names, first values and shapes are peft's,
and so are the keys: `q_proj.base_layer.weight`, `q_proj.lora_A.default.weight`, `classifier.modules_to_save.default.…`.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.adapters.config import LoraConfig
from minihf.nn.conv1d import Conv1D


class LoraLayer(nn.Module):
    """A layer, and what adapters add to it, each under its name.

    `active` are the names whose products count, `merged` those whose product is in the base layer's weights already.
    """

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        self.lora_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.active: list[str] = []
        self.merged: list[str] = []
        self.unmerged_weight: list[nn.Parameter] = []  # in a list, where no module looks: it is not learned or saved

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def add(self, name: str, config: LoraConfig, r: int, alpha: float, dtype: torch.dtype) -> None:
        """Another adapter; it does nothing before it is made active."""
        self.scaling[name] = alpha / (math.sqrt(r) if config.use_rslora else r)
        self.lora_dropout[name] = nn.Dropout(config.lora_dropout) if config.lora_dropout else nn.Identity()
        self.make(name, r, config.init_lora_weights)
        for part in self.parts(name).values():
            part.data = part.data.to(self.weight.device, dtype)

    def remove(self, name: str) -> None:
        self.unmerge()
        for parts in (*self.pairs(), self.lora_dropout, self.scaling):
            if name in parts:
                del parts[name]
        self.active = [other for other in self.active if other != name]

    def names(self) -> list[str]:
        return [*self.scaling]

    def merge(self, names: list[str]) -> None:
        """Add the products of these adapters to the weights.

        The weight is a new parameter: what is tied to the old one keeps it, as an adapter changes one layer alone. The
        old one is put aside, so that to unmerge is exact, and costs its memory while merged.
        """
        names = [name for name in names if name in self.scaling and name not in self.merged]
        if not names:
            return
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        weight = self.weight.data.to(exact) + sum(self.delta(name).to(exact) for name in names)
        if not torch.isfinite(weight).all():
            raise ValueError(f"the adapter {' or '.join(names)} is broken: merged weights would not be finite")
        if not self.merged:
            self.unmerged_weight = [self.weight]
        self.base_layer.weight = nn.Parameter(weight.to(self.weight.dtype), requires_grad=self.weight.requires_grad)
        self.merged += names

    def unmerge(self) -> None:
        """Take them out again; the weights are what they were, bit for bit."""
        if self.merged:
            (kept,) = self.unmerged_weight
            kept.data = kept.data.to(self.weight.device, self.weight.dtype)  # the model may have moved meanwhile
            self.base_layer.weight = kept
            self.merged, self.unmerged_weight = [], []


class LoraLinear(LoraLayer):
    """Over `nn.Linear`, or GPT-2's `Conv1D`, whose weight is the transpose."""

    def __init__(self, base_layer: nn.Linear | Conv1D):
        super().__init__(base_layer)
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.transposed = isinstance(base_layer, Conv1D)

    def make(self, name: str, r: int, init: bool | str) -> None:
        outside, inside = self.weight.shape[::-1] if self.transposed else self.weight.shape
        self.lora_A[name] = nn.Linear(inside, r, bias=False)
        self.lora_B[name] = nn.Linear(r, outside, bias=False)
        if init == "gaussian":
            nn.init.normal_(self.lora_A[name].weight, std=1 / r)
        elif init:
            nn.init.kaiming_uniform_(self.lora_A[name].weight, a=math.sqrt(5))  # a second time: peft's random numbers
        if init:
            nn.init.zeros_(self.lora_B[name].weight)

    def pairs(self) -> tuple[nn.ModuleDict, nn.ModuleDict]:
        return self.lora_A, self.lora_B

    def parts(self, name: str) -> dict[str, nn.Parameter]:
        """Key in a file -> parameter."""
        return {"lora_A.weight": self.lora_A[name].weight, "lora_B.weight": self.lora_B[name].weight}

    def delta(self, name: str) -> Tensor:
        """What the adapter adds to the weight."""
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        a, b = (part[name].weight.data.to(exact) for part in self.pairs())
        product = (b @ a) * self.scaling[name]  # (out, r), (r, in) -> (out, in)
        return product.T if self.transposed else product

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        dtype = y.dtype
        for name in self.active:
            if name not in self.merged:
                a, b = self.lora_A[name], self.lora_B[name]
                y = y + b(a(self.lora_dropout[name](x.to(a.weight.dtype)))) * self.scaling[name]
        return y.to(dtype)


class LoraEmbedding(LoraLayer):
    """Over `nn.Embedding`: A (r, V) is looked up, B (C, r) is applied. There is no dropout, as in peft."""

    def __init__(self, base_layer: nn.Embedding):
        super().__init__(base_layer)
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()
        self.padding_idx = base_layer.padding_idx
        self.scale = getattr(base_layer, "scale", 1.0)  # BART's embeddings are scaled by the layer itself

    def make(self, name: str, r: int, init: bool | str) -> None:
        tokens, width = self.weight.shape
        self.lora_embedding_A[name] = nn.Parameter(torch.randn(r, tokens))
        self.lora_embedding_B[name] = nn.Parameter(torch.randn(width, r))
        if init:  # here it is A that begins as zero
            nn.init.zeros_(self.lora_embedding_A[name])
            nn.init.normal_(self.lora_embedding_B[name])

    def pairs(self) -> tuple[nn.ParameterDict, nn.ParameterDict]:
        return self.lora_embedding_A, self.lora_embedding_B

    def parts(self, name: str) -> dict[str, nn.Parameter]:
        return {"lora_embedding_A": self.lora_embedding_A[name], "lora_embedding_B": self.lora_embedding_B[name]}

    def delta(self, name: str) -> Tensor:
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        a, b = (part[name].data.to(exact) for part in self.pairs())
        return (b @ a).T * self.scaling[name]  # (C, r), (r, V) -> (V, C)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.base_layer(ids)  # (B, T) -> (B, T, C)
        dtype = y.dtype
        for name in self.active:
            if name not in self.merged:
                a, b = self.lora_embedding_A[name].T, self.lora_embedding_B[name].T  # (V, r), (r, C)
                y = y + F.embedding(ids, a, self.padding_idx) @ b * (self.scaling[name] * self.scale)
        return y.to(dtype)


class SavedModule(nn.Module):
    """A module that each adapter has a copy of its own of, trained whole. It stands for the active one's."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.original_module = module.requires_grad_(False)
        self.modules_to_save = nn.ModuleDict()
        self.active: list[str] = []

    def add(self, name: str) -> None:
        self.modules_to_save[name] = copy.deepcopy(self.original_module)

    def remove(self, name: str) -> None:
        if name in self.modules_to_save:
            del self.modules_to_save[name]
        self.active = [other for other in self.active if other != name]

    def names(self) -> list[str]:
        return [*self.modules_to_save]

    def parts(self, name: str) -> dict[str, Tensor]:
        return dict(self.modules_to_save[name].state_dict(keep_vars=True))

    def stands_for(self) -> nn.Module:
        """(`minihf.nn.bare` asks for this, too.)"""
        return self.modules_to_save[self.active[0]] if self.active else self.original_module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.stands_for()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("original_module", "modules_to_save"):  # not there yet
                raise
            return getattr(self.stands_for(), name)

    def __getitem__(self, key: Any) -> nn.Module:
        return self.stands_for()[key]
