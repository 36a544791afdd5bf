"""ALBERT beyond the harness: files as they are published, shared layers, what is recorded of them."""

import json
import logging

import pytest
import torch
import transformers
from safetensors.torch import save_file

import minihf
from minihf import AlbertConfig, AlbertForMaskedLM, AlbertForPreTraining, AlbertModel, AutoConfig, AutoModel
from minihf.inspection.batches import randomise
from minihf.models.albert import group_of

SMALL = {
    "vocab_size": 41,
    "embedding_size": 7,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 4,
    "intermediate_size": 17,
    "max_position_embeddings": 9,
}
PREDICTIONS = {
    "predictions.bias",
    "predictions.LayerNorm.weight",
    "predictions.LayerNorm.bias",
    "predictions.dense.weight",
    "predictions.dense.bias",
}
ORDER = {"sop_classifier.classifier.weight", "sop_classifier.classifier.bias"}
CLASSIFIER = {"classifier.weight", "classifier.bias"}
NEW = {
    "AlbertForPreTraining": PREDICTIONS | ORDER,
    "AlbertForMaskedLM": PREDICTIONS,
    "AlbertForSequenceClassification": CLASSIFIER,
    "AlbertForMultipleChoice": CLASSIFIER,
    "AlbertForTokenClassification": CLASSIFIER,
    "AlbertForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
}
POOLED = ("AlbertForPreTraining", "AlbertForSequenceClassification", "AlbertForMultipleChoice")
# As albert-base-v2 has it, but for the sizes; version 1 has "gelu" and dropouts of 0.1.
V2 = {
    "architectures": ["AlbertForMaskedLM"],
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 2,
    "classifier_dropout_prob": 0.1,
    "down_scale_factor": 1,
    "embedding_size": 7,
    "eos_token_id": 3,
    "gap_size": 0,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "hidden_size": 12,
    "initializer_range": 0.02,
    "inner_group_num": 1,
    "intermediate_size": 17,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 9,
    "model_type": "albert",
    "net_structure_type": 0,
    "num_attention_heads": 3,
    "num_hidden_groups": 1,
    "num_hidden_layers": 4,
    "num_memory_blocks": 0,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 41,
}
V1 = {**V2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def publish(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def random_model(cls, **changes):
    model = cls(AlbertConfig(**{**SMALL, **changes})).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("decoder", [True, False], ids=["decoder in the file", "decoder tied"])
def test_a_file_as_published_loads(config, decoder, tmp_path):
    """Both heads' tensors, a pooler, the stale buffer of positions; a masked language model needs a part of it."""
    whole = random_model(AlbertForPreTraining, hidden_act=config["hidden_act"])
    tensors = {key: x.clone() for key, x in whole.state_dict().items()}
    tensors["albert.embeddings.position_ids"] = torch.arange(9)[None]
    if not decoder:
        del tensors["predictions.decoder.weight"], tensors["predictions.decoder.bias"]
    publish(tmp_path, config, tensors)
    ours, info = minihf.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(ours) is AlbertForMaskedLM
    assert info["stale"] == ["albert.embeddings.position_ids"]
    assert not info["missing_keys"]
    assert set(info["other_head"]) == ORDER | {"albert.pooler.weight", "albert.pooler.bias"}
    assert ours.predictions.decoder.bias is ours.predictions.bias
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    ids, mask = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.testing.assert_close(ours(ids, mask).logits[mask.bool()], theirs(ids, mask).logits[mask.bool()])
    both = AlbertForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(both(ids, mask).sop_logits, whole(ids, mask).sop_logits)
    assert ours.config.num_memory_blocks == 0  # nobody reads it, and it is kept


def test_an_old_file_with_gamma_and_beta_loads(tmp_path):
    model = random_model(AlbertModel)
    old = {
        key.replace(".weight", ".gamma").replace(".bias", ".beta") if "norm" in key.lower() else key: x
        for key, x in model.state_dict().items()
    }
    assert "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.gamma" in old
    publish(tmp_path, model.config.to_dict(), old)
    loaded = AutoModel.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in loaded.state_dict().items())
    # A file's matrices lie otherwise in memory, and there MKL may sum in another order: float32, its default tolerance.
    torch.testing.assert_close(loaded(ids).pooler_output, model(ids).pooler_output)


@pytest.mark.parametrize("prefix", ["", "albert."])
@pytest.mark.parametrize("name", NEW)
def test_a_base_checkpoint_in_a_head_names_the_heads_parameters_as_new(name, prefix, tmp_path, caplog):
    base = random_model(AlbertModel)
    publish(tmp_path, base.config.to_dict(), {prefix + key: x for key, x in base.state_dict().items()})
    caplog.set_level(logging.WARNING, logger="minihf")
    model, info = getattr(minihf, name).from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == NEW[name]
    pooler = {prefix + "pooler.weight", prefix + "pooler.bias"}
    assert info["unexpected_keys"] == (set() if name in POOLED else pooler)
    assert all(key in caplog.text for key in NEW[name])
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model.albert(ids).last_hidden_state, base(ids).last_hidden_state)


