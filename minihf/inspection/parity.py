"""The parity table: every head of every architecture beside the reference's, or one checkpoint, layer by layer."""

import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from minihf.inspection.batches import MASKS
from minihf.inspection.compare import TOLERANCES, compare, error, larger, run
from minihf.inspection.families import FAMILIES
from minihf.inspection.locate import listen
from minihf.inspection.pairs import Pair, batches, check, heads_of, make_pair, variants_of
from minihf.models.architectures import ARCHITECTURES, class_for
from minihf.models.auto import AutoConfig
from minihf.models.base import Model


@dataclass
class Row:
    """A line of the table: what was compared, the largest differences, and what one that is too large comes from."""

    names: tuple[str, ...]
    errors: dict[str, float] = field(default_factory=dict)
    ok: bool = True
    worst: str = ""

    def add(self, column: str, found: float, dtype: torch.dtype, where: str) -> None:
        self.errors[column] = larger(self.errors.get(column, 0.0), found)
        if not found <= TOLERANCES[dtype] and self.ok:
            self.ok, self.worst = False, f"{short(dtype)}, {where}"


@dataclass
class Report:
    title: str
    headings: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)


def compare_architectures(
    architectures: list[str] | None = None, *, progress: Callable[[str], None] = lambda message: None
) -> Report:
    """A row for every head of every architecture (or of those named): the largest difference over all its variants."""
    report = Report("minihf beside transformers: largest differences", ("architecture", "class"))
    for model_type in architectures or FAMILIES:
        for class_name in heads_of(model_type):
            progress(f"{model_type} {class_name}")
            row = Row((model_type, class_name))
            for name, variant in variants_of(model_type, class_name).items():
                pair = make_pair(model_type, class_name, variant)
                for dtype in pair.dtypes:
                    found = check(pair, dtype, masks=MASKS if name == "plain" else ("holes",))
                    row.add(f"{short(dtype)} outputs", found.outputs, dtype, f"{name}: {found.worst}")
                    row.add(f"{short(dtype)} gradients", found.gradients, dtype, f"{name}: {found.worst}")
            report.rows.append(row)
    return report


def compare_checkpoint(name_or_path: str | Path, *, progress: Callable[[str], None] = lambda message: None) -> Report:
    """A row for every layer of a checkpoint, by its path: the largest difference of its output.

    Raises:
        FileNotFoundError, CheckpointError: it cannot be loaded.
    """
    import transformers

    config = AutoConfig.from_pretrained(name_or_path)
    tasks = heads_of(config.model_type)
    class_name = next((name for name in config.architectures or () if name in tasks), None)
    class_name = class_name or ARCHITECTURES[config.model_type][1]["Model"]
    progress(f"loading {class_name} on both sides")
    cls = class_for(config.model_type, tasks[class_name])
    ours, info = cls.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
    with tempfile.TemporaryDirectory() as folder:
        if info["new"]:  # what the file lacks is drawn at random: let both sides have the same
            ours.save_pretrained(folder)
        source = folder if info["new"] else name_or_path
        theirs = getattr(transformers, class_name).from_pretrained(source, dtype=torch.float32)
    for model in (ours, theirs):
        if model.config.pad_token_id is None and tasks[class_name] == "ForSequenceClassification":
            model.config.pad_token_id = 0  # several texts at once need one
    pair = Pair(ours, theirs, tasks[class_name], FAMILIES[config.model_type].positions_from_mask)

    rows: dict[str, Row] = {}
    for dtype in pair.dtypes:
        progress(f"comparing in {short(dtype)}")
        pair.to(dtype)
        for _, batch, others in batches(pair, "right", dtype):
            mine, reference = listen(ours, batch), listen(theirs, others)
            for path in layer_paths(ours, list(mine.outputs)):
                found = error(mine.outputs[path], reference.outputs[path]) if path in reference.outputs else math.inf
                rows.setdefault(path, Row((path,))).add(short(dtype), found, dtype, path)
            whole = compare(run(ours, batch), run(theirs, others))
            for kind in ("outputs", "gradients"):
                row = rows.setdefault(f"(all {kind})", Row((f"(all {kind})",)))
                row.add(short(dtype), getattr(whole, kind), dtype, whole.worst)
    title = f"{Path(name_or_path).name}, {class_name}, beside transformers: largest differences"
    return Report(title, ("layer",), list(rows.values()))


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layer_paths(model: Model, heard: list[str]) -> list[str]:
    """Of the modules heard, those worth a row: the layers, and what stands beside them at the top."""
    base = "" if model.base_model is model else model.base_model_prefix + "."
    recorded = model.base_model.recorded
    layers = [base + path.removesuffix("*") for kind, path in recorded.items() if kind.endswith("hidden_states")]
    return [
        path
        for path in heard
        if any(path.startswith(x) and path.count(".") == x.count(".") for x in layers)
        or (path.count(".") <= base.count(".") and not any(x.startswith(path + ".") for x in layers))
    ]


def print_report(report: Report) -> None:
    """The report as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=report.title)
    for heading in report.headings:
        table.add_column(heading, no_wrap=True)
    columns = list(dict.fromkeys(column for row in report.rows for column in row.errors))
    for column in (*columns, "ok"):
        table.add_column(column, justify="right")
    for row in report.rows:
        numbers = (f"{row.errors[column]:.1e}" if column in row.errors else "" for column in columns)
        table.add_row(*row.names, *numbers, "yes" if row.ok else "NO")
    console = Console(width=None if sys.stdout.isatty() else 120)  # a pipe has no width
    console.print(table, "tolerance: " + ", ".join(f"{short(d)} {limit:.0e}" for d, limit in TOLERANCES.items()))
    for row in report.rows:
        if not row.ok:
            console.print(f"{' '.join(row.names)}: {row.worst}", soft_wrap=True, highlight=False, markup=False)


def run_command(target: str | None, *, json_output: bool = False, architectures: list[str] | None = None) -> int:
    """`minihf parity`: 0 where every row is within its tolerance, else 1.

    Raises:
        ValueError, OSError: no such architecture, no such checkpoint.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    unknown = [name for name in architectures or () if name not in FAMILIES]
    if unknown:
        raise ValueError(f"no architecture {', '.join(unknown)}; there are {', '.join(FAMILIES)}")

    def progress(message: str) -> None:
        print(f"  {message} …", file=sys.stderr)

    if target is None:
        report = compare_architectures(architectures, progress=progress)
    else:
        report = compare_checkpoint(target, progress=progress)
    if json_output:
        rows = [
            {**asdict(row), "errors": {k: v if math.isfinite(v) else str(v) for k, v in row.errors.items()}}
            for row in report.rows
        ]
        print(json.dumps({"title": report.title, "ok": report.ok, "rows": rows}, indent=2))
    else:
        print_report(report)
    return 0 if report.ok else 1
