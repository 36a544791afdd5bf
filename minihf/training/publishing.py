"""What a `Trainer` puts on the hub: a model card of the run, the model at its end, checkpoints on the way.

Arguments are those of `transformers` 5.23 (`push_to_hub`, `hub_strategy`, …). Uploads of checkpoints run beside the
training, each in one commit, of files that no later save can take away. One that fails is a warning, and training goes
on; if the hub then still lacks the last save at the end of the run, it is uploaded again, and now an error is raised.
The reference never tells of an upload on the way that failed; and with hub_strategy="end" its `train` uploads nothing,
where this one uploads the model.
"""

import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from minihf.checkpoints.card import (
    FILE_NAME,
    add_tags,
    base_of,
    bullets,
    is_ours,
    listed,
    make_card,
    table,
    task_of,
)
from minihf.checkpoints.publish import explained, files_in, read_card, upload
from minihf.training.callbacks import TrainerCallback
from minihf.training.restoring import OPTIMIZER, SCALER, SCHEDULER, STATE

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelCard

    from minihf.training.trainer import Trainer

logger = logging.getLogger(__name__)

PUSHING = ".minihf-pushing-"  # what a killed run may leave
# Metrics that the hub knows by these names, and what else they are called.
METRICS = (
    "accuracy", "bleu", "f1", "matthews_correlation", "pearsonr", "precision", "recall", "rouge", "sacrebleu",
    "spearmanr", "wer",
)  # fmt: skip
ALSO = {"rouge1": "rouge"}
LOCAL_DATA = ("csv", "json", "pandas", "parquet", "text")  # builders that read files, which no data set is named by
NO_SCORES = ("runtime", "samples_per_second", "steps_per_second", "epoch", "step", "num_input_tokens_seen")


# The repository


def init_hf_repo(trainer: "Trainer", token: str | None = None, private: bool | None = None) -> None:
    """Make the repository, where there is none: whoever may not upload is told before the training, not after it."""
    from huggingface_hub import HfApi

    args = trainer.args
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    private = args.hub_private_repo if private is None else private
    if trainer.is_world_process_zero():
        with explained(name):
            made = HfApi(token=token or args.hub_token).create_repo(name, private=private, exist_ok=True)
        trainer.hub_model_id = made.repo_id


def push_to_hub(
    trainer: "Trainer",
    commit_message: str | None,
    blocking: bool,
    token: str | None,
    revision: str | None,
    private: bool | None,
    facts: Mapping[str, Any],
) -> "CommitInfo | Future | None":
    """`Trainer.push_to_hub`, which documents it; in all processes but the first it gives None."""
    args = trainer.args
    trainer.tell("on_push_begin")
    if trainer.hub_model_id is None:
        trainer.init_hf_repo(token=token, private=private)
    trainer.save_model(_internal_call=True)
    if not trainer.is_world_process_zero():
        return None
    name = (args.hub_model_id or Path(args.output_dir).absolute().name).rsplit("/", 1)[-1]
    trainer.create_model_card(**{"model_name": name, **facts})
    if trainer.push_in_progress is not None:
        trainer.push_in_progress.result()
    folder = Path(args.output_dir)
    files = {name: path for name, path in files_in(folder).items() if not is_left_out(name)}

    def push() -> "CommitInfo":
        return upload(
            files,
            trainer.hub_model_id,
            commit_message=commit_message or "End of training",
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            card=lambda repo_id: read_card(folder / FILE_NAME),
            renew_card=True,
        )

    if blocking:
        return push()
    with_one = ThreadPoolExecutor(1)
    future = with_one.submit(push)
    with_one.shutdown(wait=False)
    return future


def is_left_out(name: str) -> bool:
    """Checkpoints, and what is not meant to be seen."""
    return name.startswith(("_", ".", "checkpoint-"))


