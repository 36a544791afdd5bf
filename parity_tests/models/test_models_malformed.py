"""Broken and lying checkpoints: each gets one clear error that names the file, at once; nothing is half loaded."""

import json
import logging
import math
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minihf.checkpoints.files import CheckpointError
from minihf.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from minihf.models.bert import BertConfig, BertForMaskedLM, BertModel
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.timeout(30)
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 19}
SIZES |= {"vocab_size": 37, "pad_token_id": 0}


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("bert", "gpt2")}
    BertForMaskedLM(BertConfig(**SIZES, intermediate_size=20)).save_pretrained(folders["bert"])
    GPT2LMHeadModel(GPT2Config(**SIZES)).save_pretrained(folders["gpt2"])
    return folders


@pytest.fixture
def broken(good, tmp_path):
    """A copy of a good folder with something wrong in its config or in its tensors."""

    def folder(kind: str = "bert", config=None, tensors=None) -> Path:
        values = json.loads((good[kind] / "config.json").read_text()) | (config or {})
        (tmp_path / "config.json").write_text(json.dumps(values))
        held = load_file(good[kind] / "model.safetensors")
        save_file(tensors(held) if tensors else held, tmp_path / "model.safetensors")
        return tmp_path

    return folder


def refused(folder: Path, *told: str, load=AutoModel.from_pretrained, file: str = "") -> str:
    """One error, soon, of a size that can be read, that names the file and says what is wrong."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert time.perf_counter() - start < 3
    text = str(error.value)
    assert str(folder / file) in text
    for part in told:
        assert part in text, text
    assert len(text) < 20_000
    return text


# config.json


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "not JSON: line 1"),
        ("{", "not JSON: line 1"),
        ("{'model_type': 'bert'}", "not JSON: line 1"),
        ('{"model_type": "bert",\n "hidden_size": }', "line 2"),
        ('["bert"]', "object was expected"),
        ('"bert"', "object was expected"),
        ("null", "object was expected"),
        ("3", "object was expected"),
        ('{"model_type": "bert", "hidden_size": 12, "hidden_size": 24}', "'hidden_size' is given twice"),
        ("[" * 200_000, ""),
        ('{"a":' * 200_000, ""),
        ('{"model_type": "bert", "hidden_size": ' + "9" * 10_000 + "}", ""),
        ("<html>404</html>", "not JSON"),
    ],
)  # fmt: skip
def test_a_config_that_is_no_object(text, told, broken):
    folder = broken()
    (folder / "config.json").write_text(text)
    for load in (AutoModel.from_pretrained, AutoConfig.from_pretrained, BertModel.from_pretrained):
        refused(folder, told, load=load, file="config.json")


def test_a_config_that_is_no_text(broken):
    folder = broken()
    for content in (b"\xff\xfe\x00{", b"\x80\x81", (folder / "model.safetensors").read_bytes()[:400]):
        (folder / "config.json").write_bytes(content)
        refused(folder, file="config.json")


BAD = [
    ("bert", {"hidden_size": 0}, "hidden_size"),
    ("bert", {"hidden_size": -12}, "hidden_size"),
    ("bert", {"hidden_size": 2**62}, "hidden_size"),
    ("bert", {"hidden_size": "12"}, "hidden_size"),
    ("bert", {"hidden_size": 12.5}, "hidden_size"),
    ("bert", {"hidden_size": 13}, "multiple"),
    ("bert", {"num_attention_heads": 24}, "multiple"),
    ("bert", {"num_hidden_layers": -1}, "num_hidden_layers"),
    ("bert", {"num_hidden_layers": 10**12}, "num_hidden_layers"),
    ("bert", {"vocab_size": None}, "vocab_size"),
    ("bert", {"hidden_act": "swiglu"}, "hidden_act"),
    ("bert", {"hidden_act": {"name": "gelu"}}, "hidden_act"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("bert", {"layer_norm_eps": math.nan}, "layer_norm_eps"),
    ("bert", {"layer_norm_eps": -1.0}, "layer_norm_eps"),
    ("bert", {"initializer_range": -1.0}, "initializer_range"),
    ("bert", {"pad_token_id": 37}, "pad_token_id"),
    ("bert", {"hidden_dropout_prob": 7}, "hidden_dropout_prob"),
    ("bert", {"id2label": ["a", "b"]}, "id2label"),
    ("bert", {"id2label": {"first": "a"}}, "id2label"),
    ("bert", {"num_labels": 2**70}, "num_labels"),
    ("bert", {"dtype": "banana"}, "dtype"),
    ("bert", {"dtype": "int8"}, "dtype"),
    ("bert", {"model_type": "llama9"}, "'llama9'"),
    ("bert", {"model_type": None}, "model_type"),
    ("bert", {"model_type": 3}, "model_type"),
    ("bert", {"model_type": "../bert"}, "model_type"),
    ("gpt2", {"n_embd": 0}, "n_embd"),
    ("gpt2", {"n_head": 5}, "multiple"),
    ("gpt2", {"n_inner": -1}, "n_inner"),
    ("gpt2", {"n_layer": 1.0}, "n_layer"),
    ("gpt2", {"n_positions": True}, "n_positions"),
    ("gpt2", {"activation_function": "swiglu"}, "activation_function"),
    ("gpt2", {"summary_type": "attn"}, "summary_type"),
]


@pytest.mark.parametrize("kind, values, told", BAD, ids=[f"{kind}-{values}" for kind, values, _ in BAD])
def test_numbers_that_make_no_model(kind, values, told, broken):
    folder = broken(kind, config=values)
    for cls in (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification):
        refused(folder, told, load=cls.from_pretrained, file="config.json")


@pytest.mark.parametrize(
    "kind, values",
    [
        ("bert", {"num_hidden_layers": 10_000}),
        ("gpt2", {"n_layer": 10_000}),
        ("bert", {"hidden_size": 3 * 2**18, "intermediate_size": 2**20, "vocab_size": 2**20}),
        ("gpt2", {"n_embd": 3 * 2**18, "n_positions": 2**20, "vocab_size": 2**20}),
    ],
    ids=str,
)
@pytest.mark.timeout(10)
def test_numbers_that_no_file_could_fill_are_refused_at_once(kind, values, broken):
    """They make a model, but not this file's: no memory is taken, no hour spent on building it."""
    folder = broken(kind, config=values)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=re.escape(str(folder))) as error:
        AutoModel.from_pretrained(folder)
    assert time.perf_counter() - start < 5
    assert len(str(error.value)) < 20_000


