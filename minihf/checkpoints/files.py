"""The weights of a checkpoint, read and saved: one `model.safetensors`, or shards under an index.

The names and the index are the reference's, so files go both ways. Two things differ: two sets of weights in one folder
are an error, not a silent choice of the older one, and a save leaves no weights of an earlier save behind.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from minihf.checkpoints.format import (
    DTYPES,
    TensorInfo,
    as_tensor,
    broken,
    map_file,
    parse_json,
    read_header,
    write_file,
)
from minihf.checkpoints.hub import CheckpointError, Source, shortened

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# what a training run leaves besides weights
NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "scaler.pt"}
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Weights:
    """The weights of a checkpoint: `tensors` says what they are, in file order; `read` gives one of them.

    `metadata` is the text that the files carry besides, such as {"format": "pt"}. Closes itself as a context manager.
    """

    def __init__(self, *, meta: bool = False) -> None:
        self.meta = meta
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self._storages: dict[str, torch.UntypedStorage] = {}

    @classmethod
    def open(cls, source: Source, *, meta: bool = False) -> "Weights":
        """Finds the weights of a source and checks what their headers claim; no tensor is touched yet.

        With `meta`, none will be: `read` gives tensors on the meta device, of files larger than memory, too.

        Raises:
            CheckpointError: a file is broken or lies (all that is wrong is listed), or the weights are no safetensors.
            FileNotFoundError: there are no weights, or the source itself is not there.
        """
        single = source.find(SINGLE)
        if single is not None:
            source = source.pinned(single)
        try:
            index = source.find(INDEX)
        except FileNotFoundError:  # the hub is out of reach, but the cache has the single file
            if single is None:
                raise
            index = None
        weights = cls(meta=meta)
        if index is not None:
            weights._add_shards(source.pinned(index), index, single)
        elif single is not None:
            weights._add(single)
        else:
            raise _no_weights(source)
        return weights

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU, mapped from its file: pages that are written to are copied, and the file never changes.

        It outlives `close`, and the file's being replaced by a new one, as saving does it.
        """
        info = self.tensors[name]
        if self.meta:
            return torch.empty(info.shape, dtype=info.dtype, device="meta")
        if name not in self._storages:
            raise ValueError(f"{info.file} was closed; open it again to read {name!r}")
        return as_tensor(info, self._storages[name])

    def take(self, name: str) -> Tensor:
        """As `read`, for the last time: a file of which every tensor was taken is let go, and its pages with it."""
        tensor = self.read(name)
        self._storages.pop(name, None)
        return tensor

    def close(self) -> None:
        """Lets go of the files; each stays mapped as long as a tensor read from it lives."""
        self._storages.clear()

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _add(self, path: Path) -> set[str]:
        mapped = read_header(path) if self.meta else map_file(path)
        self.tensors |= mapped.tensors
        self._storages |= mapped.storages
        self.metadata |= mapped.metadata
        return set(mapped.tensors)

    def _add_shards(self, source: Source, index: Path, single: Path | None) -> None:
        weight_map = read_json(index).get("weight_map")
        named = weight_map.values() if isinstance(weight_map, dict) else ()
        if not (named and all(isinstance(shard, str) for shard in named)):
            raise broken(index, ["it has no 'weight_map' from names of tensors to names of files"])
        shards: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            shards.setdefault(shard, set()).add(name)
        if single is not None and set(shards) != {SINGLE}:
            raise CheckpointError(
                f"two sets of weights: {single}, and {shortened(list(shards))}, which {index} names. One of them is "
                "left over from an earlier save, and nothing tells which: delete the stale one"
            )
        problems = []
        for shard, promised in shards.items():
            try:
                path = source.find(shard)
                if path is None:
                    problems.append(f"the file {shard!r} is not there")
                    continue
                held = self._add(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            problems += [f"{shard!r} lacks {name!r}, which the index promises" for name in sorted(promised - held)]
            problems += [f"{shard!r} holds {name!r}, not listed for it" for name in sorted(held - promised)]
        if problems:
            raise broken(index, problems)


def save_weights(folder: Path, tensors: Mapping[str, Tensor], *, max_shard_size: int | str = "50GB") -> list[Path]:
    """Writes `model.safetensors`, or shards and an index where that would pass `max_shard_size`; returns the paths.

    All is written aside and then renamed: an error leaves an earlier checkpoint as it was, and tensors mapped from it
    stay valid. Weight files of an earlier save are removed at the end, and nothing else. The tensors may lie on any
    device, with any strides; those that share storage are written under each name.

    Raises:
        ValueError: tensors that safetensors cannot hold (all are listed), or a size that is none.
    """
    limit = parse_size(max_shard_size)
    known = set(DTYPES.values())
    unfit = [
        f"{name!r} ({tensor.dtype}, {tensor.layout}, on {tensor.device})"
        for name, tensor in tensors.items()
        if tensor.dtype not in known or tensor.layout != torch.strided or tensor.is_meta or name == "__metadata__"
    ]
    if unfit:
        raise ValueError("safetensors hold dense tensors of ordinary dtypes; these are none: " + ", ".join(unfit))

    shards = _split(tensors, limit)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as aside:
        for file, shard in shards.items():
            write_file(Path(aside, file), shard)
        files = list(shards)
        if len(shards) > 1:
            totals = {
                "total_size": sum(tensor.nbytes for tensor in tensors.values()),
                "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
            }
            weight_map = {name: file for file, shard in shards.items() for name in shard}
            write_json(Path(aside, INDEX), {"metadata": totals, "weight_map": weight_map})
            files.append(INDEX)
            # if the machine stops between two renames, no index may join old shards and new ones into one checkpoint
            (folder / INDEX).unlink(missing_ok=True)
        for file in files:
            os.replace(Path(aside, file), folder / file)
    for path in folder.iterdir():
        if path.name not in files and (path.name in (SINGLE, INDEX) or SHARD.fullmatch(path.name)):
            path.unlink()
    return [folder / file for file in files]


def parse_size(size: int | str) -> int:
    """Bytes of "500MB" (decimal: KB, MB, GB, TB), "2GiB" (binary: KiB, MiB, GiB, TiB) or a plain number."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match[2] not in UNITS or isinstance(size, float):
        raise ValueError(f"the size {size!r} is none: expected bytes, or a text such as '500MB', '50GB' or '2GiB'")
    number = float(match[1]) if "." in match[1] else int(match[1])
    if number * UNITS[match[2]] < 1:
        raise ValueError(f"the size {size!r} is less than a byte")
    return int(number * UNITS[match[2]])


def read_json(path: Path) -> dict:
    """The object in a JSON file. CheckpointError, with line and column, where it holds anything else."""
    return parse_json(path, Path(path).read_bytes())


def write_json(path: Path, value: Mapping) -> None:
    """Writes indented JSON, keys in the order given; a file that was there stays whole until the new one is."""
    text = json.dumps(value, indent=2) + "\n"
    path = Path(path)
    with TemporaryDirectory(prefix=".saving-", dir=path.parent) as aside:
        Path(aside, path.name).write_text(text, encoding="utf-8")
        os.replace(Path(aside, path.name), path)


def _split(tensors: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, Tensor]]:
    """File name -> its tensors, in order; a tensor larger than the limit has a file to itself."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    n = len(shards)
    names = [SINGLE] if n == 1 else [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
    return dict(zip(names, shards, strict=True))


def _no_weights(source: Source) -> Exception:
    names = source.names()
    pickles = [name for name in names if name.endswith((".bin", ".pt")) and name not in NO_WEIGHTS]
    foreign = [name for name in names if name.endswith((".h5", ".msgpack"))]
    if pickles:
        return CheckpointError(
            f"{source} has its weights in pickles ({shortened(pickles)}). Only safetensors are loaded, because opening "
            "a pickle can run any code. If you trust its source, convert it once, in an environment of its own:\n"
            "    import safetensors.torch, torch\n"
            "    state = {}\n"
            f"    for file in {pickles}:\n"
            "        state.update(torch.load(file, map_location='cpu', weights_only=True))\n"
            "    state = {name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()}\n"
            "    safetensors.torch.save_file(state, 'model.safetensors', metadata={'format': 'pt'})"
        )
    if foreign:
        return CheckpointError(
            f"{source} has its weights in {shortened(foreign)}, written by TensorFlow or Flax. Only safetensors are "
            "loaded: open them with the library that wrote them, and save them as safetensors"
        )
    return FileNotFoundError(f"{source} has no weights ({SINGLE} or {INDEX}); it holds {shortened(names)}")