class PushToHubCallback(TrainerCallback):
    """Uploads each save, as `hub_strategy` says: "every_save" the model, "checkpoint" also the whole checkpoint as
    "last-checkpoint", "all_checkpoints" also each under its own name; "end" only the model at the end of the run.

    Unless `hub_always_push`, a save is passed over while the one before it is still on its way.
    """

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="push-to-hub")
        self.lacking: Path | None = None  # the last save, as long as the hub does not have it

    def on_init_end(self, args, state, control, **kwargs):
        self.trainer.init_hf_repo()

    def on_train_begin(self, args, state, control, **kwargs):
        for left in Path(args.output_dir).glob(f"{PUSHING}*"):
            shutil.rmtree(left, ignore_errors=True)

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if args.hub_strategy == "end" or not self.trainer.is_world_process_zero() or not folder.is_dir():
            return
        self.lacking, running = folder, self.trainer.push_in_progress
        if running is not None and not running.done() and not args.hub_always_push:
            return
        self.trainer.tell("on_push_begin")
        # Links to its files: the next saves may remove the checkpoint before it is uploaded.
        aside = TemporaryDirectory(prefix=PUSHING, dir=args.output_dir)
        shutil.copytree(folder, aside.name, copy_function=link, dirs_exist_ok=True)
        self.trainer.push_in_progress = self.pool.submit(self.push, folder, aside, message(args, state))

    def push(self, folder: Path, aside: TemporaryDirectory, commit_message: str) -> None:
        with aside:
            try:
                self.upload(folder.name, Path(aside.name), commit_message)
            except Exception as error:  # whatever it is, it is no reason to stop the training
                logger.warning("%s could not be uploaded, and training goes on: %s", folder.name, error)
            else:
                self.lacking = None if self.lacking == folder else self.lacking

    def upload(self, name: str, folder: Path, commit_message: str) -> None:
        args, files = self.trainer.args, files_in(folder)
        chosen = {path: file for path, file in files.items() if not is_of_the_run(path)}
        if args.hub_strategy in ("checkpoint", "all_checkpoints"):
            place = "last-checkpoint" if args.hub_strategy == "checkpoint" else name
            chosen |= {f"{place}/{path}": file for path, file in files.items()}
        upload(
            chosen,
            self.trainer.hub_model_id,
            commit_message=commit_message,
            token=args.hub_token,
            revision=args.hub_revision,
            card=lambda repo_id: card_of_run(self.trainer, model_name=repo_id.rsplit("/", 1)[-1]),
        )

    def on_train_end(self, args, state, control, **kwargs):
        if self.trainer.push_in_progress is not None:
            self.trainer.push_in_progress.result()
        if not control.should_training_stop and state.global_step < state.max_steps:
            return  # the run is interrupted, and goes on another time
        if args.hub_strategy == "end":
            self.trainer.push_to_hub()
        elif self.lacking is not None and self.lacking.is_dir():
            self.upload(self.lacking.name, self.lacking, message(args, state))
            self.lacking = None


def message(args: Any, state: Any) -> str:
    place = f"step {state.global_step}" if args.save_strategy == "steps" else f"epoch {int(state.epoch)}"
    return f"Training in progress, {place}"


def link(source: str, target: str) -> None:
    """Another name of a file, which takes no room; a copy where the disk knows no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_of_the_run(name: str) -> bool:
    """A file of a checkpoint from which a run goes on, and no part of the model."""
    return name in (OPTIMIZER, SCHEDULER, SCALER, STATE) or name.startswith("rng_state")


# The card


def create_model_card(trainer: "Trainer", **facts: Any) -> None:
    """`Trainer.create_model_card`, which documents it."""
    path = Path(trainer.args.output_dir, FILE_NAME)
    if not trainer.is_world_process_zero():
        return
    old = read_card(path) if path.exists() else None
    tags = listed(old.data.tags) if old else []
    card = card_of_run(trainer, **facts) if old is None or is_ours(old) else add_tags(old, listed(facts.get("tags")))
    add_tags(card, tags).save(path)


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
    names = listed(dataset) or ids
    configs = listed(dataset_args) or listed(found.get("config"))
    scores = last_scores(logs)
    known = {hub_metric(name): value for name, value in scores.items() if hub_metric(name) and math.isfinite(value)}
    results = [
        EvalResult(
            task, each, name, metric, value,
            dataset_config=found.get("config"), dataset_split=found.get("split"),
            dataset_args={"config": configs[0]} if configs else None,
        )
        for task in tasks
        for each, name in zip(ids, names, strict=False)
        for metric, value in known.items()
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
    return {title(name): value for name, value in named.items() if name not in NO_SCORES}


def evaluations(logs: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each evaluation of the last run: its losses, and what was measured."""
    rows, training = [], "no log"
    for entry in logs:
        training = entry.get("loss", training)
        if "eval_loss" in entry:
            scores = scores_in(entry)
            row = {"Training Loss": training, "Epoch": entry.get("epoch"), "Step": entry.get("step")}
            rows.append(row | {"Validation Loss": scores.pop("Loss")} | scores)
        if "train_runtime" in entry:
            break
    else:
        return []
    return rows


def title(name: str) -> str:
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
