"""The training steps that the benchmark times are the same work on both sides."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_losses


@pytest.mark.parametrize("row", bench_losses.rows(quick=True), ids=lambda row: row.name)
def test_a_training_step_is_the_same_on_both_sides(row, tmp_path):
    torch.manual_seed(0)
    row.checkpoint().save_pretrained(tmp_path)
    ours, theirs = (row.prepare(library, tmp_path) for library in ("minihf", "transformers"))
    losses = []
    for _ in range(3):  # the second depends on the first one's gradients
        mine, other = (job.show(job.run()) for job in (ours, theirs))
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        losses.append(mine.item())
    assert losses[2] < losses[0]
