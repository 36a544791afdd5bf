"""Checkpoints of a run: a folder with all that the next step depends on, which appears whole or not at all.

The files bear the names and hold the contents of the reference's, so that its Trainer goes on from ours and ours from
its own; only the arguments are JSON here, and its pickle of them is never opened:

    model.safetensors (or shards), config.json   the model, as `save_pretrained` writes it; of a PEFT model, the adapter
    tokenizer.json, tokenizer_config.json, …     the tokenizer
    optimizer.pt, scheduler.pt, scaler.pt        `state_dict()` of each
    rng_state.pth                                random states; of several processes rng_state_0.pth, rng_state_1.pth, …
    trainer_state.json, training_args.json       where the run is, and what it was told

All is written to a hidden folder beside the place, forced to the disk and renamed, so that a kill, a full disk or a
power cut at any moment leaves the last good checkpoint as it was. One process writes to an output folder at a time.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minihf.checkpoints.files import CheckpointError, Weights, read_json, save_weights, write_json
from minihf.checkpoints.format import read_header
from minihf.checkpoints.hub import Source
from minihf.training.restoring import (
    ARGUMENTS,
    OPTIMIZER,
    SCALER,
    SCHEDULER,
    STATE,
    load_checkpoint,
    process_random_state,
    random_file,
)

__all__ = ["save_checkpoint", "load_checkpoint", "last_checkpoint", "get_last_checkpoint", "rotate"]

NAME = re.compile(r"checkpoint-(\d+)")
SAVING, REPLACED, REMOVED = ".minihf-saving-", ".minihf-replaced-", ".minihf-removed-"  # what a killed run may leave
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

logger = logging.getLogger(__name__)


def save_checkpoint(
    folder: str | Path,
    *,
    model: nn.Module,
    tokenizer: Any = None,
    optimizer: Optimizer | Mapping[str, Any] | None = None,
    scheduler: Any = None,
    scaler: Any = None,
    state: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
    rng: bool | Sequence[Mapping[str, Any]] = True,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint, in the place of one of the same name if there is one, which is there until then.

    Args:
        folder: `output_dir/checkpoint-500`: the name by which `last_checkpoint` and `rotate` know it.
        model: any module; a minihf model brings its config. Not wrapped in DDP or by the compiler.
        tokenizer: whatever has `save_pretrained`.
        optimizer: itself, or its gathered state where it is sharded (`minihf.training.distributed.full_state`).
        scheduler, scaler: anything with a `state_dict` of tensors, numbers, texts, lists and dicts.
        state: what the loop needs besides, as JSON has it: the step, the epoch, the batches seen, the log.
        arguments: the run's settings, for people to read.
        rng: the random states too. Of several processes: `process_random_state()` of each, by rank.
        weights: the model's gathered state, where it is sharded.

    Returns:
        The folder.

    Raises:
        OSError: it cannot be written; on a full disk the message says what to do. Earlier checkpoints are untouched.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    clean(folder.parent)
    aside = folder.with_name(SAVING + folder.name)
    try:
        aside.mkdir()
        write_model(aside, model, weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        for part, name in ((optimizer, OPTIMIZER), (scheduler, SCHEDULER), (scaler, SCALER)):
            if part is not None:
                write_tensors(aside / name, part if isinstance(part, Mapping) else part.state_dict())
        if rng is True:
            write_tensors(aside / random_file(None), process_random_state())
        for rank, one in enumerate(rng or () if rng is not True else ()):
            write_tensors(aside / random_file(rank), one)
        if arguments is not None:
            write_json(aside / ARGUMENTS, arguments)
        write_json(aside / STATE, state)
        for path in aside.rglob("*"):
            force(path)
        force(aside)
        appear(aside, folder)
    except BaseException as error:
        written = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
        clean(folder.parent)
        if isinstance(error, OSError) and error.errno in FULL:
            last = last_checkpoint(folder.parent)
            raise OSError(
                error.errno,
                f"the disk is full: {folder.name} could not be saved, of which {written / 1e6:.1f} MB had been "
                f"written and are removed again. {f'{last.name} is as it was' if last else 'There is no earlier one'}. "
                "Free some space, or keep fewer checkpoints (save_total_limit, for which there must be room for one "
                "more)" + (", and resume from it" if last else ""),
                str(folder),
            ) from error
        raise
    return folder


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole `checkpoint-N` in a folder; None where there is none. What is broken is passed over, with a
    warning: a save of ours leaves nothing broken, but a copy that was cut short does."""
    for folder in reversed(checkpoints_in(output_dir)):
        problem = what_is_broken(folder)
        if problem is None:
            return folder
        logger.warning("%s is passed over: %s", folder, problem)
    return None


