"""Llama's own: published configs in both spellings of rope, old files, long texts, the heads' two prefixes."""

import copy
import dataclasses
import json
import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.cache_utils import DynamicCache

import minihf
from minihf.checkpoints.files import CheckpointError
from minihf.inspection.batches import randomise
from minihf.inspection.families.decoders import LLAMA_ROPES
from minihf.inspection.pairs import chunked, make_pair
from minihf.models.auto import AutoConfig, AutoModelForCausalLM, AutoModelForQuestionAnswering
from minihf.models.llama import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)
from minihf.nn.cache import Cache

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
COMMON = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "use_cache": True}
COMMON |= {"initializer_range": 0.02, "rms_norm_eps": 1e-05, "pretraining_tp": 1, "attention_bias": False}
# What published config.json files hold, with the sizes of toys.
SIZES = {"vocab_size": 67, "hidden_size": 24, "intermediate_size": 33, "num_hidden_layers": 2}
PUBLISHED = {
    "Llama 1": {
        **COMMON, **SIZES, "num_attention_heads": 4, "max_sequence_length": 2048, "torch_dtype": "float16",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1, "transformers_version": "4.28.0.dev0",
    },
    "Llama-2-7b": {
        **COMMON, **SIZES, "_name_or_path": "meta-llama/Llama-2-7b-hf", "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 4096, "rope_scaling": None, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float16", "transformers_version": "4.31.0.dev0",
    },
    "TinyLlama": {
        **COMMON, **SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "Llama-3.1-8B": {
        **COMMON, **SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 131072,
        "mlp_bias": False, "attention_dropout": 0.0, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "rope_type":
        "llama3"}, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 60,
        "eos_token_id": [61, 62, 63],
    },
    "Llama-3.2-1B": {
        **COMMON, **SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "mlp_bias": False,
        "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "factor": 32.0,
        "rope_type": "llama3"}, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 60,
        "eos_token_id": 61,
    },
    "Vicuna 16k": {
        **COMMON, **SIZES, "num_attention_heads": 4, "max_position_embeddings": 4096, "torch_dtype": "float16",
        "rope_scaling": {"factor": 4.0, "type": "linear"},
    },
    "Yarn-Llama-2": {
        **COMMON, **SIZES, "num_attention_heads": 4, "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
        "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn", "finetuned": True},
    },
    "longrope, original length beside": {
        **COMMON, **SIZES, "num_attention_heads": 4, "max_position_embeddings": 131072, "rope_theta": 10000.0,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"short_factor": [1.0, 1.25, 1.5], "long_factor": [1.5, 4.0, 9.0], "type": "longrope"},
    },
    "of 2026": {
        **COMMON, **SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 131072,
        "rope_parameters": {**LLAMA3, "rope_theta": 500000.0, "rope_type": "llama3"}, "dtype": "bfloat16",
    },
}  # fmt: skip
EACH = pytest.mark.parametrize("name", PUBLISHED)


def tiny(**changes):
    sizes = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 12}
    return LlamaConfig(**{**sizes, **changes})


def lively(cls, config):
    model = cls(config)
    randomise(model)
    return model.eval()


