"""What a wrapped model does beside its arithmetic: which modules it takes, switching, merging, files, refusals."""

import json
import logging

import pytest
import torch
from torch import nn

from minihf import (
    BertForSequenceClassification,
    CheckpointError,
    GPT2LMHeadModel,
    LoraConfig,
    PeftModel,
    TaskType,
    Trainer,
    TrainingArguments,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from minihf.adapters.lora import LoraLayer, SavedModule
from minihf.inspection.batches import make_batch, randomise
from minihf.inspection.families import FAMILIES
from minihf.models.architectures import class_for
from minihf.nn.bare import bare


def tiny(model_type="bert", task="ForSequenceClassification", **fields):
    config = class_for(model_type, "Config")(**{**FAMILIES[model_type].config, **fields})
    model = class_for(model_type, task)(config)
    with torch.no_grad():
        randomise(model)
    return model.eval()


def wrapped(model, **fields):
    """With an adapter that does something."""
    torch.manual_seed(2)
    return get_peft_model(model, LoraConfig(init_lora_weights=False, **fields)).eval()


def batch_of(model, task="ForSequenceClassification", kind="right"):
    return make_batch(getattr(model, "get_base_model", lambda: model)(), task, kind)


# Which modules


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"target_modules": ["quary"]}, r"'quary' is no module; did you mean 'query'"),
        ({"target_modules": ["query", "c_attn"]}, r"'c_attn' is no module"),
        ({"target_modules": ["attention"]}, r"layer.0.attention' is a ModuleDict; .* inside it are self.query"),
        ({"target_modules": ["LayerNorm"]}, r"is a LayerNorm; adapters are for linear layers, Conv1D and embeddings"),
        ({"target_modules": r"nothing\..*"}, r"matches no whole name of a module; .* are classifier, dense"),
        ({"target_modules": []}, r"'target_modules=\[\]' is no module"),
        ({"target_modules": ["query"], "layers_to_transform": [7]}, r"in no layer of layers_to_transform=\[7\]"),
        ({"target_modules": ["query"], "exclude_modules": r".*query"}, r"'query' is excluded"),
        ({"target_modules": ["query"], "exclude_modules": ["kez"]}, r"exclude_modules: 'kez' .* did you mean 'key'"),
        ({"target_modules": ["classifier"], "task_type": "SEQ_CLS"}, r"'classifier' is excluded, .* modules_to_save"),
        ({"modules_to_save": ["poolr"]}, r"modules_to_save: 'poolr' is no module; did you mean .*'pooler'"),
        ({"modules_to_save": ["pooler", "bert"], "target_modules": ["classifier"]}, r"'bert.pooler' is inside"),
        ({"rank_pattern": {"key": 3}}, r"rank_pattern: 'key' matches none of the target modules"),
        ({"alpha_pattern": {r"layer\.9\.query": 3}}, r"alpha_pattern: .* matches none of the target modules"),
        ({"init_lora_weights": "eva"}, r"init_lora_weights='eva' is known of adapters that are loaded"),
    ],
)
def test_a_name_that_leads_nowhere(fields, said):
    model = tiny()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=said):
        get_peft_model(model, LoraConfig(**fields))
    assert list(model.state_dict()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ValueError, match=r"(?s)'quary'.*'valu'.*'keyy'"):
        get_peft_model(tiny(), LoraConfig(target_modules=["quary", "valu", "key"], exclude_modules=["keyy"]))


def test_positions_take_no_adapter():
    """Of BART, a table of positions is no embedding of tokens: it is asked for by number, not by id."""
    with pytest.raises(ValueError, match="is a BartLearnedPositionalEmbedding; adapters are for"):
        get_peft_model(tiny("bart", "ForSeq2SeqLM"), LoraConfig(target_modules=["embed_positions"]))


def test_any_module_with_linear_layers():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    with pytest.raises(ValueError, match="no usual target_modules for None"):
        get_peft_model(model, LoraConfig())
    adapted = wrapped(model, target_modules=["0"], modules_to_save=["2"])
    adapted(torch.randn(3, 5)).sum().backward()
    learns = {name for name, x in adapted.named_parameters() if x.grad is not None and x.requires_grad}
    prefix = "base_model.model."
    assert learns == {
        prefix + name
        for name in (
            "0.lora_A.default.weight",
            "0.lora_B.default.weight",
            "2.modules_to_save.default.weight",
            "2.modules_to_save.default.bias",
        )
    }


