"""`minihf describe`: every number beside sums over the real tensors, and beside the reference's."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minihf import cli
from minihf.inspection.describe import MEMORY_DTYPES, Part, describe, size
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import heads_of
from minihf.models.architectures import class_for
from minihf.models.bert import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minihf.models.llama import LlamaConfig, LlamaForCausalLM
from minihf.models.mistral import MistralConfig, MistralForCausalLM
from minihf.nn.cache import Cache

BERT = BertConfig(vocab_size=11, hidden_size=6, num_hidden_layers=3, num_attention_heads=2, intermediate_size=7,
                  max_position_embeddings=9)  # fmt: skip
GPT2 = GPT2Config(vocab_size=13, n_embd=6, n_head=3, n_layer=2, n_positions=10)
LLAMA = LlamaConfig(vocab_size=17, hidden_size=8, intermediate_size=9, num_hidden_layers=4, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=6, max_position_embeddings=31)  # fmt: skip

# By hand: weights and biases of each matrix and norm, in the order of the file.
BERT_EMBEDDINGS = (11 + 9 + 2 + 2) * 6
BERT_LAYER = 4 * (6 * 6 + 6) + (7 * 6 + 7) + (6 * 7 + 6) + 2 * 2 * 6
BERT_HEAD = (6 * 6 + 6) + 2 * 6 + 11  # a transform, its norm, a bias for each word
GPT2_LAYER = (6 * 18 + 18) + (6 * 6 + 6) + (6 * 24 + 24) + (24 * 6 + 6) + 2 * 2 * 6
LLAMA_LAYER = 2 * 8 * 24 + 2 * 8 * 12 + 3 * 8 * 9 + 2 * 8


def rows(folder: Path) -> list[tuple]:
    return [(p.path, p.last, p.count, p.parameters, p.stored, p.dtypes) for p in describe(folder).parts]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in folder.glob("*.safetensors") for name, x in load_file(file).items()}


def check(folder: Path) -> None:
    """Sums over the files, and the reference's count."""
    told, tensors = describe(folder), stored(folder)
    theirs = getattr(transformers, told.class_name).from_pretrained(folder)
    assert told.parameters == theirs.num_parameters() == sum(part.parameters for part in told.parts)
    aside = sum(tensors[key].nbytes for key in told.stale + told.other_head)
    assert told.stored == sum(part.stored for part in told.parts) == sum(x.nbytes for x in tensors.values()) - aside
    assert told.files == len([*folder.glob("*.safetensors")])
    assert sum(part.share for part in told.parts) == pytest.approx(1)
    assert told.memory == {"float32": 4 * told.parameters, "bfloat16": 2 * told.parameters}


