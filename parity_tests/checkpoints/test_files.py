"""Files become tensors and back: as the library writes and reads them; the lies of headers; what memory it takes."""

import copy
import gc
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

import minihf.checkpoints.files as files
from minihf.checkpoints.files import CheckpointError, Weights, parse_size, read_json, save_weights, write_json
from minihf.checkpoints.format import DTYPES, TensorInfo
from minihf.checkpoints.hub import Source

ROOT = Path(__file__).resolve().parents[2]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def some_tensors() -> dict[str, torch.Tensor]:
    bytes_ = {name: torch.arange(24, dtype=torch.uint8) for name in DTYPES}
    tensors = {name: bytes_[name].view(dtype).reshape(-1, 1) for name, dtype in DTYPES.items() if name != "BOOL"}
    return tensors | {
        "BOOL": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "a.weight": torch.randn(3, 5),
        "b.weight": torch.randn(7, 2, dtype=torch.float64).to(torch.bfloat16),
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit: NaN too."""
    as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*as_bytes)


def load(folder: Path, **options) -> dict[str, torch.Tensor]:
    with Weights.open(Source(str(folder), **options)) as weights:
        return {name: weights.read(name) for name in weights.tensors}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs)
    assert [name for name in ours if not same(ours[name], theirs[name])] == []


def error_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as told:
        Weights.open(Source(str(folder)))
    with pytest.raises(CheckpointError) as told_of_headers:
        Weights.open(Source(str(folder)), meta=True)
    assert str(told_of_headers.value) == str(told.value)
    return str(told.value)


# Reading what the library writes


def test_reads_the_library_s_file(tmp_path):
    tensors = some_tensors()
    safetensors.torch.save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt", "é": "ü"})
    with Weights.open(Source(str(tmp_path))) as weights:
        assert_same({name: weights.read(name) for name in weights.tensors}, tensors)
        assert weights.metadata == {"format": "pt", "é": "ü"}
        assert weights.tensors["a.weight"] == TensorInfo(tmp_path / SINGLE, torch.float32, (3, 5))
        with safetensors.safe_open(tmp_path / SINGLE, "pt") as theirs:
            assert set(weights.tensors) == set(theirs.keys())


def test_default_device_is_no_matter(tmp_path):
    """Models are made under `torch.device("meta")`; what is read or saved there is on the CPU all the same."""
    tensors = some_tensors()
    with torch.device("meta"):
        save_weights(tmp_path, tensors | {"t": tensors["a.weight"].t()})
        read = load(tmp_path)
    assert_same(read, tensors | {"t": tensors["a.weight"].t()})


def test_closed(tmp_path):
    save_weights(tmp_path, {"a": torch.ones(3)})
    with Weights.open(Source(str(tmp_path))) as weights:
        tensor = weights.read("a")
        with pytest.raises(KeyError):
            weights.read("b")
    with pytest.raises(ValueError, match="closed"):
        weights.read("a")
    assert same(tensor, torch.ones(3))  # what was read outlives it


def test_mapped_and_private(tmp_path):
    """Writing into a tensor changes neither the file nor what others read from it."""
    save_weights(tmp_path, {"a": torch.ones(5000), "b": torch.zeros(5000)})
    before = (tmp_path / SINGLE).read_bytes()
    with Weights.open(Source(str(tmp_path))) as weights:
        a = weights.read("a")
        a.fill_(7)
        torch.nn.Parameter(weights.read("b")).data.add_(1)
        assert weights.read("a").data_ptr() == a.data_ptr()
    maps = Path("/proc/self/maps").read_text().splitlines()
    (line,) = (line for line in maps if str(tmp_path / SINGLE) in line)
    assert " rw-p " in line  # private: copied on write
    assert (tmp_path / SINGLE).read_bytes() == before
    assert load(tmp_path)["a"].eq(1).all()
    del a
    gc.collect()
    assert str(tmp_path / SINGLE) not in Path("/proc/self/maps").read_text()


def test_a_tensor_travels_alone(tmp_path):
    """Copying, pickling and sharing one tensor does not take the whole file along."""
    save_weights(tmp_path, {"big": torch.zeros(1_000_000), "small": torch.ones(10)})
    small = load(tmp_path)["small"]
    assert small.untyped_storage().nbytes() == 40
    assert copy.deepcopy(small).untyped_storage().nbytes() == 40
    assert len(pickle.dumps(small)) < 2000
    assert same(small.share_memory_(), torch.ones(10))


def hollow(folder: Path, megabytes: int, n: int = 10) -> None:
    """A file of n zero tensors that takes no room on the disk."""
    size = megabytes * 2**20 // n
    entries = {f"t{i}": entry("F32", [size // 4], [i * size, (i + 1) * size]) for i in range(n)}
    head = json.dumps(entries).encode()
    with open(folder / SINGLE, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + n * size)


def test_reading_is_mapping_in_memory(tmp_path):
    hollow(tmp_path, 200)
    load(tmp_path)  # what is paid once
    before = psutil.Process().memory_full_info()
    tensors = load(tmp_path)
    after = psutil.Process().memory_full_info()
    assert sum(tensor.nbytes for tensor in tensors.values()) > 199 * 2**20
    assert after.rss - before.rss < 2**21
    assert after.uss - before.uss < 2**21


def test_reading_is_mapping_in_time(tmp_path):
    hollow(tmp_path, 500, n=400)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        load(tmp_path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # a copy of the bytes takes longer; about 0.01 here


def test_unaligned_tensors_are_copied_to_an_aligned_place(tmp_path):
    raw = torch.arange(4, dtype=torch.float64).view(torch.uint8).numpy().tobytes()
    put(tmp_path, {"pad": entry("U8", [3], [0, 3]), "x": entry("F64", [4], [3, 35])}, b"abc" + raw)
    x = load(tmp_path)["x"]
    assert x.data_ptr() % 8 == 0
    assert same(x, torch.arange(4, dtype=torch.float64))


@pytest.mark.parametrize("limit", ["1GB", 50])
def test_headers_alone(tmp_path, limit):
    tensors = some_tensors()
    save_weights(tmp_path, tensors, max_shard_size=limit)
    with Weights.open(Source(str(tmp_path))) as weights:
        mapped, metadata = weights.tensors, weights.metadata
    with Weights.open(Source(str(tmp_path)), meta=True) as weights:
        assert weights.tensors == mapped
        assert weights.metadata == metadata
        assert {name: info.nbytes for name, info in mapped.items()} == {name: t.nbytes for name, t in tensors.items()}
        for name, tensor in tensors.items():
            read = weights.read(name)
            assert (read.is_meta, read.dtype, read.shape) == (True, tensor.dtype, tensor.shape)
        with pytest.raises(KeyError):
            weights.read("no such tensor")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_file_that_the_system_promises_no_memory_for(tmp_path):
    """Mapped to be written to, it counts as memory; its header does not."""
    hollow(tmp_path, 40_000)
    code = (
        "import re, resource, sys\n"
        "from minihf.checkpoints.files import Source, Weights\n"
        "used = 1024 * int(re.search(r'VmSize:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "Weights.open(Source(sys.argv[1]), meta=True)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, -1))\n"
        "try:\n"
        "    Weights.open(Source(sys.argv[1]))\n"
        "except MemoryError as error:\n"
        "    print(error)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert f"{tmp_path / SINGLE}: the system promises no memory" in done.stdout, done.stderr
    assert "device_map='meta'" in done.stdout


# The hub's cache: snapshots of links into ../../blobs


def hub_cache(folder: Path, cache: Path, commit: str = "c" * 40) -> None:
    repository = cache / "models--org--tiny"
    for path in folder.iterdir():
        blob, link = repository / "blobs" / f"{commit}-{path.name}", repository / "snapshots" / commit / path.name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("limit", ["1GB", 100])
def test_hub_cache(tmp_path, limit):
    tensors = some_tensors()
    save_weights(tmp_path / "saved", tensors, max_shard_size=limit)
    hub_cache(tmp_path / "saved", tmp_path / "hub")
    with Weights.open(Source("org/tiny", cache_dir=tmp_path / "hub")) as weights:
        assert_same({name: weights.read(name) for name in weights.tensors}, tensors)


@pytest.mark.parametrize("limit", ["1GB", 100])
def test_a_branch_that_moves_mixes_no_commits(tmp_path, monkeypatch, limit):
    """The branch moves on just after the first file was found; everything else still comes from that file's commit."""
    tensors = some_tensors()
    save_weights(tmp_path / "saved", tensors, max_shard_size=limit)
    hub_cache(tmp_path / "saved", tmp_path / "hub")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / INDEX).write_text("{}")
    find = Source.find

    def moving(source, filename):
        path = find(source, filename)
        if path is not None and not (tmp_path / "hub/models--org--tiny/snapshots" / ("d" * 40)).exists():
            hub_cache(tmp_path / "later", tmp_path / "hub", "d" * 40)
        return path

    monkeypatch.setattr(Source, "find", moving)
    with Weights.open(Source("org/tiny", cache_dir=tmp_path / "hub")) as weights:
        assert_same({name: weights.read(name) for name in weights.tensors}, tensors)
    assert (tmp_path / "hub/models--org--tiny/refs/main").read_text() == "d" * 40


