"""A trainer's run, to a checkpoint and back: what `save_checkpoint` and `load_checkpoint` need to know of it.

Besides weights, optimizer and schedule a run is made of its place in the data, the losses that are not logged yet, and
what callbacks remember. These three go into `trainer_state.json`, among the `stateful_callbacks`.
"""

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from minihf.training.best import note_best_checkpoint
from minihf.training.callbacks import STATE_NAME, ExportableState, TrainerState
from minihf.training.checkpoints import last_checkpoint, load_checkpoint, rotate, save_checkpoint
from minihf.training.order import Place
from minihf.training.seeds import cpu_random_state
from minihf.training.sums import Losses

if TYPE_CHECKING:
    from minihf.training.trainer import Trainer

logger = logging.getLogger(__name__)


def save_run(trainer: "Trainer") -> None:
    """Write `output_dir/checkpoint-N`, and remove older ones, if there is a limit."""
    args, state = trainer.args, trainer.state
    folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
    note_best_checkpoint(folder, state)
    state.stateful_callbacks = {"DataOrder": {"args": {}, "attributes": trainer.place.as_dict()}}
    for each in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(each, ExportableState):
            state.stateful_callbacks[type(each).__name__] = each.state()
    sums = {**vars(trainer.losses), "unlogged": trainer.losses.unlogged.item()}
    state.stateful_callbacks["Losses"] = {"args": {}, "attributes": sums}
    whole = not args.save_only_model
    save_checkpoint(
        folder,
        model=trainer.model,
        tokenizer=trainer.saved_tokenizer,
        optimizer=trainer.optimizer if whole else None,
        scheduler=trainer.lr_scheduler if whole else None,
        scaler=trainer.scaler if whole and args.fp16 else None,
        state=asdict(state),
        arguments=args.to_dict(),
        rng=whole,
    )
    rotate(args.output_dir, args.save_total_limit, keep=[state.best_model_checkpoint])


def checkpoint_to_resume(given: str | os.PathLike | bool | None, output_dir: str | Path) -> Path | None:
    """What `resume_from_checkpoint` means: True is the last one in `output_dir`."""
    if not given:
        return None
    if given is not True:
        return Path(given)
    found = last_checkpoint(output_dir)
    if found is None:
        raise ValueError(f"there is no checkpoint in {str(output_dir)!r} to resume from")
    return found


def restore_run(trainer: "Trainer", folder: Path, steps: int) -> tuple:
    """Put everything back to where a checkpoint was saved. Returns the random state to go on with.

    steps: of an epoch.
    """
    args = trainer.args
    exact = (folder / "optimizer.pt").exists() or not (folder / STATE_NAME).exists()
    values = load_checkpoint(
        folder,
        model=trainer.model,
        optimizer=trainer.optimizer if exact else None,
        scheduler=trainer.lr_scheduler if exact else None,
        scaler=trainer.scaler if exact and args.fp16 else None,
        rng=exact,
    )
    if not exact:
        raise ValueError(f"{folder} was saved with save_only_model: it holds a model, and no run that can go on")
    now = trainer.state
    state = trainer.state = TrainerState.from_dict(values)
    for name in ("logging_steps", "eval_steps", "save_steps"):
        setattr(state, name, getattr(now, name))
    kept = state.stateful_callbacks
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, ExportableState) and type(each).__name__ in kept:
            vars(each).update(kept[type(each).__name__]["attributes"])
            if args.restore_callback_states_from_checkpoint:
                vars(each).update(kept[type(each).__name__]["args"])
    best = state.best_model_checkpoint
    if best is not None and not Path(best).is_dir():
        logger.warning("the best checkpoint, %s, is not there any more", best)
        state.best_model_checkpoint = None
    present = cpu_random_state()
    if "DataOrder" in kept and not args.ignore_data_skip:
        trainer.place = Place.from_dict(kept["DataOrder"]["attributes"])
        return present
    trainer.place.epoch, done = divmod(state.global_step, steps)
    if not args.ignore_data_skip:  # of the reference, whose checkpoints do not say more
        trainer.place.given = done * args.gradient_accumulation_steps
    return present


def restored_losses(state: TrainerState, device: torch.device) -> Losses:
    step = state.global_step
    kept = state.stateful_callbacks.get("Losses", {}).get("attributes")
    kept = kept or {"unlogged": 0.0, "logged_at": step, "since": step}
    return Losses(**{**kept, "unlogged": torch.tensor(kept["unlogged"], device=device)})
