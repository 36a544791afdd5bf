"""`minihf parity`: the table, its JSON, and its exit status."""

import json

import pytest
import torch

from minihf.checkpoints.hub import CheckpointError
from minihf.inspection import families, parity
from minihf.inspection.pairs import make_pair
from minihf.models.bert import BertForSequenceClassification, BertForTokenClassification
from minihf.models.gpt2 import GPT2ForSequenceClassification, GPT2LMHeadModel
from minihf.nn import attention


@pytest.fixture
def one_class(monkeypatch):
    """All of the table takes a minute; one class shows what it does."""
    monkeypatch.setattr(parity, "heads_of", lambda model_type: {"BertForTokenClassification": "ForTokenClassification"})
    monkeypatch.setattr(parity, "FAMILIES", {"bert": families.FAMILIES["bert"]})


def unscaled(*args, **kw):
    return attention.attend(*args, **{**kw, "scale": 1.0})


def test_in_tolerance_is_0_and_a_row_a_class(one_class, capsys):
    assert parity.run_command(None) == 0
    out = capsys.readouterr().out
    assert "BertForTokenClassification" in out
    assert "yes" in out
    assert "tolerance: float32 1e-05, float64 1e-10" in out


def test_over_tolerance_is_1_and_says_where(one_class, capsys, monkeypatch):
    monkeypatch.setattr("minihf.models.bert.attend", unscaled)
    assert parity.run_command(None) == 1
    out = capsys.readouterr().out
    assert "NO" in out
    assert "the output of bert.encoder.layer.0.attention.self is the first to differ" in out


def test_json(one_class, capsys):
    assert parity.run_command(None, json_output=True) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["rows"]
    assert report["ok"] is row["ok"] is True
    assert row["names"] == ["bert", "BertForTokenClassification"]
    assert 0 < row["errors"]["float32 gradients"] <= 1e-5
    assert 0 < row["errors"]["float64 gradients"] <= 1e-10
    assert set(row["errors"]) == {f"{d} {k}" for d in ("float32", "float64") for k in ("outputs", "gradients")}


def test_a_checkpoint_layer_by_layer(tmp_path, capsys, monkeypatch):
    make_pair("bert", "BertForTokenClassification").ours.save_pretrained(tmp_path)
    assert parity.run_command(str(tmp_path), json_output=True) == 0
    names = [row["names"][0] for row in json.loads(capsys.readouterr().out)["rows"]]
    layers = [f"bert.encoder.layer.{i}" for i in range(3)]
    assert names == ["bert.embeddings", *layers, "classifier", "(all outputs)", "(all gradients)"]

    layer = BertForTokenClassification.from_pretrained(tmp_path).bert.encoder["layer"][0]
    forward = type(layer).forward

    def slightly_wrong_in_layer_1(self, *args, **kw):
        return forward(self, *args, **kw) + (self.attention["self"].layer == 1) * 1e-3

    monkeypatch.setattr(type(layer), "forward", slightly_wrong_in_layer_1)
    assert parity.run_command(str(tmp_path), json_output=True) == 1
    ok = {row["names"][0]: row["ok"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert [ok[name] for name in names[:4]] == [True, True, False, False]


def test_a_head_that_the_file_lacks_is_the_same_on_both_sides(tmp_path):
    """Each side would draw its own, and the table would blame a layer for it."""
    make_pair("bert", "BertForMaskedLM").ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["architectures"]  # so it is read as a BertModel, whose pooler is not in the file
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert parity.run_command(str(tmp_path)) == 0


@pytest.mark.parametrize(
    "cls, fields",
    [
        (GPT2ForSequenceClassification, {"vocab_size": 9, "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 30}),
        (GPT2LMHeadModel, {"vocab_size": 3, "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 8}),
        (
            BertForSequenceClassification,
            {
                "vocab_size": 9,
                "hidden_size": 6,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "num_labels": 3,
                "problem_type": "regression",
            },
        ),
    ],
)
def test_checkpoints_of_other_people(cls, fields, tmp_path):
    """Without a pad token, with few words or few positions, with several numbers to predict."""
    cls(cls.config_class(**fields)).save_pretrained(tmp_path)
    assert parity.run_command(str(tmp_path)) == 0


def test_a_nan_is_told_in_valid_json(one_class, capsys, monkeypatch):
    def broken(*args, **kw):
        context, weights = attention.attend(*args, **kw)
        return context * torch.nan, weights

    monkeypatch.setattr("minihf.models.bert.attend", broken)
    assert parity.run_command(None, json_output=True) == 1
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["errors"]["float32 outputs"] == "nan"


def test_what_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"no architecture llama9; there are bert, distilbert, "):
        parity.run_command(None, architectures=["bert", "llama9"])
    with pytest.raises(FileNotFoundError):
        parity.run_command("no-such-folder/at-all")


def test_a_checkpoint_that_is_broken_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        parity.run_command(str(tmp_path))
