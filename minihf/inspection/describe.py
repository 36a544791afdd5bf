"""What is in a checkpoint: its class, its sizes, which part holds how many parameters, what it takes to run.

The model is opened on the meta device: every key and shape is checked against the files' headers, and no weight is
read, so that a checkpoint larger than this machine's memory is described in a second.
"""

import inspect
import json
import math
import re
import sys
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from torch import Tensor

from minihf.checkpoints.fields import annotations
from minihf.checkpoints.files import TensorInfo, Weights
from minihf.checkpoints.hub import Source
from minihf.models.architectures import ARCHITECTURES, class_for
from minihf.models.auto import AutoConfig
from minihf.models.base import Model
from minihf.models.config import FILE_NAME, as_dtype

SIZES = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "inner width": "intermediate_size",
    "heads": "num_attention_heads",
    "key-value heads": "num_key_value_heads",
    "head size": "head_dim",
    "experts": "num_local_experts",
    "experts per token": "num_experts_per_tok",
    "sliding window": "sliding_window",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}
MEMORY_DTYPES = ("float32", "bfloat16")


@dataclass
class Part:
    """A module, or several that are alike and stand side by side: a row of the table."""

    path: str
    """Of the first."""
    last: str
    """Of the last; the same path, where there is one."""
    count: int
    parameters: int
    """Of all of them. A parameter that is tied to another counts where it is met first."""
    share: float
    """Of all parameters of the model, 0 to 1."""
    stored: int
    """Bytes in the files."""
    dtypes: list[str]
    """As stored; empty, where the files hold nothing of it."""


@dataclass
class KeyValueCache:
    """What a decoder keeps of the tokens that it has read, for each text of a batch; buffers may be twice as large."""

    bytes_per_token: dict[str, int]
    """dtype -> bytes."""
    tokens: int | None
    """The most that it keeps: those that the sliding window's next token sees, else the model's positions."""
    window: bool
    """Older tokens are dropped: a text may be longer, and takes no more."""


@dataclass
class Description:
    """All numbers of `minihf describe`. Sizes in bytes; keys of the ledger as in `minihf.checkpoints.ledger`."""

    name: str
    model_type: str
    class_name: str
    sizes: dict[str, int]
    parts: list[Part]
    parameters: int
    stored: int
    """Bytes of the parts; the files hold stale tensors and those of other heads besides."""
    files: int
    memory: dict[str, int]
    """dtype -> bytes of all parameters in that dtype."""
    cache: KeyValueCache | None
    tied: dict[str, str]
    """Parameter -> the parameter that it is the same as."""
    in_file_twice: list[str]
    """Of `tied`, those that the files hold under both names: with different values, loading will not tie them."""
    new: list[str]
    stale: list[str]
    other_head: list[str]


def describe(name_or_path: str | Path) -> Description:
    """Describe the checkpoint in a folder, or of a hub name (its files are downloaded).

    The class is the one that the config names, or the base model, if minihf has no such class.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: a file is broken, or does not fit the model; it lists everything that is wrong.
    """
    source, _ = Source.split(name_or_path, {})
    source = source.pinned(source.get(FILE_NAME))
    config = AutoConfig.from_pretrained(source.name, revision=source.revision)
    classes = {name: task for task, name in ARCHITECTURES[config.model_type][1].items() if task != "Config"}
    names = [*(config.architectures or ()), ARCHITECTURES[config.model_type][1]["Model"]]
    class_name = next(name for name in names if name in classes)
    cls = class_for(config.model_type, classes[class_name])
    model, ledger = cls.from_pretrained(
        source.name, revision=source.revision, device_map="meta", output_loading_info=True
    )
    with Weights.open(source, meta=True) as weights:
        stored = {name: weights.tensors[key] for name, key in ledger["loaded"].items()}
        files = len({info.file for info in weights.tensors.values()})
    for name, twin in ledger["tied"].items():
        if name not in model.tied and twin in stored:  # the files know the parameter by its other name alone
            stored[name] = stored.pop(twin)
    parts = parts_of(model, stored)
    tied = {
        target: kept for target, kept in model.tied.items() if model.get_parameter(target) is model.get_parameter(kept)
    }
    total = model.num_parameters()
    return Description(
        name=str(name_or_path),
        model_type=config.model_type,
        class_name=class_name,
        sizes={word: getattr(config, field) for word, field in SIZES.items() if getattr(config, field, None)},
        parts=parts,
        parameters=total,
        stored=sum(part.stored for part in parts),
        files=files,
        memory={dtype: total * as_dtype(dtype).itemsize for dtype in MEMORY_DTYPES},
        cache=cache_of(model),
        tied=tied,
        in_file_twice=[target for target, kept in tied.items() if {target, kept} <= stored.keys()],
        new=ledger["new"],
        stale=ledger["stale"],
        other_head=ledger["other_head"],
    )


