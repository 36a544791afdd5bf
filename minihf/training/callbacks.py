"""Who is told what happens in a run, and may say what happens next: the state, the switches, and callbacks.

Names, events and their arguments are those of `transformers` 5.23, and so is `trainer_state.json`.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from minihf.checkpoints.files import read_json
from minihf.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)


@dataclass
class TrainerState:
    """How far a run is, and what it has logged. A step is a step of the optimizer."""

    epoch: float = 0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, float]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)

    def compute_steps(self, args: TrainingArguments, max_steps: int) -> None:
        """How often is logged, evaluated and saved; a number below 1 is a part of the run."""
        for name in ("logging_steps", "eval_steps", "save_steps"):
            steps = getattr(args, name)
            if steps is not None:
                setattr(self, name, math.ceil(max_steps * steps) if steps < 1 else steps)

    def save_to_json(self, json_path: str | Path) -> None:
        Path(json_path).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load_from_json(cls, json_path: str | Path) -> "TrainerState":
        return cls.from_dict(read_json(Path(json_path)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainerState":
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known and value is not None})


class ExportableState:
    """A callback whose state goes into checkpoints: `state()` gives {"args": …, "attributes": …}."""

    def state(self) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} must say what its state() is")

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ExportableState":
        instance = cls(**state["args"])
        vars(instance).update(state["attributes"])
        return instance


@dataclass
class TrainerControl(ExportableState):
    """Switches that callbacks set. All but the first are off again at the next step, or epoch."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def state(self) -> dict[str, Any]:
        return {"args": asdict(self), "attributes": {}}


class TrainerCallback:
    """What may be done at each event of a run. Override those that you need.

    Each gets `args` (the `TrainingArguments`), `state` and `control`, and by keyword `model`, `processing_class` (the
    tokenizer), `optimizer`, `lr_scheduler`, `train_dataloader`, `eval_dataloader`; `on_log` also `logs`, `on_evaluate`
    and `on_predict` also `metrics`. To change what happens next, change `control`, and return it.

    Of several processes each has its callbacks, and what one of them asks for in `on_step_end` or later is done in all.
    One with `main_process_only` is told in the main process alone.
    """

    main_process_only = False

    def on_init_end(self, args, state, control, **kwargs):
        """The trainer is made."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Before the first step."""

    def on_train_end(self, args, state, control, **kwargs):
        """After the last one."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Before an epoch."""

    def on_epoch_end(self, args, state, control, **kwargs):
        """After an epoch."""

    def on_step_begin(self, args, state, control, **kwargs):
        """Before a step; its batches are read."""

    def on_substep_end(self, args, state, control, **kwargs):
        """Between two batches of a step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Gradients are there, and clipped."""

    def on_optimizer_step(self, args, state, control, **kwargs):
        """The optimizer has moved the parameters; gradients are still there."""

    def on_step_end(self, args, state, control, **kwargs):
        """After a step."""

    def on_evaluate(self, args, state, control, **kwargs):
        """After an evaluation."""

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        """After `Trainer.predict`."""

    def on_save(self, args, state, control, **kwargs):
        """A checkpoint is saved."""

    def on_log(self, args, state, control, **kwargs):
        """Something is logged."""

    def on_prediction_step(self, args, state, control, **kwargs):
        """After a batch of an evaluation."""

    def on_push_begin(self, args, state, control, **kwargs):
        """Before an upload to the hub."""


EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]
# Switches that are off when these events begin.
OFF = {
    "on_train_begin": ["should_training_stop"],
    "on_epoch_begin": ["should_epoch_stop"],
    "on_step_begin": ["should_log", "should_evaluate", "should_save"],
    "on_evaluate": ["should_evaluate"],
    "on_save": ["should_save"],
    "on_log": ["should_log"],
}