def get_last_checkpoint(folder: str | Path) -> str | None:
    """`last_checkpoint`, as the reference has it."""
    found = last_checkpoint(folder)
    return None if found is None else str(found)


def rotate(output_dir: str | Path, limit: int | None, keep: Iterable[str | Path | None] = ()) -> list[Path]:
    """Remove the oldest checkpoints of a folder, so that at most `limit` are left. Returns those that went.

    The last whole one stays in any case, and so do those in `keep`: the best one. Where the limit is None or not
    positive, all stay.
    """
    if limit is None or limit <= 0:
        return []
    found = checkpoints_in(output_dir)
    kept = {Path(os.path.abspath(path)) for path in (*keep, last_checkpoint(output_dir)) if path is not None}
    others = [folder for folder in found if Path(os.path.abspath(folder)) not in kept]
    gone = others[: max(0, len(found) - max(limit, len(found) - len(others)))]
    for folder in gone:
        remove(folder)
    return gone


def remove(folder: Path) -> None:
    """At once: a kill leaves no half of a checkpoint."""
    away = folder.with_name(REMOVED + folder.name)
    folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """All `checkpoint-N` in a folder, by N."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(folders, key=lambda path: int(NAME.fullmatch(path.name)[1]))


def what_is_broken(folder: Path) -> str | None:
    """What is wrong with a checkpoint, as far as sizes and headers tell: no weight is read."""
    try:
        read_json(folder / STATE)
        adapters = [*folder.glob("adapter_model.safetensors"), *folder.glob("*/adapter_model.safetensors")]
        for adapter in adapters:
            read_header(adapter)
        if not adapters:
            Weights.open(Source(str(folder)), meta=True)
    except (OSError, CheckpointError) as error:
        return str(error)
    for path in sorted(folder.glob("*.pt*")):
        if not zipfile.is_zipfile(path):
            return f"{path.name} is truncated"
    return None


# Writing


def write_model(folder: Path, model: nn.Module, weights: Mapping[str, Tensor] | None) -> None:
    if not hasattr(model, "save_pretrained"):
        save_weights(folder, model.state_dict() if weights is None else weights)
    elif weights is None:
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, state_dict=weights)


def write_tensors(path: Path, value: Any) -> None:
    """`torch.save`, whose own error on a full disk does not say so."""
    try:
        with open(path, "wb") as file:
            torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def force(path: Path) -> None:
    """To the disk: only then may a name lead there. Windows opens no folders."""
    if path.is_file() or os.name == "posix":
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def appear(aside: Path, folder: Path) -> None:
    """Give a finished folder its name, and remove what had it."""
    if not folder.exists():
        os.rename(aside, folder)
    elif not exchange(aside, folder):
        # Between these two nothing bears the name. `clean` puts the old one back, should the run be killed here.
        os.rename(folder, folder.with_name(REPLACED + folder.name))
        os.rename(aside, folder)
    force(folder.parent)
    clean(folder.parent)


def exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, which Linux can; False where that is not possible."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    current_folder, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, of linux/fcntl.h and linux/fs.h
    return renameat2(current_folder, os.fsencode(a), current_folder, os.fsencode(b), swap) == 0


def clean(output_dir: Path) -> None:
    """Remove what killed runs left beside their checkpoints."""
    for replaced in output_dir.glob(f"{REPLACED}*"):
        folder = replaced.with_name(replaced.name.removeprefix(REPLACED))
        if not folder.exists():
            replaced.rename(folder)
    for prefix in (SAVING, REPLACED, REMOVED):
        for path in output_dir.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)
