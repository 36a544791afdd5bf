"""The model card of a run: what a `Trainer` knows of the model, its data, its scores and its settings.

The facts at its head are those that `transformers` 5.23 puts there; the text is our own.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minihf.checkpoints.card import base_of, bullets, listed, make_card, table, task_of

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from minihf.training.trainer import Trainer

# Metrics that the hub knows by these names, and what else they are called.
METRICS = (
    "accuracy", "bleu", "f1", "matthews_correlation", "pearsonr", "precision", "recall", "rouge", "sacrebleu",
    "spearmanr", "wer",
)  # fmt: skip
ALSO = {"rouge1": "rouge"}
LOCAL_DATA = ("csv", "json", "pandas", "parquet", "text")  # builders that read files, which no data set is named by
NO_SCORES = ("runtime", "samples_per_second", "steps_per_second", "epoch", "step", "num_input_tokens_seen")


def card_of_run(
    trainer: "Trainer",
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> "ModelCard":
    """A card of what the trainer knows; what is given wins."""
    from huggingface_hub import EvalResult

    model, logs = trainer.model, trainer.state.log_history
    base = finetuned_from or base_of(model)
    tasks = listed(tasks) or [task for task in [task_of(trainer.bare)] if task]
    found = named_dataset(trainer)
    ids = listed(dataset_tags) or listed(found.get("id"))
    names, configs = listed(dataset) or ids, listed(dataset_args) or listed(found.get("config"))
    scores = last_scores(logs)
    known = {hub_metric(name): name for name, x in scores.items() if hub_metric(name) and math.isfinite(x)}
    results = [
        EvalResult(
            task, id, name, metric, scores[title],
            dataset_config=config, dataset_split=found.get("split"), metric_name=title,
        )
        for task in tasks
        for id, name, config in zip(ids, names, [*configs, *repeat(None, len(ids))], strict=False)
        for metric, title in known.items()
    ]  # fmt: skip
    is_adapter = hasattr(model, "peft_config")
    what = f"{'A LoRA adapter of a' if is_adapter else 'A'} `{type(trainer.bare).__name__}`"
    origin = f"fine-tuned from [{base}](https://huggingface.co/{base})" if base else "trained from scratch"
    text = f"{what}, {origin}, on {' and '.join(names) or 'data that the trainer has no name for'}.\n"
    if scores:
        text += f"\nOn the evaluation set:\n\n{bullets({name: rounded(x) for name, x in scores.items()})}\n"
    text += f"\n## Training\n\n{bullets(hyperparameters(trainer.args))}\n"
    if rows := evaluations(logs):
        heads = [*dict.fromkeys(head for row in rows for head in row)]
        text += f"\n{table([heads, *([rounded(row.get(head, '')) for head in heads] for row in rows)])}\n"
    text += f"\nTrained with minihf and PyTorch {torch.__version__}."
    return make_card(
        model_name or Path(trainer.args.output_dir).absolute().name,
        text,
        library_name="peft" if is_adapter else "minihf",
        language=language,
        license=license or license_of(base, trainer.args.hub_token),
        base_model=base,
        tags=listed([*listed(tags), "generated_from_trainer"]),
        datasets=ids,
        metrics=[*known],
        pipeline_tag=tasks[0] if tasks else None,
        eval_results=results,
    )


def named_dataset(trainer: "Trainer") -> dict[str, Any]:
    """What a data set of the `datasets` library says of itself; nothing of one that was made of files or lists."""
    dataset = trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    name = getattr(dataset, "builder_name", None)
    if not name or name in LOCAL_DATA:
        return {}
    return {"id": name, "config": dataset.config_name, "split": str(dataset.split)}


def license_of(base: str | None, token: str | None) -> str | None:
    """The license of the checkpoint that it began as, if the hub tells it."""
    from huggingface_hub import HfApi

    if base is not None:
        with suppress(Exception):  # offline, renamed, private: a card without it will do
            tags = HfApi(token=token).model_info(base, timeout=10).tags or []
            return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
    return None


def last_scores(logs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of the last evaluation: "Loss", "Accuracy", …"""
    last = next((entry for entry in reversed([*logs]) if "eval_loss" in entry), {})
    return scores_in(last)


def scores_in(entry: Mapping[str, float]) -> dict[str, float]:
    named = {name.removeprefix("eval_"): value for name, value in entry.items()}
    return {titled(name): value for name, value in named.items() if name not in NO_SCORES}


def evaluations(logs: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each evaluation in the run: its losses, and what was measured."""
    rows, training = [], "no log"
    for entry in logs:
        training = entry.get("loss", training)
        if "eval_loss" in entry:
            scores = scores_in(entry)
            row = {"Training Loss": training, "Epoch": entry.get("epoch"), "Step": entry.get("step")}
            rows.append(row | {"Validation Loss": scores.pop("Loss")} | scores)
        if "train_runtime" in entry:
            break
    return rows


def titled(name: str) -> str:
    return " ".join(part.capitalize() for part in name.split("_"))


def hub_metric(name: str) -> str | None:
    name = name.lower().replace(" ", "_")
    return ALSO.get(name, name if name in METRICS else None)


def rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def hyperparameters(args: Any) -> dict[str, Any]:
    """What it takes to train it again."""
    accumulated, processes = args.gradient_accumulation_steps, args.world_size
    values = {"learning rate": args.learning_rate, "batch size": args.train_batch_size}
    if accumulated > 1 or processes > 1:
        total = args.train_batch_size * accumulated * processes
        values["batch size"] = f"{total} ({args.train_batch_size} × {accumulated} accumulated × {processes} processes)"
    values["batch size of the evaluation"] = args.eval_batch_size
    values["epochs" if args.max_steps <= 0 else "steps"] = (
        args.num_train_epochs if args.max_steps <= 0 else args.max_steps
    )
    values["optimizer"] = f"{args.optim}" + (f", {args.optim_args}" if args.optim_args else "")
    if "adam" in args.optim:
        values["optimizer"] += f", betas ({args.adam_beta1}, {args.adam_beta2}), epsilon {args.adam_epsilon}"
    values["weight decay"] = args.weight_decay
    values["schedule"] = args.lr_scheduler_type.value
    if args.warmup_steps or args.warmup_ratio:
        values["warm-up"] = args.warmup_steps or args.warmup_ratio
    if args.label_smoothing_factor:
        values["label smoothing"] = args.label_smoothing_factor
    if args.bf16 or args.fp16:
        values["precision"] = "bf16" if args.bf16 else "fp16"
    values["seed"] = args.seed
    return values