# Tensors


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool], ids=str)
def test_weights_that_are_integers(dtype, broken):
    folder = broken(tensors=lambda held: {k: t.to(dtype) if "query" in k else t for k, t in held.items()})
    text = refused(folder, "query.weight: is torch.", "expected floating point")
    assert text.count("query") == 4  # two weights, two biases, each once
    for how in ({"strict": False}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(CheckpointError, match="expected floating point"):
            AutoModel.from_pretrained(folder, **how)


def test_weights_of_another_shape(broken):
    folder = broken(tensors=lambda held: {k: t[None] if "key.bias" in k else t for k, t in held.items()})
    refused(folder, "layer.0.attention.self.key.bias: shape (1, 12) in the file, (12,) in the model", "layer.1.")
    folder = broken("gpt2", tensors=lambda held: {k: t.T.contiguous() if "c_fc.w" in k else t for k, t in held.items()})
    refused(folder, "h.0.mlp.c_fc.weight: shape (48, 12) in the file, (12, 48) in the model")


def test_another_models_weights(broken, good):
    """The config of one, the weights of the other."""
    folder = broken()
    (folder / "model.safetensors").write_bytes((good["gpt2"] / "model.safetensors").read_bytes())
    refused(folder, "missing from the file", "unknown to the model")


def test_an_empty_file_of_weights(broken):
    folder = broken(tensors=lambda held: {})
    refused(folder, "embeddings.word_embeddings.weight: missing from the file")
    (folder / "model.safetensors").write_bytes(b"")
    refused(folder, file="model.safetensors")


def test_a_truncated_file_of_weights(broken):
    folder = broken()
    whole = (folder / "model.safetensors").read_bytes()
    for size in (4, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        refused(folder, file="model.safetensors")


def test_weights_that_are_not_numbers_are_the_files_business(broken):
    """NaN and infinity are floating point: they load as they are."""
    folder = broken(tensors=lambda held: {k: t * torch.nan if "query" in k else t for k, t in held.items()})
    assert AutoModel.from_pretrained(folder).encoder["layer"][0].attention["self"].query.weight.isnan().all()


# Files that are not there, or lead elsewhere


def test_no_config(broken):
    folder = broken()
    (folder / "config.json").unlink()
    told = rf"{re.escape(str(folder))}.* has no 'config\.json'; it holds 'model"
    for cls in (AutoModel, AutoConfig, BertModel, BertConfig):
        with pytest.raises(FileNotFoundError, match=told):
            cls.from_pretrained(folder)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        AutoModel.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; pass the folder"):
        AutoModel.from_pretrained(tmp_path / "file")


def test_pickles_are_never_opened(broken):
    folder = broken()
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        AutoModel.from_pretrained(folder)

    class Bomb:
        def __reduce__(self):
            return Path.touch, (folder / "exploded",)

    torch.save({**held, "bomb": Bomb()}, folder / "pytorch_model.bin")
    for how in ({}, {"strict": False}):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*convert") as error:
            AutoModel.from_pretrained(folder, **how)
        assert str(folder) in str(error.value)
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize("where", ["../model.safetensors", "/etc/passwd", "sub/../../x.safetensors", "..", ""])
def test_shards_outside_the_folder(where, broken, good):
    folder = broken()
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(held, folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(held, where)}))
    try:
        refused(folder, file="model.safetensors.index.json")
    finally:
        (folder.parent / "model.safetensors").unlink()


