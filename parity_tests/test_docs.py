"""The page docs/course.md: its Python runs, on tiny checkpoints that stand in the hub's cache under the names it asks
for."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minihf.pipelines.tasks import TASKS
from parity_tests.pipelines.checkpoints import write_checkpoint
from parity_tests.pipelines.writers import write_writer

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "c" * 40
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
    "bert-base-cased": "states",
    "bert-base-uncased": "states",
    "distilbert-base-uncased": "masks-distilbert",
    "sentence-transformers/all-MiniLM-L6-v2": "states",
    "huggingface-course/bert-finetuned-ner": "ner",
    "huggingface-course/distilbert-base-uncased-finetuned-imdb": "masks-distilbert",
    "huggingface-course/marian-finetuned-kde4-en-to-fr": "marian",
    "huggingface-course/mt5-small-finetuned-amazon-en-es": "t5",
    "huggingface-course/codeparrot-ds": "gpt2",
    "huggingface-course/bert-finetuned-squad": "questions",
}


def put(cache: Path, name: str, revision: str, checkpoint: Path) -> None:
    """As a download would have left it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(checkpoint, repository / "snapshots" / COMMIT, dirs_exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(COMMIT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder, made = tmp_path_factory.mktemp("hub"), {}
    wanted = [(TASKS[task].checkpoint, TASKS[task].revision, name) for task, name in DEFAULTS.items()]
    for hub_name, revision, name in [*wanted, *((hub_name, "main", name) for hub_name, name in NAMED.items())]:
        if name not in made:
            write = write_writer if name in ("gpt2", "marian", "llama", "bart", "t5") else write_checkpoint
            made[name] = write(name, tmp_path_factory.mktemp(name))
        put(folder, hub_name, revision, made[name])
    return folder


def test_the_course_runs(cache, tmp_path):
    page = (ROOT / "docs" / "course.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 10
    script = tmp_path / "course.py"
    text = "\n".join(blocks)
    assert "max_length=30" in text  # of words; the tiny vocabulary has letters
    script.write_text(text.replace("max_length=30", "max_length=60"))
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
