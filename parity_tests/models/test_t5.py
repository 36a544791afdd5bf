"""T5's own: published configs and old files, both spellings of the head's scaling, buckets, float16, first values."""

import json
import logging
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.modeling_outputs import BaseModelOutput as TheirEncoderOutput

import minihf
from minihf.checkpoints.files import CheckpointError
from minihf.inspection.batches import make_batch, randomise
from minihf.inspection.compare import KeepDouble
from minihf.inspection.pairs import make_pair
from minihf.models.auto import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from minihf.models.mt5 import MT5Config, MT5ForConditionalGeneration
from minihf.models.outputs import BaseModelOutput
from minihf.models.t5 import (
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForSequenceClassification,
    T5ForTokenClassification,
    T5Model,
)
from minihf.nn.cache import Cache
from minihf.nn.positions import distance_buckets

# What published config.json files hold, with the sizes of toys.
SIZES = {"d_ff": 33, "d_kv": 6, "d_model": 24, "num_heads": 5, "num_layers": 2, "vocab_size": 67}
COMMON = {
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "pad_token_id": 0, "relative_attention_num_buckets": 32,
}
TASKS = {
    "summarization": {
        "early_stopping": True, "length_penalty": 2.0, "max_length": 200, "min_length": 30, "no_repeat_ngram_size": 3,
        "num_beams": 4, "prefix": "summarize: ",
    },
    "translation_en_to_de": {
        "early_stopping": True, "max_length": 300, "num_beams": 4, "prefix": "translate English to German: ",
    },
}
GATED = {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3, "tie_word_embeddings": False}
PUBLISHED = {
    "t5-small": {
        **COMMON, **SIZES, "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "n_positions": 512,
        "output_past": True, "task_specific_params": TASKS,
    },
    "google/t5-v1_1-small": {
        **COMMON, **SIZES, **GATED, "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
        "output_past": True,
    },
    "google/mt5-small": {
        **COMMON, **SIZES, **GATED, "_name_or_path": "/home/patrick/hugging_face/t5/mt5-small",
        "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "tokenizer_class": "T5Tokenizer",
        "output_past": True, "transformers_version": "4.2.0",
    },
    "google/flan-t5-small": {
        **COMMON, **SIZES, **GATED, "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
        "n_positions": 512, "output_past": True, "relative_attention_max_distance": 128, "torch_dtype": "float32",
        "task_specific_params": TASKS, "transformers_version": "4.23.1", "use_cache": True,
    },
    "flan, saved by 4.30": {
        **COMMON, **SIZES, **GATED, "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
        "classifier_dropout": 0.0, "dense_act_fn": "gelu_new", "is_gated_act": True, "torch_dtype": "float32",
        "relative_attention_max_distance": 128, "transformers_version": "4.30.2", "use_cache": True,
    },
    "1.1, saved by 5": {
        **COMMON, **SIZES, **GATED, "tie_word_embeddings": True, "scale_decoder_outputs": False, "is_decoder": False,
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "dense_act_fn": "gelu_new",
        "is_gated_act": True, "dtype": "float32", "transformers_version": "5.23.0",
    },
}  # fmt: skip
EACH = pytest.mark.parametrize("name", PUBLISHED)
STALE = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def tiny(**changes):
    return T5Config(**{**COMMON, **SIZES, "num_decoder_layers": 3, **changes})


def lively(cls, config):
    model = cls(config)
    randomise(model)
    return model.eval()


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: x.detach().clone() for name, x in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def texts(*shape):
    return torch.randint(3, 60, shape)


def of(name):
    """A model as the publisher had it: with an output layer of its own where his config says so."""
    config = PUBLISHED[name]
    fields = {key: x for key, x in config.items() if key != "model_type"}
    cls = MT5ForConditionalGeneration if config["model_type"] == "mt5" else T5ForConditionalGeneration
    return lively(cls, cls.config_class(**{**fields, "tie_word_embeddings": "feed_forward_proj" not in config}))


# Published checkpoints


@EACH
def test_a_published_checkpoint_loads_and_is_the_references(name, tmp_path):
    model = of(name)
    tensors = {**model.tensors_to_save(), STALE: torch.rand(32, 5)}  # in files before 2021
    for part in ("encoder", "decoder"):  # in most of them the shared table stands three times
        tensors[f"{part}.embed_tokens.weight"] = tensors["shared.weight"]
    write(tmp_path, PUBLISHED[name], tensors)
    ours, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype="float32", output_loading_info=True)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(ours) is type(model)
    assert info["stale"] == [STALE]
    assert not info["new"] + info["missing"] + info["unexpected"] + info["other_head"]
    untied = name != "t5-small"
    assert ("lm_head.weight" in info["loaded"]) == untied == (ours.lm_head.weight is not ours.shared.weight)
    assert ours.encoder.embed_tokens.weight is ours.decoder.embed_tokens.weight is ours.shared.weight
    batch = {"input_ids": texts(2, 40), "labels": texts(2, 30)}  # beyond the first ranges of distances
    with torch.no_grad():
        a, b = ours(**batch), theirs(**batch)
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=2e-5)
    torch.testing.assert_close(a.loss, b.loss, rtol=1e-5, atol=1e-5)