def test_conv1d_is_noted(caplog):
    adapted = get_peft_model(tiny("gpt2", "ForCausalLM"), LoraConfig())
    assert adapted.peft_config["default"].fan_in_fan_out
    assert "fan_in_fan_out is set to True" in caplog.text


def test_a_head_of_another_name(caplog):
    get_peft_model(tiny("bart"), LoraConfig(task_type=TaskType.SEQ_CLS))
    assert "trains a head named classifier or score; BartForSequenceClassification has none" in caplog.text


def test_the_caller_s_config_is_the_caller_s():
    config = LoraConfig(task_type="SEQ_CLS")
    for _ in range(2):
        assert get_peft_model(tiny(), config).peft_config["default"].modules_to_save == ["classifier", "score"]
    assert config.modules_to_save is None
    assert config.target_modules is None


def test_twice():
    model = tiny()
    adapted = get_peft_model(model, LoraConfig())
    with pytest.raises(ValueError, match="has an adapter already: unload"):
        get_peft_model(model, LoraConfig())
    with pytest.raises(ValueError, match="there is an adapter 'default' already"):
        adapted.add_adapter("default", LoraConfig())
    with pytest.raises(ValueError, match="is no name of an adapter"):
        adapted.add_adapter("a.b", LoraConfig())
    with pytest.raises(TypeError, match="takes a LoraConfig, not a dict"):
        get_peft_model(model, {})


# Switching


def test_disabled_is_the_model_itself():
    model = tiny()
    batch = batch_of(model)
    plain = model(**batch).logits
    adapted = wrapped(model, task_type="SEQ_CLS", target_modules=["query", "word_embeddings"])
    adapted.get_base_model().classifier.modules_to_save["default"].weight.data += 1
    changed = adapted(**batch).logits
    assert not torch.allclose(changed, plain, atol=1e-2)
    for merged in (False, True):
        if merged:
            adapted.merge_adapter()
            changed = adapted(**batch).logits
        with adapted.disable_adapter():
            assert torch.equal(adapted(**batch).logits, plain)
        assert torch.equal(adapted(**batch).logits, changed)
    assert adapted.unload() is model
    assert torch.equal(model(**batch).logits, plain)


def test_a_fresh_adapter_changes_nothing():
    model = tiny()
    batch = batch_of(model)
    plain = model(**batch).logits
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    assert torch.equal(adapted.eval()(**batch).logits, plain)


def test_adapters_come_and_go(caplog):
    model = tiny()
    batch = batch_of(model)
    adapted = wrapped(model, target_modules=["query"])
    alone = adapted(**batch).logits
    adapted.add_adapter("b", LoraConfig(target_modules=["key"], init_lora_weights=False, modules_to_save=["pooler"]))
    assert torch.equal(adapted.eval()(**batch).logits, alone)  # not active yet
    assert not any(x.requires_grad for name, x in adapted.named_parameters() if ".b." in name)
    adapted.set_adapter("b")
    assert not torch.equal(adapted(**batch).logits, alone)
    adapted.delete_adapter("b")
    assert "active is now ['default']" in caplog.text
    assert (adapted.active_adapter, list(adapted.peft_config)) == ("default", ["default"])
    assert torch.equal(adapted(**batch).logits, alone)
    assert not any(".b." in name for name, _ in adapted.named_parameters())
    for use in (adapted.set_adapter, adapted.delete_adapter):
        with pytest.raises(ValueError, match="there is no adapter 'b'; there are default"):
            use("b")


def test_one_head_at_a_time():
    adapted = wrapped(tiny(), task_type="SEQ_CLS")
    adapted.add_adapter("b", LoraConfig(task_type="SEQ_CLS"))
    with pytest.raises(ValueError, match="classifier is trained whole by several of default, b"):
        adapted.set_adapter(["default", "b"])
    assert adapted.active_adapter == "default"
    with pytest.raises(ValueError, match=r"another adapter is on or inside '.*layer.0.attention.self.query'"):
        adapted.add_adapter("c", LoraConfig(target_modules=["key"], modules_to_save=["query"]))
    biased = wrapped(tiny(), bias="all")
    with pytest.raises(ValueError, match="trains biases of the model"):
        biased.add_adapter("b", LoraConfig(bias="lora_only"))


