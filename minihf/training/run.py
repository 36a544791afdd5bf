"""One run of a `Trainer`: its epochs and steps, and what is done after each."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minihf.training.best import followed, keep_only, note_best
from minihf.training.callbacks import TrainerControl
from minihf.training.checkpoints import load_checkpoint
from minihf.training.distributed import averaged, by_main, summed, totals
from minihf.training.greedy import GreedyLR
from minihf.training.loop import Step, train_steps
from minihf.training.metrics import TrainOutput, speed_metrics
from minihf.training.order import Place, same_length, set_epoch
from minihf.training.resuming import restore_run, restored_losses
from minihf.training.seeds import set_cpu_random_state
from minihf.training.sums import tokens_in

if TYPE_CHECKING:
    from minihf.training.trainer import Trainer

logger = logging.getLogger(__name__)

FOLLOW_METRICS = (torch.optim.lr_scheduler.ReduceLROnPlateau, GreedyLR)


def run(trainer: "Trainer", folder: Path | None, ignore_keys: list[str] | None, stop: Any) -> TrainOutput:
    """Train to the end, or until `stop` is true: then a checkpoint is saved.

    folder: a checkpoint to go on from.
    """
    args, loader = trainer.args, trainer.get_train_dataloader()
    accumulate = args.gradient_accumulation_steps
    batches = same_length(loader)
    if batches == 0:
        raise ValueError("the train_dataset gives no batch: it is empty, or smaller than a batch (drop_last)")
    steps = None if batches is None else math.ceil(batches / accumulate)  # of an epoch
    max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
    epochs = sys.maxsize if steps is None else math.ceil(max_steps / steps)
    batches = max_steps * accumulate if batches is None else batches

    trainer.state, trainer.place = trainer.fresh_state(), Place(trainer.data_collator)
    trainer.state.compute_steps(args, max_steps)
    if trainer.made_scheduler:
        trainer.lr_scheduler, trainer.made_scheduler = None, False
    trainer.wrap()
    trainer.create_optimizer_and_scheduler(max_steps)
    present = None if folder is None else restore_run(trainer, folder, steps or max_steps)
    state, place = trainer.state, trainer.place
    state.max_steps, state.num_train_epochs = max_steps, epochs
    handler = trainer.callback_handler
    handler.model, handler.optimizer, handler.lr_scheduler = trainer.model, trainer.optimizer, trainer.lr_scheduler
    handler.train_dataloader = loader
    logger.info("training: %d steps of %d examples", max_steps, args.train_batch_size * accumulate * args.world_size)

    first_step, trainer.started, trainer.saved_at = state.global_step, time.time(), None
    trainer.tokens_before = state.num_input_tokens_seen
    trainer._losses = restored_losses(state, args.device)
    trainer.model.zero_grad()
    trainer.tell("on_train_begin")
    if args.eval_on_start and folder is None:
        trainer.evaluate(ignore_keys=ignore_keys)
    stopping = agree(trainer.control, stop)
    over = first_step >= max_steps or trainer.control.should_training_stop
    cut = present is not None and place.given > 0 and trainer.control.should_epoch_stop  # by the checkpoint's last step
    if present is not None and (place.given == 0 or over or cut):
        set_cpu_random_state(present)
        present = None if place.given == 0 else present
    # A run may go on from its last step: then what follows an epoch is left to do.
    while place.epoch < epochs and (not (over or state.global_step >= max_steps) or present is not None):
        trainer.tell("on_epoch_begin")
        set_epoch(loader, place.epoch)
        step = None
        for step in () if over or cut else epoch_steps(trainer, loader, present):
            after_step(trainer, step, batches)
            agree(trainer.control, stop)
            log_evaluate_save(trainer, step, ignore_keys)
            stopping = agree(trainer.control, stop)
            if stopping or trainer.control.should_epoch_stop or trainer.control.should_training_stop:
                break
        if stopping:
            break
        if step is None and present is None:
            logger.warning("the data ended after %d steps of %d", state.global_step, max_steps)
            trainer.control.should_training_stop = True
        present, cut = None, False
        place.epoch, place.given = place.epoch + 1, 0
        trainer.tell("on_epoch_end")
        agree(trainer.control, stop)
        log_evaluate_save(trainer, step, ignore_keys)
        stopping = agree(trainer.control, stop)
        if trainer.control.should_training_stop or stopping:
            break
    if stopping and trainer.saved_at != state.global_step:
        save(trainer)
    return finish(trainer, first_step, stopped=stopping)


def agree(control: TrainerControl, stop: Any) -> bool:
    """What a callback asks for in one process is done in all. So is stopping, for a signal that reached one alone."""
    wishes = [*asdict(control).values(), bool(stop)]
    *switches, stopping = [wish > 0 for wish in totals(wishes)]
    vars(control).update(zip(asdict(control), switches, strict=True))
    return stopping


def epoch_steps(trainer: "Trainer", loader: Any, present: tuple | None) -> Iterator[Step]:
    """The rest of an epoch; `present` is the random state of a run that goes on within it."""

    def backward(model: nn.Module, batch: Any, num_items: Tensor | None, batches: int) -> Tensor:
        trainer.batches_in_step = batches
        loss = trainer.training_step(model, batch, num_items)
        before = trainer._losses.unlogged / (1 + trainer.state.global_step - trainer._losses.logged_at)
        return torch.where(loss.isfinite(), loss, before) if trainer.args.logging_nan_inf_filter else loss

    def count(batches: list[Any]) -> Tensor | None:
        number = trainer._count(batches)
        return summed(number) if number is not None and trainer.args.average_tokens_across_devices else number

    return train_steps(
        trainer.model_wrapped,
        trainer.place.batches(loader, present),
        trainer.optimizer,
        None if isinstance(trainer.lr_scheduler, FOLLOW_METRICS) else trainer.lr_scheduler,
        gradient_accumulation_steps=trainer.args.gradient_accumulation_steps,
        max_grad_norm=trainer.args.max_grad_norm,
        backward=backward,
        count=count,
        scaler=trainer.scaler,
        tell=trainer.tell,
    )


def after_step(trainer: "Trainer", step: Step, batches: int) -> None:
    """Add up what a step was; `batches` are those of an epoch."""
    state, place = trainer.state, trainer.place
    trainer._losses.unlogged += step.loss
    kind, flos, tokens = trainer.args.include_num_input_tokens_seen, 0.0, 0
    for batch in step.batches:
        flos += trainer.floating_point_ops(batch)
        tokens += tokens_in(batch.get(trainer.facts.main_input), batch, kind, trainer.processing_class)
    flos, tokens = totals([flos, tokens])
    state.total_flos += flos
    state.num_input_tokens_seen += int(tokens)
    state.global_step += 1
    state.epoch = place.epoch + place.given / batches
    trainer.tell("on_step_end")


def log_evaluate_save(trainer: "Trainer", step: Step | None, ignore_keys: list[str] | None) -> None:
    """Whichever of these the switches ask for."""
    args, state = trainer.args, trainer.state
    if trainer.control.should_log and state.global_step > trainer._losses.logged_at:
        logs = {"loss": trainer._losses.take(state.global_step)}
        if step is not None:
            logs |= {"grad_norm": step.grad_norm.item(), "learning_rate": float(step.learning_rate)}
        trainer.log(logs, trainer.started)
    if trainer.control.should_evaluate:
        metrics = trainer.evaluate(ignore_keys=ignore_keys)
        if isinstance(trainer.lr_scheduler, FOLLOW_METRICS):
            trainer.lr_scheduler.step(followed(metrics, args))
        better = note_best(metrics, args, state)
        if args.save_strategy == "best":
            trainer.control.should_save = better
    if trainer.control.should_save:
        save(trainer)


def save(trainer: "Trainer") -> None:
    trainer.save_checkpoint()
    trainer.saved_at = trainer.state.global_step
    trainer.tell("on_save")


def finish(trainer: "Trainer", first_step: int, *, stopped: bool) -> TrainOutput:
    args, state, losses = trainer.args, trainer.state, trainer._losses
    steps = state.global_step - first_step
    loss = (losses.total + averaged(losses.unlogged).item()) / max(state.global_step - losses.since, 1)
    samples = steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    metrics = speed_metrics("train", trainer.started, samples, steps)
    metrics |= {"total_flos": state.total_flos, "train_loss": loss}
    trainer.log(metrics)
    if state.best_model_checkpoint is not None and not stopped:
        best = Path(state.best_model_checkpoint)
        if args.load_best_model_at_end:
            load_checkpoint(best, model=trainer.model, rng=False)
        if args.save_total_limit == 1:
            by_main(lambda: keep_only(best, args.output_dir))
    trainer.tell("on_train_end")
    return TrainOutput(state.global_step, loss, metrics)
