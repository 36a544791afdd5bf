"""Which optimizer the arguments mean."""

import json
from typing import Any

import torch
from torch.optim import Optimizer

from minihf.training.adamw import AdamW
from minihf.training.arguments import TrainingArguments


def optimizer_class(args: TrainingArguments) -> tuple[type[Optimizer], dict[str, Any]]:
    """Its class, and the arguments besides the parameters; `optim_args` overrides the others."""
    adam = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    cls, settings = {
        "adamw_torch": (AdamW, adam),
        "adamw_hf": (AdamW, adam),
        "adamw_torch_fused": (AdamW, {**adam, "fused": True}),
        "sgd": (torch.optim.SGD, {}),
        "adagrad": (torch.optim.Adagrad, {}),
        "rmsprop": (torch.optim.RMSprop, {}),
    }[args.optim]
    return cls, {"lr": args.learning_rate, **settings, **further_settings(args.optim_args or "")}


def further_settings(optim_args: str) -> dict[str, Any]:
    try:
        pairs = [each.split("=") for each in optim_args.replace(" ", "").split(",") if each]
        return {name: json.loads(value.lower()) for name, value in pairs}
    except ValueError as error:
        raise ValueError(
            f"optim_args is {optim_args!r}, expected 'name=value,name=value', each value a number, true or false; "
            "betas are adam_beta1 and adam_beta2"
        ) from error