def test_bert_to_the_number(tmp_path):
    BertForMaskedLM(BERT).save_pretrained(tmp_path)
    f32 = ["float32"]
    assert rows(tmp_path) == [
        ("bert.embeddings", "bert.embeddings", 1, BERT_EMBEDDINGS, 4 * BERT_EMBEDDINGS, f32),
        ("bert.encoder.layer.0", "bert.encoder.layer.2", 3, 3 * BERT_LAYER, 12 * BERT_LAYER, f32),
        ("cls", "cls", 1, BERT_HEAD, 4 * BERT_HEAD, f32),
    ]
    told = describe(tmp_path)
    assert (told.model_type, told.class_name, told.files, told.cache) == ("bert", "BertForMaskedLM", 1, None)
    assert told.sizes == {
        "layers": 3, "width": 6, "inner width": 7, "heads": 2, "vocabulary": 11, "positions": 9
    }  # fmt: skip
    assert told.tied == {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    assert told.new == told.stale == told.other_head == told.in_file_twice == []
    check(tmp_path)


def test_gpt2_to_the_number(tmp_path):
    GPT2LMHeadModel(GPT2).half().save_pretrained(tmp_path)
    f16 = ["float16"]
    assert rows(tmp_path) == [
        ("transformer.wte", "transformer.wte", 1, 78, 156, f16),
        ("transformer.wpe", "transformer.wpe", 1, 60, 120, f16),
        ("transformer.h.0", "transformer.h.1", 2, 2 * GPT2_LAYER, 4 * GPT2_LAYER, f16),
        ("transformer.ln_f", "transformer.ln_f", 1, 12, 24, f16),
    ]
    told = describe(tmp_path)
    assert told.parts[0].share == 78 / told.parameters
    assert told.sizes == {"layers": 2, "width": 6, "heads": 3, "vocabulary": 13, "positions": 10}
    assert told.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert told.cache.bytes_per_token == {"float32": 2 * 2 * 6 * 4, "bfloat16": 2 * 2 * 6 * 2}
    assert (told.cache.tokens, told.cache.window) == (10, False)
    check(tmp_path)


@pytest.mark.parametrize("limit", ["50GB", 700])
def test_llama_to_the_number_in_one_file_and_in_several(tmp_path, limit):
    LlamaForCausalLM(LLAMA).bfloat16().save_pretrained(tmp_path, max_shard_size=limit)
    bf16 = ["bfloat16"]
    assert rows(tmp_path) == [
        ("model.embed_tokens", "model.embed_tokens", 1, 136, 272, bf16),
        ("model.layers.0", "model.layers.3", 4, 4 * LLAMA_LAYER, 8 * LLAMA_LAYER, bf16),
        ("model.norm", "model.norm", 1, 8, 16, bf16),
        ("lm_head", "lm_head", 1, 136, 272, bf16),
    ]
    told = describe(str(tmp_path))
    assert (told.files > 5) == (limit == 700)
    assert told.sizes["key-value heads"] == 2
    assert told.sizes["head size"] == 6
    assert told.cache.bytes_per_token == {"float32": 2 * 4 * 2 * 6 * 4, "bfloat16": 2 * 4 * 2 * 6 * 2}
    assert told.tied == {}
    check(tmp_path)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_class_of_every_architecture(model_type, tmp_path):
    """Each part is a module, its parameters are the module's, and nothing is left out."""
    for name, task in heads_of(model_type).items():
        family = FAMILIES[model_type]
        cls = class_for(model_type, task)
        model = cls(cls.config_class(**{**family.config, **family.special.get(name, {})}))
        model.save_pretrained(tmp_path)
        told = describe(tmp_path)
        assert told.class_name == name
        assert told.parameters == model.num_parameters() == sum(part.parameters for part in told.parts)
        assert told.stored == sum(x.nbytes for x in stored(tmp_path).values())
        assert told.new == told.stale == told.other_head == []
        seen: set[int] = set()
        for part in told.parts:
            if part.path in dict(model.named_buffers()):  # final_logits_bias
                assert part.parameters == 0
                continue
            stem, _, first = part.path.rpartition(".")
            paths = [f"{stem}.{int(first) + i}" for i in range(part.count)] if part.count > 1 else [part.path]
            assert paths[-1] == part.last
            own = {id(p): p.numel() for path in paths for p in model.get_submodule(path).parameters()}
            assert part.parameters == sum(n for key, n in own.items() if key not in seen), (name, part.path)
            seen |= own.keys()


@pytest.mark.parametrize("model", [
    GPT2LMHeadModel(GPT2),
    LlamaForCausalLM(LLAMA),
    MistralForCausalLM(MistralConfig(**vars(LLAMA) | {"sliding_window": 5, "rope_parameters": None})),
], ids=lambda model: type(model).__name__)  # fmt: skip
@pytest.mark.parametrize("dtype", MEMORY_DTYPES)
@torch.no_grad()
def test_the_cache_is_what_a_cache_holds(model, dtype, tmp_path):
    """After 3 tokens, and after as many as it can keep at the most."""
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    told = describe(tmp_path).cache
    for tokens in (3, 10):
        cache = Cache()
        model(torch.ones(1, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        kept = min(tokens, told.tokens)
        assert held == kept * told.bytes_per_token[dtype]
    assert told.window == isinstance(model, MistralForCausalLM)
    assert told.window == (kept == 4)


def renamed(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_what_the_ledger_found(tmp_path, caplog):
    BertForPreTraining(BERT).save_pretrained(tmp_path)
    tensors = stored(tmp_path) | {"bert.embeddings.position_ids": torch.arange(9)[None]}
    save_file(tensors, tmp_path / "model.safetensors")
    renamed(tmp_path, architectures=["BertForTokenClassification"])
    told = describe(tmp_path)
    assert told.new == ["classifier.weight", "classifier.bias"]
    assert told.stale == ["bert.embeddings.position_ids"]
    assert set(told.other_head) == {key for key in tensors if key.startswith(("cls.", "bert.pooler."))}
    assert told.parts[-1] == Part("classifier", "classifier", 1, 14, 14 / told.parameters, 0, [])
    assert caplog.records == []
    check(tmp_path)
    # a class that minihf does not have: the base model
    renamed(tmp_path, architectures=["BertForPoetry"])
    told = describe(tmp_path)
    assert (told.class_name, told.new, told.cache) == ("BertModel", [], None)
    assert [part.path for part in told.parts] == ["embeddings", "encoder.layer.0", "pooler"]
    renamed(tmp_path, architectures=["BertLMHeadModel"], is_decoder=True)
    assert describe(tmp_path).cache.bytes_per_token["float32"] == 2 * 3 * 6 * 4


def test_layers_that_are_not_alike_are_rows_of_their_own(tmp_path):
    BertModel(BERT).save_pretrained(tmp_path)
    key = "encoder.layer.1.output.dense.weight"
    save_file({k: x.half() if k == key else x for k, x in stored(tmp_path).items()}, tmp_path / "model.safetensors")
    layers = describe(tmp_path).parts[1:4]
    assert [part.count for part in layers] == [1, 1, 1]
    assert [part.dtypes for part in layers] == [["float32"], ["float16", "float32"], ["float32"]]
    assert [part.stored for part in layers] == [4 * BERT_LAYER, 4 * BERT_LAYER - 2 * 42, 4 * BERT_LAYER]
    check(tmp_path)


def test_tied_parameters_under_either_name_or_both(tmp_path):
    GPT2LMHeadModel(GPT2).save_pretrained(tmp_path)
    tensors, (source, target) = stored(tmp_path), ("transformer.wte.weight", "lm_head.weight")
    told = asdict(describe(tmp_path))
    save_file({target if k == source else k: x for k, x in tensors.items()}, tmp_path / "model.safetensors")
    assert asdict(describe(tmp_path)) == told
    check(tmp_path)
    save_file(tensors | {target: tensors[source].clone()}, tmp_path / "model.safetensors")
    told = describe(tmp_path)
    assert told.in_file_twice == [target]
    assert told.parts[-1] == Part("lm_head", "lm_head", 1, 0, 0.0, 4 * 78, ["float32"])
    check(tmp_path)


# The command


def test_the_table(tmp_path, capsys):
    LlamaForCausalLM(LLAMA).bfloat16().save_pretrained(tmp_path, max_shard_size=700)
    assert cli.main(["describe", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}: LlamaForCausalLM (llama), " in out.splitlines()[0]
    assert (
        "layers 4, width 8, inner width 9, heads 4, key-value heads 2, head size 6, vocabulary 17, positions 31" in out
    )
    (row,) = (line for line in out.splitlines() if "layers.0" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    total = 4 * LLAMA_LAYER + 2 * 136 + 8
    share = f"{4 * LLAMA_LAYER / total:.1%}"
    assert cells == ["model.layers.0 … 3, 4 ×", f"{4 * LLAMA_LAYER:,}", share, "6.5 KB", "bfloat16"]
    assert f"memory for weights: {size(4 * total)} in float32 or {size(2 * total)} in bfloat16" in out
    assert "key-value cache: 384 bytes in float32 or 192 bytes in bfloat16 for each token of a text; 11.9 KB" in out


def test_json_is_the_description(tmp_path, capsys):
    GPT2LMHeadModel(GPT2).save_pretrained(tmp_path)
    assert cli.main(["describe", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asdict(describe(str(tmp_path)))


def test_what_is_wrong_is_one_line_and_status_2(tmp_path, capsys):
    LlamaForCausalLM(LLAMA).save_pretrained(tmp_path, max_shard_size=700)
    shard = next(tmp_path.glob("model-00003-*"))
    shard.rename(tmp_path / "elsewhere")

    def told(folder: Path | str) -> str:
        assert cli.main(["describe", str(folder), "--json"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("minihf describe: ")
        return err

    assert f"the file '{shard.name}' is not there" in told(tmp_path)
    (tmp_path / "elsewhere").rename(shard)
    renamed(tmp_path, intermediate_size=10)
    assert told(tmp_path).count("(9, 8) in the file, (10, 8) in the model") == 8
    renamed(tmp_path, model_type="llama9")
    assert "model_type 'llama9' is not one that minihf has" in told(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in told(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "has no 'config.json'" in told(tmp_path)
    assert "there is no folder" in told("no-such-folder/at/all")


def test_no_target_is_wrong_use(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["describe"])
    assert left.value.code == 2
    assert "FOLDER_OR_NAME" in capsys.readouterr().err


def test_without_rich_there_is_json(tmp_path):
    GPT2LMHeadModel(GPT2).save_pretrained(tmp_path)
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "rich" else find(name, *rest)
sys.modules["rich"] = None
from minihf.cli import main
print(main(sys.argv[1:]), {"transformers", "torch._dynamo"} & set(sys.modules))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    for arguments, status in (([], 2), (["--json"], 0)):
        command = [sys.executable, "-c", code, "describe", str(tmp_path), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.stdout.endswith(f"{status} set()\n"), run
        assert ("pip install rich, or ask for --json" in run.stderr) == (status == 2)


def test_sizes_as_people_say_them():
    told = [size(n) for n in (0, 999, 1000, 12_345, 999_900_000, 13_476_839_424, 2 * 10**15)]
    assert told == ["0 bytes", "999 bytes", "1.0 KB", "12.3 KB", "999.9 MB", "13.5 GB", "2000.0 TB"]
