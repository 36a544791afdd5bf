"""What is left of a training for people to look at: a curve of the losses, a table of metrics, a model card.

Scores are `{who: {metric: value}}`, such as `{"majority class": {"accuracy": 0.5}, "this model": {"accuracy": 0.8}}`.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minihf.checkpoints.card import bullets, make_card, table

Scores = Mapping[str, Mapping[str, float]]
Curves = Mapping[str, Sequence[tuple[float, float]]]  # what it is: its points


def losses(log_history: Sequence[Mapping[str, Any]]) -> Curves:
    """The losses of a `trainer.state.log_history`, of training and of evaluation, by step.

    Raises:
        ValueError: no loss was logged.
    """
    names = {"loss": "training", "eval_loss": "held out"}
    curves = {
        label: [(entry["step"], float(entry[name])) for entry in log_history if name in entry]
        for name, label in names.items()
    }
    if not curves["training"]:
        raise ValueError("no loss was logged: train with logging_steps no larger than the number of steps")
    return {label: points for label, points in curves.items() if points}


def draw(curves: Curves, path: str | Path, *, title: str = "", xlabel: str = "step", ylabel: str = "loss") -> None:
    """Curves in one picture, a PNG.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(f'{missing}; install it with: pip install "minihf[train]"') from missing
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, points in curves.items():
        style = "-" if len(points) > 30 else "o-"
        axes.plot(*zip(*points, strict=True), style, markersize=4, label=f"{label}: {points[-1][1]:.2f} at the end")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def columns(scores: Scores) -> list[str]:
    """The metrics, in the order in which they come up."""
    return list(dict.fromkeys(metric for values in scores.values() for metric in values))


def cells(values: Mapping[str, float], metrics: list[str]) -> list[str]:
    return [f"{values[metric]:.4g}" if metric in values else "" for metric in metrics]


def print_scores(scores: Scores, *, title: str = "") -> None:
    """The scores as a table on standard output.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(f'{missing}; install it with: pip install "minihf[train]"') from missing
    table = Table("", title=title)
    for metric in columns(scores):
        table.add_column(metric, justify="right")
    for who, values in scores.items():
        table.add_row(who, *cells(values, columns(scores)))
    Console(highlight=False).print(table)


def model_card(
    name: str,
    summary: str,
    scores: Scores,
    *,
    task: str,
    data: str,
    settings: Mapping[str, Any],
    seconds: float,
) -> str:
    """The README.md of a trained model, with the metadata that the hub reads.

    Args:
        name: of the model.
        summary: what it does, a sentence or two.
        scores: the last one is the model's own, the others are what it is compared with.
        task: the hub's name for it, such as "text-classification".
        data: what it was trained on and judged by.
        settings: of the training.
        seconds: that it took.

    It shows `curve.png`, which is expected beside it.
    """
    from huggingface_hub import EvalResult

    own = next(reversed(scores.values()))
    results = [EvalResult(task, "data", data, metric, round(float(value), 4)) for metric, value in own.items()]
    metrics = columns(scores)
    where = f"{seconds:.0f} s on {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    text = f"""{summary}

Data: {data}.

## Results

{table([["", *metrics], *([who, *cells(values, metrics)] for who, values in scores.items())])}

![The curve](curve.png)

## Training

{where}

{bullets(settings)}
"""
    return str(make_card(name, text, note=False, pipeline_tag=task, eval_results=results))
