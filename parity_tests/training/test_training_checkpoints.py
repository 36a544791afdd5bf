"""A run goes on from any of its checkpoints bit for bit; whatever happens in a save, the last good one stays."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minihf import AutoTokenizer, DistilBertConfig, DistilBertModel, GPT2LMHeadModel, LoraConfig, get_peft_model
from minihf.checkpoints.files import CheckpointError
from minihf.training import checkpoints as module
from minihf.training.checkpoints import (
    get_last_checkpoint,
    last_checkpoint,
    load_checkpoint,
    rotate,
    save_checkpoint,
)
from minihf.training.schedules import get_scheduler
from parity_tests.training import resumable_run
from parity_tests.training.resumable_run import STEPS, make, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the runs that are killed have: several threads would round the sums of a gradient in another way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


@pytest.fixture
def saved(tmp_path, whole) -> Path:
    """A copy of one of its checkpoints, to spoil."""
    module.shutil.copytree(whole / "checkpoint-4", tmp_path / "checkpoint-4")
    return tmp_path / "checkpoint-4"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Going on


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_resumed_run_is_the_uninterrupted_one(whole, tmp_path, step):
    """Weights, moments, schedule, random states, data order and losses: each byte of each later checkpoint."""
    run(tmp_path, whole / f"checkpoint-{step}", seed=99)
    assert len(contents(whole / "checkpoint-12")) == 7
    for later in range(step + 1, STEPS + 1):
        assert contents(tmp_path / f"checkpoint-{later}") == contents(whole / f"checkpoint-{later}")


def test_each_part_of_a_checkpoint_matters(whole, tmp_path):
    """Without one of them the run is another: otherwise the test above would be blind to it."""
    model, optimizer, scheduler, state = run(tmp_path / "a", whole / "checkpoint-6")
    losses = {tuple(state["losses"])}
    for number, left_out in enumerate(("optimizer", "scheduler", "rng")):
        with pytest.MonkeyPatch.context() as patch:
            without = {left_out: False if left_out == "rng" else None}
            patch.setattr(resumable_run, "load_checkpoint", lambda *a, w=without, **k: load_checkpoint(*a, **k | w))
            losses.add(tuple(run(tmp_path / left_out, whole / "checkpoint-6")[3]["losses"]))
        assert len(losses) == number + 2, left_out


def test_what_is_restored_lies_where_it_was(whole):
    model, optimizer, scheduler = make()
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    state = load_checkpoint(whole / "checkpoint-7", model=model, optimizer=optimizer, scheduler=scheduler)
    assert (state["step"], state["epoch"], state["batches"]) == (7, 1, 2)
    assert before == {name: p.data_ptr() for name, p in model.named_parameters()}
    assert model.lm_head.weight is model.transformer.wte.weight
    assert scheduler.last_epoch == 7


def test_the_model_of_a_checkpoint_loads_as_any_other(whole):
    model, *_ = make()
    load_checkpoint(whole / "checkpoint-9", model=model)
    loaded = GPT2LMHeadModel.from_pretrained(whole / "checkpoint-9")
    for (name, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_other_modules_adapters_tokenizers_and_arguments(tmp_path):
    plain, copy = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    save_checkpoint(tmp_path / "checkpoint-1", model=plain, state={"best": float("inf")}, arguments={"lr": 1e-3})
    assert load_checkpoint(tmp_path / "checkpoint-1", model=copy) == {"best": float("inf")}
    assert torch.equal(plain.weight, copy.weight)
    assert module.read_json(tmp_path / "checkpoint-1" / "training_args.json") == {"lr": 1e-3}

    config = LoraConfig(target_modules=["c_attn"], init_lora_weights="gaussian")
    wrapped, again = get_peft_model(make()[0], config), get_peft_model(make()[0], config)
    torch.nn.init.zeros_(next(p for p in again.parameters() if p.requires_grad))
    save_checkpoint(tmp_path / "checkpoint-2", model=wrapped, state={"step": 2})
    assert last_checkpoint(tmp_path).name == "checkpoint-2"
    assert load_checkpoint(tmp_path / "checkpoint-2", model=again) == {"step": 2}
    assert not (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    for (name, a), (_, b) in zip(wrapped.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_random_states_of_several_processes(tmp_path, caplog):
    model, *_ = make()
    states = []
    for seed in (1, 2):
        make(seed)
        states.append(module.process_random_state())
    expected = random.random(), torch.rand(2).tolist()
    save_checkpoint(tmp_path / "checkpoint-1", model=model, state={}, rng=states)
    load_checkpoint(tmp_path / "checkpoint-1", model=model, rank=0)
    assert (random.random(), torch.rand(2).tolist()) != expected
    load_checkpoint(tmp_path / "checkpoint-1", model=model, rank=1)
    assert (random.random(), torch.rand(2).tolist()) == expected
    assert not caplog.records
    load_checkpoint(tmp_path / "checkpoint-1", model=model)  # one process goes on from two
    assert "another number of processes" in caplog.text


# Killed, or out of space, while it saves


def test_killed_at_random_moments(tmp_path, whole):
    """After each kill every checkpoint that is there is the uninterrupted run's, and the next run goes on from it."""
    draw, caught = random.Random(0), 0
    script = [sys.executable, Path(resumable_run.__file__), tmp_path]
    with subprocess.Popen(
        script, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as runs:
        for kill in range(10):
            newest = int(last.name.split("-")[1]) if (last := last_checkpoint(tmp_path)) else 0
            runs.stdin.write("go\n")
            runs.stdin.flush()
            child = int(runs.stdout.readline())
            time.sleep(draw.uniform(0.02, 0.3))
            os.kill(child, signal.SIGKILL)
            assert runs.stdout.readline() == "gone\n"
            caught += bool(hidden(tmp_path))
            found = module.checkpoints_in(tmp_path)
            for folder in found:
                assert contents(folder) == contents(whole / folder.name), (kill, folder)
            assert int((last_checkpoint(tmp_path) or Path("x-0")).name.split("-")[1]) >= newest
        runs.stdin.close()
    assert caught, "no kill came while something was written"
    run(tmp_path, last_checkpoint(tmp_path), keep=3)
    assert [folder.name for folder in module.checkpoints_in(tmp_path)] == [f"checkpoint-{n}" for n in (10, 11, 12)]
    assert contents(tmp_path / "checkpoint-12") == contents(whole / "checkpoint-12")
    save_checkpoint(tmp_path / "checkpoint-13", model=make()[0], state={})
    assert hidden(tmp_path) == []


def test_a_checkpoint_is_replaced_without_ever_being_absent(tmp_path, monkeypatch):
    """On Linux in one step; elsewhere a kill between two renames is made good by the next save."""
    model, *_ = make()
    place = save_checkpoint(tmp_path / "checkpoint-1", model=model, state={"n": 1})
    if sys.platform == "linux":
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "rename", None)
            save_checkpoint(place, model=model, state={"n": 2})
        assert load_checkpoint(place, model=model) == {"n": 2}
    monkeypatch.setattr(module, "exchange", lambda a, b: False)
    save_checkpoint(place, model=model, state={"n": 3})
    assert load_checkpoint(place, model=model) == {"n": 3}
    place.rename(tmp_path / f"{module.REPLACED}checkpoint-1")  # and now the machine stops
    assert last_checkpoint(tmp_path) is None
    module.clean(tmp_path)
    assert load_checkpoint(place, model=model) == {"n": 3}
    assert hidden(tmp_path) == []


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["checkpoint-4", "checkpoint-5"])
@pytest.mark.parametrize("at", [200, 9_000, 25_000, "json", "sync"])
def test_a_full_disk(saved, monkeypatch, place, at):
    """In config.json, in the weights, in the moments, in the last file, and when the disk is asked to be done."""
    model, optimizer, scheduler = make()
    load_checkpoint(saved, model=model, optimizer=optimizer, scheduler=scheduler)
    before = contents(saved)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if at == "json":
            monkeypatch.setattr(module, "write_json", no_space)
        elif at == "sync":
            monkeypatch.setattr(module.os, "fsync", no_space)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (at, limit[1]))
        with pytest.raises(OSError, match=r"the disk is full: .*checkpoint-4 is as it was.*save_total_limit") as raised:
            save_checkpoint(
                saved.with_name(place), model=model, optimizer=optimizer, scheduler=scheduler, state={"step": 5}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert raised.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint-4"]
    assert contents(saved) == before


def test_what_no_file_holds_leaves_no_trace(tmp_path):
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        save_checkpoint(tmp_path / "checkpoint-1", model=make()[0], state={"seen": {1, 2}})
    assert list(tmp_path.iterdir()) == []


# What does not fit


def fails(folder: Path, *words: str, parts=None, error=CheckpointError) -> None:
    """Loading says all these words, and changes nothing."""
    model, optimizer, scheduler = parts or make()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    states = str(optimizer.state_dict()), scheduler.state_dict(), random.getstate(), torch.get_rng_state().tolist()
    with pytest.raises(error) as raised:
        load_checkpoint(folder, model=model, optimizer=optimizer, scheduler=scheduler)
    for word in words:
        assert word in str(raised.value)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    after = str(optimizer.state_dict()), scheduler.state_dict(), random.getstate(), torch.get_rng_state().tolist()
    assert after == states


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_missing(saved, name):
    (saved / name).unlink()
    fails(saved, name)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_cut_short(saved, name, part):
    raw = (saved / name).read_bytes()
    (saved / name).write_bytes(raw[: int(len(raw) * part)])
    fails(saved, name)
    assert last_checkpoint(saved.parent) is None


def test_everything_wrong_is_listed_at_once(saved):
    for name in ("optimizer.pt", "trainer_state.json"):
        (saved / name).unlink()
    (saved / "rng_state.pth").write_bytes(b"no archive")
    parts = make(n_embd=10, n_layer=3)
    fails(
        saved,
        "trainer_state.json is missing",
        "transformer.wte.weight: shape (23, 12) in the file, (23, 10) in the model",
        "transformer.h.2.mlp.c_proj.bias: missing from the file",
        "optimizer.pt is missing",
        "rng_state.pth: truncated",
        parts=parts,
    )


def test_another_architecture(saved):
    model = DistilBertModel(DistilBertConfig(vocab_size=11, dim=6, n_heads=2, n_layers=1, hidden_dim=5))
    _, optimizer, scheduler = make()
    words = "embeddings.word_embeddings.weight: missing", "transformer.wte.weight: in the file, unknown to the model"
    fails(saved, *words, parts=(model, optimizer, scheduler))


def test_another_precision(saved):
    model, optimizer, scheduler = make()
    fails(saved, "torch.float32 in the file, torch.bfloat16 in", parts=(model.bfloat16(), optimizer, scheduler))


def test_a_missing_shard(tmp_path):
    model, optimizer, scheduler = make()
    place = save_checkpoint(
        tmp_path / "checkpoint-1", model=model, optimizer=optimizer, scheduler=scheduler, state={"step": 1}
    )
    model.save_pretrained(place, max_shard_size="6KB")
    assert load_checkpoint(place, model=make()[0]) == {"step": 1}
    (gone, *_) = sorted(place.glob("model-0*"))
    gone.unlink()
    fails(place, gone.name, "is not there")
    assert last_checkpoint(tmp_path) is None


def test_another_optimizer_or_schedule(saved):
    model, optimizer, scheduler = make()
    sgd = torch.optim.SGD(optimizer.param_groups, lr=0.1)
    fails(saved, "of another optimizer than SGD: no", "momentum", parts=(model, sgd, scheduler))
    fewer = torch.optim.AdamW([*model.parameters()][:5])
    fails(saved, "groups of [10, 18] parameters", "groups of [5]", parts=(model, fewer, scheduler))
    shuffled = torch.optim.AdamW([{**group, "params": group["params"][::-1]} for group in optimizer.param_groups])
    fails(saved, "exp_avg of parameter 0: shape", "exp_avg_sq of parameter", parts=(model, shuffled, scheduler))
    plateau = get_scheduler("reduce_lr_on_plateau", optimizer)
    fails(saved, "scheduler.pt: of another kind of scheduler", parts=(model, optimizer, plateau))


def test_torch_s_adamw_and_ours_go_on_from_each_other(saved):
    model, ours, scheduler = make()
    theirs = torch.optim.AdamW([{"params": group["params"]} for group in ours.param_groups])
    load_checkpoint(saved, model=model, optimizer=theirs)
    place = save_checkpoint(saved.with_name("checkpoint-5"), model=model, optimizer=theirs, state={})
    load_checkpoint(place, model=model, optimizer=ours)
    assert torch.equal(ours.state[model.lm_head.weight]["exp_avg"], theirs.state[model.lm_head.weight]["exp_avg"])
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]


