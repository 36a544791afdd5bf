"""A trainer's run, to a checkpoint and back: what `save_checkpoint` and `load_checkpoint` need to know of it.

Besides weights, optimizer and schedule a run is made of its place in the data, the losses that are not logged yet, and
what callbacks remember. These three go into `trainer_state.json`, among the `stateful_callbacks`.
"""

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minihf.training.best import note_best_checkpoint
from minihf.training.callbacks import ExportableState, TrainerState
from minihf.training.checkpoints import last_checkpoint, load_checkpoint, rotate, save_checkpoint
from minihf.training.distributed import by_main, everyone, random_states, rank, world_size
from minihf.training.order import Place
from minihf.training.parallel import full_state, full_weights, is_sharded
from minihf.training.restoring import OPTIMIZER, SCHEDULER, STATE, process_random_state
from minihf.training.seeds import cpu_random_state
from minihf.training.sums import Losses

if TYPE_CHECKING:
    from minihf.training.trainer import Trainer

logger = logging.getLogger(__name__)


def save_run(trainer: "Trainer") -> None:
    """Write `output_dir/checkpoint-N`, and remove older ones, if there is a limit.

    Of several processes each tells what it has, and the main one writes.
    """
    args, state, whole = trainer.args, trainer.state, not trainer.args.save_only_model
    folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
    sums = {**vars(trainer._losses), "unlogged": trainer._losses.unlogged.item()}
    state.stateful_callbacks = {
        name: {"args": {}, "attributes": each[0] if len(each) == 1 else {"processes": each}}
        for name, each in (("DataOrder", everyone(trainer.place.as_dict())), ("Losses", everyone(sums)))
    }
    for each in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(each, ExportableState):
            state.stateful_callbacks[type(each).__name__] = each.state()
    sharded = is_sharded(trainer.model)
    weights = full_weights(trainer.model) if sharded else None
    optimizer = full_state(trainer.optimizer.state_dict()) if sharded and whole else trainer.optimizer
    states = random_states(process_random_state()) if whole and world_size() > 1 else whole

    def write() -> str | None:
        note_best_checkpoint(folder, state)
        save_checkpoint(
            folder,
            model=trainer.model,
            tokenizer=trainer.saved_tokenizer,
            optimizer=optimizer if whole else None,
            scheduler=trainer.lr_scheduler if whole else None,
            scaler=trainer.scaler if whole and args.fp16 else None,
            state=asdict(state),
            arguments=args.to_dict(),
            rng=states,
            weights=weights,
        )
        rotate(args.output_dir, args.save_total_limit, keep=[state.best_model_checkpoint])
        return state.best_model_checkpoint

    state.best_model_checkpoint = by_main(write)


def checkpoint_to_resume(given: str | os.PathLike | bool | None, output_dir: str | Path) -> Path | None:
    """What `resume_from_checkpoint` means: True is the last one in `output_dir`."""
    if not given:
        return None
    if given is not True:
        return Path(given)
    found = by_main(lambda: last_checkpoint(output_dir))
    if found is None:
        raise ValueError(f"there is no checkpoint in {str(output_dir)!r} to resume from")
    return found


def restore_run(trainer: "Trainer", folder: Path, steps: int) -> tuple:
    """Put everything back to where a checkpoint was saved. Returns the random state to go on with.

    steps: of an epoch.
    """
    args = trainer.args
    exact = any((folder / name).exists() for name in (OPTIMIZER, SCHEDULER)) or not (folder / STATE).exists()
    values = load_checkpoint(
        folder,
        model=trainer.model,
        optimizer=trainer.optimizer if exact else None,
        scheduler=trainer.lr_scheduler if exact else None,
        scaler=trainer.scaler if exact and args.fp16 else None,
        rng=exact,
        rank=rank() if world_size() > 1 else None,
    )
    if not exact:
        raise ValueError(f"{folder} was saved with save_only_model: it holds a model, and no run that can go on")
    now = trainer.state
    state = trainer.state = TrainerState.from_dict(values)
    for name in ("logging_steps", "eval_steps", "save_steps", "is_local_process_zero", "is_world_process_zero"):
        setattr(state, name, getattr(now, name))
    kept = state.stateful_callbacks
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, ExportableState) and type(each).__name__ in kept:
            vars(each).update(kept[type(each).__name__]["attributes"])
            if args.restore_callback_states_from_checkpoint:
                vars(each).update(kept[type(each).__name__]["args"])
    wishes = kept.get("TrainerControl", {}).get("args", {})  # who stops a run may want it to go on where it was
    trainer.control.should_epoch_stop = bool(wishes.get("should_epoch_stop") and not wishes.get("should_training_stop"))
    best = state.best_model_checkpoint
    if best is not None and not Path(best).is_dir():
        logger.warning("the best checkpoint, %s, is not there any more", best)
        state.best_model_checkpoint = None
    present = cpu_random_state()
    places = of_processes(kept, "DataOrder")
    if len(places) == world_size() and not args.ignore_data_skip:
        trainer.place = Place.from_dict(places[rank()], trainer.data_collator)
        return present
    trainer.place.epoch, done = divmod(state.global_step, steps)
    if not args.ignore_data_skip:  # of another number of processes; or of the reference, which does not say more
        trainer.place.given = done * args.gradient_accumulation_steps
    return present


def restored_losses(state: TrainerState, device: torch.device) -> Losses:
    step = state.global_step
    kept = of_processes(state.stateful_callbacks, "Losses")
    kept = kept or [{"unlogged": 0.0, "logged_at": step, "since": step}]
    parts = [each["unlogged"] for each in kept]
    own = parts[rank()] if len(parts) == world_size() else sum(parts) / len(parts)
    return Losses(**{**kept[0], "unlogged": torch.tensor(own, device=device)})


def of_processes(kept: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What each process kept under a name; [] where there is nothing."""
    attributes = kept.get(name, {}).get("attributes")
    return [] if attributes is None else attributes.get("processes", [attributes])
