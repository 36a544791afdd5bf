"""Which of a run's models is the best: by `metric_for_best_model`, of the evaluations."""

import math
from pathlib import Path

from minihf.training.arguments import TrainingArguments
from minihf.training.callbacks import TrainerState, prefixed
from minihf.training.checkpoints import checkpoints_in, remove


def followed(metrics: dict[str, float], args: TrainingArguments) -> float:
    """The metric that the arguments name."""
    name = prefixed(args.metric_for_best_model)
    if name not in metrics:
        raise KeyError(f"metric_for_best_model is {name!r}, and the evaluation gave {', '.join(metrics)}")
    return metrics[name]


def note_best(metrics: dict[str, float], args: TrainingArguments, state: TrainerState) -> bool:
    """Whether this evaluation is better than all before it; if it is, the state says so."""
    if args.metric_for_best_model is None:
        return False
    value, best = followed(metrics, args), state.best_metric
    better = best is None or (value > best if args.greater_is_better else value < best)
    if not better or math.isnan(value):
        return False
    state.best_metric = value
    if args.save_strategy != "no":
        state.best_global_step = state.global_step
    return True


def note_best_checkpoint(folder: Path, state: TrainerState) -> None:
    """Before a checkpoint is saved: whether it, or one that is there, is of the best step."""
    best = folder.with_name(f"checkpoint-{state.best_global_step}")
    if state.best_global_step and (best == folder or best.is_dir()):
        state.best_model_checkpoint = str(best)


def keep_only(best: Path, output_dir: str | Path) -> None:
    """Of the checkpoints in a folder, however `best` writes its name; where it is not there, all stay."""
    for other in checkpoints_in(output_dir) if best.is_dir() else ():
        if not other.samefile(best):
            remove(other)
