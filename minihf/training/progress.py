"""What a person sees of a run: a bar and the logs, or the logs alone."""

from datetime import timedelta
from typing import Any

from tqdm.auto import tqdm

from minihf.training.callbacks import TrainerCallback
from minihf.training.order import length


class ProgressCallback(TrainerCallback):
    """A bar for training and one for each evaluation; logs are written above it."""

    main_process_only = True

    def __init__(self, max_str_len: int = 100):
        self.max_str_len = max_str_len  # of texts among the logs
        self.training_bar = self.prediction_bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.training_bar = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        self.training_bar.update(state.global_step - self.training_bar.n)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.prediction_bar is None:
            self.prediction_bar = tqdm(
                total=length(eval_dataloader), leave=self.training_bar is None, dynamic_ncols=True
            )
        self.prediction_bar.update(1)

    def on_evaluate(self, args, state, control, **kwargs):
        if self.prediction_bar is not None:
            self.prediction_bar.close()
            self.prediction_bar = None

    on_predict = on_evaluate

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None:
            self.training_bar.write(line(logs, self.max_str_len))

    def on_train_end(self, args, state, control, **kwargs):
        self.training_bar.close()
        self.training_bar = None


class PrinterCallback(TrainerCallback):
    """The logs, a line each, where there is no bar."""

    main_process_only = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        tqdm.write(line(logs))


def line(logs: dict[str, Any], longest: int = 10_000) -> str:
    """Logs as people read them: numbers with four digits, no long texts, no count of operations."""
    shown = {}
    for name, value in logs.items():
        if isinstance(value, str) and len(value) > longest:
            value = f"a text of {len(value)} characters"
        shown[name] = f"{value:.4g}" if isinstance(value, float) else value
    shown.pop("total_flos", None)
    return str(shown)


def show_table(title: str, metrics: dict[str, Any]) -> None:
    """A line each, by name; numbers under one another."""
    shown = {name: shown_value(name, metrics[name]) for name in sorted(metrics)}
    names, values = max(map(len, shown), default=0), max(map(len, shown.values()), default=0)
    rows = [f"  {name:<{names}} = {value:>{values}}" for name, value in shown.items()]
    tqdm.write("\n".join([f"***** {title} *****", *rows]))


def shown_value(name: str, value: Any) -> str:
    if name.endswith("_runtime"):
        return str(timedelta(seconds=round(value, 2)))
    if name == "total_flos":
        return f"{int(value) >> 30}GF"
    return str(round(value, 4) if isinstance(value, float) else value)