def write(folder, config, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def texts(*shape):
    return torch.randint(3, 60, shape)


# Published checkpoints


@EACH
def test_a_published_checkpoint_loads_and_is_the_references(name, tmp_path):
    """Rope included: theta and the kind come from either spelling, on long texts, too."""
    config = PUBLISHED[name]
    model = lively(LlamaForCausalLM, LlamaConfig(**{**config, "model_type": "llama"}))
    tensors = {key: x.clone() for key, x in model.tensors_to_save().items()}
    for i in range(2):  # of files before 2023
        tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.rand(3)
    write(tmp_path, config, tensors)
    ours, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32", output_loading_info=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(ours) is LlamaForCausalLM
    assert sorted(info["stale"]) == [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]
    assert not info["new"] + info["missing"] + info["unexpected"] + info["other_head"]
    assert info["tied"] == (LlamaForCausalLM.tied if config.get("tie_word_embeddings") else {})
    ids = texts(2, 9)
    for places in (None, torch.arange(9)[None] + 4090, torch.arange(9)[None] * 900):
        with torch.no_grad():
            torch.testing.assert_close(
                ours(ids, position_ids=places).logits, theirs(ids, position_ids=places).logits, rtol=0, atol=1e-5
            )
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    assert str(AutoModelForCausalLM.from_pretrained(tmp_path).dtype) == f"torch.{dtype}"


@EACH
def test_its_config_is_the_references_and_is_read_back_by_both(name, tmp_path):
    write(tmp_path, PUBLISHED[name])
    ours, theirs = AutoConfig.from_pretrained(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
    theirs.standardize_rope_params()  # as its models do; before, it has not seen an original length beside the rest
    expected = {key: x for key, x in theirs.rope_parameters.items() if key != "type"}  # the former name of rope_type
    assert ours.rope_parameters == expected
    for field in ("head_dim", "num_key_value_heads", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
        assert getattr(ours, field) == getattr(theirs, field)
    ours.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again/config.json").read_text())
    assert not {"rope_theta", "rope_scaling"} & set(saved)
    for key in set(PUBLISHED[name]) - {"rope_theta", "rope_scaling", "torch_dtype", "_name_or_path"}:
        assert saved[key] == PUBLISHED[name][key] or key == "rope_parameters"  # unknown ones are kept
    again = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    again.standardize_rope_params()
    assert again.rope_parameters == expected
    assert AutoConfig.from_pretrained(tmp_path / "again") == ours
    theirs.save_pretrained(tmp_path / "theirs")
    assert AutoConfig.from_pretrained(tmp_path / "theirs").rope_parameters == expected


def test_saved_by_us_it_is_the_same_model_there(tmp_path):
    for name, rope in LLAMA_ROPES.items():
        config = tiny(rope_theta=77.0, rope_scaling={"type": name.partition(",")[0], **rope}, head_dim=8)
        model = lively(LlamaModel, config)
        model.save_pretrained(tmp_path / name)
        theirs = transformers.LlamaModel.from_pretrained(tmp_path / name)
        ids = texts(2, 14)
        torch.testing.assert_close(
            model(ids).last_hidden_state, theirs(ids).last_hidden_state, rtol=0, atol=1e-5, msg=name
        )


# The two spellings, and changing them


def test_defaults_are_the_references():
    ours, theirs = LlamaConfig(), transformers.LlamaConfig()
    names = {field.name for field in dataclasses.fields(LlamaConfig)} - {"output_attentions", "classifier_dropout"}
    assert names >= {field.name for field in dataclasses.fields(theirs)} - {
        "transformers_version",
        "chunk_size_feed_forward",
    }
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}


def test_theta_and_scaling_are_changed_apart_while_loading(tmp_path):
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}
    dynamic = {"rope_theta": 5e5, "rope_type": "dynamic", "factor": 3.0}
    for i, spelling in enumerate((old, new, {**old, "rope_parameters": None}, {**new, "rope_scaling": None})):
        folder = tmp_path / str(i)
        lively(LlamaModel, tiny()).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        del config["rope_parameters"]
        write(folder, {**config, **spelling})

        def load(folder=folder, **changes):
            rope = AutoConfig.from_pretrained(folder, **changes).rope_parameters
            assert LlamaModel.from_pretrained(folder, **changes).rotary_emb.rope == rope
            return rope

        assert load() == new["rope_parameters"]
        assert load(rope_theta=7.0) == {**new["rope_parameters"], "rope_theta": 7.0}
        assert load(rope_scaling={"type": "dynamic", "factor": 3.0}) == dynamic
        assert load(rope_parameters={"rope_type": "dynamic", "factor": 3.0}) == dynamic
        assert load(rope_scaling=None) == {"rope_theta": 5e5, "rope_type": "default"}
        assert load(rope_scaling={"type": "dynamic", "factor": 3.0}, rope_theta=9.0) == {**dynamic, "rope_theta": 9.0}


def test_the_old_names_can_be_read_and_set():
    config = tiny(rope_theta=5e5)
    assert (config.rope_theta, config.rope_scaling) == (5e5, config.rope_parameters)
    config.rope_scaling = {"type": "dynamic", "factor": 2.0}
    assert config.rope_theta == 5e5
    assert LlamaModel(config).rotary_emb.kind == "dynamic"
    config.rope_theta = 9.0
    assert LlamaModel(config).rotary_emb.rope == {"rope_theta": 9.0, "rope_type": "dynamic", "factor": 2.0}
    config.rope_parameters = {"rope_type": "linear"}
    with pytest.raises(ValueError, match="rope_type='linear' needs factor"):
        LlamaModel(config)


def test_the_callers_dict_is_left_alone():
    given = {"type": "linear", "factor": 2.0}
    tiny(rope_scaling=given)
    assert given == {"type": "linear", "factor": 2.0}
    config = tiny(rope_scaling=given)
    copied = copy.deepcopy(config)
    copied.rope_parameters["factor"] = 3.0
    assert config.rope_parameters["factor"] == 2.0


REFUSED = [
    ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type='su' is not implemented"),
    ({"rope_scaling": {"type": "linear"}}, "rope_type='linear' needs factor"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' needs factor"),
    ({"rope_scaling": {**LLAMA3, "rope_type": "llama3", "high_freq_factor": 1.0}}, "high_freq_factor=1.0"),
    ({"rope_scaling": "linear"}, "is 'linear': expected a dict"),
    ({"rope_theta": -1.0}, "rope_theta=-1.0"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "each kind of layer .full_attention."),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ({"head_dim": 7}, "head_dim=7"),
    ({"num_attention_heads": 5}, "hidden_size=24 must be a multiple of num_attention_heads=5"),
    ({"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple of num_key_value_heads=3"),
    ({"num_key_value_heads": 0}, "num_key_value_heads=0"),
    ({"hidden_act": "swiglu"}, "hidden_act='swiglu' is not implemented"),
    ({"max_position_embeddings": 0}, "max_position_embeddings=0"),
    ({"attention_dropout": 1.5}, "attention_dropout=1.5"),
    ({"pad_token_id": 67}, "pad_token_id=67"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=str)
def test_what_makes_no_llama_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tiny(**change)
    write(tmp_path, {**SIZES, "model_type": "llama", "num_attention_heads": 4, **change})
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        AutoConfig.from_pretrained(tmp_path)


# Heads and prefixes

HEADS = {
    LlamaForCausalLM: ["lm_head.weight"],
    LlamaForSequenceClassification: ["score.weight"],
    LlamaForTokenClassification: ["score.weight", "score.bias"],
    LlamaForQuestionAnswering: ["qa_outputs.weight", "qa_outputs.bias"],
}


@pytest.mark.parametrize("target", HEADS)
@pytest.mark.parametrize("source", [LlamaModel, *HEADS])
def test_any_heads_checkpoint_goes_into_any_head(source, target, tmp_path, caplog):
    """Question answering calls the base model "transformer", the others "model": the reference then loads nothing."""
    saved = lively(source, tiny())
    saved.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model, info = target.from_pretrained(tmp_path, output_loading_info=True)
    shared = [key for key in HEADS[target] if key in HEADS.get(source, [])]
    assert info["new"] == [key for key in HEADS[target] if key not in shared]
    assert all(key in caplog.text for key in info["new"])
    assert not info["missing"] + info["unexpected"] + info["stale"]
    for key, x in saved.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[key], x)
    base, info = LlamaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert sorted(info["other_head"]) == sorted(HEADS.get(source, []))
    assert torch.equal(base.norm.weight, saved.base_model.norm.weight)


def test_question_answering_is_saved_under_the_references_names(tmp_path):
    lively(LlamaForQuestionAnswering, tiny()).save_pretrained(tmp_path)
    assert {key.split(".")[0] for key in load_file(tmp_path / "model.safetensors")} == {"transformer", "qa_outputs"}
    assert type(AutoModelForQuestionAnswering.from_pretrained(tmp_path)) is LlamaForQuestionAnswering


def test_a_tied_head_stands_once_in_the_file(tmp_path):
    model = lively(LlamaForCausalLM, tiny(tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    lively(LlamaForCausalLM, tiny()).save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is not again.model.embed_tokens.weight


def test_fresh_norms_are_one_where_a_file_lacks_them(tmp_path):
    tensors = lively(LlamaModel, tiny()).state_dict()
    del tensors["norm.weight"]
    write(tmp_path, tiny().to_dict(), tensors)
    assert torch.equal(LlamaModel.from_pretrained(tmp_path, strict=False).norm.weight, torch.ones(24))


# Positions and long texts


def test_holes_shift_nothing_where_the_reference_counts_them():
    pair = make_pair("llama", "LlamaForCausalLM").to(torch.float64)
    ids = texts(2, 9) % 59
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1]])
    real = mask.bool()
    ours = pair.ours(ids, mask).logits
    for row in range(2):
        alone = pair.ours(ids[row : row + 1, real[row]]).logits[0]
        torch.testing.assert_close(ours[row, real[row]], alone, rtol=0, atol=1e-12)
    theirs = pair.theirs(ids, mask).logits
    assert (ours - theirs)[0][real[0]].abs().max() > 0.01
    torch.testing.assert_close(ours[1][real[1]], theirs[1][real[1]], rtol=0, atol=1e-4)  # padding shifts all alike


def test_texts_have_no_longest_length():
    model = lively(LlamaForCausalLM, tiny())
    assert model(texts(1, 50)).logits.shape == (1, 50, 67)
    assert model.generate(texts(1, 11), max_new_tokens=30, eos_token_id=None).shape == (1, 41)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", LLAMA_ROPES)
def test_a_text_beyond_the_original_length_in_pieces(name, padded):
    """Equal to one reading where frequencies are fixed, or are the same in all pieces; else to the reference's cache.

    dynamic and longrope: a key keeps the angle that it got when the text was as long as it then was.
    """
    kind = name.partition(",")[0]
    config = tiny(max_position_embeddings=10, head_dim=8, rope_parameters={"rope_type": kind, **LLAMA_ROPES[name]})
    ours = lively(LlamaForCausalLM, config)
    fields = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields)).eval()
    theirs.load_state_dict(ours.state_dict())
    ids, mask = texts(2, 17), torch.ones(2, 17, dtype=torch.long)
    if padded:
        mask[1, :3] = 0
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    real = mask.bool()
    with torch.no_grad():
        whole = ours(**batch).logits
        torch.testing.assert_close(whole[real], theirs(**batch).logits[real], rtol=0, atol=1e-5)
        for sizes in ((17,), (9, 8), (12, 5), (1,) * 17, (4, 1, 12)):
            pieces, cache, start = chunked(ours, batch, sizes), DynamicCache(config=theirs.config), 0
            theirs(ids[:, :1])  # a short text: dynamic forgets the long one
            there = []
            for size in sizes:
                part = {"position_ids": places[:, start : start + size], "attention_mask": mask[:, : start + size]}
                there.append(theirs(ids[:, start : start + size], past_key_values=cache, **part).logits)
                start += size
            torch.testing.assert_close(pieces[real], torch.cat(there, 1)[real], rtol=0, atol=1e-5)
            switches = kind == "dynamic" or (name == "longrope, short" or (name == "longrope, long" and sizes[0] < 6))
            if not switches or len(sizes) == 1:
                torch.testing.assert_close(pieces[real], whole[real], rtol=0, atol=1e-5)
    if kind == "dynamic":
        assert (chunked(ours, batch, (12, 5)) - whole)[real].abs().max() > 1e-3


