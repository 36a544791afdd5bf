"""Each recipe in a short run on its offline task: it beats its baseline, and leaves a model, a card and a curve.

The margins are those of a few dozen steps on a part of the data; the README has those of whole runs.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest
import torch
from huggingface_hub import ModelCard

from minihf import AutoTokenizer, pipeline

TRAIN = Path(__file__).resolve().parents[2] / "train"
RECIPES = ("answer", "classify", "clm", "mlm", "summarize", "tag", "tokenizer", "translate")
# What makes a run short, and by how much a metric of the model is then at least better than the best baseline's.
SHORT = {
    "answer": ("--source-bytes 1000000 --max-steps 60 --layers 2 --width 64", "F1", 0.03),
    "classify": ("--source-bytes 2500000 --max-steps 100", "accuracy", 0.1),
    "clm": ("--source-bytes 1000000 --max-steps 80 --layers 2 --width 64 --vocab-size 400", "perplexity", -20.0),
    "mlm": ("--source-bytes 2000000 --max-steps 100 --layers 2 --width 64 --vocab-size 500", "perplexity", -20.0),
    "summarize": ("--source-bytes 2500000 --max-steps 80 --width 64 --max-test 60", "rougeL", 0.01),
    "tag": ("--source-bytes 1000000 --max-steps 100 --width 64", "accuracy", 0.02),
    "tokenizer": ("--source-bytes 400000 --vocab-size 1000", "characters per token", 1.0),
    "translate": ("--source-bytes 2500000 --max-steps 150 --width 64 --max-length 32 --max-test 150", "chrF", 1.0),
}


@pytest.fixture
def recipe(monkeypatch):
    """A recipe by its name, as a module. Two of them run here as they are run by people; all share this process."""
    monkeypatch.syspath_prepend(str(TRAIN))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"train_{name}", TRAIN / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("name", RECIPES)
def test_a_short_run_beats_the_baseline(recipe, name, tmp_path, capsys):
    options, metric, margin = SHORT[name]
    recipe(name).main([*options.split(), "--out", str(tmp_path / name)])
    results = json.loads((tmp_path / name / "results.json").read_text())
    *baselines, own = results["scores"].values()
    print(name, json.dumps(results, indent=1))
    better = min if margin < 0 else max
    best = better(values[metric] for values in baselines if metric in values)
    gain = own[metric] - best
    assert gain / margin >= 1 if margin else gain > 0, results