def test_merging_is_undone_exactly():
    """In float32, to add a product and to subtract it would leave a rounding error."""
    model = tiny("gpt2", "ForCausalLM")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    adapted = wrapped(model, target_modules=["c_attn", "wte"])
    adapted.merge_adapter()
    merged = model.transformer.h[0].attn.c_attn.base_layer.weight
    assert not torch.equal(merged, before["transformer.h.0.attn.c_attn.weight"])
    adapted.unmerge_adapter()
    plain = adapted.unload()
    assert all(torch.equal(x, before[name]) for name, x in plain.state_dict().items())
    assert plain.lm_head.weight is plain.transformer.wte.weight


def test_a_broken_adapter_is_not_merged():
    adapted = wrapped(tiny(), target_modules=["query"])
    layer = next(module for module in adapted.layers() if isinstance(module, LoraLayer))
    layer.lora_A["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the adapter default is broken"):
        adapted.merge_and_unload()


# Where the rest of the library meets it


@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_generation(saved):
    """With a cache, the model runs as plain objects (`bare`); without, as modules."""
    model = tiny("gpt2", "ForCausalLM")
    adapted = wrapped(model, target_modules=["c_attn", "c_fc", "wte"], modules_to_save=saved, lora_dropout=0.5)
    ids = torch.randint(3, 59, (2, 5))
    written = adapted.generate(ids, max_new_tokens=8, use_cache=True)
    assert torch.equal(written, adapted.generate(ids, max_new_tokens=8, use_cache=False))
    with adapted.disable_adapter():
        assert not torch.equal(written, adapted.generate(ids, max_new_tokens=8))
    adapted.merge_adapter()
    assert torch.equal(written, adapted.generate(ids, max_new_tokens=8))


def test_as_plain_objects():
    """A head in nested containers, and a whole encoder, each trained whole: seen through, bit for bit."""
    for saved, target in (("cls", "query"), ("predictions", "query"), ("encoder", "transform.dense")):
        model = tiny(task="ForMaskedLM")
        adapted = wrapped(model, target_modules=[target], modules_to_save=[saved])
        for module in adapted.layers():
            if isinstance(module, SavedModule):
                randomise_again(module.modules_to_save["default"])
        batch = batch_of(adapted, "ForMaskedLM")
        with torch.inference_mode():
            light = bare(adapted.get_base_model())
            assert type(light) is not type(model)
            assert torch.equal(light(**batch).logits, adapted(**batch).logits)


@torch.no_grad()
def randomise_again(module):
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("task", ["ForTokenClassification", "ForMaskedLM"])
@pytest.mark.parametrize("many", [False, True])
def test_packed(task, many):
    """Real tokens alone, in a small batch (modules) and a large one (plain objects), with a head trained whole."""
    model = tiny(task=task)
    head = {"ForTokenClassification": "classifier", "ForMaskedLM": "predictions"}[task]
    adapted = wrapped(model, target_modules=["query", "dense"], modules_to_save=[head])
    ids = torch.randint(3, 61, (40 if many else 3, 11))
    mask = (torch.arange(11) < torch.randint(2, 12, (len(ids), 1))).long()
    with torch.no_grad():
        expected = adapted(ids, attention_mask=mask).logits
        adapted.set_attn_implementation("packed")
        found = adapted(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_the_wrapped_model_shines_through():
    model = tiny()
    adapted = wrapped(model, target_modules=["query"])
    assert adapted.config is model.config
    assert adapted.device == model.device
    assert adapted.get_base_model() is model
    out = adapted(**batch_of(model), output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert not hasattr(adapted, "nothing_of_the_kind")
    with pytest.raises(TypeError, match="an adapter lies over the vocabulary, a LoraEmbedding"):
        wrapped(tiny(), target_modules=["word_embeddings"]).resize_token_embeddings(70)


def test_numbers(capsys):
    adapted = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["query"]))
    adapted.print_trainable_parameters()
    width, layers = adapted.config.hidden_size, adapted.config.num_hidden_layers
    learn, total = adapted.get_nb_trainable_parameters()
    assert learn == layers * 2 * 2 * width
    assert capsys.readouterr().out == (
        f"trainable params: {learn:,d} || all params: {total:,d} || trainable%: {100 * learn / total:.4f}\n"
    )


