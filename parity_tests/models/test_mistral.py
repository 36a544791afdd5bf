"""Mistral's own: published configs, long texts through the window, what the cache keeps, generation past the window."""

import copy
import dataclasses
import json
import random

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minihf.checkpoints.files import CheckpointError
from minihf.inspection.batches import randomise
from minihf.inspection.pairs import chunked
from minihf.models import mistral
from minihf.models.auto import AutoConfig, AutoModelForCausalLM
from minihf.models.mistral import (
    MistralConfig,
    MistralForCausalLM,
    MistralForQuestionAnswering,
    MistralForSequenceClassification,
    MistralForTokenClassification,
    MistralModel,
)
from minihf.nn.cache import Cache

SIZES = {"vocab_size": 67, "hidden_size": 24, "intermediate_size": 33, "num_hidden_layers": 2}
COMMON = {
    **SIZES, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "use_cache": True,
    "initializer_range": 0.02, "rms_norm_eps": 1e-05, "num_attention_heads": 4, "num_key_value_heads": 2,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}  # fmt: skip
PUBLISHED = {
    "7B-v0.1": {**COMMON, "sliding_window": 7, "rope_theta": 10000.0},
    "7B-Instruct-v0.2": {**COMMON, "sliding_window": None, "rope_theta": 1000000.0, "attention_dropout": 0.0},
    "Nemo": {**COMMON, "head_dim": 4, "sliding_window": None, "rope_theta": 1000000.0},
    "Ministral-8B": {**COMMON, "head_dim": 8, "sliding_window": 7, "rope_theta": 100000000.0, "rope_scaling": None},
    "of 2026": {**COMMON, "sliding_window": 7, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
}
W = 5


def tiny(**changes):
    sizes = {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6, "sliding_window": W}
    return MistralConfig(**{**sizes, "num_hidden_layers": 3, "max_position_embeddings": 12, **changes})


def lively(cls, config):
    model = cls(config)
    randomise(model)
    return model.eval()


def twin(ours):
    """The same model in the reference."""
    fields = {key: copy.deepcopy(value) for key, value in ours.config.to_dict().items() if key != "model_type"}
    theirs = getattr(transformers, type(ours).__name__)(transformers.MistralConfig(**fields)).to(ours.dtype).eval()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def write(folder, config, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def texts(*shape):
    return torch.randint(3, 60, shape)


# Published checkpoints


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_loads_and_is_the_references(name, tmp_path):
    config = PUBLISHED[name]
    model = lively(MistralForCausalLM, MistralConfig(**config))
    write(tmp_path, config, {key: x.clone() for key, x in model.tensors_to_save().items()})
    ours, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32", output_loading_info=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(ours) is MistralForCausalLM
    assert not info["new"] + info["missing"] + info["unexpected"] + info["other_head"] + info["stale"]
    ids = texts(2, 13)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    expected = transformers.AutoConfig.from_pretrained(tmp_path)
    for field in ("head_dim", "num_key_value_heads", "sliding_window", "rope_parameters", "tie_word_embeddings"):
        assert getattr(ours.config, field) == getattr(expected, field)


def test_each_side_loads_what_the_other_saved(tmp_path):
    ours = lively(MistralForCausalLM, tiny())
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = transformers.MistralForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    theirs.save_pretrained(tmp_path / "theirs")
    again = MistralForCausalLM.from_pretrained(tmp_path / "theirs")
    assert all(torch.equal(again.state_dict()[key], x) for key, x in ours.state_dict().items())
    assert again.config.sliding_window == W
    assert json.loads((tmp_path / "ours/config.json").read_text())["sliding_window"] == W
    lively(MistralForCausalLM, tiny(sliding_window=None)).save_pretrained(tmp_path / "none")
    assert AutoConfig.from_pretrained(tmp_path / "none").sliding_window is None
    assert transformers.AutoConfig.from_pretrained(tmp_path / "none").sliding_window is None


def test_defaults_are_the_references():
    ours, theirs = MistralConfig(), transformers.MistralConfig()
    names = {field.name for field in dataclasses.fields(MistralConfig)} - {"output_attentions", "classifier_dropout"}
    assert names >= {field.name for field in dataclasses.fields(theirs)} - {
        "transformers_version",
        "chunk_size_feed_forward",
    }
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}


REFUSED = [
    ({"sliding_window": 0}, "sliding_window=0: expected 1 or more"),
    ({"sliding_window": -4}, "sliding_window=-4"),
    ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types=.* all layers have the window, or none"),
    ({"layer_types": ["sliding_attention"] * 2, "sliding_window": None}, "layer_types=.*sliding_window=None"),
    ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type='su' is not implemented"),
    ({"head_dim": 7}, "head_dim=7"),
    ({"num_attention_heads": 10, "head_dim": None}, "hidden_size=24 must be a multiple of num_attention_heads=10"),
    ({"num_key_value_heads": 4}, "num_attention_heads=6 must be a multiple of num_key_value_heads=4"),
    ({"hidden_act": "swiglu"}, "hidden_act='swiglu' is not implemented"),
    ({"attention_dropout": 1.5}, "attention_dropout=1.5"),
    ({"pad_token_id": 67}, "pad_token_id=67"),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=str)
def test_what_makes_no_mistral_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tiny(**change)
    write(tmp_path, {**tiny().to_dict(), **change})
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        AutoConfig.from_pretrained(tmp_path)


def test_layer_types_that_say_what_is_so_are_kept():
    assert tiny(layer_types=["sliding_attention"] * 3).layer_types == ["sliding_attention"] * 3
    assert tiny(layer_types=["full_attention"] * 3, sliding_window=None).sliding_window is None


HEADS = {
    MistralForCausalLM: ["lm_head.weight"],
    MistralForSequenceClassification: ["score.weight"],
    MistralForTokenClassification: ["score.weight", "score.bias"],
    MistralForQuestionAnswering: ["qa_outputs.weight", "qa_outputs.bias"],
}


@pytest.mark.parametrize("target", HEADS)
def test_a_base_checkpoint_lacks_the_heads_parameters_and_no_others(target, tmp_path, caplog):
    saved = lively(MistralModel, tiny())
    saved.save_pretrained(tmp_path)
    model, info = target.from_pretrained(tmp_path, output_loading_info=True)
    assert info["new"] == HEADS[target]
    assert all(key in caplog.text for key in info["new"])
    assert not info["missing"] + info["unexpected"] + info["stale"]
    assert all(torch.equal(model.model.state_dict()[key], x) for key, x in saved.state_dict().items())


def test_a_tied_head_stands_once_in_the_file(tmp_path):
    lively(MistralForCausalLM, tiny(tie_word_embeddings=True)).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = MistralForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight


# The window

T = 3 * W + 2
SIZES_OF_PIECES = [(T,), (1,) * T, (W,) * 3 + (2,), (W - 1, 1, W + 1, T - 2 * W - 1), (2, T - 3, 1), (T - 1, 1)]


def batch_of(padded):
    ids, mask = texts(3, T), torch.ones(3, T, dtype=torch.long)
    if padded:
        mask[1, :2] = mask[2, : 2 * W + 1] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [1, 2, W, T - 1, T, None])
