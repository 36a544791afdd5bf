"""`Trainer` under torchrun: two processes get the single one's result, go on, stop and fail together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minihf import GPT2LMHeadModel, TrainingArguments
from minihf.checkpoints.files import read_json
from parity_tests.training import trainer_run
from parity_tests.training.trainer_run import CASES, TEXTS, gpt2, log, trainer

ROOT = Path(__file__).resolve().parents[2]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[dict, dict, Path, subprocess.CompletedProcess]:
    """What two processes found, all in one start of torchrun."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [*TWO, trainer_run.__file__, folder],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (folder / "results.pt").exists(), done.stderr[-5000:]
    further = json.loads((folder / "further.json").read_text())
    return torch.load(folder / "results.pt", weights_only=False), further, folder, done


def same(found, expected, where=""):
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            same(found[name], expected[name], f"{where} {name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where} {i}")
    elif isinstance(expected, torch.Tensor):
        tolerance = {"rtol": 1e-9, "atol": 1e-10} if expected.dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(found, expected, **tolerance, msg=lambda text: where + text)
    else:
        assert found == pytest.approx(expected, rel=1e-6), where


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_two_processes_get_the_single_one_s_result(two, case, tmp_path):
    found = two[0][case.__name__]
    expected = case(tmp_path)
    same(found, expected)


def test_two_processes_get_what_the_reference_gets_in_two(two):
    ours, theirs = two[1]["beside_the_reference"]
    assert len(ours) == len(theirs) == 12  # eight steps, three evaluations, and the sum of it all
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_one_writes_files_that_anybody_reads(two):
    for kind in ("usual", "sharded"):
        folder = two[2] / kind
        assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
        assert {path.name for path in (folder / "checkpoint-5").glob("*.pth")} == {"rng_state_0.pth", "rng_state_1.pth"}
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64)
        assert model.config.architectures == ["GPT2LMHeadModel"]
        for place in (folder, folder / "checkpoint-5"):
            model = GPT2LMHeadModel.from_pretrained(place, dtype=torch.float64)
            assert torch.equal(model.lm_head.weight, two[0][kind]["weights"]["lm_head.weight"])
        assert read_json(folder / "test_results.json")["test_sum"] == pytest.approx(two[0][kind]["metrics"])
        assert len(read_json(folder / "trainer_state.json")["log_history"]) == len(two[0][kind]["log"])
    assert two[3].stdout.count("'spoken'") == 1


def test_a_single_process_goes_on_from_two(two, tmp_path, caplog):
    """The same steps of the same batches, as far as none is drawn: what was seen of the epoch is passed over."""
    settings = {"gradient_accumulation_steps": 2, "max_steps": 5, "eval_strategy": "epoch", "weight_decay": 0.1}
    settings |= {"max_grad_norm": 0.5, "include_num_input_tokens_seen": "all"}
    for kind in ("usual", "sharded"):
        again = trainer(tmp_path, gpt2(), parts={"eval_dataset": TEXTS[:11]}, **settings)
        again.train(resume_from_checkpoint=str(two[2] / kind / "checkpoint-4"))
        for name, tensor in again.model.state_dict().items():
            torch.testing.assert_close(tensor, two[0][kind]["weights"][name], rtol=1e-9, atol=1e-10)
        assert log(again)[-3]["loss"] == pytest.approx(two[0][kind]["log"][-3]["loss"], rel=1e-6)
    assert "another number of processes" in caplog.text


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "stream", "grouped"])
def test_several_processes_go_on_bit_for_bit(two, kind):
    assert two[1]["resumed"][kind] == [[True, True, 4]] * 2


def test_all_stop_early_and_have_the_best_model(two):
    folder = two[2] / "stopped_early"
    assert two[1]["stopped_early"] == [[4, 2, str(folder / "checkpoint-2"), True]] * 2
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]


def test_a_signal_to_one_saves_and_ends_all(two):
    assert two[1]["terminated"] == [[143, 3, True]] * 2
    assert [path.name for path in (two[2] / "terminated" / "stopped").iterdir()] == ["checkpoint-3"]


def test_what_a_callback_asks_for_in_one_is_done_in_all(two):
    assert two[1]["asked_alone"] == [[2, [2]]] * 2


def test_what_cannot_be_is_said_in_all(two):
    expected = [
        "must give each as many",
        "Use DDP",
        "optimizer_cls_and_kwargs",
        "hybrid_shard",
        "there is no checkpoint",
    ]
    for messages in two[1]["refused"]:
        for message, part in zip(messages, expected, strict=True):
            assert part in message


def test_who_is_who(two):
    first, second = two[1]["told"]
    assert first == [[2, 0, 0, 0, True, True], [True] * 3, False, "cpu", 2]
    assert second == [[2, 1, 1, 0, False, False], [False] * 3, True, "cpu", 2]


def test_a_process_that_fails_ends_the_others(two):
    """They have a minute's patience, and are done long before."""
    assert two[3].returncode != 0
    assert "one process fails" in two[3].stderr
    assert (two[2] / "noticed").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fsdp": True}, "torchrun --nproc-per-node=2"),
        ({"fsdp": "full_shard hybrid"}, "'hybrid' is not implemented: choose True, or some of full_shard"),
        ({"fsdp": True, "fsdp_config": {"fsdp_version": 1}}, r"fsdp_config\['version'\]=1 is not implemented"),
        ({"fsdp": True, "fsdp_config": {"backward_prefetch": "x"}}, "'backward_prefetch', which is not implemented"),
        ({"fsdp_config": {"cpu_offload": True}}, "set fsdp=True"),
        ({"deepspeed": {"zero": 3}}, "fsdp=True"),
        ({"local_rank": 1}, "torchrun"),
    ],
)
def test_what_is_wrong_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments("out", **given)
