"""What `Trainer.evaluate` and `Trainer.predict` do with each batch, and with all of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from minihf.nn.output import Output
from minihf.training.dealing import examples_of
from minihf.training.distributed import gather, shared, totals, world_size
from minihf.training.metrics import EvalLoopOutput, EvalPrediction, as_array, joined, nested, number
from minihf.training.order import length, same_length

if TYPE_CHECKING:
    from minihf.training.trainer import Trainer


def evaluation_loop(
    trainer: "Trainer", loader: Any, loss_only: bool, ignore_keys: list[str] | None, prefix: str
) -> EvalLoopOutput:
    """Losses are averaged over examples, the last, smaller batch's too.

    Of several processes each predicts its own batches, and then has those of all, in the data's order: the result is
    that of a single one with as large batches.
    """
    args, model = trainer.args, trainer.model
    if not trainer.is_in_train and (args.fp16_full_eval or args.bf16_full_eval):
        model.to(torch.float16 if args.fp16_full_eval else torch.bfloat16)
    model.eval()
    trainer.callback_handler.eval_dataloader = loader
    kept: dict[str, list[Any]] = {"losses": [], "predictions": [], "label_ids": [], "inputs": []}
    metrics, seen, moved = None, 0, 0
    same_length(loader)
    batches = iter(loader)
    inputs = next(batches, None)
    while inputs is not None:
        size = batch_size(inputs)
        loss, logits, labels = trainer.prediction_step(model, inputs, loss_only, ignore_keys)
        if logits is not None and trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        main = inputs.get(trainer.facts.main_input)
        batch = {"losses": None if loss is None else loss.detach().float().expand(size)}
        batch |= {"predictions": logits, "label_ids": labels}
        batch |= {"inputs": main if "inputs" in args.include_for_metrics else None}
        if world_size() > 1:
            end = examples_of(loader)
            left = None if end is None else end - seen
            batch = nested(lambda x, left=left: x[:left], gather(batch))
            size = int(totals([size])[0]) if left is None else min(int(totals([size])[0]), left)
        seen += size
        trainer.tell("on_prediction_step")
        inputs = next(batches, None)
        if args.batch_eval_metrics and trainer.compute_metrics is not None:
            if logits is not None and labels is not None:
                metrics = trainer.compute_metrics(seen_by_metrics(args, batch), compute_result=inputs is None)
            batch = {"losses": batch["losses"]}
        for name, value in batch.items():
            if value is not None:
                kept[name].append(value)
        moved += 1
        if args.eval_accumulation_steps is not None and moved % args.eval_accumulation_steps == 0:
            kept = {name: nested(as_array, values) for name, values in kept.items()}

    kept = {name: nested(as_array, values) for name, values in kept.items()}
    losses = np.concatenate(kept["losses"]) if kept["losses"] else None
    if args.eval_do_concat_batches:
        kept = {name: joined(values) for name, values in kept.items()}
    kept = {name: None if isinstance(value, list) and not value else value for name, value in kept.items()}
    there = kept["predictions"] is not None and kept["label_ids"] is not None
    if there and trainer.compute_metrics is not None and not args.batch_eval_metrics:
        metrics = trainer.compute_metrics(seen_by_metrics(args, kept))
    if not isinstance(metrics, Mapping | None):
        raise TypeError(f"compute_metrics gave a {type(metrics).__name__}, expected a dict of numbers")
    metrics = number(metrics or {})
    if losses is not None:
        finite = losses[np.isfinite(losses)] if args.logging_nan_inf_filter else losses
        metrics[f"{prefix}_loss"] = float((finite if len(finite) else losses).mean())
    metrics = {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": x for name, x in metrics.items()}
    metrics = shared(metrics)
    samples = length(getattr(loader, "dataset", None))
    return EvalLoopOutput(kept["predictions"], kept["label_ids"], metrics, seen if samples is None else samples)


def seen_by_metrics(args: Any, values: dict[str, Any]) -> EvalPrediction:
    return EvalPrediction(
        values["predictions"],
        values["label_ids"],
        inputs=values["inputs"] if "inputs" in args.include_for_metrics else None,
        losses=values["losses"] if "loss" in args.include_for_metrics else None,
    )


def batch_size(inputs: Mapping[str, Any]) -> int:
    return next((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.dim()), 1)


@torch.no_grad()
def predict_batch(
    trainer: "Trainer", model: nn.Module, inputs: Any, loss_only: bool, ignore_keys: list[str] | None
) -> tuple[Any, Any, Any]:
    """Loss, outputs and labels; of one output itself, of several a tuple. All labels must be there, or none counts."""
    inputs = trainer._prepare_inputs(inputs)
    labels = [inputs.get(name) for name in trainer.label_names]
    labels = None if not labels or any(each is None for each in labels) else unpacked(tuple(labels))
    ignored = ["past_key_values"] if ignore_keys is None else ignore_keys
    loss = None
    with trainer.compute_loss_context_manager():
        if labels is not None:
            loss, outputs = trainer.loss_of(model, inputs, trainer._count([inputs]), return_outputs=True)
            loss = loss.detach().mean()
        else:
            cache = {"use_cache": trainer.args.use_cache} if "use_cache" in trainer.facts.parameters else {}
            outputs = model(**{**cache, **inputs})
    if loss_only:
        return loss, None, None
    if isinstance(outputs, Mapping | Output):
        without = {*ignored, "loss"} if labels is not None else {*ignored}
        logits = tuple(value for name, value in outputs.items() if name not in without)
    else:
        logits = outputs[1:] if labels is not None else outputs
    logits = nested(lambda x: x.detach().float() if x.is_floating_point() else x.detach(), logits)
    return loss, unpacked(logits), labels


def unpacked(values: Any) -> Any:
    return values[0] if isinstance(values, tuple) and len(values) == 1 else values
