"""Each recipe in a short run on its offline task: it beats its baseline, and leaves a model, a card and a curve.

The margins are those of a few dozen steps on a part of the data; the README has those of whole runs.
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import matplotlib.image
import pytest
from huggingface_hub import ModelCard

from minihf import AutoTokenizer, pipeline

TRAIN = Path(__file__).resolve().parents[2] / "train"
# What makes a run short, and by how much a metric of the model is then at least better than the best baseline's. Below
# zero: less is better.
SHORT = {
    "answer": ("--source-bytes 1000000 --max-steps 60 --layers 2 --width 64", "F1", 0.03),
    "classify": ("--source-bytes 2500000 --max-steps 100", "accuracy", 0.05),
    "clm": ("--source-bytes 1000000 --max-steps 80 --layers 2 --width 64 --vocab-size 400", "perplexity", -20.0),
    "mlm": ("--source-bytes 2000000 --max-steps 150 --layers 2 --width 64 --vocab-size 500", "perplexity", -20.0),
    "summarize": ("--source-bytes 2500000 --max-steps 80 --width 64 --max-test 60", "rougeL", 0.02),
    "tag": ("--source-bytes 1000000 --max-steps 100 --width 64", "accuracy", 0.02),
    "tokenizer": ("--source-bytes 500000 --vocab-size 1000", "characters per token", 1.0),
    "translate": ("--source-bytes 2500000 --max-steps 150 --width 64 --max-length 32 --max-test 150", "chrF", 1.0),
}


@pytest.fixture
def recipe(monkeypatch):
    """A recipe by its name, as a module that finds its neighbours as when it is run."""
    monkeypatch.syspath_prepend(str(TRAIN))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"train_{name}", TRAIN / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_these_are_all_recipes():
    assert {path.stem for path in TRAIN.glob("*.py")} == {*SHORT, "common"}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_run_beats_the_baseline(recipe, name, tmp_path, capsys):
    options, metric, margin = SHORT[name]
    folder = tmp_path / name
    recipe(name).main([*options.split(), "--out", str(folder)])
    scores = json.loads((folder / "results.json").read_text())["scores"]
    own = scores.popitem()[1][metric]
    rivals = [values[metric] for who, values in scores.items() if who.startswith("baseline") and metric in values]
    assert (own - max(rivals) >= margin) if margin > 0 else (own - min(rivals) <= margin), (own, rivals)

    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "minihf"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results}[metric] == round(own, 4)
    assert "baseline" in card.content
    assert matplotlib.image.imread(folder / "curve.png").shape[:2] == (675, 1200)
    assert metric.split()[0] in capsys.readouterr().out
    assert len(AutoTokenizer.from_pretrained(folder)) >= 300


def test_what_was_trained_answers_in_a_pipeline_and_is_trained_on(recipe, tmp_path, capsys):
    """Local files, columns of other names, texts without a pair; and a second run that goes on from the first."""
    lines = [f'"{i} {word}",{kind}' for i in range(40) for word, kind in (("good", "up"), ("bad", "down"))]
    (tmp_path / "train.csv").write_text("\n".join(["words,tone", *lines]))
    data = ["--train-file", str(tmp_path / "train.csv"), "--test-file", str(tmp_path / "train.csv")]
    data += ["--columns", "tone", "words", "--learning-rate", "1e-3", "--vocab-size", "90", "--width", "32"]
    first, second = tmp_path / "first", tmp_path / "second"
    classify = recipe("classify")
    classify.main([*data, "--max-steps", "10", "--out", str(first)])
    classify.main([*data, "--max-steps", "15", "--model", str(first), "--out", str(second)])
    results = json.loads((second / "results.json").read_text())
    assert results["scores"]["this model"]["accuracy"] == 1
    assert {each["label"] for each in pipeline("text-classification", str(second))(["7 good", "7 bad"])} == {
        "up",
        "down",
    }
    assert "baseline: always" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--train-file text.csv --dataset glue", "only one can be read"),
        ("--train-file text.pdf", "is none of .csv, .json, .jsonl, .txt"),
        ("--columns a b c d", "--columns takes at most 3 names"),
    ],
)
def test_arguments_that_cannot_be_are_told(recipe, options, told, tmp_path):
    with pytest.raises(SystemExit, match=told):
        recipe("classify").main([*options.split(), "--out", str(tmp_path)])


def test_help_tells_the_baseline(recipe, capsys):
    for name in ("classify", "tokenizer"):
        with pytest.raises(SystemExit) as stopped:
            recipe(name).main(["--help"])
        assert stopped.value.code == 0
        assert "baseline" in capsys.readouterr().out