def test_a_long_text_in_any_pieces_is_the_references(window, padded, impl, grad):
    ours = lively(MistralForCausalLM, tiny(sliding_window=window, attn_implementation=impl)).double()
    batch = batch_of(padded)
    real = batch["attention_mask"].bool()
    rng = random.Random(0)
    drawn = []
    for _ in range(4):
        drawn.append([])
        while sum(drawn[-1]) < T:
            drawn[-1].append(min(rng.choice([1, 1, 2, W - 1, W, W + 1, T]), T - sum(drawn[-1])))
    with torch.no_grad():
        theirs = twin(ours)(**batch, use_cache=False).logits
    with torch.set_grad_enabled(grad):
        whole = ours(**batch, use_cache=False).logits
        torch.testing.assert_close(whole[real], theirs[real], rtol=0, atol=1e-5)  # whose norms are of float32
        without = {name: x for name, x in batch.items() if name != "position_ids"}  # counted over the whole mask
        for sizes in (*SIZES_OF_PIECES, *drawn):
            for given in (batch, without):
                torch.testing.assert_close(chunked(ours, given, sizes)[real], whole[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_cache_that_drops_one_too_many_or_too_few_would_be_seen(change, monkeypatch):
    ours, batch = lively(MistralForCausalLM, tiny()).double(), batch_of(False)
    right = Cache.update
    monkeypatch.setattr(Cache, "update", lambda self, layer, k, v, window: right(self, layer, k, v, window + change))
    whole = ours(**batch, use_cache=False).logits
    assert (chunked(ours, batch, (1,) * T) - whole).abs().max() > 1e-3


def test_each_token_sees_the_last_tokens_of_the_window_and_no_others():
    ours = lively(MistralModel, tiny(num_hidden_layers=1)).double()
    ids = texts(1, T)
    weights = ours(ids, output_attentions=True).attentions[0][0]
    for i in range(T):
        assert (weights[:, i, max(0, i - W + 1) : i + 1] > 0).all()
        assert weights[:, i].count_nonzero(-1).tolist() == [min(i + 1, W)] * 6
    before = ours(ids).last_hidden_state
    ids[0, 3] += 1
    changed = (ours(ids).last_hidden_state != before).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(3, 3 + W))


def test_masks_are_made_only_where_something_is_hidden(monkeypatch):
    seen = []
    right = mistral.attend
    def hear(q, k, v, mask, **kw):
        seen.append(mask)
        return right(q, k, v, mask, **kw)

    monkeypatch.setattr(mistral, "attend", hear)
    ours = lively(MistralModel, tiny(num_hidden_layers=1))

    def masks(*args, **kw):
        seen.clear()
        ours(*args, **kw)
        return seen[0] if seen[0] is None else tuple(seen[0].shape)

    assert masks(texts(2, W)) is None
    assert masks(texts(2, W), torch.ones(2, W)) is None
    assert masks(texts(2, W + 1)) == (1, 1, W + 1, W + 1)
    cache = Cache()
    assert masks(texts(2, W - 1), past_key_values=cache) is None
    for _ in range(W + 2):
        assert masks(texts(2, 1), past_key_values=cache) is None
    assert masks(texts(2, 3), past_key_values=cache) == (1, 1, 3, W + 2)
    padded = torch.ones(2, cache.length + 1)
    padded[0, :3] = 0  # long dropped
    assert masks(texts(2, 1), padded, past_key_values=cache) is None


def test_a_mask_of_another_length_is_refused_with_the_length_of_all_tokens():
    ours = lively(MistralModel, tiny())
    cache = Cache()
    ours(texts(2, T), past_key_values=cache)
    with pytest.raises(ValueError, match=rf"shape \(2, {W}\), expected \(2, {T + 1}\)"):
        ours(texts(2, 1), torch.ones(2, W), past_key_values=cache)
    assert cache.length == T


def test_a_ready_mask_alone_decides():
    ours = lively(MistralModel, tiny()).double()
    ids = texts(2, T)
    everything = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
    whole = ours(ids, everything).last_hidden_state
    ours.config.sliding_window = None
    assert torch.equal(whole, ours(ids).last_hidden_state)
    ours.config.sliding_window = W
    band, cache = everything.triu(1 - W), Cache()
    pieces = [
        ours(ids[:, i : i + 4], band[:, :, i : i + 4, : min(i + 4, T)], past_key_values=cache).last_hidden_state
        for i in range(0, T, 4)
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), ours(ids).last_hidden_state, rtol=0, atol=1e-10)