# Generation


def generators(**changes):
    """The same lively model on both sides, in float64, so that no rounding breaks a tie."""
    sizes = {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 48}
    fields = {**sizes, "head_dim": 6, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": 1, **changes}
    ours, theirs = LlamaForCausalLM(LlamaConfig(**fields)), transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**copy.deepcopy(fields))
    )
    torch.manual_seed(3)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.8 if parameter.dim() == 2 else 0.1)
    theirs.load_state_dict(ours.state_dict())
    return ours.double().eval(), theirs.double().eval()


def prompts(padded):
    torch.manual_seed(11)
    ids, mask = texts(3, 7), torch.ones(3, 7, dtype=torch.long)
    if padded:
        mask[1, :2] = mask[2, :5] = 0
    return ids.masked_fill(mask == 0, 0), mask


GENERATORS = {
    "plain": {},
    "tied, with biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "llama3": {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "rope_type": "llama3"}},
    "past the window": {"max_position_embeddings": 9, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", GENERATORS)
def test_generated_ids_are_the_references(name, do_sample, padded):
    pair = generators(**GENERATORS[name])
    ids, mask = prompts(padded)
    given = {"attention_mask": mask, "max_new_tokens": 15, "do_sample": do_sample}
    seen = set()
    for seed, settings in enumerate(({}, {"top_p": 0.8, "temperature": 1.5}, {"eos_token_id": [5, 6]})):
        outs = []
        for model in pair:
            torch.manual_seed(seed)
            outs.append(model.generate(ids, **given, **settings))
        assert torch.equal(*outs)
        seen |= set(map(tuple, outs[0].tolist()))
        if name != "past the window":
            torch.manual_seed(seed)
            assert torch.equal(pair[0].generate(ids, **given, **settings, use_cache=False), outs[0])
    assert len(seen) >= (6 if do_sample else 3)


def test_a_padded_batch_writes_what_its_rows_write():
    ours, _ = generators()
    ids, mask = prompts(True)
    batch = ours.generate(ids, attention_mask=mask, max_new_tokens=12)
    for row, real, out in zip(ids, mask.bool(), batch, strict=True):
        assert torch.equal(out[7:], ours.generate(row[real][None], max_new_tokens=12)[0, int(real.sum()) :])


def test_the_cache_holds_the_keys_of_the_groups_only():
    ours, _ = generators()
    cache = Cache()
    ours(texts(2, 5), past_key_values=cache)
    assert cache.layers[0].keys.shape == (2, 2, 5, 6)  # 2 heads of 6


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("heads", [1, 2])
def test_ready_masks_for_each_head_reach_shared_keys(heads, impl):
    """One query at a time, too, where queries that share a key are rows of one head."""
    ours, _ = generators()
    ours.set_attn_implementation(impl)
    ids = texts(2, 5)
    mask = torch.ones(2, 6 if heads > 1 else 1, 5, 5, dtype=torch.bool).tril()
    mask[:, :, 3:, 1] = False
    mask[:, -1, 4, 2] = False
    whole = ours(ids, attention_mask=mask).logits
    cache = Cache()
    pieces = [
        ours(ids[:, i : i + 1], attention_mask=mask[:, :, i : i + 1, : i + 1], past_key_values=cache).logits
        for i in range(5)
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-12)
    assert (whole - ours(ids).logits).abs().max() > 1e-3


def test_it_trains_under_autocast_and_from_half_to_whole():
    model = lively(LlamaForCausalLM, tiny()).train()
    ids = texts(2, 8)
    exact = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert abs(loss - exact) < 0.1


def test_the_public_names_are_there():
    for name in ("LlamaConfig", "LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification"):
        assert getattr(minihf, name).__module__.startswith("minihf.models.llama")
