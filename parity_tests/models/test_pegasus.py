"""PEGASUS beyond what every architecture is tested for: published files, the computed positions, what it differs in."""

import json
from dataclasses import fields

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.pegasus.modeling_pegasus import PegasusSinusoidalPositionalEmbedding

from minihf.inspection.families import Variant
from minihf.inspection.pairs import make_pair
from minihf.models.auto import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from minihf.models.pegasus import (
    PegasusConfig,
    PegasusForCausalLM,
    PegasusForConditionalGeneration,
    PegasusModel,
)
from minihf.nn.cache import Cache
from minihf.nn.positions import StaticPositions

SIZES = {
    "vocab_size": 41,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 19,
    "max_position_embeddings": 23,
    "activation_function": "relu",
    "scale_embedding": True,
}
# As google/pegasus-xsum has it, but for the sizes.
PUBLISHED = {
    "activation_dropout": 0.1,
    "add_bias_logits": False,
    "add_final_layer_norm": True,
    "architectures": ["PegasusForConditionalGeneration"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 0,
    "dropout": 0.1,
    "encoder_layerdrop": 0.0,
    "eos_token_id": 1,
    "extra_pos_embeddings": 0,
    "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 1,
    "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "length_penalty": 0.6,
    "max_length": 64,
    "model_type": "pegasus",
    "normalize_before": True,
    "normalize_embedding": False,
    "num_beams": 8,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "save_step": 100,
    "static_position_embeddings": True,
    "task_specific_params": {"summarization_xsum": {"length_penalty": 0.6, "max_length": 64, "num_beams": 8}},
    "use_cache": True,
    **SIZES,
}
TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
IDS = torch.tensor([[7, 8, 9, 1], [11, 1, 0, 0]])
MASK = (IDS != 0).long()
SO_FAR = torch.tensor([[0, 5, 6], [0, 12, 13]])


@pytest.fixture
def published(tmp_path):
    """A folder as it was published: each table under all of its names, the positions, and a bias of the logits."""
    PegasusForConditionalGeneration(PegasusConfig(**SIZES)).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    held = load_file(tmp_path / "model.safetensors")
    for name in PegasusForConditionalGeneration.tied:
        held[name] = held["model.shared.weight"].clone()
    held |= {name: StaticPositions(23, 12).weight for name in TABLES}
    held["final_logits_bias"].normal_()
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    return tmp_path


def test_a_published_checkpoint_loads(published):
    model, info = PegasusForConditionalGeneration.from_pretrained(published, output_loading_info=True)
    assert info["new"] == info["missing"] == info["unexpected"] == []
    assert sorted(info["stale"]) == sorted(TABLES)
    assert model.lm_head.weight is model.model.shared.weight
    assert model.model.decoder.embed_tokens.weight is model.model.shared.weight
    assert model.final_logits_bias.std() > 0.5
    theirs = transformers.PegasusForConditionalGeneration.from_pretrained(published).eval()
    batch = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": SO_FAR}
    torch.testing.assert_close(model(**batch).logits, theirs(**batch).logits, rtol=0, atol=1e-5)
    assert type(AutoModel.from_pretrained(published)) is PegasusModel
    assert type(AutoModelForSeq2SeqLM.from_pretrained(published)) is PegasusForConditionalGeneration
    assert type(AutoModelForCausalLM.from_pretrained(published)) is PegasusForCausalLM


def test_the_config_keeps_what_the_published_file_says(published):
    config = PegasusConfig.from_pretrained(published)
    kept = config.to_dict()
    said = {name: value for name, value in PUBLISHED.items() if name[0] != "_" and name != "num_hidden_layers"}
    names = said.pop("id2label"), said.pop("label2id")
    assert {name: kept.get(name) for name in said} == said
    assert kept["id2label"] == {int(i): name for i, name in names[0].items()}
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (12, 2, 3)


def test_the_configs_defaults_are_the_references():
    ours, theirs = PegasusConfig(), transformers.PegasusConfig()
    for field in fields(PegasusConfig):
        if field.name not in ("architectures", "dtype", "id2label", "label2id", "problem_type", "return_dict"):
            assert getattr(ours, field.name) == getattr(theirs, field.name, None), field.name


@pytest.mark.parametrize(
    "gone", [(), ("model.shared.weight",), ("model.shared.weight", "model.decoder.embed_tokens.weight"), TABLES]
)
def test_a_tied_table_may_stand_in_the_file_under_any_of_its_names(published, gone):
    held = load_file(published / "model.safetensors")
    table = held["model.shared.weight"]
    save_file({k: v for k, v in held.items() if k not in gone}, published / "model.safetensors", {"format": "pt"})
    model = PegasusForConditionalGeneration.from_pretrained(published)
    tables = [model.get_parameter(name) for name in (*model.tied, "model.shared.weight")]
    assert all(other is tables[0] for other in tables)
    assert torch.equal(tables[0], table)


def test_a_base_checkpoint_lacks_the_heads_bias_only(tmp_path):
    PegasusModel(PegasusConfig(**SIZES)).save_pretrained(tmp_path)
    model, info = PegasusForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert info["new"] == ["final_logits_bias"]
    assert torch.equal(model.final_logits_bias, torch.zeros(1, 41))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"encoder_attention_heads": 5}, "d_model=12 must be a multiple of encoder_attention_heads=5"),
        ({"decoder_attention_heads": 5}, "d_model=12 must be a multiple of decoder_attention_heads=5"),
        ({"decoder_ffn_dim": 0}, "decoder_ffn_dim=0 makes no model"),
        ({"decoder_layers": -1}, "decoder_layers=-1 makes no model"),
        ({"encoder_layerdrop": 1.5}, "encoder_layerdrop=1.5 is no probability"),
        ({"init_std": -1.0}, "init_std=-1.0 makes no model"),
        ({"activation_function": "step"}, "activation_function='step' is not implemented"),
        ({"static_position_embeddings": False}, "static_position_embeddings=False is not implemented"),
        ({"normalize_before": False}, "normalize_before=False is not implemented"),
        ({"pad_token_id": 41}, "pad_token_id=41 is outside the vocabulary of 41"),
    ],
    ids=str,
)
def test_values_that_make_no_model_are_refused(changes, told):
    with pytest.raises(ValueError, match=r"make|implemented|multiple|probability|outside") as error:
        PegasusConfig(**{**SIZES, **changes})
    assert told in str(error.value)