@EACH
def test_its_config_is_the_references_and_is_read_back_by_both(name, tmp_path):
    write(tmp_path, PUBLISHED[name], {})
    ours, theirs = AutoConfig.from_pretrained(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
    fields = ("num_decoder_layers", "dense_act_fn", "is_gated_act", "decoder_start_token_id", "hidden_size", "head_dim")
    for field in fields:
        assert getattr(ours, field) == getattr(theirs, field)
    assert ours.scale_decoder_outputs == getattr(theirs, "scale_decoder_outputs", False) == (name == "t5-small")
    ours.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again/config.json").read_text())
    for key in set(PUBLISHED[name]) - {"torch_dtype", "_name_or_path"}:
        assert saved[key] == PUBLISHED[name][key]  # unknown ones are kept
    again = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    for field in fields:
        assert getattr(ours, field) == getattr(again, field)
    assert ours.scale_decoder_outputs == getattr(again, "scale_decoder_outputs", False)
    assert AutoConfig.from_pretrained(tmp_path / "again") == ours


@EACH
def test_what_either_saves_of_it_the_other_loads(name, tmp_path):
    write(tmp_path / "published", PUBLISHED[name], of(name).tensors_to_save())
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "published")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "published")
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    batch = {"input_ids": texts(2, 9), "decoder_input_ids": texts(2, 7)}
    expected = ours(**batch).logits
    for model in (
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours"),
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "theirs"),
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours"),
    ):
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=2e-5)
    assert not {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} & set(
        load_file(tmp_path / "ours/model.safetensors")
    )


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "shared.weight"])
def test_the_shared_table_may_go_by_any_of_its_names(name, tmp_path):
    for changes in ({}, GATED):
        model = lively(T5ForConditionalGeneration, tiny(**changes))
        tensors = model.tensors_to_save()
        tensors[name] = tensors.pop("shared.weight")
        ours = T5ForConditionalGeneration.from_pretrained(write(tmp_path, model.config.to_dict(), tensors))
        for key, x in model.state_dict().items():
            assert torch.equal(ours.state_dict()[key], x), key
        assert ours.encoder.embed_tokens.weight is ours.shared.weight is ours.decoder.embed_tokens.weight


def test_a_file_without_its_shared_table_is_refused(tmp_path):
    model = lively(T5Model, tiny())
    tensors = model.tensors_to_save()
    del tensors["shared.weight"]
    with pytest.raises(CheckpointError, match=r"shared\.weight: missing"):
        T5Model.from_pretrained(write(tmp_path, model.config.to_dict(), tensors))


# The output layer


@pytest.mark.parametrize(
    "said, scaled",
    [
        ({}, True),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, True),
    ],
)
def test_whether_the_head_is_scaled_is_read_from_either_spelling(said, scaled):
    assert T5Config(**said).scale_decoder_outputs == transformers.T5Config(**said).scale_decoder_outputs == scaled
    assert not MT5Config(**said).scale_decoder_outputs


def test_a_fresh_model_of_version_1_1_is_untied_where_the_references_is_tied():
    config = tiny(**GATED)
    ours = T5ForConditionalGeneration(config)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**COMMON, **SIZES, **GATED}))
    assert ours.lm_head.weight is not ours.shared.weight
    assert theirs.lm_head.weight is theirs.shared.weight
    assert ours.encoder.embed_tokens.weight is ours.shared.weight
    assert T5ForConditionalGeneration(tiny()).lm_head.weight.std() > 0.9  # the embeddings', not a linear layer's


def test_a_head_that_the_file_does_not_hold_is_the_embeddings_or_new_as_the_config_says(tmp_path, caplog):
    base = lively(T5Model, tiny())
    base.save_pretrained(tmp_path / "tied")
    model, info = T5ForConditionalGeneration.from_pretrained(tmp_path / "tied", output_loading_info=True)
    assert model.lm_head.weight is model.shared.weight
    assert not info["new"]
    write(tmp_path / "untied", {**base.config.to_dict(), "tie_word_embeddings": False}, base.tensors_to_save())
    with caplog.at_level(logging.WARNING):
        model, info = T5ForConditionalGeneration.from_pretrained(tmp_path / "untied", output_loading_info=True)
    assert info["new"] == ["lm_head.weight"]
    assert "lm_head.weight" in caplog.text
    assert 0.9 < model.lm_head.weight.std() < 1.1


