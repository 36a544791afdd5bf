"""The page docs/course.md: its Python runs, on a stand-in hub with tiny checkpoints under the names it asks for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minihf.checkpoints.publish import files_in
from minihf.pipelines.tasks import TASKS
from parity_tests.pipelines.checkpoints import write_checkpoint
from parity_tests.pipelines.writers import write_writer

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {
    "text-classification": "classes-distilbert",
    "zero-shot-classification": "classes",
    "text-generation": "gpt2",
    "fill-mask": "masks-roberta",
    "token-classification": "ner",
    "question-answering": "questions-distilbert",
    "summarization": "bart",
}
NAMED = {
    "distilgpt2": "gpt2",
    "gpt2": "gpt2",
    "Helsinki-NLP/opus-mt-fr-en": "marian",
    "HuggingFaceTB/SmolLM2-360M-Instruct": "llama",
    "distilbert-base-uncased-finetuned-sst-2-english": "classes-distilbert",
    "distilbert-base-uncased": "masks-distilbert",
    "bert-base-cased": "states",
    "bert-base-uncased": "states",
    "sentence-transformers/all-MiniLM-L6-v2": "states",
    "huggingface-course/bert-finetuned-ner": "ner",
    "huggingface-course/distilbert-base-uncased-finetuned-imdb": "masks-distilbert",
    "huggingface-course/marian-finetuned-kde4-en-to-fr": "marian",
    "huggingface-course/mt5-small-finetuned-amazon-en-es": "t5",
    "huggingface-course/codeparrot-ds": "gpt2",
    "huggingface-course/bert-finetuned-squad": "questions",
}


@pytest.fixture
def filled(hub, tmp_path_factory):
    """The hub, with a checkpoint for each name on the page and each default of a task."""
    made = {}
    wanted = [(TASKS[task].checkpoint, TASKS[task].revision, name) for task, name in DEFAULTS.items()]
    for hub_name, revision, name in [*wanted, *((hub_name, "main", name) for hub_name, name in NAMED.items())]:
        if name not in made:
            write = write_writer if name in ("gpt2", "marian", "llama", "bart", "t5") else write_checkpoint
            made[name] = files_in(write(name, tmp_path_factory.mktemp(name)))
        hub.put(hub_name, {path: file.read_bytes() for path, file in made[name].items()}, revision)
    hub.organizations["my-team"] = {"me"}
    return hub


def test_the_course_runs(filled, tmp_path):
    page = (ROOT / "docs" / "course.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    script = tmp_path / "course.py"
    text = "\n".join(blocks)
    assert "max_length=30" in text  # of words; the tiny vocabulary has letters
    script.write_text(text.replace("max_length=30", "max_length=60"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {**filled.environment, "HF_TOKEN": "secret", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "tokenizer.json", "README.md"} < set(filled["my-team/dummy-model"].files())
    assert "another-branch" in filled["my-team/dummy-model"].branches
    assert filled["me/bert-finetuned-mrpc"].titles()[-1] == "Training complete"