def test_a_pooler_that_the_file_lacks_is_new(tmp_path):
    random_model(AlbertForMaskedLM).save_pretrained(tmp_path)
    _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"pooler.weight", "pooler.bias"}
    assert info["unexpected_keys"] == PREDICTIONS


def test_layers_share_their_parameters():
    shallow, deep = AlbertModel(AlbertConfig(**SMALL)), AlbertModel(AlbertConfig(**{**SMALL, "num_hidden_layers": 12}))
    assert shallow.num_parameters() == deep.num_parameters()
    assert set(shallow.state_dict()) == set(deep.state_dict())


@pytest.mark.parametrize("layers, groups, inner", [(4, 1, 1), (5, 2, 3), (3, 3, 2), (2, 3, 1), (0, 1, 1), (7, 3, 1)])
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_every_use_of_a_layer_is_recorded_as_in_the_reference(layers, groups, inner, impl):
    sizes = {**SMALL, "num_hidden_layers": layers, "num_hidden_groups": groups, "inner_group_num": inner}
    theirs = transformers.AlbertModel(transformers.AlbertConfig(**sizes, attn_implementation="eager")).eval().double()
    ours = AlbertModel(AlbertConfig(**sizes, attn_implementation=impl)).eval().double()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    ids, kinds = torch.tensor([[5, 6, 7, 8]]), {"output_hidden_states": True, "output_attentions": True}
    a, b = ours(ids, **kinds), theirs(ids, **kinds)
    torch.testing.assert_close(a.last_hidden_state, b.last_hidden_state, rtol=0, atol=1e-12)
    assert len(a.attentions or ()) == layers * inner
    assert len(a.hidden_states) == layers * inner + 1
    for kind in ("hidden_states", "attentions") if layers else ():
        for x, y in zip(a[kind], b[kind], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    embedded = ours.embeddings(ours.embeddings.word_embeddings(ids), torch.zeros_like(ids), torch.arange(4)[None])
    first = ours.encoder["embedding_hidden_mapping_in"](embedded)
    assert torch.equal(a.hidden_states[0], first)  # after the map, with the channels of all others


def test_a_group_serves_neighbouring_layers():
    def groups(layers, number):
        return [group_of(i, AlbertConfig(num_hidden_layers=layers, num_hidden_groups=number)) for i in range(layers)]

    assert groups(6, 1) == [0, 0, 0, 0, 0, 0]
    assert groups(6, 3) == [0, 0, 1, 1, 2, 2]
    assert groups(3, 2) == [0, 0, 1]
    assert groups(18, 14)[9] == 6  # where 9 * 14 // 18 is 7
    assert max(groups(12, 5)) == 4


def test_embeddings_given_by_hand_are_narrow():
    model = random_model(AlbertModel)
    ids = torch.tensor([[5, 6, 7]])
    words = model.get_input_embeddings()(ids)
    assert words.shape == (1, 3, 7)
    assert torch.equal(model(inputs_embeds=words).last_hidden_state, model(ids).last_hidden_state)


def test_the_loss_of_pre_training_needs_both_labels():
    model = random_model(AlbertForPreTraining)
    ids, order = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.tensor([0, 1])
    assert model(ids, labels=ids).loss is None
    assert model(ids, sentence_order_label=order).loss is None
    output = model(ids, labels=ids, sentence_order_label=order)
    words = AlbertForMaskedLM(model.config).eval()
    words.load_state_dict({k: x for k, x in model.state_dict().items() if "pooler" not in k and "sop" not in k})
    guessed = words(ids, labels=ids).loss
    expected = guessed + torch.nn.functional.cross_entropy(output.sop_logits, order)
    torch.testing.assert_close(output.loss, expected)
    assert list(output) == ["loss", "prediction_logits", "sop_logits"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"hidden_act": "maxout"}, "hidden_act='maxout' is not implemented"),
        ({"hidden_size": 13}, "hidden_size=13 must be a multiple of num_attention_heads=3"),
        ({"embedding_size": 0}, "embedding_size=0"),
        ({"num_hidden_groups": 0}, "num_hidden_groups=0"),
        ({"num_hidden_groups": 10**5}, "num_hidden_groups=100000"),
        ({"inner_group_num": 0}, "inner_group_num=0"),
        ({"inner_group_num": 10**5}, "inner_group_num=100000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
        ({"classifier_dropout_prob": 2}, "classifier_dropout_prob=2"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' is not implemented"),
        ({"pad_token_id": 41}, "pad_token_id=41 is outside the vocabulary"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        AlbertConfig(**{**SMALL, **wrong})


def test_question_answering_has_two_labels():
    with pytest.raises(ValueError, match="num_labels=3"):
        minihf.AlbertForQuestionAnswering(AlbertConfig(**SMALL, num_labels=3))


def test_the_auto_classes_know_it(tmp_path):
    random_model(AlbertModel).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), AlbertConfig)
    for task in ("PreTraining", "MaskedLM", "SequenceClassification", "TokenClassification", "MultipleChoice"):
        model = getattr(minihf, f"AutoModelFor{task}").from_pretrained(tmp_path)
        theirs = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path)
        assert type(model).__name__ == type(theirs).__name__
