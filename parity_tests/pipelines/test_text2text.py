"""Text to text, summaries, translations, beside what release 4.57.6 answered (scripts/make_text2text_fixtures.py)."""

import json
from pathlib import Path

import pytest
import torch

from minihf import pipeline
from parity_tests.pipelines.agreement import differences

STORED = json.loads((Path(__file__).parents[1] / "fixtures" / "text2text.json").read_text())


def listed(answer):
    """As a file has it."""
    return json.loads(json.dumps(answer, default=lambda ids: ids.tolist()))


@pytest.mark.parametrize("name", sorted({case["checkpoint"] for case in STORED}))
@pytest.mark.filterwarnings("ignore")  # "translation" alone says no languages, and texts are short
def test_every_stored_answer_is_given(writer, name):
    parts = pipeline("text2text-generation", writer(name), device="cpu")
    parts = {"model": parts.model, "tokenizer": parts.tokenizer, "device": "cpu"}
    wrong = []
    for case in STORED:
        if case["checkpoint"] == name:
            pipe = pipeline(case["task"], **parts, **case["options"])
            inputs = iter(case["inputs"]) if case["generator"] else case["inputs"]
            torch.manual_seed(5)
            answer = pipe(inputs, **case["call"])
            answer = listed(list(answer) if case["generator"] else answer)
            asked = {key: case[key] for key in ("task", "options", "inputs", "call")}
            wrong += [f"{asked}: {text}" for text in differences(answer, case["answer"], types=False)]
    assert wrong == []
