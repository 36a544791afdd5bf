"""DistilBERT beyond the harness: files as they are published, the table of waves, what its config refuses."""

import json
import logging
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minihf
from minihf import AutoConfig, AutoModel, AutoModelForSequenceClassification, DistilBertConfig, DistilBertModel
from minihf.inspection.batches import make_batch, randomise
from minihf.inspection.pairs import heads_of, make_pair
from minihf.models.architectures import class_for

SMALL = {"vocab_size": 41, "dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 17, "max_position_embeddings": 9}
NEW = {
    "DistilBertForMaskedLM": {
        "vocab_transform.weight",
        "vocab_transform.bias",
        "vocab_layer_norm.weight",
        "vocab_layer_norm.bias",
        "vocab_projector.bias",
    },
    "DistilBertForSequenceClassification": {
        "pre_classifier.weight",
        "pre_classifier.bias",
        "classifier.weight",
        "classifier.bias",
    },
    "DistilBertForMultipleChoice": {
        "pre_classifier.weight",
        "pre_classifier.bias",
        "classifier.weight",
        "classifier.bias",
    },
    "DistilBertForTokenClassification": {"classifier.weight", "classifier.bias"},
    "DistilBertForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
}
# As distilbert-base-uncased-finetuned-sst-2-english has it, but for the sizes.
SST2 = {
    "activation": "gelu",
    "architectures": ["DistilBertForSequenceClassification"],
    "attention_dropout": 0.1,
    "dim": 12,
    "dropout": 0.1,
    "finetuning_task": "sst-2",
    "hidden_dim": 17,
    "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
    "initializer_range": 0.02,
    "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
    "max_position_embeddings": 9,
    "model_type": "distilbert",
    "n_heads": 3,
    "n_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "vocab_size": 41,
}


def publish(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def random_model(cls, **changes):
    model = cls(cls.config_class(**{**SMALL, **changes})).eval()
    randomise(model)
    return model


def test_a_sentiment_model_as_published_loads(tmp_path):
    model = random_model(minihf.DistilBertForSequenceClassification)
    publish(tmp_path, SST2, model.state_dict())
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(ours).__name__ == "DistilBertForSequenceClassification"
    assert ours.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert ours.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    assert ours.config.hidden_size == 12
    assert ours.config.num_hidden_layers == 2
    assert ours.config.finetuning_task == "sst-2"  # nobody reads it, and it is kept
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.testing.assert_close(ours(ids, mask).logits, theirs(ids, mask).logits)


def test_the_defaults_are_the_base_models():
    config, theirs = DistilBertConfig(), transformers.DistilBertConfig()
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "hidden_dim", "activation", "qa_dropout"):
        assert getattr(config, name) == getattr(theirs, name)
    assert config.to_dict()["dim"] == 768
    assert "hidden_size" not in config.to_dict()
    assert DistilBertConfig(hidden_size=24, num_attention_heads=2, num_hidden_layers=1).dim == 24


def test_an_old_file_loads(tmp_path):
    """Norms as gamma and beta, the buffer of positions, no projector (it is tied)."""
    model = random_model(minihf.DistilBertForMaskedLM)
    old = {}
    for key, x in model.state_dict().items():
        if "norm" in key.lower():
            key = key.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[key] = x.clone()
    del old["vocab_projector.weight"]
    old["distilbert.embeddings.position_ids"] = torch.arange(9)[None]
    publish(tmp_path, model.config.to_dict(), old)
    loaded, info = minihf.DistilBertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["stale"] == ["distilbert.embeddings.position_ids"]
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("prefix", ["", "distilbert."])
@pytest.mark.parametrize("name", NEW)
def test_a_base_checkpoint_in_a_head_names_the_heads_parameters_as_new(name, prefix, tmp_path, caplog):
    base = random_model(DistilBertModel)
    publish(tmp_path, base.config.to_dict(), {prefix + key: x for key, x in base.state_dict().items()})
    caplog.set_level(logging.WARNING, logger="minihf")
    model, info = getattr(minihf, name).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == NEW[name]
    assert not info["unexpected_keys"]
    assert all(key in caplog.text for key in NEW[name])
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model.distilbert(ids).last_hidden_state, base(ids).last_hidden_state)


def test_a_head_in_the_base_model_is_left_aside(tmp_path):
    random_model(minihf.DistilBertForMaskedLM).save_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is DistilBertModel
    assert info["unexpected_keys"] == NEW["DistilBertForMaskedLM"]


@pytest.mark.parametrize("sizes", [(9, 12), (23, 15), (512, 768)])
def test_the_table_of_waves_is_the_references(sizes):
    positions, dim = sizes
    sizes = {**SMALL, "n_layers": 0, "max_position_embeddings": positions, "dim": dim, "sinusoidal_pos_embds": True}
    ours = DistilBertModel(DistilBertConfig(**sizes)).embeddings.position_embeddings
    theirs = transformers.DistilBertModel(transformers.DistilBertConfig(**sizes)).embeddings.position_embeddings
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-7)
    assert ours.weight[0, :4].tolist() == [0, 1, 0, 1]
    assert ours.weight.requires_grad == theirs.weight.requires_grad