# What the cache keeps


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(40,), (1,) * 40, (3, 30, 1, 1, 1, 4), (7, 7, 7, 7, 7, 5)])
def test_a_cache_keeps_no_more_than_twice_the_window_between_calls(sizes):
    ours, cache, start = lively(MistralModel, tiny()), Cache(), 0
    for size in sizes:
        ours(texts(2, size), past_key_values=cache)
        start += size
        assert cache.length == start
        for layer in cache.layers:
            assert min(start, W - 1) <= layer.keys.shape[2] <= max(2 * (W - 1 + size if size < W else 0), 2 * W)
            stored = layer.keys.untyped_storage().nbytes()
            assert stored == layer.keys.numel() * 4 or start <= W  # no view of a long prompt


@torch.no_grad()
def test_reorder_moves_what_the_window_sees():
    ours = lively(MistralForCausalLM, tiny()).double()
    ids, rows = texts(3, T), torch.tensor([2, 0, 0, 1])
    for split in (3, W, T - 2):
        cache = Cache()
        ours(ids[:, : split - 1], past_key_values=cache)
        ours(ids[:, split - 1 : split], past_key_values=cache)
        cache.reorder(rows)
        rest = [ours(ids[rows, i : i + 1], past_key_values=cache).logits for i in range(split, T)]
        torch.testing.assert_close(torch.cat(rest, 1), ours(ids[rows]).logits[:, split:], rtol=0, atol=1e-10)