def test_cached_single_file_is_enough_when_the_hub_is_out_of_reach(tmp_path):
    save_weights(tmp_path / "saved", {"a": torch.ones(3)})
    hub_cache(tmp_path / "saved", tmp_path / "hub")
    code = (
        "import time; time.sleep = lambda seconds: None\n"
        "from minihf.checkpoints.files import Source, Weights\n"
        "print(Weights.open(Source('org/tiny')).read('a').tolist())"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout == "[1.0, 1.0, 1.0]\n", done.stderr


# Weights that are not safetensors, or not there


def test_pickles_are_not_opened_and_the_way_out_works(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    monkeypatch.chdir(tmp_path)
    shared = torch.randn(3, 4)
    torch.save({"a": shared, "tied": shared}, "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.randn(4, 3).t()}, "pytorch_model-00002-of-00002.bin")
    (tmp_path / "training_args.bin").write_bytes(pickle.dumps(Bomb()))
    told = error_of(tmp_path)
    assert not (tmp_path / "boom").exists()
    assert "Only safetensors are loaded, because opening a pickle can run any code" in told
    advice = "\n".join(line.removeprefix("    ") for line in told.splitlines()[1:])
    exec(advice, {})
    ours = load(tmp_path)
    assert set(ours) == {"a", "tied", "b"}
    assert same(ours["a"], shared)
    assert same(ours["tied"], shared)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5", "flax_model.msgpack"])
def test_other_formats(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    told = error_of(tmp_path)
    assert name in told
    assert "Only safetensors are loaded" in told


def test_pickles_in_the_hub_s_cache(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "pytorch_model.bin").write_bytes(b"x")
    hub_cache(tmp_path / "saved", tmp_path / "hub")
    with pytest.raises(CheckpointError, match=r"repository 'org/tiny' .* \('pytorch_model.bin'\). Only safetensors"):
        Weights.open(Source("org/tiny", cache_dir=tmp_path / "hub"))


def test_no_weights(tmp_path):
    for name in ("config.json", "training_args.bin", "optimizer.pt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has no weights \(model.safetensors or .*it holds 'config.json',"):
        Weights.open(Source(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no folder"):
        Weights.open(Source("org/nobody"))


# Broken and lying files


def entry(dtype="F32", shape=(2,), place=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


def put(folder: Path, header: object, data: bytes = bytes(8), *, length: int | None = None) -> None:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / SINGLE).write_bytes((len(head) if length is None else length).to_bytes(8, "little") + head + data)


def test_the_smallest_true_file(tmp_path):
    put(tmp_path, {"a": entry()})
    assert same(load(tmp_path)["a"], torch.zeros(2))
    put(tmp_path, b'{"a":{"shape":[0,5],"dtype":"I8","data_offsets":[0,0]}}   ', b"")
    assert load(tmp_path)["a"].shape == (0, 5)
    put(tmp_path, {}, b"")
    assert load(tmp_path) == {}


HUGE = 2**62
def file(header: object, **changes: object) -> dict:
    return {"header": header, **changes}


LIES = {
    "length of header": (file({"a": entry()}, length=10**6), "truncated, or no safetensors file"),
    "absurd length of header": (file({"a": entry()}, length=2**64 - 1), "a header of 18446744073709551615 bytes"),
    "no JSON": (file(b'{"a": nonsense}'), "not JSON: line 1, column 7"),
    "no UTF-8": (file(b'{"\xff": 1}'), "not UTF-8, so not JSON: line 1, byte 3"),
    "no object": (file([1, 2]), "a JSON object was expected"),
    "nested": (file(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "nested too deeply"),
    "many digits": (file(b'{"a": ' + b"9" * 5000 + b"}"), "digits"),
    "twice": (file(b'{"a": 1, "a": 2}'), "'a' is given twice"),
    "metadata": (file({"__metadata__": {"format": 1}}, data=b""), "'__metadata__'"),
    "metadata list": (file({"__metadata__": ["pt"]}, data=b""), "'__metadata__'"),
    "entry": (file({"a": 5}), "'a' is described by 5"),
    "entry without keys": (file({"a": {}}), "'a' has the dtype None"),
    "unknown dtype": (file({"a": entry("F33")}), "'a' has the dtype 'F33'; known are F64, F32"),
    "dtype list": (file({"a": entry(["F32"])}), "'a' has the dtype ['F32']"),
    "negative shape": (file({"a": entry(shape=[-1, -2])}), "the shape [-1, -2]"),
    "fractional shape": (file({"a": entry(shape=[2.0])}), "the shape [2.0]"),
    "bool shape": (file({"a": entry(shape=[True, 2])}), "the shape [True, 2]"),
    "shape text": (file({"a": entry() | {"shape": "2"}}), "the shape '2'"),
    "absurd shape": (file({"a": entry(shape=[HUGE, HUGE])}), "which no tensor has"),
    "absurd shape of nothing": (file({"a": entry(shape=[0, HUGE, 2], place=[0, 0])}, data=b""), "no tensor has"),
    "many dimensions": (file({"a": entry(shape=[1] * 65 + [2])}), "which no tensor has"),
    "shape too large": (file({"a": entry(shape=[3])}), "'a' takes 12 bytes as F32 [3], but lies at"),
    "dtype too small": (file({"a": entry("F16")}), "'a' takes 4 bytes as F16 [2]"),
    "one offset": (file({"a": entry(place=[8])}), "two positions were expected"),
    "negative offset": (file({"a": entry(place=[-8, 0])}), "two positions were expected"),
    "backward offsets": (file({"a": entry(place=[8, 0])}), "takes 8 bytes"),
    "hole": (file({"a": entry(), "b": entry(place=[12, 20])}, data=bytes(20)), "'b' leaves a hole before it"),
    "hole at the start": (file({"a": entry(place=[4, 12])}, data=bytes(12)), "'a' leaves a hole before it"),
    "overlap": (file({"a": entry(), "b": entry(place=[4, 12])}, data=bytes(12)), "'b' overlaps the one before"),
    "one inside another": (
        file(
            {"a": entry(shape=[3], place=[0, 12]), "b": entry("I8", place=[4, 6]), "c": entry(place=[12, 20])},
            data=bytes(20),
        ),
        f"{SINGLE}: 'b' overlaps the one before it: it begins at byte 4 of the data instead of 12",
    ),
    "past the end": (file({"a": entry(), "b": entry(place=[8, 16])}), "truncated: its tensors take 16 bytes"),
    "something after": (file({"a": entry()}, data=bytes(9)), "1 bytes follow its last tensor"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(tmp_path, lie):
    lying, expected = LIES[lie]
    put(tmp_path, **lying)
    told = error_of(tmp_path)
    assert told.startswith(str(tmp_path / SINGLE) + ": ")
    assert expected in told


def test_short_files(tmp_path):
    for data in (b"", b"1234567"):
        (tmp_path / SINGLE).write_bytes(data)
        assert f"{len(data)} bytes make no safetensors file" in error_of(tmp_path)


def test_everything_wrong_is_told_at_once(tmp_path):
    put(tmp_path, {"a": entry("F33"), "b": entry(shape=[-1]), "c": entry(shape=[7]), "d": entry()})
    told = error_of(tmp_path)
    assert "3 things are wrong" in told
    assert all(f"\n  - '{name}' " in told for name in "abc")
    put(tmp_path, {f"t{i}": 0 for i in range(5000)})
    assert "5000 things are wrong" in (told := error_of(tmp_path))
    assert told.endswith("and 4900 more")


def test_a_link_to_nothing_and_a_folder(tmp_path):
    (tmp_path / SINGLE).symlink_to(tmp_path / "nowhere")
    assert "link to a file that is gone" in error_of(tmp_path)
    (tmp_path / SINGLE).unlink()
    (tmp_path / SINGLE).mkdir()
    assert "is not a file but a folder" in error_of(tmp_path)


def fuzzed(seed: int) -> bytes:
    """A valid file with one change: a bit, a byte, a cut, an insertion, or a number or word of the header."""
    rng = random.Random(seed)
    tensors = {"a": torch.randn(2, 3), "b.c": torch.arange(5), "d": torch.ones(2).bool(), "e": torch.ones(0)}
    file = bytearray(safetensors.torch.save(tensors, {"format": "pt"}))
    header = 8 + int.from_bytes(file[:8], "little")
    at = rng.randrange(header) if rng.random() < 0.7 else rng.randrange(header, len(file))
    match rng.randrange(6):
        case 0:
            file[at] ^= 1 << rng.randrange(8)
        case 1:
            file[at] = rng.randrange(256)
        case 2:
            del file[rng.randrange(len(file)) :]
        case 3:
            del file[at : at + rng.randrange(1, 9)]
        case 4:
            file[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 5:
            parsed = json.loads(file[8:header])
            chosen = parsed[rng.choice(["a", "b.c", "d", "e"])]
            wild = [-1, 0, 1, 2, 3, 6, 8, 24, 64, 2**31, 2**62, 2**63, 2**64, 10**30, 1.5, True, None, "F16", [], {}]
            match rng.choice(["dtype", "shape", "data_offsets"]):
                case "dtype":
                    chosen["dtype"] = rng.choice([*wild, *DTYPES])
                case key if rng.random() < 0.5:
                    chosen[key] = rng.choices(wild, k=rng.randrange(4))
                case key:
                    chosen[key][rng.randrange(len(chosen[key]))] = rng.choice(wild)
            text = json.dumps(parsed).encode()
            file[:header] = len(text).to_bytes(8, "little") + text
    return bytes(file)


def test_fuzz(tmp_path):
    """A changed file means what the library says it means, or gives one CheckpointError; nothing else, ever."""
    opened, refused = 0, 0
    for seed in range(1500):
        data = fuzzed(seed)
        (tmp_path / SINGLE).unlink(missing_ok=True)
        (tmp_path / SINGLE).write_bytes(data)
        try:
            theirs = safetensors.torch.load(data)
        except Exception:
            theirs = None
        try:
            ours, told = load(tmp_path), None
        except CheckpointError as error:
            ours, told = None, str(error)
        if ours is None:
            assert told.startswith(str(tmp_path / SINGLE)), seed
            assert theirs is None, f"seed {seed}: the library reads what we refuse: {told}"
            refused += 1
        else:
            assert_same(ours, {name: tensor.clone() for name, tensor in ours.items()} if theirs is None else theirs)
            opened += 1
    assert opened > 100
    assert refused > 500


# Shards and their index


@pytest.fixture
def sharded(tmp_path) -> Path:
    save_weights(tmp_path, {"a": torch.ones(4), "b": torch.ones(5), "c": torch.ones(6)}, max_shard_size=20)
    assert len(list(tmp_path.iterdir())) == 4
    return tmp_path


def shard(i: int) -> str:
    return f"model-0000{i}-of-00003.safetensors"


def reindex(folder: Path, **changes: object) -> None:
    index = read_json(folder / INDEX)
    index["weight_map"] |= changes
    write_json(folder / INDEX, index)


@pytest.mark.parametrize(
    "index, expected",
    [
        ("[]", "a JSON object was expected"),
        ("{", "not JSON: line 1, column 2"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map": {}}', "no 'weight_map'"),
        ('{"weight_map": ["model.safetensors"]}', "no 'weight_map'"),
        ('{"weight_map": {"a": 1}}', "no 'weight_map'"),
    ],
)
def test_index_that_is_none(sharded, index, expected):
    (sharded / INDEX).write_text(index)
    told = error_of(sharded)
    assert told.startswith(str(sharded / INDEX))
    assert expected in told


@pytest.mark.parametrize(
    "name", ["../{}", "/tmp/{}", "sub/../../{}", "..\\{}", "C:\\{}", "", "\0", ".", "sub", "x" * 5000]
)
def test_index_that_leads_elsewhere(sharded, name):
    (sharded / "sub").mkdir()
    (sharded / shard(3)).rename(sharded.parent / shard(3))
    reindex(sharded, c=name.format(shard(3)))
    told = error_of(sharded)
    assert told.startswith(str(sharded / INDEX))
    assert "refused" in told or "is not a file" in told or "is not there" in told
    (sharded.parent / shard(3)).unlink()


def test_index_may_name_files_of_a_subfolder(sharded):
    (sharded / "sub").mkdir()
    (sharded / shard(3)).rename(sharded / "sub" / "third.safetensors")
    reindex(sharded, c="sub/third.safetensors")
    assert same(load(sharded)["c"], torch.ones(6))


def test_index_everything_wrong_at_once(sharded):
    (sharded / shard(1)).unlink()
    (sharded / shard(2)).write_bytes((sharded / shard(2)).read_bytes()[:-3])
    reindex(sharded, x="../x", y=shard(3), c="other.safetensors")
    told = error_of(sharded)
    assert told.startswith(f"{sharded / INDEX}: 6 things are wrong:")
    assert f"the file '{shard(1)}' is not there" in told
    assert f"{sharded / shard(2)}: truncated" in told
    assert "'../x' is refused" in told
    assert f"'{shard(3)}' lacks 'y', which the index promises" in told
    assert f"'{shard(3)}' holds 'c', not listed for it" in told
    assert "the file 'other.safetensors' is not there" in told


def test_two_sets_of_weights(sharded):
    safetensors.torch.save_file({"a": torch.zeros(4)}, sharded / SINGLE)
    told = error_of(sharded)
    assert str(sharded / SINGLE) in told
    assert str(sharded / INDEX) in told
    assert "delete the stale one" in told
    for i in (1, 2, 3):
        (sharded / shard(i)).unlink()
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": SINGLE}}))  # no conflict: both say the same
    assert load(sharded)["a"].eq(0).all()


# Saving


@pytest.mark.parametrize("limit", ["50GB", 40, 1])
def test_the_library_reads_what_is_saved(tmp_path, limit):
    tensors = some_tensors()
    paths = save_weights(tmp_path / "new" / "folder", tensors, max_shard_size=limit)
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    assert len(paths) == {"50GB": 1, 40: len(paths), 1: len(tensors) + 1}[limit]
    theirs = {}
    for path in paths:
        if path.suffix == ".safetensors":
            theirs |= safetensors.torch.load_file(path)
            with safetensors.safe_open(path, "pt") as file:
                assert file.metadata() == {"format": "pt"}
    assert_same(tensors, theirs)
    assert_same(load(tmp_path / "new" / "folder"), tensors)


def test_shards(tmp_path):
    tensors = {name: torch.ones(n) for name, n in {"a": 10, "b": 15, "huge": 100, "c": 5, "d": 20}.items()}
    paths = save_weights(tmp_path, tensors, max_shard_size=100)
    assert [path.name for path in paths] == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), INDEX]
    index = read_json(paths[-1])
    assert index["metadata"] == {"total_size": 600, "total_parameters": 150}
    assert index["weight_map"] == {"a": shard(1), "b": shard(1), "huge": shard(2), "c": shard(3), "d": shard(3)}
    with Weights.open(Source(str(tmp_path))) as weights:
        assert list(weights.tensors) == list(tensors)
        assert {name: info.file.name for name, info in weights.tensors.items()} == index["weight_map"]


def test_any_strides_and_shared_storage(tmp_path):
    x = torch.randn(4, 6, requires_grad=True)
    tensors = {"x": x, "t": x.t(), "slice": x[1:3, ::2], "tied": x, "wide": x[0, :1].expand(5), "view": x.view(24)[3:]}
    save_weights(tmp_path, tensors)
    assert_same(load(tmp_path), {name: tensor.detach() for name, tensor in tensors.items()})


def test_every_tensor_is_aligned(tmp_path):
    """Odd counts of narrow types do not push wide ones off their places."""
    tensors = {"a": torch.ones(3).bool(), "b": torch.ones(1), "c": torch.ones(3).half(), "d": torch.ones(1).double()}
    save_weights(tmp_path, tensors)
    with Weights.open(Source(str(tmp_path))) as weights:
        at = {name: weights._storages[name].data_ptr() for name in tensors}
    assert [at[name] % tensor.dtype.itemsize for name, tensor in tensors.items()] == [0, 0, 0, 0]


def test_what_cannot_be_saved(tmp_path):
    save_weights(tmp_path, {"a": torch.ones(3)})
    tensors = {
        "sparse": torch.eye(3).to_sparse(), "meta": torch.ones(3, device="meta"), "complex": torch.ones(2).cfloat(),
        "fine": torch.ones(2), "__metadata__": torch.ones(2),
    }  # fmt: skip
    with pytest.raises(ValueError, match="these are none") as told:
        save_weights(tmp_path, tensors)
    assert [name for name in tensors if repr(name) in str(told.value)] == ["sparse", "meta", "complex", "__metadata__"]
    assert load(tmp_path)["a"].eq(1).all()


def test_save_over_the_files_that_tensors_are_mapped_from(tmp_path):
    old = some_tensors()
    save_weights(tmp_path, old)
    mapped = load(tmp_path)
    mapped["a.weight"].add_(1)
    for limit in ("1GB", 50, 40, "1GB"):
        save_weights(tmp_path, mapped, max_shard_size=limit)
        assert_same(load(tmp_path), mapped)
    assert_same(mapped, old | {"a.weight": old["a.weight"] + 1})


@pytest.mark.parametrize("first, second", [("1GB", 20), (20, "1GB"), (20, 36), (36, 20), (20, 20), ("1GB", "1GB")])
def test_nothing_stale_stays(tmp_path, first, second):
    others = {"config.json", "pytorch_model.bin", "adapter_model.safetensors", "my-model-00001-of-00002.safetensors"}
    for name in others:
        (tmp_path / name).write_text("{}")
    tensors = {name: torch.randn(5) for name in "abc"}
    save_weights(tmp_path, {"old": torch.ones(4)} | {name: torch.ones(5) for name in "xyz"}, max_shard_size=first)
    paths = save_weights(tmp_path, tensors, max_shard_size=second)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths} | others
    assert_same(load(tmp_path), tensors)


@pytest.mark.parametrize("first, second", [("1GB", 20), (20, "1GB"), (20, 20), ("1GB", "1GB")])
def test_an_interrupted_save_never_mixes_two_checkpoints(tmp_path, monkeypatch, first, second):
    """Wherever it stops, the folder holds the old weights, the new ones, or an error."""
    old, new = ({name: torch.full((5,), value) for name in "abc"} for value in (1.0, 2.0))
    replace, states = os.replace, set()
    for stop in range(6):
        folder = tmp_path / str(stop)
        save_weights(folder, old, max_shard_size=first)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        renames = 0

        def failing(source, target, folder=folder, stop=stop):
            nonlocal renames
            if Path(target).parent == folder:
                renames += 1
                if renames > stop:
                    raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", failing)
        try:
            save_weights(folder, new, max_shard_size=second)
        except KeyboardInterrupt:
            states.add("interrupted")
        monkeypatch.setattr(files.os, "replace", replace)
        assert not list(folder.glob(".*"))
        if renames == 1 and stop == 0 and second == "1GB":
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        try:
            found = load(folder)
        except (CheckpointError, FileNotFoundError):
            states.add("error")
        else:
            assert {float(tensor[0]) for tensor in found.values()} in ({1.0}, {2.0})
            states.add("whole")
    assert {"interrupted", "whole"} <= states


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    save_weights(tmp_path, {"old": torch.ones(4)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in ("1GB", "600KB"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))  # the first shard fits, the second does not
        try:
            with pytest.raises(OSError, match="File too large"):
                save_weights(tmp_path, {"a": torch.ones(100_000), "b": torch.ones(200_000)}, max_shard_size=limit)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_copies_one_tensor_at_a_time(tmp_path):
    """Eight transposed tensors of 24 MiB, each of which must be copied to be written: the peak is one of them."""
    code = (
        "import re, sys, torch\n"
        "from minihf.checkpoints.files import save_weights\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "tensors = {f't{i}': torch.zeros(2048, 3072).add_(1).t() for i in range(8)}\n"
        "save_weights(sys.argv[1], {'warm': torch.ones(3).t()})\n"
        "before = peak()\n"
        "save_weights(sys.argv[1], tensors)\n"
        "print((peak() - before) // 1024)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert 10 < int(done.stdout) < 60  # MiB


def test_transformers_both_ways(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=31, n_positions=8)).eval()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != "lm_head.weight"}
    ids = torch.arange(6)[None]
    for limit in ("5GB", "10KB"):
        ours = tmp_path / f"ours-{limit}"
        save_weights(ours, state, max_shard_size=limit)
        theirs.config.save_pretrained(ours)
        again, report = GPT2LMHeadModel.from_pretrained(ours, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.equal(again(ids).logits, theirs(ids).logits)
        theirs.save_pretrained(tmp_path / f"theirs-{limit}", max_shard_size=limit)
        assert_same(load(tmp_path / f"theirs-{limit}"), state)
    assert (tmp_path / "ours-10KB" / INDEX).is_file()
    assert (tmp_path / "theirs-10KB" / INDEX).is_file()


# Sizes


@pytest.mark.parametrize(
    "size, expected",
    [
        (1, 1), (10**12, 10**12), ("7", 7), ("7B", 7), ("50GB", 50 * 10**9), ("1KB", 1000), ("3 MB", 3 * 10**6),
        ("2KiB", 2048), ("5MiB", 5 * 2**20), ("1GiB", 2**30), ("1TB", 10**12), ("1.5GB", 15 * 10**8), ("0.5KiB", 512),
    ],
)  # fmt: skip
def test_parse_size(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", ["", "GB", "5 gigabytes", "5gb", "5Gb", "-5GB", "1e9", "5GB5", "5XB", 0, "0GB", -1, 5e9, None, True]
)
def test_parse_size_that_is_none(size):
    with pytest.raises(ValueError, match="the size"):
        parse_size(size)


# JSON


def test_json_both_ways(tmp_path):
    value = {"b": 1, "a": [1.5, None, True], "é": "日本", "nested": {"z": {}, "y": "line\nbreak"}}
    path = tmp_path / "config.json"
    write_json(path, value)
    assert read_json(path) == value
    assert list(read_json(path)) == list(value)
    assert path.read_text().startswith('{\n  "b": 1,\n  "a": [')
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    path.write_bytes(b"\xef\xbb\xbf" + '{"é": 1}'.encode())  # as some editors save it
    assert read_json(path) == {"é": 1}
    path.write_text('{"a": 1, "a": 1, "b": Infinity}')  # twice, and no lie
    assert read_json(path) == {"a": 1, "b": float("inf")}
    path.write_text('{"a": NaN}')
    assert read_json(path)["a"] != read_json(path)["a"]


@pytest.mark.parametrize(
    "text, expected",
    [
        (b"", "line 1, column 1"),
        (b'{\n  "a": 1,\n  b: 2}', "line 3, column 3"),
        (b'{\n"a": "\xe9"}', "not UTF-8, so not JSON: line 2, byte 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[1]", "a JSON object was expected; it holds [1]"),
        (b'"text"', "a JSON object was expected; it holds 'text'"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"x": {"a": 1, "a": 2}}', "the key 'a' is given twice"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "digits"),
    ],
)
def test_json_that_is_none(tmp_path, text, expected):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError) as told:
        read_json(path)
    assert str(told.value).startswith(f"{path}: ")
    assert expected in str(told.value)


def test_json_nested_at_every_depth(tmp_path):
    """Just below the parser's own limit, telling what is wrong must not pass it either."""
    for depth in range(900, 1000):
        put(tmp_path, b'{"a":' + b"[" * depth + b"]" * depth + b"}", b"")
        error_of(tmp_path)


def test_json_that_cannot_be_written_leaves_the_file(tmp_path):
    write_json(tmp_path / "config.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "config.json", {"a": object()})
    assert read_json(tmp_path / "config.json") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1
