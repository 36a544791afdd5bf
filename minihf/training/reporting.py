"""Logs for TensorBoard, Weights & Biases and Trackio, each where it is installed; their environment variables hold.

TENSORBOARD_LOGGING_DIR; WANDB_PROJECT, WANDB_DISABLED, WANDB_WATCH, WANDB_LOG_MODEL (only "false"), and those that
wandb reads itself (WANDB_NAME, WANDB_MODE, …); TRACKIO_PROJECT, TRACKIO_SPACE_ID.
"""

import os
import socket
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from minihf.training.callbacks import TrainerCallback

# Known once, at the end of a run.
SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")


def filed(logs: dict[str, Any]) -> dict[str, Any]:
    """The names that trackers group by: eval/…, test/…, train/…"""
    groups = {"eval_": "eval/", "test_": "test/"}
    return {groups.get(name[:5], "train/") + (name[5:] if name[:5] in groups else name): x for name, x in logs.items()}


def settings(args: Any, model: Any) -> dict[str, Any]:
    """The config of the model, that of its adapters, and the arguments: what a tracker keeps beside the curves."""
    config = model.config.to_dict() if hasattr(model, "config") else {}
    adapters = {name: str(each) for name, each in getattr(model, "peft_config", {}).items()}
    return config | ({"peft_config": adapters} if adapters else {}) | args.to_dict()


class TensorBoardCallback(TrainerCallback):
    """Writes event files: `tensorboard --logdir …/runs` shows them."""

    main_process_only = True

    def __init__(self, tb_writer: Any = None):
        self.tb_writer = tb_writer

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.open(args)
        self.tb_writer.add_text("args", args.to_json_string())
        if hasattr(model, "config"):
            self.tb_writer.add_text("model_config", str(model.config.to_dict()))

    def open(self, args: Any) -> None:
        if self.tb_writer is None:
            from torch.utils.tensorboard import SummaryWriter

            new = Path(args.output_dir, "runs", f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}")
            folder = args.logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR") or new
            self.tb_writer = SummaryWriter(log_dir=os.path.expanduser(folder))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.open(args)
        for name, value in filed(logs).items():
            if isinstance(value, int | float):
                self.tb_writer.add_scalar(name, value, state.global_step)
            elif isinstance(value, str):
                self.tb_writer.add_text(name, value, state.global_step)
        self.tb_writer.flush()

    def on_train_end(self, args, state, control, **kwargs):
        self.tb_writer.close()
        self.tb_writer = None


class RunTracker(TrainerCallback):
    """What wandb and trackio, which has its interface, have in common."""

    main_process_only = True
    package: str

    def __init__(self) -> None:
        self.tracker = import_module(self.package)
        self.begun = False

    def begin(self, args: Any, state: Any, model: Any) -> None:
        """Make a run, or join the one that the caller has made."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not self.begun:
            self.begin(args, state, model)
            self.begun = True

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        self.on_train_begin(args, state, control, model)
        curves = {name: value for name, value in logs.items() if name not in SUMMARY}
        self.tracker.log({**filed(curves), "train/global_step": state.global_step})

    def on_predict(self, args, state, control, metrics=None, model=None, **kwargs):
        self.on_train_begin(args, state, control, model)
        self.tracker.log(filed(metrics))


class WandbCallback(RunTracker):
    package = "wandb"

    def __init__(self) -> None:
        if os.environ.get("WANDB_LOG_MODEL", "false").lower() != "false":
            raise ValueError("WANDB_LOG_MODEL is not implemented: unset it, and upload checkpoints as artifacts")
        super().__init__()

    def begin(self, args: Any, state: Any, model: Any) -> None:
        wandb = self.tracker
        if wandb.run is None:
            name = {"name": args.run_name} if args.run_name else {}
            wandb.init(project=os.environ.get("WANDB_PROJECT", "huggingface"), **name)
        wandb.config.update(settings(args, model), allow_val_change=True)
        wandb.define_metric("train/global_step")
        wandb.define_metric("*", step_metric="train/global_step", step_sync=True)
        watch = os.environ.get("WANDB_WATCH", "false")
        if watch in ("all", "parameters", "gradients"):
            wandb.watch(model, log=watch, log_freq=max(100, state.logging_steps))

    def on_log(self, args, state, control, model=None, logs=None, **kwargs):
        super().on_log(args, state, control, model, logs)
        self.tracker.run.summary.update({name: value for name, value in logs.items() if name in SUMMARY})


class TrackioCallback(RunTracker):
    package = "trackio"

    def begin(self, args: Any, state: Any, model: Any) -> None:
        self.tracker.init(
            project=os.environ.get("TRACKIO_PROJECT", args.project),
            name=args.run_name,
            space_id=args.trackio_space_id or os.environ.get("TRACKIO_SPACE_ID"),
            resume="allow",
            private=args.hub_private_repo,
        )
        self.tracker.config.update(settings(args, model), allow_val_change=True)

    def on_train_end(self, args, state, control, **kwargs):
        self.tracker.finish()
        self.begun = False


def callbacks_for(names: list[str]) -> list[TrainerCallback]:
    """A callback for each tracker; none for wandb where WANDB_DISABLED says so."""
    disabled = os.environ.get("WANDB_DISABLED", "").upper() in ("1", "ON", "YES", "TRUE")
    kinds = {"tensorboard": TensorBoardCallback, "wandb": WandbCallback, "trackio": TrackioCallback}
    return [kinds[name]() for name in names if not (name == "wandb" and disabled)]