# Positions


@pytest.mark.parametrize("positions, width", [(19, 12), (21, 33), (512, 512), (1024, 1024), (3, 1), (1000, 65)])
def test_the_sinusoid_is_the_references_bit_for_bit(positions, width):
    theirs = PegasusSinusoidalPositionalEmbedding(positions, width).create_weight()
    assert torch.equal(StaticPositions(positions, width).weight, theirs)


def test_the_positions_have_values_however_the_model_is_made(tmp_path):
    model = PegasusModel(PegasusConfig(**SIZES)).eval()
    assert not [name for name in (*model.state_dict(), *dict(model.named_parameters())) if "positions" in name]
    model.save_pretrained(tmp_path)
    loaded = PegasusModel.from_pretrained(tmp_path)
    for side in (loaded.encoder, loaded.decoder):
        assert torch.equal(side.embed_positions.weight, StaticPositions(23, 12).weight)
    batch = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": SO_FAR}
    assert torch.equal(loaded(**batch).last_hidden_state, model(**batch).last_hidden_state)
    half = PegasusModel.from_pretrained(tmp_path, dtype="bfloat16")
    cast = model.to(torch.bfloat16)
    assert torch.equal(half(**batch).last_hidden_state, cast(**batch).last_hidden_state)


def test_all_of_a_loaded_model_is_on_the_device_that_was_asked_for(tmp_path):
    PegasusForConditionalGeneration(PegasusConfig(**SIZES)).save_pretrained(tmp_path)
    model = PegasusForConditionalGeneration.from_pretrained(tmp_path, device_map="meta")
    assert {x.device.type for x in (*model.parameters(), *model.buffers())} == {"meta"}
    assert model.lm_head.weight is model.model.shared.weight


