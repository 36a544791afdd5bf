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
    "answer": ("--source-bytes 1000000 --max-steps 120 --layers 2 --width 64", "F1", 0.05),
    "classify": ("--source-bytes 2500000 --max-steps 200", "accuracy", 0.05),
    "clm": ("--source-bytes 1000000 --max-steps 80 --layers 2 --width 64 --vocab-size 400", "perplexity", -20.0),
    "mlm": ("--source-bytes 2000000 --max-steps 150 --layers 2 --width 64 --vocab-size 500", "perplexity", -20.0),
    "summarize": ("--source-bytes 8000000 --max-steps 400 --max-length 64 --max-test 60", "rougeL", 0.02),
    "tag": ("--source-bytes 1000000 --max-steps 100 --width 64", "accuracy", 0.02),
    "tokenizer": ("--source-bytes 500000 --vocab-size 1000", "characters per token", 1.0),
    "translate": ("--max-steps 130 --layers 1 --max-length 32 --max-test 100", "BLEU", 2.0),
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
    assert {path.stem for path in TRAIN.glob("*.py")} == {*SHORT, "common", "seq2seq"}


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
    """Local files, columns of other names, texts without a pair, one class only in the file to judge by; and a second
    run that goes on from the first, which was shorter than ten steps.
    """
    lines = [f'"{i} {word}",{kind}' for i in range(40) for word, kind in (("good", "up"), ("bad", "down"))]
    (tmp_path / "train.csv").write_text("\n".join(["words,tone", *lines]))
    (tmp_path / "test.csv").write_text("\n".join(["words,tone", *lines[::2]]))
    data = ["--train-file", str(tmp_path / "train.csv"), "--test-file", str(tmp_path / "test.csv")]
    data += ["--columns", "tone", "words", "--learning-rate", "1e-3", "--vocab-size", "90", "--width", "32"]
    first, second = tmp_path / "first", tmp_path / "second"
    classify = recipe("classify")
    classify.main([*data, "--max-steps", "8", "--out", str(first)])
    classify.main([*data, "--max-steps", "20", "--model", str(first), "--out", str(second)])
    results = json.loads((second / "results.json").read_text())
    assert results["scores"]["this model"]["accuracy"] == 1
    assert {each["label"] for each in pipeline("text-classification", str(second))(["7 good", "7 bad"])} == {
        "up",
        "down",
    }
    assert "baseline: always" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["summarize", "translate"])
def test_what_writes_goes_on_from_a_run_and_answers_in_a_pipeline(recipe, name, tmp_path, monkeypatch, capsys):
    """A folder with data as a data set's name; texts longer than the model's positions; too long a --max-length."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data, first, second = tmp_path / "data", tmp_path / "first", tmp_path / "second"
    data.mkdir()
    rows = [f"say {word} twice {'on ' * 700 * (word == 'one')},{word} {word}" for word in ("one", "two", "six")]
    for part in ("train", "test"):
        (data / f"{part}.csv").write_text("\n".join(["body,title", *rows * 8]))
    options = ["--dataset", str(data), "--columns", "body", "title", "--width", "32", "--vocab-size", "300"]
    options += ["--max-length", "20", "--learning-rate", "1e-2"]
    main = recipe(name).main
    main([*options, "--max-steps", "40", "--out", str(first)])
    assert capsys.readouterr().out.count("24 rows to train on, 24 held out") == 1
    main([*options, "--max-steps", "40", "--model", str(first), "--out", str(second)])
    assert "two two" in capsys.readouterr().out
    (answer,) = pipeline("text2text-generation", str(second))("say two twice ")
    assert answer["generated_text"] == "two two"
    with pytest.raises(SystemExit, match=r"--max-length 700 is more than the 512 positions of .*first"):
        main([*options, "--max-length", "700", "--model", str(first), "--out", str(second)])


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("classify", "--train-file text.csv --dataset glue", "only one can be read"),
        ("classify", "--train-file text.pdf", "is none of .csv, .json, .jsonl, .txt"),
        ("classify", "--train-file none.csv", "none.csv is no file"),
        ("classify", "--train-file empty.csv", "empty.csv is empty"),
        ("classify", "--train-file head.csv --columns label text", "head.csv cannot be read as csv"),
        ("classify", "--train-file one.csv --columns label text", "of 1 rows none can be held out"),
        ("classify", "--train-file gaps.csv --columns label text", "rows to train have no value.*{'label': 1}"),
        (
            "classify",
            "--train-file gaps.csv --columns label words",
            "the columns .*'text'.*, not .'words'.: name yours",
        ),
        ("classify", "--train-file gaps.csv --test-file bad.json", "of two kinds"),
        ("classify", "--test-file gaps.csv", "without --train-file"),
        ("classify", "--columns a b c d", "--columns takes 2 to 3 names"),
        ("translate", "--columns a", "--columns takes 2 names, for docstring signature; 1 came"),
        ("translate", "--train-file words.csv --columns text number", "column for 'signature' holds int64"),
        ("translate", "--width 30", "--width 30 is no multiple of 4"),
        ("tag", "--train-file bad.json", "bad.json cannot be read as json"),
        ("tag", "--train-file words.csv --columns text label", "words and tags are lists"),
        ("answer", "--train-file words.csv --columns label label2 text", "answers are such as"),
        ("clm", "--train-file odd.txt", "odd.txt cannot be read as text"),
        ("clm", "--source-bytes 10", "0 rows to train on and 0 to judge by are too few"),
    ],
)
def test_what_cannot_be_read_is_told(recipe, name, options, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    for file, text in {
        "empty.csv": "",
        "head.csv": "label,text\n",
        "one.csv": "label,text\nup,a b\n",
        "gaps.csv": "label,text\nup,a b\n,c d\ndown,e f\nup,g h\n",
        "words.csv": "label,label2,text,number\n" + "up,up,a b,7\n" * 4,
        "bad.json": "{",
    }.items():
        Path(file).write_text(text)
    Path("odd.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SystemExit, match=told):
        recipe(name).main([*options.split(), "--out", str(tmp_path)])


def test_the_end_of_a_text_is_held_out(recipe, tmp_path, capsys):
    (tmp_path / "book.txt").write_text("".join(f"line {i} of a book\n" for i in range(200)))
    folder = tmp_path / "out"
    options = "--max-steps 2 --layers 1 --width 32 --max-length 32 --vocab-size 300 --batch-size 4"
    recipe("clm").main([*options.split(), "--train-file", str(tmp_path / "book.txt"), "--out", str(folder)])
    assert "1 rows to train on, 1 held out" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text())["scores"]["this model"]["loss"] > 0


def test_help_tells_the_baseline(recipe, capsys):
    for name in ("classify", "tokenizer"):
        with pytest.raises(SystemExit) as stopped:
            recipe(name).main(["--help"])
        assert stopped.value.code == 0
        assert "baseline" in capsys.readouterr().out