# One file, many heads

NEW = {
    T5Model: set(),
    T5EncoderModel: set(),
    T5ForSequenceClassification: {
        f"classification_head.{layer}.{x}" for layer in ("dense", "out_proj") for x in ("weight", "bias")
    },
    T5ForTokenClassification: {"classifier.weight", "classifier.bias"},
    T5ForQuestionAnswering: {"qa_outputs.weight", "qa_outputs.bias"},
}


@pytest.mark.parametrize("changes", [{}, GATED], ids=["1.0", "1.1"])
@pytest.mark.parametrize("cls", NEW)
def test_a_published_file_in_another_head_names_the_heads_parameters_as_new(cls, changes, tmp_path):
    source = lively(T5ForConditionalGeneration, tiny(**changes))
    source.save_pretrained(tmp_path)
    model, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["new"]) == NEW[cls]
    assert not info["missing"] + info["unexpected"]
    others = {key for key in info["other_head"] if not key.startswith("decoder.")}
    assert others == ({"lm_head.weight"} if changes else set())
    only_encoder = cls in (T5EncoderModel, T5ForTokenClassification)
    assert only_encoder == any(key.startswith("decoder.") for key in info["other_head"])
    for key, x in model.base_model.state_dict().items():
        if key.split(".")[0] in ("shared", "encoder", "decoder"):
            assert torch.equal(x, source.state_dict()[key]), key
    theirs, report = getattr(transformers, cls.__name__).from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) - {"lm_head.weight"} == NEW[cls]
    model.save_pretrained(tmp_path / "again")
    assert set(load_file(tmp_path / "again/model.safetensors")) <= set(theirs.state_dict())
    back = T5EncoderModel.from_pretrained(tmp_path / "again")
    assert torch.equal(back.shared.weight, source.shared.weight)


def test_a_decoder_that_the_file_does_not_hold_is_missed(tmp_path):
    lively(T5EncoderModel, tiny()).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"decoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight: missing"):
        T5Model.from_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path, strict=False)) is T5Model


def test_an_encoder_saved_by_the_reference_is_read(tmp_path):
    """Its config says is_encoder_decoder=False."""
    theirs = transformers.T5EncoderModel(transformers.T5Config(**{**COMMON, **SIZES})).eval()
    theirs.save_pretrained(tmp_path)
    ours, ids = T5EncoderModel.from_pretrained(tmp_path), texts(2, 9)
    assert not ours.config.is_encoder_decoder
    torch.testing.assert_close(ours(ids)[0], theirs(ids)[0], rtol=0, atol=1e-5)


# Distances


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("buckets, furthest", [(32, 128), (8, 9), (7, 9), (64, 1000), (4, 3), (32, 20), (256, 4096)])
def test_every_distance_is_in_the_references_bucket(buckets, furthest, both_ways):
    bucket_of = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distances = torch.arange(-5000, 5001)
    theirs = bucket_of(distances, bidirectional=both_ways, num_buckets=buckets, max_distance=furthest)
    ours = distance_buckets(distances, buckets, furthest, both_ways=both_ways)
    assert torch.equal(ours, theirs)
    assert ours.min() >= 0
    assert ours.max() < buckets


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_text_far_longer_than_any_range_is_the_references(side):
    pair = make_pair("t5", "T5Model").to(torch.float64)
    batch = {"input_ids": texts(2, 300 if side == "encoder" else 5) % 57}
    batch["decoder_input_ids"] = texts(2, 5 if side == "encoder" else 300) % 57
    with KeepDouble():
        ours, theirs = pair.ours(**batch)[0], pair.theirs(**batch)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["T5Model", "T5ForConditionalGeneration", "T5EncoderModel"])
def test_padding_on_the_left_shifts_nothing(name, impl):
    model = make_pair("t5", name).ours.double()
    model.set_attn_implementation(impl)
    batch = make_batch(model, "Model", "left")
    together = model(**batch)[0]
    sides = ("", "decoder_") if "decoder_input_ids" in batch else ("",)
    for row in range(len(together)):
        alone, real = {}, None
        for side in sides:
            real = batch[side + "attention_mask"][row].bool()
            alone[side + "input_ids"] = batch[side + "input_ids"][row : row + 1, real]
        torch.testing.assert_close(model(**alone)[0][0], together[row, real], rtol=0, atol=1e-12)