def test_gradients_flow_through_the_window():
    ours = lively(MistralForCausalLM, tiny()).double()
    batch = batch_of(False)
    towards = torch.randn(3, T, 67, dtype=torch.float64)
    expected = torch.autograd.grad((ours(**batch).logits * towards).sum(), list(ours.parameters()))
    for sizes in SIZES_OF_PIECES:
        got = torch.autograd.grad((chunked(ours, batch, sizes) * towards).sum(), list(ours.parameters()))
        for mine, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-10)


# Generation


def generators(**changes):
    """The same lively model on both sides, in float64, so that no rounding breaks a tie."""
    ours = MistralForCausalLM(tiny(pad_token_id=0, eos_token_id=None, **changes))
    torch.manual_seed(3)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.8 if parameter.dim() == 2 else 0.1)
    ours = ours.double().eval()
    return ours, twin(ours)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("prompt", [3, W, 2 * W + 1])
@pytest.mark.parametrize("window", [2, W, None])  # of a window of 1, the reference's cache keeps all
def test_generated_ids_are_the_references(window, prompt, do_sample, padded):
    pair = generators(sliding_window=window)
    torch.manual_seed(11)
    ids, mask = texts(3, prompt), torch.ones(3, prompt, dtype=torch.long)
    if padded:
        mask[1, :1] = mask[2, : prompt - 1] = 0
        ids = ids.masked_fill(mask == 0, 0)
    given = {"attention_mask": mask, "max_new_tokens": 3 * W, "do_sample": do_sample}
    for seed, settings in enumerate(({}, {"top_p": 0.8, "temperature": 1.5}, {"eos_token_id": [5, 6]})):
        outs = []
        for model, options in ((pair[0], {}), (pair[1], {}), (pair[0], {"use_cache": False})):
            torch.manual_seed(seed)
            outs.append(model.generate(ids, **given, **settings, **options))
        assert torch.equal(outs[0], outs[1])
        assert torch.equal(outs[0], outs[2])
    ours = pair[0].generate(ids, attention_mask=mask, max_new_tokens=3 * W)
    for row, real, out in zip(ids, mask.bool(), ours, strict=True):
        alone = pair[0].generate(row[real][None], max_new_tokens=3 * W)[0, int(real.sum()) :]
        assert torch.equal(out[prompt:], alone)