def test_a_missing_shard(broken):
    folder = broken()
    model = BertForMaskedLM.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="4KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    refused(folder, shard.name, "is not there", file="model.safetensors.index.json")


def test_two_sets_of_weights(broken):
    folder = broken()
    whole = (folder / "model.safetensors").read_bytes()
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").write_bytes(whole)
    refused(folder, "two sets of weights", file="model.safetensors")


def test_a_broken_generation_config_stops_the_load_with_its_name(broken):
    folder = broken("gpt2")
    for text in ("{", "[]", '{"max_length": -1}', '{"max_new_tokens": "many"}', '{"top_p": 7, "do_sample": true}'):
        (folder / "generation_config.json").write_text(text)
        refused(folder, load=AutoModelForCausalLM.from_pretrained, file="generation_config.json")


# Nothing half loaded


def test_an_error_comes_before_any_tensor_is_touched(broken, monkeypatch, caplog):
    """Of a file that does not fit, nothing is read, and no model is made of the part that does."""
    from minihf.checkpoints.files import Weights

    read = []
    monkeypatch.setattr(Weights, "read", lambda self, name: read.append(name))
    caplog.set_level(logging.WARNING, logger="minihf")
    folder = broken(tensors=lambda held: {k: t for k, t in held.items() if "layer.1.output.dense.bias" not in k})
    refused(folder, "encoder.layer.1.output.dense.bias: missing")
    assert read == []
    assert caplog.records == []


def test_a_file_that_failed_can_be_mended_in_place(broken, good):
    """The failed load holds no lock and no stale map."""
    folder = broken(config={"hidden_size": 24})
    refused(folder, "shape (37, 12) in the file, (37, 24) in the model")
    (folder / "config.json").write_text((good["bert"] / "config.json").read_text())
    assert AutoModel.from_pretrained(folder).config.hidden_size == 12
