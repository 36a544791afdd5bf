"""Loading does what it must, and no more: shown by what is imported and what is mapped, not by a clock."""

import json
import logging
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from minihf import (
    AutoModelForCausalLM,
    CTRLConfig,
    CTRLLMHeadModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)
from minihf.checkpoints.files import CheckpointError, Weights
from minihf.models.loading import NoValuesOnMeta


def test_loading_does_not_import_the_compiler(tmp_path):
    """Initialising tensors on the meta device would: 800 modules, a second and 70 MB, for values that nobody keeps."""
    GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=6, n_head=2, n_layer=1, n_positions=5)).save_pretrained(tmp_path)
    code = f"""
import sys
from minihf import GPT2ForSequenceClassification, GPT2LMHeadModel
GPT2LMHeadModel.from_pretrained({str(tmp_path)!r})
GPT2ForSequenceClassification.from_pretrained({str(tmp_path)!r})  # with a head to initialise
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_generated_ids_can_be_trained_on():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=6, n_head=2, n_layer=1, n_positions=9, eos_token_id=None))
    ids = model.eval().generate(torch.tensor([[1, 2]]), max_new_tokens=5)
    assert not ids.is_inference()
    model(ids, labels=ids).loss.backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0


# Several shards

# What a load adds to the memory that is the process's own, in bytes: at its end, and at the most. All that it takes for
# a tensor it has when it asks for the next.
MEASURE = """
import sys
import torch
from minihf import LlamaForCausalLM
from minihf.checkpoints.files import Weights
seen, read = [], Weights.read
def own():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
def watched(weights, name):
    seen.append(own())
    return read(weights, name)
small, large, dtype, device = sys.argv[1:]
LlamaForCausalLM.from_pretrained(small, dtype=dtype)  # what the first load of any model brings along
Weights.read, before = watched, own()
model = LlamaForCausalLM.from_pretrained(large, dtype=dtype, device_map=device)
print(own() - before, max(*seen, own()) - before, model.num_parameters())
"""
STATUS = Path("/proc/self/status")
COUNTED = pytest.mark.skipif(
    not (STATUS.exists() and "RssAnon" in STATUS.read_text()), reason="counts memory as Linux does"
)
TINY = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 7, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny Llama, and one of 76 MB of bfloat16 in six files of 13 MB or less."""
    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    LlamaForCausalLM(LlamaConfig(**TINY)).bfloat16().save_pretrained(small)
    sizes = {"vocab_size": 8000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4}
    config = LlamaConfig(**sizes, num_attention_heads=12, num_key_value_heads=4)
    LlamaForCausalLM(config).bfloat16().save_pretrained(large, max_shard_size="13MB")
    return small, large


def measure(shards: tuple[Path, Path], dtype: str, device: str = "cpu") -> tuple[int, int, int, list[int]]:
    """Bytes that a load adds at its end and at the most; parameters; bytes of each shard."""
    files = [path.stat().st_size for path in shards[1].glob("*.safetensors")]
    assert len(files) == 6
    command = [sys.executable, "-c", MEASURE, *map(str, shards), dtype, device]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    grown, most, parameters = map(int, run.stdout.split())
    assert 2 * parameters < sum(files) < 1.001 * 2 * parameters
    return grown, most, parameters, files


@COUNTED
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shards_in_their_own_dtype_take_next_to_nothing(shards, device):
    _, most, _, files = measure(shards, "bfloat16", device)
    assert most < 0.05 * sum(files)
    assert most < 0.3 * max(files)


@COUNTED
def test_shards_in_another_dtype_take_the_new_tensors_and_no_more_than_a_shard(shards):
    grown, most, parameters, files = measure(shards, "float32")
    assert 0.95 < grown / (4 * parameters) < 1.05  # the converted copy
    assert most < 4 * parameters + max(files)


# Larger than memory


