"""One safetensors file, mapped or written, and strict JSON.

The file is eight bytes that give the length of a JSON header, the header, which gives each tensor's dtype, shape and
place, and the bytes of the tensors, back to back (github.com/huggingface/safetensors#format). To read it is to map it:
no byte of a tensor is touched before it is used. As mapped bytes are used where they lie, every claim of the header is
checked first, and all that is wrong is told at once. The header alone can be read, too, of a file of any size. It is
written tensor by tensor, of which at most one is copied.
"""

import json
import math
import mmap
import reprlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minihf.checkpoints.hub import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit
MAX_LISTED = 100  # problems in one message


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of one of its tensors."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Mapped:
    """A safetensors file, mapped: a storage of its own for each tensor, so that one can be shared or pickled alone."""

    tensors: dict[str, TensorInfo]
    storages: dict[str, torch.UntypedStorage]
    metadata: dict[str, str]


def map_file(path: Path) -> Mapped:
    """Maps a safetensors file and checks its header.

    Raises:
        CheckpointError: something is wrong with it; all of it is listed.
        MemoryError: the system promises no memory for so many bytes, all of which might be written to.
    """
    size = size_of(path)
    try:  # not shared: what is written stays in this process
        mapped = torch.UntypedStorage.from_file(str(path), False, size)
    except RuntimeError as error:
        if "Cannot allocate memory" not in str(error):
            raise
        raise MemoryError(
            f"{path}: the system promises no memory for a file of {size} bytes. device_map='meta' opens a model "
            "without its weights"
        ) from error
    tensors, places, metadata = _header(path, torch.empty(0, dtype=torch.uint8, device="cpu").set_(mapped).numpy())
    return Mapped(tensors, {name: mapped[begin:end] for name, (begin, end) in places.items()}, metadata)


def read_header(path: Path) -> Mapped:
    """As `map_file`, without storages: no byte of a tensor is read, and no memory asked for."""
    size_of(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        tensors, _, metadata = _header(path, raw)
    return Mapped(tensors, {}, metadata)


def size_of(path: Path) -> int:
    size = path.stat().st_size
    if size < 8:
        raise broken(path, [f"{size} bytes make no safetensors file"])
    return size


def _header(path: Path, raw: Any) -> tuple[dict[str, TensorInfo], dict[str, tuple[int, int]], dict[str, str]]:
    """Of all bytes of a file: its tensors, (first byte, byte after the last) of each, and the metadata."""
    size, length = len(raw), int.from_bytes(bytes(raw[:8]), "little")
    if length > min(size - 8, MAX_HEADER):
        raise broken(path, [f"truncated, or no safetensors file: a header of {length} bytes in a file of {size}"])
    start = 8 + length
    header = parse_json(path, bytes(raw[8:start]))
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())):
        raise broken(path, ["'__metadata__' holds something else than texts"])

    problems, tensors, places = [], {}, {}
    for name, entry in header.items():
        try:
            dtype, shape, places[name] = _described(entry)
            tensors[name] = TensorInfo(path, dtype, shape)
        except ValueError as error:
            problems.append(f"{name!r} {error}")
    problems = problems or _misplaced(places, size - start)
    if problems:
        raise broken(path, problems)
    return tensors, {name: (start + begin, start + end) for name, (begin, end) in places.items()}, metadata


def as_tensor(info: TensorInfo, storage: torch.UntypedStorage) -> torch.Tensor:
    """The tensor in these bytes, which it shares."""
    if storage.data_ptr() % info.dtype.itemsize:  # not every writer aligns tensors, and kernels may rely on it
        storage = storage.clone()
    return torch.empty(0, dtype=info.dtype, device="cpu").set_(storage, 0, info.shape)


def write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors as one safetensors file, each in full, through the CPU one at a time."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    # the widest first: then each begins at a multiple of its item size, so that it can be used where it lies
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        place = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # one buffer for every copy: fresh ones of some megabytes each are not all given back when they are freed
    largest = max((tensor.nbytes for tensor in tensors.values()), default=0)
    buffer = torch.empty(largest, dtype=torch.uint8, device="cpu")
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            tensor = tensor.detach()
            if tensor.device.type != "cpu" or not tensor.is_contiguous():
                tensor = buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy())


def parse_json(path: Path, text: bytes) -> dict:
    """The object in a JSON text that was read from `path`. CheckpointError says where it is none."""
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unambiguous)
    except UnicodeDecodeError as error:
        line, column = text.count(b"\n", 0, error.start) + 1, error.start - text.rfind(b"\n", 0, error.start)
        raise broken(path, [f"not UTF-8, so not JSON: line {line}, byte {column}"]) from error
    except json.JSONDecodeError as error:
        raise broken(path, [f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}"]) from error
    except RecursionError as error:
        raise broken(path, ["its JSON is nested too deeply"]) from error
    except ValueError as error:  # a key given twice, or a number of more digits than Python reads
        raise broken(path, [str(error)]) from error
    if not isinstance(value, dict):
        raise broken(path, [f"a JSON object was expected; it holds {reprlib.repr(value)}"])
    return value


def broken(path: Path, problems: list[str]) -> CheckpointError:
    """One error for all that is wrong with a file."""
    if len(problems) == 1:
        return CheckpointError(f"{path}: {problems[0]}")
    listed = [textwrap.indent(problem, "    ").strip() for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        listed.append(f"and {len(problems) - MAX_LISTED} more")
    return CheckpointError(f"{path}: {len(problems)} things are wrong:\n  - " + "\n  - ".join(listed))


def _described(entry: object) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    """A header's entry: dtype, shape, (first byte, byte after the last). ValueError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise ValueError(f"is described by {reprlib.repr(entry)}, not by an object")
    dtype, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and dtype in DTYPES):
        raise ValueError(f"has the dtype {reprlib.repr(dtype)}; known are {', '.join(DTYPES)}")
    # no more sizes than torch allows, and no count that int64 cannot hold, even where another size is 0
    if not (_are_counts(shape) and len(shape) <= 64 and math.prod(filter(None, shape)) < 2**63):
        raise ValueError(f"has the shape {reprlib.repr(shape)}, which no tensor has")
    if not (_are_counts(place) and len(place) == 2):
        raise ValueError(f"has the data_offsets {reprlib.repr(place)}; two positions were expected")
    size = DTYPES[dtype].itemsize * math.prod(shape)
    if place[1] - place[0] != size:
        raise ValueError(f"takes {size} bytes as {dtype} {shape}, but lies at the data_offsets {reprlib.repr(place)}")
    return DTYPES[dtype], tuple(shape), (place[0], place[1])


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _misplaced(places: dict[str, tuple[int, int]], size: int) -> list[str]:
    """What is wrong with tensors that should fill `size` bytes, each byte once."""
    problems, at = [], 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != at:
            what = "overlaps the one before it" if begin < at else "leaves a hole before it"
            problems.append(f"{name!r} {what}: it begins at byte {begin} of the data instead of {at}")
        at = max(at, end)
    if at > size:
        problems.append(f"truncated: its tensors take {at} bytes, and {size} are there")
    if at < size:
        problems.append(f"{size - at} bytes follow its last tensor")
    return problems


def _unambiguous(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, given in pairs:
            if given != value[key]:
                raise ValueError(f"the key {key!r} is given twice, with different values")
    return value
