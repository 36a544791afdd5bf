"""The loss of a batch: the model's own, a smoothed one, or that of `compute_loss_func`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.nn.losses import check_labels, counted, next_tokens, upcast
from minihf.nn.output import Output
from minihf.training.facts import COUNT, ModelFacts
from minihf.training.metrics import nested


def batch_loss(
    model: nn.Module,
    bare: nn.Module,
    facts: ModelFacts,
    inputs: Mapping[str, Any],
    num_items: Tensor | int | None,
    *,
    smoothing: float,
    loss_func: Callable | None,
    use_cache: bool,
) -> tuple[Any, Any, bool]:
    """The loss, the model's output, and whether the loss is divided by `num_items`, the labels of all the step.

    Args:
        model: which may be a wrapper of `bare`, whose facts these are.
        smoothing: of the labels; 0: the model's own loss.
        loss_func: see `compute_loss_func` of the Trainer.
    """
    inputs, labels = dict(inputs), None
    if smoothing or loss_func is not None:
        labels = inputs.pop("labels", None)
    if labels is not None and facts.writes_apart and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = bare.prepare_decoder_input_ids_from_labels(labels=labels)
    if labels is None and facts.counts_labels and num_items is not None:
        inputs[COUNT] = num_items
    if "use_cache" in facts.parameters:
        inputs.setdefault("use_cache", use_cache)
    outputs = model(**inputs)
    named = isinstance(outputs, Mapping | Output)
    if loss_func is not None:
        loss = loss_func(outputs, labels, num_items_in_batch=num_items)
    elif labels is not None:
        logits = outputs["logits"] if named else outputs[0]
        loss = smoothed_loss(logits, labels, smoothing, shifted=facts.shifts_labels, num_items_in_batch=num_items)
    elif not named:
        loss = outputs[0]
    elif "loss" in outputs:
        loss = outputs["loss"]
    else:
        raise ValueError(
            f"the model gave no loss, only {', '.join(outputs)}; its inputs were {', '.join(inputs)}. Are the "
            "labels there, under the name that its forward has for them?"
        )
    divided = facts.counts_labels or loss_func is not None or labels is not None
    return loss, outputs, divided and num_items is not None


def on_device(inputs: Any, device: torch.device) -> dict[str, Any]:
    """A batch, where the model is."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise ValueError(
            f"a batch is a dict of tensors; the collator made {type(inputs).__name__} of the examples"
            + (" (an empty one: do the columns bear the names that the model's forward has?)" if not inputs else "")
        )
    return nested(lambda x: x.to(device) if isinstance(x, Tensor) else x, dict(inputs))


def smoothed_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    shifted: bool = False,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Cross-entropy with a part of the probability spread over all words (Szegedy et al., arXiv 1512.00567).

    (1 - epsilon) * -log p(label) + epsilon * the mean of -log p over the words, averaged over the labels that count.

    Args:
        logits: (..., V).
        labels: (...); shifted: each is predicted by the token before it.
        num_items_in_batch: divide the sum by this instead of by the number of labels.
    """
    labels = next_tokens(labels) if shifted else labels
    check_labels(logits.shape[:-1], labels)
    places = counted(labels)
    log_p = F.log_softmax(upcast(logits).flatten(0, -2)[places], dim=-1)  # (N, V)
    nll = -log_p.gather(-1, labels.flatten()[places, None]).sum()
    total = (1 - epsilon) * nll - epsilon * log_p.mean(-1).sum()
    return total / (len(places) if num_items_in_batch is None else num_items_in_batch)
