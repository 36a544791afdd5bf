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
    further = dict(each.split("=") for each in (args.optim_args or "").replace(" ", "").split(",") if each)
    return cls, {"lr": args.learning_rate, **settings, **{name: json.loads(x.lower()) for name, x in further.items()}}