# Files


@pytest.fixture
def saved(tmp_path):
    """(the folder of a base model, the folder of an adapter on it)"""
    tiny().save_pretrained(tmp_path / "base")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    wrapped(base, task_type="SEQ_CLS").save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter"


def test_where_it_comes_from_is_noted(saved, tmp_path, caplog):
    base, adapter = saved
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["inference_mode"]) == (str(base), True)
    PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained(base), adapter)
    assert "was made for" not in caplog.text
    other = tmp_path / "other"
    tiny().save_pretrained(other)
    PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained(other), adapter)
    assert f"the adapter 'default' was made for {base}, and the model is {other}" in caplog.text


def test_arguments_of_scripts_for_accelerate_and_peft(saved, tmp_path):
    base, adapter = saved
    adapted = PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained(base), adapter)
    adapted.save_pretrained(tmp_path / "none", is_main_process=False, save_function=torch.save)
    assert not (tmp_path / "none").exists()
    adapted.save_pretrained(tmp_path / "one", is_main_process=True, save_function=torch.save)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (adapter / name).read_bytes()
    ids = torch.randint(3, 59, (2, 5))
    expected = adapted(ids).logits
    plain = adapted.merge_and_unload(progressbar=True, safe_merge=True)
    torch.testing.assert_close(plain(ids).logits, expected)


def test_an_adapter_of_another_model(saved):
    base, adapter = saved
    model = tiny(hidden_size=24, num_hidden_layers=2, num_attention_heads=4)
    before = list(model.state_dict())
    with pytest.raises(CheckpointError) as told:
        PeftModel.from_pretrained(model, adapter)
    text = str(told.value)
    assert f"the adapter 'default' was made for {str(base)!r} and does not fit BertForSequenceClassification" in text
    assert "layer.2.attention.self.query.lora_A.weight: in the file, unknown to the model" in text
    assert "layer.0.attention.self.query.lora_A.weight: shape (8, " in text
    assert "classifier.weight: shape" in text
    assert list(model.state_dict()) == before


def test_what_a_file_lacks(saved):
    base, adapter = saved
    loaded = PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained(base), adapter, is_trainable=True)
    assert {name for name, x in loaded.named_parameters() if x.requires_grad} == {
        name for name, _ in loaded.named_parameters() if "lora_" in name or "modules_to_save" in name
    }
    state = get_peft_model_state_dict(loaded)
    kept = {key: x.clone() for key, x in state.items()}
    changed = {key: x + 1 for key, x in state.items() if "layer.0.attention.self.query.lora_A" not in key}
    with pytest.raises(CheckpointError, match=r"(?s)lora_A.weight: missing from the file.*strange: in the file"):
        set_peft_model_state_dict(loaded, changed | {"strange": torch.zeros(2)})
    assert all(torch.equal(x, kept[key]) for key, x in get_peft_model_state_dict(loaded).items())
    set_peft_model_state_dict(loaded, {key: x + 1 for key, x in kept.items()})
    assert all(torch.equal(x, kept[key] + 1) for key, x in get_peft_model_state_dict(loaded).items())


def test_no_adapter_there(saved, tmp_path):
    base, adapter = saved
    model = tiny()
    with pytest.raises(FileNotFoundError, match=r"has no 'adapter_config.json'"):
        PeftModel.from_pretrained(model, base)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"in a pickle, adapter_model\.bin"):
        PeftModel.from_pretrained(model, adapter)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    with pytest.raises(TypeError, match="no option local_file_only"):
        PeftModel.from_pretrained(model, adapter, local_file_only=True)
    with pytest.raises(ValueError, match="safetensors only"):
        wrapped(model).save_pretrained(tmp_path / "x", safe_serialization=False)