def test_a_state_dict_of_the_references_loads():
    pair = make_pair("pegasus", "PegasusForConditionalGeneration")
    theirs = transformers.PegasusForConditionalGeneration(pair.theirs.config).state_dict()
    assert len(theirs.keys() & {*TABLES}) == 2
    pair.ours.load_state_dict(theirs)
    assert all(torch.equal(x, theirs[name]) for name, x in pair.ours.state_dict().items())
    assert torch.equal(pair.ours.model.encoder.embed_positions.weight, theirs[TABLES[0]])


def test_more_tokens_than_positions_are_refused():
    model = PegasusModel(PegasusConfig(**SIZES))
    with pytest.raises(ValueError, match="24 tokens, but the model has 23 positions"):
        model(torch.ones(1, 24, dtype=torch.long), decoder_input_ids=SO_FAR[:1])
    with pytest.raises(ValueError, match="24 tokens, but the model has 23 positions"):
        model(IDS, decoder_input_ids=torch.ones(2, 24, dtype=torch.long))


# Calling


@pytest.fixture(scope="module")
def pair():
    found = make_pair("pegasus", "PegasusForConditionalGeneration").to(torch.float64)
    return found.ours.eval(), found.theirs.eval()


def test_labels_are_shifted_behind_the_start_token(pair):
    labels = torch.tensor([[5, 6, -100, 8], [9, 7, -100, -100]])
    read = torch.tensor([[0, 5, 6, 0], [0, 9, 7, 0]])
    for model in pair:
        assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels), read)
    assert labels[0, 2] == -100
    by_hand = pair[0](IDS, decoder_input_ids=read, labels=labels)
    assert torch.equal(pair[0](IDS, labels=labels).loss, by_hand.loss)
    assert by_hand.past_key_values is None  # nothing will follow


@pytest.mark.parametrize("field", ["pad_token_id", "decoder_start_token_id"])
def test_without_a_start_or_a_pad_token_labels_cannot_be_shifted(field):
    model = PegasusForConditionalGeneration(PegasusConfig(**{**SIZES, field: None}))
    with pytest.raises(ValueError, match=r"the config needs both. Set them, or pass decoder_input_ids"):
        model(IDS, labels=SO_FAR)
    assert model(IDS, decoder_input_ids=SO_FAR, labels=SO_FAR).loss.isfinite()


def test_decoder_ids_that_are_absent_are_asked_for(pair):
    for model in (pair[0], pair[0].model):
        with pytest.raises(ValueError, match="begin with config"):
            model(IDS)


def test_a_summary_word_by_word_computes_nothing_of_the_text_again(pair):
    ours = pair[0]
    ids = torch.randint(0, 55, (2, 6), generator=torch.Generator().manual_seed(2))
    whole = ours(IDS, MASK, decoder_input_ids=ids)
    cache, read = Cache(), ours.get_encoder()(IDS, MASK)
    calls = []
    looks = [layer.encoder_attn for layer in ours.model.decoder.layers]
    handles = [look.k_proj.register_forward_hook(lambda *_: calls.append(1)) for look in looks]
    for i in range(6):
        out = ours(
            attention_mask=MASK, encoder_outputs=read, decoder_input_ids=ids[:, i : i + 1], past_key_values=cache
        )
        assert out.past_key_values is cache
        torch.testing.assert_close(out.logits[:, 0], whole.logits[:, i], rtol=0, atol=1e-12)
    for handle in handles:
        handle.remove()
    assert len(calls) == 2  # one for each layer
    assert cache.length == 6


