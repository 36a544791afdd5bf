"""The benchmark measures what it says, in turn; how long anything takes is nobody's business here."""

import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench  # noqa: E402
import bench_cases  # noqa: E402

SIDES = {"ours", "reference"}


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "bench.py"), *args]
    return subprocess.run(command, text=True, capture_output=True, timeout=240)


@pytest.mark.parametrize(
    "case, row",
    [
        ("import", "the package"),
        ("load", "GPT-2 small, and a forward of 8 tokens"),
        ("encode", "MiniLM-sized: 2 ragged texts"),
        ("generate", "GPT-2 2x32, 8 texts, beam 4"),
        ("generate", "Llama, 2 layers, 32 wide, 8 texts"),
        ("train", "AdamW, GPT-2 small's parameters; torch's default"),
        ("pipelines", "text-classification, 8 sentences, the best batch size"),
        ("gpu", "Llama of 7B, 1 text, bfloat16, graph"),
    ],
)
def test_the_report_of_a_row_has_every_figure(case, row):
    done = run("--quick", "--rounds", "2", "--threads", "1", "--json", case, "--only", row)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["environment"]["threads"] == 1
    assert report["environment"]["quick"] is True
    (figures,) = report["rows"]
    assert figures["case"] == case
    assert figures["name"].startswith(row)
    rounds = figures["rounds"]
    assert all(len(times) == 2 for times in rounds.values())
    ratios = sorted(ours / reference for ours, reference in zip(rounds["ours"], rounds["reference"], strict=True))
    expected = [np.quantile(ratios, part) for part in (0.25, 0.5, 0.75)]
    assert [figures["ratio"][name] for name in ("low", "median", "high")] == pytest.approx(expected)
    assert figures["seconds"] == pytest.approx({side: np.median(times) for side, times in rounds.items()})
    sides = SIDES | {"peer"} if case == "generate" else SIDES
    for figure in ("seconds", "peak"):
        assert set(figures[figure]) == sides
        assert all(value > 0 for value in figures[figure].values())
    assert set(figures["added"]) == set(figures["private"]) == sides
    if case == "generate":
        ratios = [ours / peer for ours, peer in zip(rounds["ours"], rounds["peer"], strict=True)]
        assert figures["peer"]["name"] == "ctranslate2"
        assert figures["peer"]["ratio"]["median"] == pytest.approx(np.median(ratios))
    assert (figures["file"] is None) == (case in ("import", "train", "gpu"))
    assert figures["met"] == (None if figures["goal"] is None else figures["ratio"]["median"] <= figures["goal"])


def test_the_table_has_a_line_for_a_row():
    name = "GPT-2 2x32, 1 text, greedy"
    done = run("--quick", "--rounds", "2", "--threads", "1", "generate", "--only", name)
    assert done.returncode == 0, done.stderr
    assert "tiny sizes" in done.stdout
    assert re.search(rf"^generate: {name} +\d.* 0\.30 (met|missed) .* token ", done.stdout, re.M), done.stdout
    assert re.search(r"^ +\d.* of ctranslate2's +\d", done.stdout, re.M), done.stdout


def test_the_list_names_every_case(capsys):
    assert bench.main(["--list"]) == 0
    listed = capsys.readouterr().out
    cases = {"import", "load", "encode", "generate", "pipelines", "train", "gpu"}
    assert {line.split()[0] for line in listed.splitlines()} == cases


@pytest.mark.parametrize(
    "args, reason",
    [(["boil"], "no case boil; there are import, load"), (["load", "--only", "T5"], "no row has 'T5' in its name")],
)
def test_a_case_or_row_that_is_not_there_is_refused(args, reason, capsys):
    assert bench.main(args) == 2
    assert reason in capsys.readouterr().err


def test_without_the_reference_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert bench.main(["load"]) == 2
    assert 'pip install "minihf[parity]"' in capsys.readouterr().err


class Recorder:
    """A worker that notes when it was asked."""

    def __init__(self, side, log):
        self.side, self.log, self.seconds = side, log, iter(range(1, 100))

    def ask(self, runs):
        self.log.append((self.side, runs))
        return {"seconds": 0.01 * next(self.seconds), "peak": len(self.log)}


def test_the_sides_take_turns_and_who_begins_changes():
    log = []
    times, peak = bench.take_turns({side: Recorder(side, log) for side in ("ours", "reference")}, rounds=3)
    rounds = [log[i : i + 2] for i in range(0, len(log), 2)]
    assert [[side for side, _ in turn] for turn in rounds] == [
        ["ours", "reference"],  # how long is a run?
        ["reference", "ours"],  # warming up
        ["ours", "reference"],
        ["reference", "ours"],
        ["ours", "reference"],
    ]
    assert {runs for _, runs in log[2:]} == {round(bench.TURN / 0.01)}  # both as often
    assert times["ours"] == times["reference"] == pytest.approx([0.03, 0.04, 0.05])  # the first two do not count
    assert peak == {"ours": 9, "reference": 10}


@pytest.mark.parametrize(
    "theirs, message",
    [
        (np.array([[3, 1, 4]]), None),
        (np.array([[3, 1, 5]]), "differ by up to 1"),
        (np.array([[3, 1]]), r"\(1, 3\) and \(1, 2\)"),
    ],
)
def test_different_work_is_refused(tmp_path, theirs, message):
    for name, result in (("ours.npy", np.array([[3, 1, 4]])), ("reference.npy", theirs)):
        np.save(tmp_path / name, result)
    if message is None:
        bench.check_same_work(tmp_path / "ours.npy", tmp_path / "reference.npy")
    else:
        with pytest.raises(bench.BenchError, match=message):
            bench.check_same_work(tmp_path / "ours.npy", tmp_path / "reference.npy")


def test_what_a_worker_died_of_is_told(tmp_path):
    row = bench_cases.cases(quick=True)["encode"][0]
    args = Namespace(quick=True, threads=1)
    with (
        bench.Worker("minihf", "encode", row, args, tmp_path) as worker,  # no checkpoint was made in its folder
        pytest.raises(bench.BenchError, match=r"(?s)minihf ended:.*config\.json"),
    ):
        worker.ask()


@pytest.mark.parametrize("quick", [False, True])
def test_names_of_rows_are_unique(quick):
    for rows in bench_cases.cases(quick).values():
        assert len({row.name for row in rows}) == len(rows)


def test_what_comes_before_is_done_as_often_and_taken_off(monkeypatch):
    clock, done = iter([0.0, 7.0, 10.0, 12.0, 20.0, 29.0, 40.0, 41.0]), []
    monkeypatch.setattr(bench_cases.time, "perf_counter", lambda: next(clock))
    job = bench_cases.Job(lambda: done.append("whole"), before=lambda: done.append("before"))
    assert bench_cases.timed(job, 2) == ((7 - 2) + (9 - 1)) / 2
    assert done == ["whole", "before"] * 2


def test_a_token_after_a_prompt_is_timed_without_the_prompt(tmp_path):
    row = next(row for row in bench_cases.cases(quick=True)["generate"] if row.name == "Llama, a token after 8")
    row.checkpoint().save_pretrained(tmp_path)
    for library in ("minihf", "transformers"):
        job = row.prepare(library, tmp_path)
        assert job.run().shape == (1, 8 + 1 + row.units)
        assert torch.equal(job.before(), job.run()[:, : 8 + 1])