# Encoder outputs and the cache


@pytest.mark.parametrize("given", ["record", "tuple", "list"])
def test_with_encoder_outputs_and_a_cache_nothing_is_computed_twice(given):
    model = lively(T5ForConditionalGeneration, tiny())
    ids, written = texts(2, 9), texts(2, 4)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    whole = model(ids, mask, decoder_input_ids=written).logits
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
    assert isinstance(encoded, BaseModelOutput)
    outputs = encoded if given == "record" else [encoded[0]] if given == "list" else (encoded[0],)
    calls = []
    model.encoder.register_forward_hook(lambda *args: calls.append("encoder"))
    for block in model.decoder.block:
        block.layer[1]["EncDecAttention"].k.register_forward_hook(lambda *args: calls.append("keys"))
    cache = Cache()
    for i in range(4):
        step = model(
            attention_mask=mask, encoder_outputs=outputs, decoder_input_ids=written[:, i : i + 1], past_key_values=cache
        )
        torch.testing.assert_close(step.logits[:, 0], whole[:, i], rtol=0, atol=1e-5)
        assert step.past_key_values is cache
    assert calls == ["keys"] * 3  # one for each layer, at the first token


def test_states_of_an_encoder_called_before_are_passed_on_as_in_the_reference():
    pair = make_pair("t5", "T5ForConditionalGeneration").use("eager")
    ids, written = texts(2, 9) % 57, texts(2, 4) % 57
    found = []
    for model, record in ((pair.ours, BaseModelOutput), (pair.theirs, TheirEncoderOutput)):
        first = model(ids, decoder_input_ids=written, output_hidden_states=True, output_attentions=True)
        outputs = record(
            last_hidden_state=first.encoder_last_hidden_state,
            hidden_states=first.encoder_hidden_states,
            attentions=first.encoder_attentions,
        )
        found.append(model(encoder_outputs=outputs, decoder_input_ids=written))
    assert found[0].keys() == list(found[1].keys())
    for name in ("encoder_hidden_states", "encoder_attentions"):
        for a, b in zip(found[0][name], found[1][name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


# float16


def test_as_float16_the_last_linear_layers_stay_in_float32_as_in_the_reference(tmp_path):
    for changes in ({}, GATED):
        folder = tmp_path / str(len(changes))
        lively(T5ForConditionalGeneration, tiny(**changes)).save_pretrained(folder)
        ours = T5ForConditionalGeneration.from_pretrained(folder, dtype="float16")
        theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
        exact = T5ForConditionalGeneration.from_pretrained(folder)
        kinds = [{name: p.dtype for name, p in model.named_parameters()} for model in (ours, theirs)]
        assert kinds[0] == kinds[1]
        assert {name.split(".")[-2] for name, kind in kinds[0].items() if kind == torch.float32} == {"wo"}
        assert ours.dtype == torch.float16
        batch = {"input_ids": texts(3, 9), "decoder_input_ids": texts(3, 7)}
        truth = exact(**batch).logits
        errors = [(model(**batch).logits.float() - truth).abs().max() for model in (ours, theirs)]
        assert errors[0] <= 3 * errors[1]
        ours.save_pretrained(folder / "half")
        saved = load_file(folder / "half/model.safetensors")
        assert {name.split(".")[-2] for name, x in saved.items() if x.dtype == torch.float32} == {"wo"}
        for model in (AutoModelForSeq2SeqLM, transformers.AutoModelForSeq2SeqLM):
            again = model.from_pretrained(folder / "half")
            assert again.dtype == torch.float16
            torch.testing.assert_close(again(**batch).logits, ours(**batch).logits, rtol=0, atol=2e-2)
        bf16 = T5ForConditionalGeneration.from_pretrained(folder, dtype="bfloat16")
        assert {p.dtype for p in bf16.parameters()} == {torch.bfloat16}


def test_a_stream_beyond_float16_stays_finite():
    model = lively(T5EncoderModel, tiny()).half()
    with torch.no_grad():
        model.encoder.block[0].layer[0]["SelfAttention"].o.weight.mul_(3e4)
    ids = texts(2, 9)
    states = model(ids, output_hidden_states=True).hidden_states
    assert states[1].abs().max() == torch.finfo(torch.float16).max - 992  # the nearest number to 1000 below
    assert all(x.isfinite().all() for x in states)


# First values


@pytest.mark.parametrize("changes", [{}, GATED, {"initializer_factor": 0.5}], ids=["1.0", "1.1", "half"])
@pytest.mark.parametrize("cls", [T5ForConditionalGeneration, *NEW])
def test_first_values_have_the_spread_of_the_references(cls, changes):
    config = {**COMMON, **SIZES, "d_model": 60, "vocab_size": 301, "num_decoder_layers": 2, **changes}
    ours = cls(T5Config(**config)).state_dict()
    theirs = getattr(transformers, cls.__name__)(transformers.T5Config(**config)).state_dict()
    assert set(ours) == set(theirs)
    for key, a in ours.items():
        b = theirs[key]
        assert a.shape == b.shape, key
        if torch.equal(b, b.flatten()[0].expand_as(b)):  # biases and norms
            assert torch.equal(a, b), key
        else:
            assert abs(a.std() / b.std() - 1) < 5 / a.numel() ** 0.5, key
            assert abs(a.mean()) < 5 * a.std() / a.numel() ** 0.5, key


# The decoder's first token, and what is refused


def test_the_decoder_starts_with_the_pad_token_where_nobody_says_otherwise():
    assert T5Config().decoder_start_token_id == 0
    assert T5Config(pad_token_id=7).decoder_start_token_id == 7
    assert T5Config(pad_token_id=None).decoder_start_token_id is None
    assert MT5Config().decoder_start_token_id == 0
    model = lively(T5ForConditionalGeneration, tiny(decoder_start_token_id=5, pad_token_id=4))
    labels = torch.tensor([[8, 9, -100], [7, -100, 6]])
    assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == [[5, 8, 9], [5, 7, 4]]
    assert labels[0, 2] == -100  # the caller's


def test_num_items_in_batch_divides_the_sum_of_the_loss():
    model, ids, labels = lively(T5ForConditionalGeneration, tiny()), texts(2, 5), texts(2, 4)
    mean, part = model(ids, labels=labels).loss, model(ids, labels=labels, num_items_in_batch=16).loss
    torch.testing.assert_close(part, mean / 2)


def test_as_many_decoder_layers_as_the_encoder_has_where_nobody_says_otherwise():
    """The reference has six, its default, where the number comes by its other name."""
    config = T5Config(num_hidden_layers=3)
    assert (config.num_layers, config.num_decoder_layers) == (3, 3)
    assert transformers.T5Config(num_hidden_layers=3).num_decoder_layers == 6


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"feed_forward_proj": "fancy-gelu"}, "feed_forward_proj='fancy-gelu'.*'gated-gelu'"),
        ({"feed_forward_proj": "gated-gelu-new"}, "feed_forward_proj='gated-gelu-new'"),
        ({"feed_forward_proj": "gated-swoosh"}, "dense_act_fn='swoosh'"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"relative_attention_num_buckets": 3}, "relative_attention_num_buckets=3 .*4 or more"),
        ({"relative_attention_max_distance": 16}, "relative_attention_max_distance=16 .*more than 16"),
        ({"d_kv": 0}, "d_kv=0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"dropout_rate": 1.5}, "dropout_rate=1.5"),
        ({"initializer_factor": math.inf}, "initializer_factor=inf"),
        ({"pad_token_id": 67}, "pad_token_id=67"),
        ({"decoder_start_token_id": 67}, "decoder_start_token_id=67"),
        ({"num_decoder_layers": -1}, "num_decoder_layers=-1"),
    ],
)
def test_a_value_that_makes_no_model_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


def test_inputs_that_cannot_be_read_are_told():
    ids = texts(2, 5)
    with pytest.raises(ValueError, match=r"decoder_input_ids.*decoder_start_token_id"):
        T5Model(tiny())(ids)
    no_pad = T5ForConditionalGeneration(tiny(pad_token_id=None, decoder_start_token_id=0))
    with pytest.raises(ValueError, match="pad_token_id=None"):
        no_pad(ids, labels=ids)
    classifier = T5ForSequenceClassification(tiny())
    with pytest.raises(ValueError, match=r"\[0, 0\] end tokens"):
        classifier(ids)
    ids[0, 2] = 1
    with pytest.raises(ValueError, match=r"\[1, 0\] end tokens"):
        classifier(ids)
    with pytest.raises(ValueError, match="needs input_ids"):
        classifier(inputs_embeds=torch.rand(2, 5, 24))
    with pytest.raises(ValueError, match="num_labels=3"):
        T5ForQuestionAnswering(tiny(num_labels=3))


def test_the_public_names_are_there():
    for name in ("T5Config", "T5Model", "T5ForConditionalGeneration", "T5EncoderModel", "MT5Config", "MT5EncoderModel"):
        assert getattr(minihf, name).__name__ == name