def hollow(folder: Path, config: LlamaConfig, shards: int) -> int:
    """A checkpoint of headers, whose tensors take no room on the disk; gives the bytes that they would take."""
    with torch.device("meta"), NoValuesOnMeta():
        shapes = {name: p.shape for name, p in LlamaForCausalLM(config).named_parameters()}
    total, weight_map, files = 2 * sum(map(math.prod, shapes.values())), {}, [{}]
    for name, shape in shapes.items():
        ends = [end for _, end in (entry["data_offsets"] for entry in files[-1].values())]
        begin = ends[-1] if ends else 0
        if begin >= total / shards:
            begin = 0
            files.append({})
        end = begin + 2 * math.prod(shape)
        files[-1][name] = {"dtype": "BF16", "shape": [*shape], "data_offsets": [begin, end]}
    for i, entries in enumerate(files, 1):
        file = "model.safetensors" if shards == 1 else f"model-{i:05d}-of-{len(files):05d}.safetensors"
        head = json.dumps(entries).encode()
        (folder / file).write_bytes(len(head).to_bytes(8, "little") + head)
        os.truncate(folder / file, 8 + len(head) + max(entry["data_offsets"][1] for entry in entries.values()))
        weight_map |= dict.fromkeys(entries, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config.architectures, config.dtype = ["LlamaForCausalLM"], "bfloat16"
    config.save_pretrained(folder)
    return total


def larger_than_memory(**changes) -> LlamaConfig:
    """Its bfloat16 parameters are more than this machine has memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes = {"vocab_size": 64_000, "hidden_size": 6144, "intermediate_size": 16_384, "num_attention_heads": 48}
    layers = max(48, memory // (2 * 6144 * (3 * 16_384 + 4 * 6144)) + 1)
    return LlamaConfig(**sizes, num_hidden_layers=layers, **changes)


OPEN = """
import sys
from minihf import AutoModelForCausalLM
def memory(kind):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(kind)).split()[1])
small, large = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(small, device_map="meta")
before = memory("VmHWM")
model = AutoModelForCausalLM.from_pretrained(large, device_map="meta")
print(memory("VmHWM") - before, model.num_parameters(), "torch._dynamo" in sys.modules)
"""


@COUNTED
@pytest.mark.parametrize("files", [1, 8])
def test_a_model_larger_than_memory_is_opened_without_its_weights(files, shards, tmp_path):
    """In one file, too, which no system would map as memory of one's own."""
    config = larger_than_memory(num_key_value_heads=8)
    total = hollow(tmp_path, config, files)
    assert total > 35e9
    assert len([*tmp_path.glob("*.safetensors")]) == files
    command = [sys.executable, "-c", OPEN, str(shards[0]), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    peak, parameters, compiler = run.stdout.split()
    assert int(peak) < 20e6
    assert 2 * int(parameters) == total
    assert compiler == "False"


# On the meta device


def on_meta(cls, folder: Path, **options):
    return cls.from_pretrained(folder, device_map="meta", **options)


@pytest.mark.parametrize("model", [
    GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=6, n_head=2, n_layer=2, n_positions=9)),
    CTRLLMHeadModel(CTRLConfig(vocab_size=11, n_embd=6, n_head=2, n_layer=2, n_positions=9, dff=7)),
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=11, dim=6, n_heads=2, n_layers=2, max_position_embeddings=9,
                                           hidden_dim=7, sinusoidal_pos_embds=True)),
    LlamaForCausalLM(LlamaConfig(**TINY, rope_scaling={"rope_type": "dynamic", "factor": 2.0})),
    LlamaForCausalLM(LlamaConfig(**TINY, rope_scaling={
        "rope_type": "longrope", "factor": 2.0, "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
        "original_max_position_embeddings": 4})),
], ids=lambda model: type(model).__name__)  # fmt: skip
def test_a_meta_model_is_the_model_without_values(model, tmp_path):
    model.save_pretrained(tmp_path)
    meta, info = on_meta(type(model), tmp_path, output_loading_info=True)
    assert info == type(model).from_pretrained(tmp_path, output_loading_info=True)[1]
    tensors = {**dict(meta.named_parameters()), **dict(meta.named_buffers())}
    assert tensors.keys() == {**dict(model.named_parameters()), **dict(model.named_buffers())}.keys()
    assert all(tensor.is_meta for tensor in tensors.values())
    assert repr(meta) == repr(model)
    assert meta.num_parameters() == model.num_parameters()
    assert not meta.training
    ids = torch.ones(2, 5, dtype=torch.long)
    logits = meta(ids.to("meta"), output_hidden_states=True).logits
    assert logits.is_meta
    assert logits.shape == model(ids).logits.shape
    # given memory and values, it is the model: tables that it computes are there again
    meta.to_empty(device="cpu").load_state_dict(model.state_dict())
    for name, table in meta.named_buffers():
        table.copy_(model.get_buffer(name))
    torch.testing.assert_close(meta(ids).logits, model.eval()(ids).logits)


