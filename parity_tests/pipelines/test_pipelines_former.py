"""What the current reference has dropped, beside what release 4.57.6 answered (scripts/make_pipeline_fixtures.py)."""

import json
import warnings
from pathlib import Path

import pytest

from minihf import pipeline
from parity_tests.pipelines.agreement import differences

STORED = json.loads((Path(__file__).parents[1] / "fixtures" / "pipelines.json").read_text())


@pytest.mark.parametrize("name", sorted({case["checkpoint"] for case in STORED}))
def test_every_stored_answer_is_given(checkpoint, name):
    wrong = []
    for case in STORED:
        if case["checkpoint"] == name:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that these are former spellings
                pipe = pipeline(case["task"], checkpoint(name), device="cpu", **case["options"])
                answer = pipe(*case["inputs"], **case["call"])
            asked = {key: case[key] for key in ("options", "inputs", "call")}
            wrong += [f"{asked}: {text}" for text in differences(answer, case["answer"], types=False)]
    assert wrong == []
