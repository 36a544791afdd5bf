"""BART and mBART beyond the harness: files as they are published, what the decoder reads, caches, refusals."""

import json
import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minihf
from minihf.inspection.batches import randomise
from minihf.models.inputs import shift_right
from minihf.models.mbart import wrap_right
from minihf.nn.cache import Cache

SMALL = {
    "vocab_size": 41,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 13,
    "max_position_embeddings": 11,
}
# What the published files say besides their sizes: bart-base, bart-large-mnli, bart-large-cnn, mbart-large-50.
COMMON = {
    **SMALL,
    "_num_labels": 3,
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_final_layer_norm": False,
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "encoder_layerdrop": 0.0,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "model_type": "bart",
    "normalize_before": False,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "scale_embedding": False,
    "transformers_version": "4.12.0.dev0",
    "use_cache": True,
}
THREE = {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
THREE["label2id"] = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
PUBLISHED = {
    "bart-base": {
        **COMMON,
        **THREE,
        "architectures": ["BartModel"],
        "add_bias_logits": False,
        "early_stopping": True,
        "forced_bos_token_id": 0,
        "no_repeat_ngram_size": 3,
        "normalize_embedding": True,
        "num_beams": 4,
        "task_specific_params": {"summarization": {"length_penalty": 1.0, "max_length": 128, "num_beams": 4}},
        "torch_dtype": "float32",
    },
    "bart-large-mnli": {
        **COMMON,
        "architectures": ["BartForSequenceClassification"],
        "id2label": {"0": "contradiction", "1": "neutral", "2": "entailment"},
        "label2id": {"contradiction": 0, "entailment": 2, "neutral": 1},
        "output_past": False,
    },
    "bart-large-cnn": {
        **COMMON,
        **THREE,
        "architectures": ["BartForConditionalGeneration"],
        "early_stopping": True,
        "force_bos_token_to_be_generated": True,
        "forced_bos_token_id": 0,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "output_past": True,
        "prefix": " ",
        "task_specific_params": {"summarization": {"length_penalty": 2.0, "max_length": 142, "min_length": 56}},
    },
    "mbart-large-50": {
        **COMMON,
        "model_type": "mbart",
        "_num_labels": 3,
        "architectures": ["MBartForConditionalGeneration"],
        "activation_function": "gelu",
        "add_final_layer_norm": True,
        "early_stopping": True,
        "max_length": 200,
        "normalize_before": True,
        "normalize_embedding": True,
        "num_beams": 5,
        "output_past": True,
        "scale_embedding": True,
        "static_position_embeddings": False,
        "tokenizer_class": "MBart50Tokenizer",
        **THREE,
    },
}
FAMILY = {"bart": "Bart", "mbart": "MBart"}
KINDS = pytest.mark.parametrize("kind", FAMILY)
IDS = torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
CLASSIFIER = {f"classification_head.{part}.{x}" for part in ("dense", "out_proj") for x in ("weight", "bias")}
NEW = {
    "ForConditionalGeneration": {"final_logits_bias"},
    "ForSequenceClassification": CLASSIFIER,
    "ForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
    "ForCausalLM": set(),
}


def make(kind, head, **changes):
    cls = getattr(minihf, FAMILY[kind] + head)
    model = cls(cls.config_class(**{**SMALL, **changes})).eval()
    randomise(model)
    return model


def publish(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: x.clone() for key, x in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_as_published_loads(name, tmp_path):
    config = PUBLISHED[name]
    (class_name,) = config["architectures"]
    kind = config["model_type"]
    model = make(kind, class_name.removeprefix(FAMILY[kind]), scale_embedding=config["scale_embedding"], num_labels=3)
    tensors = model.state_dict()
    for copy in [key for key in tensors if key.endswith("embed_tokens.weight") or key == "lm_head.weight"]:
        del tensors[copy]  # the table is there once, by its shared name
    # fairseq's own note, which files of bart-large and its children carry
    prefix = "" if model.base_model is model else "model."
    versions = {f"{prefix}{side}.version" for side in ("encoder", "decoder")}
    publish(tmp_path, config, tensors | {key: torch.tensor([3.0]) for key in versions})
    ours, info = getattr(minihf, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert set(info["stale"]) == versions
    theirs = getattr(transformers, class_name).from_pretrained(tmp_path)
    assert ours.config.id2label == theirs.config.id2label
    assert getattr(ours.config, "num_beams", None) == config.get("num_beams")  # kept
    torch.testing.assert_close(ours(IDS, MASK)[0], theirs(IDS, MASK)[0], rtol=0, atol=1e-5)
    assert torch.equal(ours(IDS, MASK)[0], model(IDS, MASK)[0])
    parameters = dict(ours.named_parameters(remove_duplicate=False))
    assert len({id(parameters[key]) for key in ours.tied} | {id(parameters[next(iter(ours.tied.values()))])}) == 1


@KINDS
@pytest.mark.parametrize("held", ["all", "lm_head", "encoder", "decoder"])
def test_the_shared_table_is_found_under_any_of_its_names(kind, held, tmp_path):
    model = make(kind, "ForConditionalGeneration")
    tensors = model.state_dict()
    for key in {*model.tied, "model.shared.weight"} if held != "all" else ():
        if held not in key:
            del tensors[key]
    publish(tmp_path, model.config.to_dict(), tensors)
    ours = type(model).from_pretrained(tmp_path)
    assert torch.equal(ours(IDS).logits, model(IDS).logits)
    ours.save_pretrained(tmp_path / "again")
    assert not set(load_file(tmp_path / "again" / "model.safetensors")) & set(model.tied)


@KINDS
@pytest.mark.parametrize("head", NEW)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_base_checkpoint_in_a_head_names_the_heads_parameters_as_new(kind, head, prefix, tmp_path, caplog):
    base = make(kind, "Model")
    tensors = {prefix + key: x for key, x in base.state_dict().items() if "embed_tokens" not in key}
    publish(tmp_path, base.config.to_dict(), tensors)
    caplog.set_level(logging.WARNING, logger="minihf")
    model, info = getattr(minihf, FAMILY[kind] + head).from_pretrained(tmp_path, output_loading_info=True)
    learned = NEW[head] - {"final_logits_bias"}  # which is zero where there is none
    assert {*info["new"]} == NEW[head]
    assert info["missing_keys"] == learned
    assert not info["missing"]
    assert all(key in caplog.text for key in learned)
    assert bool(caplog.records) == bool(learned)
    if head == "ForCausalLM":
        assert torch.equal(model.lm_head.weight, base.shared.weight)
        x = base.decoder(IDS).last_hidden_state
        assert torch.equal(model(IDS).logits, torch.nn.functional.linear(x, base.shared.weight))
    else:
        assert torch.equal(model.model(IDS)[0], base(IDS)[0])
        assert not getattr(model, "final_logits_bias", torch.zeros(1)).any()


@KINDS
def test_the_decoder_alone_comes_out_of_a_whole_model(kind, tmp_path):
    """Its table is in the file by its shared name; the reference would draw another."""
    whole = make(kind, "ForConditionalGeneration")
    whole.save_pretrained(tmp_path)
    model, info = getattr(minihf, FAMILY[kind] + "ForCausalLM").from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert "final_logits_bias" in info["other_head"]
    state = torch.randn(2, 3, 12)
    x = whole.model.decoder(IDS, encoder_hidden_states=state).last_hidden_state
    torch.testing.assert_close(model(IDS, encoder_hidden_states=state).logits, whole.lm_head(x))
    assert (model.config.is_decoder, model.config.is_encoder_decoder) == (True, False)
    assert (whole.config.is_decoder, whole.config.is_encoder_decoder) == (False, True)
    model.save_pretrained(tmp_path / "alone")
    theirs = getattr(transformers, FAMILY[kind] + "ForCausalLM").from_pretrained(tmp_path / "alone")
    torch.testing.assert_close(theirs(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)


@KINDS
def test_the_number_of_labels_survives_a_save(kind, tmp_path):
    """BART has three where nobody says it, so that two are said."""
    usual = {"bart": 3, "mbart": 2}[kind]
    assert minihf.AutoConfig.for_model(kind).num_labels == usual
    for number in (1, 2, 3, 4):
        minihf.AutoConfig.for_model(kind, num_labels=number).save_pretrained(tmp_path)
        assert minihf.AutoConfig.from_pretrained(tmp_path).num_labels == number
        assert transformers.AutoConfig.from_pretrained(tmp_path).num_labels == number


def test_what_the_decoder_reads():
    labels = torch.tensor([[5, 6, 2, -100], [7, 8, 9, 2]])
    assert shift_right(labels, 2, 1).tolist() == [[2, 5, 6, 2], [2, 7, 8, 9]]
    # Of mBART, the language comes last, and to the front.
    labels = torch.tensor([[5, 2, 30, -100], [6, 7, 2, 31]])
    assert wrap_right(labels, 1).tolist() == [[30, 5, 2, 30], [31, 6, 7, 2]]
    assert labels[0, 3] == -100  # the caller's own
    for kind, shift in (("bart", lambda x: shift_right(x, 2, 1)), ("mbart", lambda x: wrap_right(x, 1))):
        model = make(kind, "ForConditionalGeneration")
        expected = shift(labels)
        assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels), expected)
        theirs = getattr(transformers, FAMILY[kind] + "ForConditionalGeneration")(
            transformers.AutoConfig.for_model(kind, **SMALL)
        )
        assert torch.equal(theirs.prepare_decoder_input_ids_from_labels(labels), expected)
        by_labels = model(IDS, MASK, labels=labels)
        by_hand = model(IDS, MASK, decoder_input_ids=expected)
        assert torch.equal(by_labels.logits, by_hand.logits)
        assert by_labels.past_key_values is None
        assert by_hand.past_key_values.length == 4


@KINDS
def test_without_decoder_ids_it_writes_what_the_encoder_reads(kind):
    model = make(kind, "Model")
    theirs = getattr(transformers, FAMILY[kind] + "Model")(transformers.AutoConfig.for_model(kind, **SMALL)).eval()
    theirs.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(IDS, MASK)[0], theirs(IDS, MASK)[0], rtol=0, atol=1e-5)
    for inputs in ({"inputs_embeds": torch.randn(2, 5, 12)}, {"encoder_outputs": (torch.randn(2, 5, 12),)}):
        with pytest.raises(ValueError, match="pass decoder_input_ids or decoder_inputs_embeds"):
            model(**inputs)


@KINDS
def test_with_its_output_and_a_filled_cache_nothing_of_the_encoder_is_computed_again(kind):
    model = make(kind, "ForConditionalGeneration").double()
    ids = torch.tensor([[2, 8, 9, 10], [2, 11, 12, 13]])
    whole = model(IDS, MASK, decoder_input_ids=ids)
    called = []
    for name, module in model.named_modules():
        if "encoder." in name.replace("decoder.", "") or name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj")):
            module.register_forward_hook(lambda module, args, output, name=name: called.append(name))
    encoded = model.get_encoder()(input_ids=IDS, attention_mask=MASK)
    assert called
    cache = Cache()
    given = {"attention_mask": MASK, "encoder_outputs": encoded, "past_key_values": cache, "use_cache": True}
    first = model(**given, decoder_input_ids=ids[:, :1])
    called.clear()
    rest = [first.logits]
    for i in (1, 2, 3):
        out = model(**given, decoder_input_ids=ids[:, i : i + 1])
        assert out.past_key_values is cache
        rest.append(out.logits)
    assert called == []
    torch.testing.assert_close(torch.cat(rest, 1), whole.logits, rtol=0, atol=1e-12)
    cache.reorder(torch.tensor([1, 1]))
    assert cache.cross[0][0].shape == (2, 2, 5, 6)


@KINDS
def test_the_decoder_alone_keeps_an_encoders_output_in_its_cache(kind):
    model = make(kind, "ForCausalLM").double()
    state, seen = torch.randn(2, 4, 12, dtype=torch.float64), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    given = {"encoder_hidden_states": state, "encoder_attention_mask": seen}
    whole = model(IDS, **given).logits
    first = model(IDS[:, :3], **given, use_cache=True)
    rest = model(IDS[:, 3:], **given, past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, rtol=0, atol=1e-12)
    assert not torch.allclose(model(IDS).logits, whole)


@KINDS
def test_encoder_outputs_in_any_form(kind):
    model = make(kind, "Model")
    ids = torch.tensor([[2, 8], [2, 9]])
    expected = model(IDS, MASK, ids, output_hidden_states=True, output_attentions=True)
    encoded = model.get_encoder()(IDS, MASK)
    theirs = transformers.modeling_outputs.BaseModelOutput(encoded.last_hidden_state)
    for given in (encoded, encoded.to_tuple(), [encoded.last_hidden_state], theirs):
        out = model(attention_mask=MASK, decoder_input_ids=ids, encoder_outputs=given)
        torch.testing.assert_close(out.last_hidden_state, expected.last_hidden_state)
        assert out.encoder_last_hidden_state is encoded.last_hidden_state
    given = (encoded.last_hidden_state, expected.encoder_hidden_states, expected.encoder_attentions)
    out = model(attention_mask=MASK, decoder_input_ids=ids, encoder_outputs=given)
    assert out.encoder_hidden_states is expected.encoder_hidden_states  # handed on, as they came
    assert out.encoder_attentions is expected.encoder_attentions
    for wrong in ((), (None,), (torch.randn(2, 12),)):
        with pytest.raises(TypeError, match="encoder_outputs begin with"):
            model(attention_mask=MASK, decoder_input_ids=ids, encoder_outputs=wrong)


@KINDS
def test_a_classification_needs_an_end_token_in_each_text(kind):
    model = make(kind, "ForSequenceClassification")
    with pytest.raises(ValueError, match=r"the texts have \[2, 1\] end tokens \(id 2\)"):
        model(torch.tensor([[0, 2, 5, 2], [0, 5, 6, 2]]))
    with pytest.raises(ValueError, match=r"the texts have \[0, 0\]"):
        model(torch.tensor([[0, 3, 5, 4], [0, 5, 6, 7]]))
    with pytest.raises(ValueError, match="pass input_ids"):
        model(inputs_embeds=torch.randn(2, 4, 12))
    with pytest.raises(ValueError, match=r"decoder inputs are \(2, 2\), input_ids \(2, 5\)"):
        model(IDS, MASK, decoder_input_ids=IDS[:, :2])
    model.config.eos_token_id = [2, 3]
    with pytest.raises(ValueError, match=r"eos_token_id=\[2, 3\]"):
        model(IDS, MASK)


@KINDS
def test_wrong_inputs_are_told_apart(kind):
    model = make(kind, "Model")
    with pytest.raises(ValueError, match=r"input_ids has shape \(5,\), expected \(batch, tokens\)"):
        model(IDS[0], decoder_input_ids=IDS)
    with pytest.raises(ValueError, match=r"input_ids has shape \(5,\), expected \(batch, tokens\)"):
        model(IDS, decoder_input_ids=IDS[0])
    for side in ("", "decoder_"):
        with pytest.raises(ValueError, match="pass one of them"):
            model(**{"input_ids": IDS, "decoder_input_ids": IDS, side + "inputs_embeds": torch.randn(2, 5, 12)})
        with pytest.raises(ValueError, match="12 tokens, but the model has 11 positions"):
            model(**{"input_ids": IDS, "decoder_input_ids": IDS} | {side + "input_ids": IDS.new_ones(2, 12)})
        with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 4\), expected \(2, 5\)"):
            model(**{"input_ids": IDS, "decoder_input_ids": IDS, side + "attention_mask": MASK[:, :4]})
    with pytest.raises(IndexError, match=r"an id is outside its table \(.*41 rows"):
        model(IDS + 40)
    with pytest.raises(ValueError, match="pad_token_id=None"):
        make(kind, "Model", pad_token_id=None)(IDS)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"activation_function": "maxout"}, "activation_function='maxout' is not implemented"),
        ({"d_model": 13}, "d_model=13 must be a multiple of encoder_attention_heads=3"),
        ({"decoder_attention_heads": 5}, "d_model=12 must be a multiple of decoder_attention_heads=5"),
        ({"decoder_ffn_dim": 0}, "decoder_ffn_dim=0"),
        ({"encoder_layers": -1}, "encoder_layers=-1"),
        ({"decoder_layerdrop": 2}, "decoder_layerdrop=2"),
        ({"pad_token_id": 41}, "pad_token_id=41 is outside the vocabulary"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(wrong, said):
    for kind in FAMILY:
        with pytest.raises(ValueError, match=said):
            minihf.AutoConfig.for_model(kind, **{**SMALL, **wrong})


@KINDS
def test_the_decoder_alone_generates_as_the_reference_does(kind):
    """It counts positions over padding, as the reference's does."""
    model = make(kind, "ForCausalLM", eos_token_id=None).double()
    theirs = getattr(transformers, FAMILY[kind] + "ForCausalLM")(transformers.AutoConfig.for_model(kind, **SMALL))
    theirs.load_state_dict(model.state_dict())
    theirs = theirs.eval().double()
    ids, mask = torch.tensor([[5, 6, 7], [1, 8, 9]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    for given in ({"attention_mask": torch.ones_like(ids)}, {"attention_mask": mask}):
        settings = {"max_new_tokens": 5, "eos_token_id": 40, "pad_token_id": 1}
        expected = theirs.generate(ids, **given, **settings, do_sample=False)
        got = model.generate(ids, **given, **settings)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("kind, always", [("bart", False), ("mbart", True)])
def test_float16_is_kept_within_its_range(kind, always):
    """BART's encoder brings numbers back where one is infinite, mBART's always."""
    model = make(kind, "Model").half()
    block = model.encoder.layers[0]
    norm = block.final_layer_norm if kind == "bart" else block.fc2
    norm.bias.data.fill_(65500.0)
    norm.weight.data.zero_()
    x = torch.zeros(1, 2, 12, dtype=torch.float16)
    assert block(x, None).max() == (64512.0 if always else 65504.0)
    norm.bias.data[0] = torch.inf
    assert block(x, None).max() == 64512.0  # 65504 - 1000, rounded to float16
