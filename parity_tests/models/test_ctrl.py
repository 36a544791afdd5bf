"""CTRL beyond what every architecture is tested for: published files, the computed positions, generation."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.ctrl.modeling_ctrl import positional_encoding

from minihf.inspection.batches import make_batch
from minihf.inspection.families import Variant
from minihf.inspection.pairs import make_pair
from minihf.models.auto import AutoModel, AutoModelForCausalLM
from minihf.models.ctrl import CTRLConfig, CTRLForSequenceClassification, CTRLLMHeadModel, CTRLModel, sinusoid
from minihf.nn.positions import positions_from_mask

SIZES = {"vocab_size": 40, "n_embd": 12, "dff": 17, "n_head": 3, "n_layer": 2, "n_positions": 19}
# As Salesforce's checkpoint has it, but for the sizes.
PUBLISHED = {
    "architectures": ["CTRLLMHeadModel"],
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "from_tf": False,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-06,
    "model_type": "ctrl",
    "n_ctx": 12,
    "num_labels": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_past": True,
    "pruned_heads": {},
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"max_length": 40}},
    "torchscript": False,
    "use_bfloat16": False,
    **SIZES,
}


@pytest.fixture(scope="module")
def pair():
    """float64, so that no rounding breaks a tie; a head of its own: a tied random one says each token again."""
    found = make_pair("ctrl", "CTRLLMHeadModel", Variant({"tie_word_embeddings": False})).to(torch.float64)
    return found.ours.eval(), found.theirs.eval()


def prompts(padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Each begins with a control code of its own: an ordinary token."""
    ids = torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :2], mask[2, :3] = 0, 0
    ids.scatter_(1, mask.argmax(-1, keepdim=True), torch.tensor([[51], [52], [53]]))
    return ids.masked_fill(mask == 0, 2), mask


@pytest.fixture
def published(tmp_path):
    """A folder as it was published: the head's weight besides the embeddings that it is tied to."""
    CTRLLMHeadModel(CTRLConfig(**SIZES)).save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["lm_head.weight"] = held["transformer.w.weight"].clone()
    held["lm_head.bias"].normal_()
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    return tmp_path


def test_a_published_checkpoint_loads(published):
    ids = torch.randint(0, 40, (2, 7))
    model, info = CTRLLMHeadModel.from_pretrained(published, output_loading_info=True)
    assert info["new"] == info["missing"] == info["unexpected"] == []
    assert model.lm_head.weight is model.transformer.w.weight
    theirs = transformers.CTRLLMHeadModel.from_pretrained(published).eval()
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)
    assert type(AutoModel.from_pretrained(published)) is CTRLModel
    assert type(AutoModelForCausalLM.from_pretrained(published)) is CTRLLMHeadModel
    kept = model.config.to_dict()
    said = {name: value for name, value in PUBLISHED.items() if name != "num_labels" and value is not None}
    assert {name: kept.get(name) for name in said} == said
    assert model.config.num_labels == 1


def test_of_a_published_checkpoint_a_head_is_new(published):
    _, info = CTRLForSequenceClassification.from_pretrained(published, output_loading_info=True)
    assert info["new"] == ["classifier.weight"]
    assert sorted(info["other_head"]) == ["lm_head.bias", "lm_head.weight"]
    model, info = CTRLModel.from_pretrained(published, output_loading_info=True)
    assert info["new"] == info["missing"] == info["unexpected"] == []


def test_a_base_checkpoint_lacks_the_heads_bias_only(tmp_path):
    CTRLModel(CTRLConfig(**SIZES)).save_pretrained(tmp_path)
    model, info = CTRLLMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["new"] == ["lm_head.bias"]
    assert torch.equal(model.lm_head.bias, torch.zeros(40))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"n_head": 5}, "n_embd=12 must be a multiple of n_head=5"),
        ({"dff": 0}, "dff=0 makes no model"),
        ({"n_positions": -3}, "n_positions=-3 makes no model"),
        ({"resid_pdrop": 1.5}, "resid_pdrop=1.5 is no probability"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon=-1.0 makes no model"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True is not implemented"),
    ],
    ids=str,
)
def test_values_that_make_no_model_are_refused(changes, told):
    with pytest.raises(ValueError, match=r"make|implemented|multiple|probability") as error:
        CTRLConfig(**{**SIZES, **changes})
    assert told in str(error.value)


# Positions


@pytest.mark.parametrize("positions, width", [(19, 12), (21, 33), (256, 1280), (3, 1), (1000, 65)])
def test_the_sinusoid_is_the_references_bit_for_bit(positions, width):
    assert torch.equal(sinusoid(positions, width), positional_encoding(positions, width, torch.float))


def test_the_positions_have_values_however_the_model_is_made(tmp_path):
    model = CTRLModel(CTRLConfig(**SIZES)).eval()
    assert not [key for key in model.state_dict() if "pos" in key]
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 40, (2, 7))
    loaded = CTRLModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.pos_encoding, sinusoid(19, 12))
    assert torch.equal(loaded(ids).last_hidden_state, model(ids).last_hidden_state)
    half = CTRLModel.from_pretrained(tmp_path, dtype="bfloat16")
    cast = model.to(torch.bfloat16)
    assert torch.equal(half(ids).last_hidden_state, cast(ids).last_hidden_state)


def test_all_of_a_loaded_model_is_on_the_device_that_was_asked_for(tmp_path):
    CTRLLMHeadModel(CTRLConfig(**SIZES)).save_pretrained(tmp_path)
    model = CTRLLMHeadModel.from_pretrained(tmp_path, device_map="meta")
    assert {x.device.type for x in (*model.parameters(), *model.buffers())} == {"meta"}
    assert model.lm_head.weight is model.transformer.w.weight


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


def test_a_control_code_says_what_follows(pair):
    ids = torch.tensor([[51, 7], [52, 7], [53, 7]])
    outs = [model.generate(ids, max_new_tokens=12) for model in pair]
    assert torch.equal(*outs)
    assert len(set(map(tuple, outs[0][:, 2:].tolist()))) == 3


# Where it differs


def test_embeddings_of_the_caller_stay_as_they_are_where_the_reference_scales_them_in_place(pair):
    embeds = torch.randn(2, 5, 33, dtype=torch.float64)
    given, others = embeds.clone(), embeds.clone()
    ours, theirs = pair[0](inputs_embeds=given).logits, pair[1](inputs_embeds=others).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert torch.equal(given, embeds)
    assert not torch.equal(others, embeds)


def test_positions_are_counted_over_the_mask_where_the_reference_counts_padding_too(pair):
    batch = make_batch(pair[0], "Model", "left")
    real = batch["attention_mask"].bool()
    ours, theirs = pair[0](**batch).logits, pair[1](**batch).logits
    told = pair[1](**batch, position_ids=positions_from_mask(batch["attention_mask"])).logits
    assert (ours - theirs)[real].abs().max() > 0.1
    torch.testing.assert_close(ours[real], told[real], rtol=0, atol=1e-10)