@torch.no_grad()
def greedy(model, steps: int = 8) -> torch.Tensor:
    """By hand: the most probable word, again and again."""
    cache, read = Cache(), model.get_encoder()(IDS, MASK)
    ids = torch.full((2, 1), model.config.decoder_start_token_id)
    for _ in range(steps):
        out = model(
            attention_mask=MASK, encoder_outputs=read, decoder_input_ids=ids[:, -1:], past_key_values=cache
        )
        ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


def test_a_summary_is_the_references():
    """With a head of its own: a tied random one says each token again."""
    untied = Variant({"tie_word_embeddings": False})
    pair = make_pair("pegasus", "PegasusForConditionalGeneration", untied).to(torch.float64)
    theirs = pair.theirs.eval().generate(
        IDS, attention_mask=MASK, max_new_tokens=8, decoder_start_token_id=0, forced_eos_token_id=None,
        eos_token_id=None
    )
    ours = greedy(pair.ours.eval())
    assert torch.equal(ours, theirs)
    assert len(ours[:, 1:].unique()) > 2


# Where it differs


def test_the_decoder_of_a_summarizer_keeps_its_embeddings_where_the_reference_draws_new_ones(tmp_path, pair):
    pair[0].save_pretrained(tmp_path)
    model, info = PegasusForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["new"] == info["missing"] == info["unexpected"] == []
    table = pair[0].model.shared.weight
    assert torch.equal(model.lm_head.weight, table)
    assert torch.equal(model.model.decoder.embed_tokens.weight, table)
    theirs = transformers.PegasusForCausalLM.from_pretrained(tmp_path)
    assert not torch.equal(theirs.model.decoder.embed_tokens.weight, table)
    states = torch.randn(2, 4, 28, dtype=torch.float64)
    out = model(SO_FAR, encoder_hidden_states=states, encoder_attention_mask=MASK)
    wanted = pair[0](attention_mask=MASK, encoder_outputs=(states,), decoder_input_ids=SO_FAR)
    torch.testing.assert_close(out.logits + pair[0].final_logits_bias, wanted.logits, rtol=0, atol=1e-12)


def test_the_decoder_of_an_untied_summarizer_takes_its_own_table(tmp_path):
    whole = PegasusForConditionalGeneration(PegasusConfig(**SIZES, tie_word_embeddings=False))
    whole.save_pretrained(tmp_path)
    model = PegasusForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.model.decoder.embed_tokens.weight, whole.model.decoder.embed_tokens.weight)
    assert not torch.equal(model.model.decoder.embed_tokens.weight, whole.model.shared.weight)


def test_the_callers_config_stays_a_summarizers():
    config = PegasusConfig(**SIZES)
    model = PegasusForCausalLM(config)
    assert (config.is_decoder, config.is_encoder_decoder) == (False, True)
    assert (model.config.is_decoder, model.config.is_encoder_decoder) == (True, False)


# Half precision


def test_what_float16_cannot_hold_is_brought_back_in_the_encoder_only():
    """As in the reference: the straight path may pass 65504, and the norm at its end would make NaN of infinity."""
    pair = make_pair("pegasus", "PegasusModel").to(torch.float16)
    sides = [model.eval() for model in (pair.ours, pair.theirs)]
    outs = []
    for model in sides:
        model.encoder.layers[1].fc2.bias.data[3] = 65000.0
        model.encoder.layers[2].fc2.bias.data[3] = 65000.0
        outs.append(model(IDS, decoder_input_ids=SO_FAR, output_hidden_states=True))
    for out in outs:
        assert out.encoder_hidden_states[2].max() == torch.finfo(torch.float16).max - 992  # the nearest that it has
        assert out.encoder_last_hidden_state.isfinite().all()
    torch.testing.assert_close(
        outs[0].encoder_last_hidden_state, outs[1].encoder_last_hidden_state, rtol=0, atol=2e-2
    )
