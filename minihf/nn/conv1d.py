"""OpenAI's linear layer: GPT and GPT-2 keep their weights as (in, out), the transpose of `nn.Linear`'s."""

import torch
from torch import Tensor, nn

from minihf.nn.linear import linear


class Conv1D(nn.Module):
    """y = x W + b with W (in, out). The name is history: a convolution of width 1 is a linear layer."""

    def __init__(self, out_features: int, in_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.T, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"