def test_a_table_of_waves_in_a_file_is_taken_as_it_is(tmp_path):
    saved = random_model(DistilBertModel, sinusoidal_pos_embds=True)  # whose table is no longer waves
    saved.save_pretrained(tmp_path)
    loaded = DistilBertModel.from_pretrained(tmp_path)
    assert loaded.config.sinusoidal_pos_embds
    assert torch.equal(loaded.embeddings.position_embeddings.weight, saved.embeddings.position_embeddings.weight)
    theirs = transformers.DistilBertModel.from_pretrained(tmp_path)
    assert torch.equal(theirs.embeddings.position_embeddings.weight, saved.embeddings.position_embeddings.weight)


def test_a_table_of_waves_that_no_file_has_is_made(tmp_path):
    saved = random_model(DistilBertModel, sinusoidal_pos_embds=True)
    saved.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["embeddings.position_embeddings.weight"]
    publish(tmp_path, saved.config.to_dict(), tensors)
    loaded = minihf.DistilBertForMaskedLM.from_pretrained(tmp_path, strict=False)
    fresh = DistilBertModel(saved.config)
    table = loaded.distilbert.embeddings.position_embeddings.weight
    assert torch.equal(table, fresh.embeddings.position_embeddings.weight)
    assert torch.equal(loaded.distilbert.embeddings.LayerNorm.weight, saved.embeddings.LayerNorm.weight)


def test_loading_a_table_of_waves_does_not_import_the_compiler(tmp_path):
    random_model(DistilBertModel, sinusoidal_pos_embds=True).save_pretrained(tmp_path)
    code = f"""
import sys
from minihf import DistilBertForTokenClassification
DistilBertForTokenClassification.from_pretrained({str(tmp_path)!r})
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name, task", heads_of("distilbert").items())
def test_there_are_no_token_types(name, task):
    model = random_model(class_for("distilbert", task))
    assert not any("token_type" in key or "pooler" in key for key in model.state_dict())
    ids = make_batch(model, task, "full")["input_ids"]
    with pytest.raises(TypeError, match="token_type_ids"):
        model(ids, token_type_ids=torch.zeros_like(ids))


def test_positions_of_choices_come_as_the_ids_or_flat_where_the_reference_takes_them_flat_only():
    pair = make_pair("distilbert", "DistilBertForMultipleChoice")
    ids = make_batch(pair.ours, pair.task, "full")["input_ids"]
    positions = torch.arange(ids.shape[-1]).flip(0).expand(ids.shape)
    expected = pair.theirs.eval()(ids, position_ids=positions.flatten(0, 1)).logits
    for given in (positions, positions.flatten(0, 1), positions[:1, 0]):
        torch.testing.assert_close(pair.ours.eval()(ids, position_ids=given).logits, expected)
    with pytest.raises(RuntimeError):
        pair.theirs(ids, position_ids=positions)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"activation": "maxout"}, "activation='maxout' is not implemented"),
        ({"dim": 13}, "dim=13 must be a multiple of n_heads=3"),
        ({"hidden_size": 13}, "dim=13 must be a multiple"),
        ({"n_layers": -1}, "n_layers=-1"),
        ({"hidden_dim": 0}, "hidden_dim=0"),
        ({"qa_dropout": 1.5}, "qa_dropout=1.5 is no probability"),
        ({"seq_classif_dropout": -0.1}, "seq_classif_dropout=-0.1"),
        ({"pad_token_id": 41}, "pad_token_id=41 is outside the vocabulary"),
        ({"sinusoidal_pos_embds": "yes"}, "sinusoidal_pos_embds"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        DistilBertConfig(**{**SMALL, **wrong})


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="10 tokens, but the model has 9 positions"):
        random_model(DistilBertModel)(torch.ones(1, 10, dtype=torch.long))


def test_question_answering_has_two_labels():
    with pytest.raises(ValueError, match="num_labels=3"):
        minihf.DistilBertForQuestionAnswering(DistilBertConfig(**SMALL, num_labels=3))


def test_the_auto_classes_know_it(tmp_path):
    random_model(DistilBertModel).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), DistilBertConfig)
    for task in ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"):
        auto = getattr(minihf, f"AutoModelFor{task}")
        theirs = getattr(transformers, f"AutoModelFor{task}")
        model = auto.from_pretrained(tmp_path)
        assert type(model).__name__ == type(theirs.from_pretrained(tmp_path)).__name__
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        minihf.AutoModelForCausalLM.from_pretrained(tmp_path)