class CallbackHandler:
    """Tells each event to all callbacks, in order: `handler.on_log(args, state, control, logs=…)`."""

    def __init__(self, callbacks: list[Any], model=None, processing_class=None, optimizer=None, lr_scheduler=None):
        self.callbacks: list[TrainerCallback] = []
        for callback in callbacks:
            self.add_callback(callback)
        self.model, self.processing_class = model, processing_class
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.train_dataloader = self.eval_dataloader = None

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        callback = callback() if isinstance(callback, type) else callback
        missing = [event for event in EVENTS if not hasattr(callback, event)]
        if missing:
            raise TypeError(f"a callback is a TrainerCallback; {type(callback).__name__} has no {missing[0]}")
        if any(type(other) is type(callback) for other in self.callbacks):
            logger.warning("there are now two callbacks of the class %s", type(callback).__name__)
        self.callbacks.append(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Take out this one, or the first of this class; None where there is none."""
        for each in self.callbacks:
            if (isinstance(callback, type) and isinstance(each, callback)) or each is callback:
                self.callbacks.remove(each)
                return each
        return None

    def call_event(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        for switch in OFF.get(event, []):
            setattr(control, switch, False)
        for callback in self.callbacks:
            if getattr(callback, "main_process_only", False) and not state.is_world_process_zero:
                continue
            answer = getattr(callback, event)(
                args,
                state,
                control,
                model=self.model,
                processing_class=self.processing_class,
                tokenizer=self.processing_class,
                optimizer=self.optimizer,
                lr_scheduler=self.lr_scheduler,
                train_dataloader=self.train_dataloader,
                eval_dataloader=self.eval_dataloader,
                **kwargs,
            )
            control = control if answer is None else answer
        return control

    def __getattr__(self, name: str) -> Any:
        if name in EVENTS:
            return partial(self.call_event, name)
        raise AttributeError(f"CallbackHandler has no {name!r}")


class DefaultFlowCallback(TrainerCallback):
    """When to log, to evaluate, to save and to stop, as the arguments say."""

    def on_step_end(self, args, state, control, **kwargs):
        step, last = state.global_step, state.global_step >= state.max_steps
        if args.logging_strategy == "steps" and step % state.logging_steps == 0:
            control.should_log = True
        if step == 1 and args.logging_first_step:
            control.should_log = True
        if args.eval_strategy == "steps" and args.eval_delay <= step and (last or step % state.eval_steps == 0):
            control.should_evaluate = True
        if args.save_strategy == "steps" and (last or step % state.save_steps == 0):
            control.should_save = True
        if last:
            control.should_training_stop = True
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and args.eval_delay <= state.epoch:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
        return control


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Stop when `metric_for_best_model` has not become better in so many evaluations.

    Args:
        early_stopping_patience: how many.
        early_stopping_threshold: by more than this it must be better than the best.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0):
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0

    def on_train_begin(self, args, state, control, **kwargs):
        if args.metric_for_best_model is None:
            raise ValueError("early stopping follows a metric: set metric_for_best_model, or load_best_model_at_end")
        if args.eval_strategy == "no":
            raise ValueError("early stopping follows the evaluations: set eval_strategy to 'steps' or 'epoch'")
        # Of a run that goes on from where it was stopped.
        control.should_training_stop |= state.global_step > 0 and self.has_waited()

    def has_waited(self) -> bool:
        return self.early_stopping_patience_counter >= self.early_stopping_patience

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        name = prefixed(args.metric_for_best_model)
        if name not in metrics:
            logger.warning("early stopping does nothing: %s is not among %s", name, ", ".join(metrics))
            return
        gain = 0 if state.best_metric is None else metrics[name] - state.best_metric
        gain = gain if args.greater_is_better else -gain
        better = state.best_metric is None or (gain > 0 and gain > self.early_stopping_threshold)
        self.early_stopping_patience_counter = 0 if better else self.early_stopping_patience_counter + 1
        if self.has_waited():
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        args = {name: getattr(self, name) for name in ("early_stopping_patience", "early_stopping_threshold")}
        return {
            "args": args,
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }


def prefixed(metric: str) -> str:
    """The name that a metric has in the results of an evaluation."""
    return metric if metric.startswith("eval_") else f"eval_{metric}"