def test_what_needs_values_is_refused_on_the_meta_device(tmp_path):
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path / "there")
    before = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    model = on_meta(AutoModelForCausalLM, tmp_path / "there")
    with pytest.raises(ValueError, match=r"cannot generate: .*meta device.*device_map='meta'"):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=2)
    padded = torch.tensor([[1, 1, 1], [0, 0, 1]], device="meta")
    with pytest.raises(RuntimeError, match="the model is on the meta device"):
        model(padded, attention_mask=padded)
    for folder in ("new", "there"):
        with pytest.raises(ValueError, match=r"cannot save: .*meta device"):
            model.save_pretrained(tmp_path / folder)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before


def test_a_meta_model_promises_no_first_values(tmp_path, caplog):
    """What the file lacks is told by the ledger; nothing was initialised, and nothing should say so."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    caplog.set_level(logging.WARNING, logger="minihf")
    model, info = on_meta(LlamaForSequenceClassification, tmp_path, output_loading_info=True)
    assert info["new"] == ["score.weight"]
    assert info["other_head"] == ["lm_head.weight"]
    assert model.score.weight.is_meta
    assert caplog.records == []


def test_tied_parameters_that_the_file_holds_twice_stay_tied_without_their_values(tmp_path):
    """Whether they differ is in the values; until they are read, the config's word counts."""
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    meta = on_meta(LlamaForCausalLM, tmp_path)
    assert meta.lm_head.weight is meta.model.embed_tokens.weight
    assert LlamaForCausalLM.from_pretrained(tmp_path).untied == {"lm_head.weight"}


def test_what_is_wrong_is_told_on_the_meta_device_as_on_any(tmp_path):
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path, max_shard_size=400)
    config = (tmp_path / "config.json").read_text()
    shard = next(tmp_path.glob("model-00002-*"))
    whole = shard.read_bytes()

    def told(**options) -> str:
        with pytest.raises(CheckpointError) as error:
            LlamaForCausalLM.from_pretrained(tmp_path, **options)
        return str(error.value)

    def wrong() -> str:
        assert told(device_map="meta") == told()
        return told()

    shard.unlink()
    assert f"the file '{shard.name}' is not there" in wrong()
    for damage, message in ((whole[:5], "5 bytes make no"), (b"", "0 bytes make no"), (whole[:-1], "truncated")):
        shard.write_bytes(damage)
        assert message in wrong()
    shard.write_bytes(whole.replace(b'"F32"', b'"I32"', 1))
    assert "expected floating point" in wrong()
    shard.write_bytes(whole)
    (tmp_path / "config.json").write_text(config.replace('"intermediate_size": 7', '"intermediate_size": 8'))
    assert wrong().count("(7, 8) in the file, (8, 8) in the model") == 2
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    assert wrong().count("missing from the file") == 9


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_a_shard_that_was_converted_is_let_go_before_the_next(tmp_path, monkeypatch):
    """Its pages are the file's, but they are resident as long as it is mapped."""
    config = GPT2Config(vocab_size=97, n_embd=16, n_head=2, n_layer=3, n_positions=9)
    GPT2LMHeadModel(config).save_pretrained(tmp_path, max_shard_size=20_000)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    mapped, take = [], Weights.take

    def spy(self, name):
        tensor = take(self, name)
        maps = Path("/proc/self/maps").read_text()
        mapped.append([shard for shard in shards if str(tmp_path / shard) in maps])
        return tensor

    monkeypatch.setattr(Weights, "take", spy)
    GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert mapped[0] == shards
    assert len(mapped[-1]) == 1
    assert all(len(later) <= len(earlier) for earlier, later in pairwise(mapped))