def test_a_file_that_could_run_code_is_not_opened(saved):
    torch.save(make, saved / "scheduler.pt")
    fails(saved, "scheduler.pt: truncated, or no file of tensors and numbers")


def test_no_such_checkpoint(saved):
    nowhere = saved.with_name("checkpoint-5")
    fails(nowhere, "there is no checkpoint", "beside it are checkpoint-4", error=FileNotFoundError)
    fails(saved / "nowhere" / "checkpoint-5", "nor any beside it", error=FileNotFoundError)


# Which is the last, and which may go


def test_the_last_whole_one(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert get_last_checkpoint(tmp_path) is None
    for step in (2, 10, 9):
        save_checkpoint(tmp_path / f"checkpoint-{step}", model=make()[0], state={})
    (tmp_path / "checkpoint-11").touch()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "my-checkpoint-99").mkdir()
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not caplog.records
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert "checkpoint-12 is passed over" in caplog.text


@pytest.mark.parametrize(
    "limit, keep, left",
    [
        (None, (), [1, 2, 3, 11]),
        (0, (), [1, 2, 3, 11]),
        (4, (), [1, 2, 3, 11]),
        (2, (), [3, 11]),
        (1, (), [11]),
        (2, (1,), [1, 11]),
        (1, (1,), [1, 11]),
        (1, (1, None, 2), [1, 2, 11]),
        (3, (11, 7), [2, 3, 11]),
    ],
)
def test_rotation(tmp_path, monkeypatch, limit, keep, left):
    monkeypatch.chdir(tmp_path)
    for step in (11, 2, 1, 3):
        save_checkpoint(Path("out", f"checkpoint-{step}"), model=torch.nn.Linear(1, 1), state={}, rng=False)
    gone = rotate("out", limit, keep=[n and Path(tmp_path, "out", f"checkpoint-{n}") for n in keep])
    assert [int(path.name.split("-")[1]) for path in module.checkpoints_in("out")] == left
    assert len(gone) == 4 - len(left)
    assert hidden(Path("out")) == []


def test_rotation_keeps_the_last_whole_one(saved):
    saved.with_name("checkpoint-5").mkdir()
    saved.with_name("checkpoint-6").mkdir()
    rotate(saved.parent, 1)
    assert [path.name for path in module.checkpoints_in(saved.parent)] == ["checkpoint-4"]


def test_the_tokenizer_goes_along(tmp_path):
    from tokenizers import Tokenizer, models

    from minihf import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")))
    save_checkpoint(tmp_path / "checkpoint-1", model=make()[0], tokenizer=tokenizer, state={})
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoint-1").get_vocab() == {"a": 0, "b": 1}
