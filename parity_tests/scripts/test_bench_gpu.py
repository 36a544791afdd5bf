"""What `bench.py gpu` reckons with, and its work on shapes so small that a CPU does it."""

import sys
from pathlib import Path

import pytest
import torch
import transformers

import minihf

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench
import bench_gpu

LIBRARIES = pytest.mark.parametrize("library", [minihf, transformers], ids=lambda library: library.__name__)


@LIBRARIES
def test_a_token_reads_every_weight_but_the_tables(library):
    """Those of a 7B model, counted by hand; none is allocated."""
    C, inner, V = 4096, 11008, 32000
    layer = 4 * C * C + 3 * C * inner + 2 * C
    model = bench_gpu.made(library, "Llama", bench_gpu.SHAPES["Llama"], "meta")
    assert bench_gpu.bytes_read(model) == 2 * (32 * layer + C + V * C)


@LIBRARIES
def test_a_table_that_is_the_output_layer_is_read_once(library):
    C, V = 768, 50257
    block = (C * 3 * C + 3 * C) + (C * C + C) + (C * 4 * C + 4 * C) + (4 * C * C + C) + 4 * C
    model = bench_gpu.made(library, "GPT2", bench_gpu.SHAPES["GPT2"], "meta")
    assert bench_gpu.bytes_read(model) == 2 * (12 * block + 2 * C + V * C)


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
@LIBRARIES
def test_it_writes_all_tokens_in_bfloat16(library, kind, monkeypatch):
    monkeypatch.setattr(bench_gpu, "bandwidth", lambda device: 1e6)
    monkeypatch.setattr(bench_gpu, "has_gpu", lambda: False)
    job = bench_gpu.write(library.__name__, Path(), kind, bench_gpu.TINY[kind], tokens=8, prompt=4, fused=False)
    for _ in range(2):
        ids = job.run()
        assert ids.shape == (1, 12)
        assert job.show(ids).tolist() == [1, 12]
    model = bench_gpu.made(library, kind, bench_gpu.TINY[kind], "cpu")
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert job.floor() == bench_gpu.bytes_read(model) / 1e6


def test_the_bandwidth_is_a_speed_that_memory_has():
    assert 1e8 < bench_gpu.bandwidth("cpu") < 1e13


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(bench_gpu, "has_gpu", lambda: False)
    assert bench.main(["gpu"]) == 2
    assert "the case gpu needs a CUDA GPU" in capsys.readouterr().err


def test_the_table_tells_tokens_a_second_and_the_part_of_what_is_possible():
    row = {"case": "gpu", "name": "x", "ratio": dict.fromkeys(("median", "low", "high"), 0.5), "goal": 1.0, "met": True}
    sides = {"ours": 0.004, "reference": 0.008}
    row |= {"seconds": sides, "unit": "token", "reached": {"ours": 0.75, "reference": 0.375}, "floor_goal": 0.7}
    row |= dict.fromkeys(("peak", "added", "private"), sides) | {"file": None, "memory_met": None, "peer": None}
    *_, last = bench.described({**row, "floor_met": True}).splitlines()
    assert "tokens a second" in last
    assert last.endswith("ours 250 (0.75), reference 125 (0.38); goal 0.7 met")