def test_a_failed_load_leaves_the_others(saved):
    base, adapter = saved
    adapted = wrapped(tiny(hidden_size=24, num_attention_heads=4), target_modules=["key"])
    with pytest.raises(CheckpointError):
        adapted.load_adapter(adapter, "b")
    assert list(adapted.peft_config) == ["default"]
    assert not any(".b." in name for name, _ in adapted.named_parameters())


def test_merged_and_tied(tmp_path, caplog):
    """An adapter on the embeddings alone: merged, the output layer keeps the old table, in the file too."""
    model = tiny("gpt2", "ForCausalLM")
    ids = torch.randint(59, (2, 7))
    adapted = wrapped(model, target_modules=["wte"])
    expected = adapted(ids).logits
    plain = adapted.merge_and_unload()
    torch.testing.assert_close(plain(ids).logits, expected, atol=1e-5, rtol=1e-4)
    plain.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        again = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("fields", [{"target_modules": ["query"]}, {"target_modules": ["key"], "task_type": "SEQ_CLS"}])
def test_the_model_inside_is_not_saved_by_itself(fields, tmp_path):
    """Its weights would stand under names that no model can load."""
    model = tiny()
    adapted = wrapped(model, **fields)
    with pytest.raises(ValueError, match=r"get_peft_model gave.*merge_and_unload"):
        model.save_pretrained(tmp_path)
    args = TrainingArguments(tmp_path / "run", report_to="none")
    with pytest.raises(ValueError, match="get_peft_model gave"):
        Trainer(model, args)
    assert not [*tmp_path.rglob("*.safetensors")]
    Trainer(adapted, args).save_model(tmp_path / "adapter")
    assert LoraConfig.from_pretrained(tmp_path / "adapter").target_modules == fields["target_modules"]
    adapted.merge_and_unload().save_pretrained(tmp_path)
    BertForSequenceClassification.from_pretrained(tmp_path)


# Configs


def test_peft_s_fields_that_do_nothing_are_read_over():
    idle = {"use_dora": False, "megatron_core": "megatron.core", "loftq_config": {}, "peft_version": "0.21.2"}
    assert LoraConfig(**idle) == LoraConfig()


@pytest.mark.parametrize(
    "fields, error, said",
    [
        ({"use_dora": True}, ValueError, "use_dora=True: not implemented"),
        ({"target_parameters": ["experts.down_proj"]}, ValueError, "target_parameters="),
        ({"init_lora_weights": "pissa"}, ValueError, "init_lora_weights='pissa' is not implemented; known are True"),
        ({"bias": "some"}, ValueError, "bias='some' is not implemented; known are 'none', 'all', 'lora_only'"),
        ({"task_type": "SEQ_CLASS"}, ValueError, "task_type='SEQ_CLASS'"),
        ({"r": 0}, ValueError, "a rank is a positive integer, not r=0"),
        ({"rank_pattern": {"key": -1}}, ValueError, "not key=-1"),
        ({"r": 2.5}, ValueError, "r=2.5"),
        ({"lora_dropout": 1.5}, ValueError, "lora_dropout=1.5 is no probability"),
        ({"lora_rank": 3}, TypeError, "LoraConfig has no field 'lora_rank'"),
        ({"target_modules": "a("}, ValueError, "is no regular expression"),
        ({"target_modules": "a", "layers_to_transform": 1}, ValueError, "give target_modules as a list"),
        ({"target_modules": ["a"], "layers_pattern": "h"}, ValueError, "give both"),
        ({"peft_type": "LOHA"}, ValueError, "peft_type='LOHA' is not implemented"),
    ],
)
def test_refused_by_name(fields, error, said):
    with pytest.raises(error, match=said):
        LoraConfig(**fields)


def test_a_config_as_a_file(tmp_path):
    config = LoraConfig(target_modules={"b", "a"}, rank_pattern={"a": 3}, use_rslora=True, task_type=TaskType.CAUSAL_LM)
    assert config.target_modules == ["a", "b"]
    config.save_pretrained(tmp_path)
    assert LoraConfig.from_pretrained(tmp_path) == config
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(values | {"use_dora": True}))
    with pytest.raises(CheckpointError, match=r"adapter_config.json: use_dora=True: not implemented"):
        LoraConfig.from_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(values | {"peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="an adapter of the kind 'IA3'; only LORA"):
        LoraConfig.from_pretrained(tmp_path)
