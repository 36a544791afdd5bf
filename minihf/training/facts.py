"""What a trainer must know of a model: what its forward takes, and what its loss makes of the labels."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

COUNT = "num_items_in_batch"


@dataclass(frozen=True)
class ModelFacts:
    parameters: Mapping[str, inspect.Parameter]  # of its forward
    main_input: str  # which of them the tokens are
    label_names: list[str]  # which of them are labels
    counts_labels: bool  # its loss is a sum over labels, divided by what it is told: right over several batches
    shifts_labels: bool  # each label is predicted by the token before it
    writes_apart: bool  # labels are what a decoder of its own writes
    dense_parameters: int  # how many are in no embedding


def facts_of(model: nn.Module) -> ModelFacts:
    parameters = inspect.signature(model.forward).parameters
    writes_apart = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return ModelFacts(
        parameters,
        main_input=getattr(model, "main_input_name", "input_ids"),
        label_names=find_labels(model),
        counts_labels=COUNT in parameters,
        shifts_labels=getattr(model, "can_generate", False) and not writes_apart,
        writes_apart=writes_apart,
        dense_parameters=sum(p.numel() for p in model.parameters() if id(p) not in tables),
    )


def find_labels(model: nn.Module) -> list[str]:
    """What a model's forward calls its labels: arguments with "label" in them, and the two ends of an answer."""
    names = inspect.signature(model.forward).parameters
    ends = ("start_positions", "end_positions") if "QuestionAnswering" in type(model).__name__ else ()
    return [name for name in names if "label" in name or name in ends]
