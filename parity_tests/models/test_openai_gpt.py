"""GPT beyond what every architecture is tested for: published files, generation, and where it deliberately differs."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minihf.inspection.batches import make_batch
from minihf.inspection.families import Variant
from minihf.inspection.pairs import make_pair
from minihf.models.auto import AutoModel, AutoModelForCausalLM
from minihf.models.openai_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
    OpenAIGPTModel,
)
from minihf.nn.positions import positions_from_mask

SIZES = {"vocab_size": 40, "n_embd": 12, "n_head": 3, "n_layer": 2, "n_positions": 19}
# As OpenAI's checkpoint has it, but for the sizes.
PUBLISHED = {
    "afn": "gelu",
    "architectures": ["OpenAIGPTLMHeadModel"],
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "openai-gpt",
    "n_ctx": 19,
    "n_special": 0,
    "predict_special_tokens": True,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    **SIZES,
}


@pytest.fixture(scope="module")
def pair():
    """float64, so that no rounding breaks a tie; a head of its own: a tied random one says each token again."""
    found = make_pair("openai-gpt", "OpenAIGPTLMHeadModel", Variant({"tie_word_embeddings": False})).to(torch.float64)
    return found.ours.eval(), found.theirs.eval()


def prompts(padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 57, (3, 6), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :2], mask[2, :3] = 0, 0
    return ids.masked_fill(mask == 0, 2), mask


@pytest.fixture
def published(tmp_path):
    """A folder as it was published: bare names, the head besides, the buffers of old releases."""
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(**SIZES)).save_pretrained(tmp_path)
    held = {key.removeprefix("transformer."): x for key, x in load_file(tmp_path / "model.safetensors").items()}
    held["lm_head.weight"] = held["tokens_embed.weight"].clone()
    held["position_ids"] = torch.arange(19)
    held |= {f"h.{i}.attn.bias": torch.ones(1, 1, 19, 19).tril() for i in range(2)}
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    return tmp_path


def test_a_published_checkpoint_loads(published):
    ids = torch.randint(0, 40, (2, 7))
    model, info = OpenAIGPTLMHeadModel.from_pretrained(published, output_loading_info=True)
    assert sorted(info["stale"]) == ["h.0.attn.bias", "h.1.attn.bias", "position_ids"]
    assert info["new"] == info["missing"] == info["unexpected"] == []
    assert model.lm_head.weight is model.transformer.tokens_embed.weight
    theirs = transformers.OpenAIGPTLMHeadModel.from_pretrained(published).eval()
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)
    assert type(AutoModel.from_pretrained(published)) is OpenAIGPTModel
    assert type(AutoModelForCausalLM.from_pretrained(published)) is OpenAIGPTLMHeadModel
    kept = model.config.to_dict()
    assert {name: kept.get(name) for name in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize(
    "cls, new",
    [
        (OpenAIGPTForSequenceClassification, ["score.weight"]),
        (OpenAIGPTDoubleHeadsModel, ["multiple_choice_head.summary.weight", "multiple_choice_head.summary.bias"]),
        (OpenAIGPTModel, []),
    ],
)
def test_of_a_published_checkpoint_a_head_is_new(published, cls, new):
    _, info = cls.from_pretrained(published, output_loading_info=True)
    assert info["new"] == new
    assert info["missing"] == info["unexpected"] == []


def test_two_heads_that_the_reference_saves_under_the_heads_name_load_as_one_parameter(tmp_path):
    theirs = transformers.OpenAIGPTDoubleHeadsModel(transformers.OpenAIGPTConfig(**SIZES)).eval()
    theirs.save_pretrained(tmp_path)
    assert "transformer.tokens_embed.weight" not in load_file(tmp_path / "model.safetensors")
    ours, info = OpenAIGPTDoubleHeadsModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["new"] == info["missing"] == info["unexpected"] == []
    assert ours.lm_head.weight is ours.transformer.tokens_embed.weight
    ids = torch.randint(0, 40, (2, 3, 7))
    for got, expected in zip(ours(ids).to_tuple(), theirs(ids).to_tuple(), strict=False):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"afn": "gelu_new"}, "afn='gelu_new' is not implemented; known are 'gelu', 'relu', 'silu', 'swish'"),
        ({"summary_type": "attn"}, "summary_type='attn'"),
        ({"n_head": 5}, "n_embd=12 must be a multiple of n_head=5"),
        ({"n_positions": 0}, "n_positions=0 makes no model"),
        ({"attn_pdrop": 1.5}, "attn_pdrop=1.5 is no probability"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon=-1.0 makes no model"),
    ],
    ids=str,
)
def test_values_that_make_no_model_are_refused(changes, told):
    with pytest.raises(ValueError, match=r"make|implemented|multiple|probability") as error:
        OpenAIGPTConfig(**{**SIZES, **changes})
    assert told in str(error.value)


# Generation


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "top_k": 9}, {"do_sample": True, "top_p": 0.8}], ids=str)
def test_it_writes_the_references_ids_with_a_cache_and_without(pair, settings, padded):
    ids, mask = prompts(padded)
    outs = []
    for model, changes in ((pair[1], {}), (pair[0], {}), (pair[0], {"use_cache": False})):
        torch.manual_seed(8)
        outs.append(model.generate(ids, attention_mask=mask, max_new_tokens=15, **settings, **changes))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])
    assert len(set(map(tuple, outs[0][:, 6:].tolist()))) == 3
    assert len(outs[0][:, 6:].unique()) > 5


def test_a_left_padded_row_is_written_on_as_if_alone(pair):
    ids, mask = prompts(padded=True)
    together = pair[0].generate(ids, attention_mask=mask, max_new_tokens=9)
    for row, real, out in zip(ids, mask.bool(), together, strict=True):
        assert torch.equal(pair[0].generate(row[None, real], max_new_tokens=9)[0, -9:], out[-9:])


def test_no_token_is_written_past_the_positions(pair):
    assert pair[0].generate(prompts(False)[0], max_new_tokens=17).shape == (3, 23)  # the last one is not read
    with pytest.raises(ValueError, match="pass the model's 22 positions"):
        pair[0].generate(prompts(False)[0], max_new_tokens=18)


def test_a_cache_is_made_and_returned_only_on_request(pair):
    ids, _ = prompts(False)
    assert pair[0](ids).past_key_values is None
    assert pair[0](ids, use_cache=True).past_key_values.length == 6


# Where it differs


def test_positions_are_counted_over_the_mask_where_the_reference_counts_padding_too(pair):
    batch = make_batch(pair[0], "Model", "left")
    real = batch["attention_mask"].bool()
    ours, theirs = pair[0](**batch).logits, pair[1](**batch).logits
    told = pair[1](**batch, position_ids=positions_from_mask(batch["attention_mask"])).logits
    assert (ours - theirs)[real].abs().max() > 0.1
    torch.testing.assert_close(ours[real], told[real], rtol=0, atol=1e-10)


def test_no_row_looks_ahead_where_padding_on_the_left_does_in_the_reference(pair):
    """Its -10^4 on later tokens is little beside the lowest number, on padding: what stands before a text sees it all.

    Nobody reads those rows: what is real is the same on both sides.
    """
    ids, mask = prompts(padded=True)
    places = positions_from_mask(mask)
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % 57
    earlier = mask.bool()
    earlier[:, -1] = False
    changed = []
    for model in pair:
        before, after = (model(x, attention_mask=mask, position_ids=places).logits for x in (ids, other))
        assert torch.equal(before[earlier], after[earlier])
        changed.append((before - after)[mask == 0].abs().max().item())
    assert changed[0] == 0
    assert changed[1] > 0.01


def test_scores_below_minus_ten_thousand_stay_blind_to_the_future_where_the_references_do_not():
    found = make_pair("openai-gpt", "OpenAIGPTModel").to(torch.float64)
    ids, _ = prompts(False)
    changed = []
    for model in (found.ours.eval(), found.theirs.eval()):
        with torch.no_grad():
            model.h[0].attn.c_attn.weight.mul_(1000)
        before, after = model(ids).last_hidden_state, model(ids.index_fill(1, torch.tensor([5]), 3)).last_hidden_state
        changed.append((before - after)[:, :5].abs().max().item())
    assert changed[0] == 0
    assert changed[1] > 0.01


def test_each_choice_is_summarised_where_the_reference_takes_the_first_choice_for_the_first_token():
    ids = torch.randint(3, 40, (3, 2, 7))
    for kind, token in (("first", 0), ("last", 6)):
        model = OpenAIGPTDoubleHeadsModel(OpenAIGPTConfig(**SIZES, summary_type=kind)).eval()
        x = model.transformer(ids.flatten(0, 1)).last_hidden_state.view(3, 2, 7, 12)
        expected = model.multiple_choice_head.summary(x[:, :, token]).squeeze(-1)
        torch.testing.assert_close(model(ids).mc_logits, expected)
        torch.testing.assert_close(model(inputs_embeds=model.transformer.tokens_embed(ids)).mc_logits, expected)


def test_two_heads_leave_the_number_of_labels_as_it_was():
    config = OpenAIGPTConfig(**SIZES, num_labels=5)
    assert OpenAIGPTDoubleHeadsModel(config).multiple_choice_head.summary.out_features == 1
    assert config.num_labels == 5


def test_padded_choices_equal_choices_alone():
    """With a mask of the ids' shape (B, choices, T), which the reference cannot take."""
    model = OpenAIGPTDoubleHeadsModel(OpenAIGPTConfig(**SIZES, initializer_range=0.3)).eval().double()
    ids = torch.randint(3, 40, (2, 2, 7))
    mask = torch.ones_like(ids)
    mask[0, 1, :3] = 0
    out = model(ids, attention_mask=mask)
    alone = model(ids[:1, 1:, 3:])
    torch.testing.assert_close(out.logits[0, 1, 3:], alone.logits[0, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(out.mc_logits[0, 1], alone.mc_logits[0, 0], rtol=0, atol=1e-10)