def parts_of(model: Model, stored: dict[str, TensorInfo]) -> list[Part]:
    """The layers, and what stands beside them. `stored`: parameter, or a part of one -> what the files hold of it."""
    base = "" if model.base_model is model else model.base_model_prefix + "."
    stacks = [(base + path).split(".") for kind, path in model.recorded.items() if kind.endswith("hidden_states")]

    def home(name: str) -> str:
        """The shortest beginning of a parameter's path that does not lead towards any layers, or is one of them."""
        return max((towards(name.split("."), layers) for layers in stacks), key=len)

    def towards(path: list[str], layers: list[str]) -> str:
        depth = next((i for i, (a, b) in enumerate(zip(path, layers, strict=False)) if b not in ("*", a)), None)
        return ".".join(path[: len(layers) if depth is None else depth + 1])

    own: dict[str, dict[str, Tensor]] = {}  # path -> what lies under it
    for name, _ in model.named_parameters(remove_duplicate=False):
        own.setdefault(home(name), {})
    for name, parameter in model.named_parameters():
        own[home(name)][name.removeprefix(home(name))] = parameter
    for name in stored:  # a buffer stands by itself
        own.setdefault(home(name), {})
    held: dict[str, list[TensorInfo]] = {path: [] for path in own}
    for name, info in stored.items():
        held[home(name)].append(info)

    def kind(path: str) -> tuple:
        """What neighbours share when they are alike: all but the number of the layer."""
        shapes = {name: tuple(parameter.shape) for name, parameter in own[path].items()}
        return re.sub(r"\d+$", "#", path), shapes, sorted((info.shape, str(info.dtype)) for info in held[path])

    total, parts = model.num_parameters(), []
    for _, group in groupby((path for path in own if own[path] or held[path]), kind):
        paths = list(group)
        parameters = sum(parameter.numel() for path in paths for parameter in own[path].values())
        infos = [info for path in paths for info in held[path]]
        dtypes = sorted({str(info.dtype).removeprefix("torch.") for info in infos})
        nbytes = sum(info.nbytes for info in infos)
        parts.append(Part(paths[0], paths[-1], len(paths), parameters, parameters / total, nbytes, dtypes))
    return parts


def cache_of(model: Model) -> KeyValueCache | None:
    """A key and a value of each layer and head; None for a model that keeps nothing."""
    config = model.config
    is_decoder = "is_decoder" not in annotations(type(config)) or config.is_decoder
    if not is_decoder or "past_key_values" not in inspect.signature(model.forward).parameters:
        return None
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * heads * head
    window = getattr(config, "sliding_window", None)
    positions = model.position_limit or getattr(config, "max_position_embeddings", None)
    return KeyValueCache(
        bytes_per_token={dtype: numbers * as_dtype(dtype).itemsize for dtype in MEMORY_DTYPES},
        tokens=positions if window is None else min(window - 1, positions or window),
        window=window is not None,
    )


def size(nbytes: int) -> str:
    """Bytes as people say them: "13.5 GB"."""
    if nbytes < 1000:
        return f"{nbytes} bytes"
    power = min(int(math.log10(nbytes)) // 3, 4)
    return f"{nbytes / 1000**power:.1f} {('KB', 'MB', 'GB', 'TB')[power - 1]}"


def facts(told: Description) -> list[str]:
    """What stands below the table, a line each."""
    weights = " or ".join(f"{size(nbytes)} in {dtype}" for dtype, nbytes in told.memory.items())
    lines = [f"memory for weights: {weights}"]
    if told.cache is not None:
        token = " or ".join(f"{size(nbytes)} in {dtype}" for dtype, nbytes in told.cache.bytes_per_token.items())
        lines.append(f"key-value cache: {token} for each token of a text")
        if told.cache.tokens is not None:
            most = " or ".join(size(told.cache.tokens * nbytes) for nbytes in told.cache.bytes_per_token.values())
            what = "that the window lets it keep" if told.cache.window else "positions"
            lines[-1] += f"; {most} for the {told.cache.tokens:,} {what}"
    for target, kept in told.tied.items():
        twice = " (the files hold both; if they differ, loading keeps both)" if target in told.in_file_twice else ""
        lines.append(f"tied: {target} is {kept}{twice}")
    for what, keys in (
        ("not in the files, new when loaded", told.new),
        ("in the files, of another head", told.other_head),
        ("in the files, and no longer read", told.stale),
    ):
        if keys:
            lines.append(f"{what}: {', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}")
    return lines


def print_description(told: Description) -> None:
    """The description as a table on standard output, with what the table does not hold above and below."""
    from rich.console import Console
    from rich.table import Table

    table = Table("module", show_footer=True)
    table.columns[0].footer = "in all"
    total = f"{told.parameters:,}", "", size(told.stored), ""
    for heading, footer in zip(("parameters", "share", "stored", "dtype"), total, strict=True):
        table.add_column(heading, footer, justify="right")
    for part in told.parts:
        several = f" … {part.last.rpartition('.')[2]}, {part.count} ×" if part.count > 1 else ""
        numbers = f"{part.parameters:,}", f"{part.share:.1%}", size(part.stored), ", ".join(part.dtypes) or "new"
        table.add_row(part.path + several, *numbers)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)  # a pipe has no width
    sizes = ", ".join(f"{word} {number:,}" for word, number in told.sizes.items())
    count = "1 file" if told.files == 1 else f"{told.files} files"
    lines = f"{told.name}: {told.class_name} ({told.model_type}), {count}", sizes
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    console.print(table)
    for line in facts(told):
        console.print(line, soft_wrap=True, markup=False)


def run_command(target: str, *, json_output: bool = False) -> int:
    """`minihf describe`: prints, and gives the exit status 0.

    Raises:
        ValueError, OSError: no such checkpoint, or one that does not fit.
    """
    told = describe(target)
    if json_output:
        print(json.dumps(asdict(told), indent=2))
    else:
        print_description(told)
    return 0
