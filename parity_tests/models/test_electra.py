"""ELECTRA beyond the harness: replaced tokens, widths, files as they are published, what its config refuses."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from minihf import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    Cache,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForMultipleChoice,
    ElectraForPreTraining,
    ElectraForQuestionAnswering,
    ElectraModel,
)
from minihf.inspection.batches import randomise
from minihf.inspection.pairs import make_pair
from minihf.models.architectures import class_for
from minihf.nn.losses import replaced_token_loss

SMALL = {
    "vocab_size": 41, "embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 17, "max_position_embeddings": 14,
}
# As google/electra-small-discriminator and -generator have it, but for the sizes.
PUBLISHED = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
    "layer_norm_eps": 1e-12, "model_type": "electra", "pad_token_id": 0, "summary_activation": "gelu",
    "summary_last_dropout": 0.1, "summary_type": "first", "summary_use_proj": True, "type_vocab_size": 2, **SMALL,
}
GENERATOR = {f"generator_predictions.{part}" for part in ("LayerNorm.bias", "LayerNorm.weight")}
GENERATOR |= {f"generator_predictions.dense.{kind}" for kind in ("weight", "bias")} | {"generator_lm_head.bias"}
NEW = {
    "ForPreTraining": {
        f"discriminator_predictions.{part}.{kind}"
        for part in ("dense", "dense_prediction")
        for kind in ("weight", "bias")
    },
    "ForMaskedLM": GENERATOR,
    "ForCausalLM": GENERATOR,
    "ForSequenceClassification": {
        f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    },
    "ForMultipleChoice": {
        f"{part}.{kind}" for part in ("sequence_summary.summary", "classifier") for kind in ("weight", "bias")
    },
    "ForTokenClassification": {"classifier.weight", "classifier.bias"},
    "ForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
}
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = (IDS != 0).long()


def write_old(model, config: dict, folder) -> None:
    """The folder as of 2020: old names of norms, and a stale buffer."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["electra.embeddings.position_ids"] = torch.arange(14)[None]
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [type(model).__name__]}))


# Replaced tokens.


@pytest.mark.parametrize("dtype", [torch.long, torch.int, torch.float, torch.bool], ids=str)
def test_the_loss_is_over_real_tokens_alone(dtype):
    pair = make_pair("electra", "ElectraForPreTraining")
    labels = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 1, 1]]).to(dtype)
    for mask in (None, MASK, torch.ones_like(MASK)):
        ours = pair.ours(IDS, attention_mask=mask, labels=labels)
        theirs = pair.theirs(IDS, attention_mask=mask, labels=labels)
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=0, atol=1e-6)
        assert ours.logits.shape == (2, 5)
        assert list(ours) == list(theirs) == ["loss", "logits"]
    other = labels.clone()
    other[1, 3:] = 0
    alike = [pair.ours(IDS, attention_mask=MASK, labels=y).loss for y in (labels, other)]
    assert torch.equal(*alike)


def test_the_loss_by_hand():
    logits, labels = torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([[1, 0, 1]])
    expected = -F.logsigmoid(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(replaced_token_loss(logits, labels), expected.mean())
    torch.testing.assert_close(replaced_token_loss(logits, labels, torch.tensor([[1, 1, 0]])), expected[:2].mean())
    left_out = torch.tensor([[1, 0, -100]])  # as collators fill labels up
    torch.testing.assert_close(replaced_token_loss(logits, left_out), expected[:2].mean())
    assert replaced_token_loss(logits, None) is None
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), expected one for each token \(1, 3\)"):
        replaced_token_loss(logits, labels[0])


def test_a_ready_mask_says_nothing_of_which_tokens_are_real():
    model = make_pair("electra", "ElectraForPreTraining").ours
    labels = torch.tensor([[0, 1, 0, 0, 1]])
    ready = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    torch.testing.assert_close(
        model(IDS[:1], attention_mask=ready, labels=labels).loss, model(IDS[:1], labels=labels).loss
    )


# Widths.


def test_embeddings_are_widened_only_where_they_are_narrower():
    narrow, wide = (ElectraModel(ElectraConfig(**{**SMALL, "embedding_size": n})) for n in (8, 12))
    assert narrow.embeddings_project.weight.shape == (12, 8)
    assert not any("project" in name for name in wide.state_dict())
    assert narrow(inputs_embeds=torch.randn(1, 3, 8))[0].shape == wide(inputs_embeds=torch.randn(1, 3, 12))[0].shape
    assert narrow(IDS, output_hidden_states=True).hidden_states[0].shape == (2, 5, 12)
    head = ElectraForMaskedLM(narrow.config)
    assert head.generator_lm_head.weight is head.electra.embeddings.word_embeddings.weight
    assert head.generator_lm_head.weight.shape == (41, 8)


def test_a_projection_missing_from_the_file_is_an_error(tmp_path):
    model = ElectraModel(ElectraConfig(**SMALL))
    model.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in held.items() if "project" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"embeddings_project\.weight: missing from the file"):
        AutoModel.from_pretrained(tmp_path)


# Files.


@pytest.mark.parametrize(
    "auto, cls", [(AutoModelForPreTraining, ElectraForPreTraining), (AutoModelForMaskedLM, ElectraForMaskedLM)]
)
def test_a_file_as_published_loads_and_gives_the_references_logits(auto, cls, tmp_path):
    """A discriminator, and a generator."""
    model = cls(ElectraConfig.from_dict(PUBLISHED)).eval()
    randomise(model)
    write_old(model, PUBLISHED, tmp_path)
    ours, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(ours) is cls
    assert info["missing_keys"] == info["unexpected_keys"] == set()
    assert info["stale"] == ["electra.embeddings.position_ids"]
    theirs = getattr(transformers, cls.__name__).from_pretrained(tmp_path)
    a, b = ours(IDS, attention_mask=MASK).logits, theirs(IDS, attention_mask=MASK).logits
    torch.testing.assert_close(a[MASK.bool()], b[MASK.bool()], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("prefix", ["electra.", ""])
def test_a_base_file_with_or_without_its_prefix(prefix, tmp_path):
    """Loaded into a head class, exactly the head is new."""
    base = ElectraModel(ElectraConfig(**SMALL))
    base.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in held.items()}, tmp_path / "model.safetensors")
    for task, new in NEW.items():
        model, info = class_for("electra", task).from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["new"]) == new, task
        assert info["unexpected"] == info["missing"] == []
        loaded = model.electra.embeddings_project.weight
        assert torch.equal(loaded, base.embeddings_project.weight)


def test_a_discriminators_file_in_a_class_for_another_task(tmp_path):
    """Its head is known as another head's, not as an unknown key."""
    ElectraForPreTraining(ElectraConfig(**SMALL)).save_pretrained(tmp_path)
    _, info = ElectraForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["other_head"]) == NEW["ForPreTraining"]
    assert set(info["new"]) == NEW["ForMaskedLM"]


def test_defaults_are_the_references():
    ours, theirs = ElectraConfig(), transformers.ElectraConfig()
    for field in PUBLISHED.keys() | {"classifier_dropout", "is_decoder", "use_cache", "bos_token_id", "eos_token_id"}:
        assert getattr(ours, field) == getattr(theirs, field), field


# Refusals.


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"summary_type": "attn"}, "summary_type='attn' is not implemented"),
        ({"summary_activation": "gelu9"}, "summary_activation='gelu9' is not implemented"),
        ({"summary_first_dropout": 0.1}, "summary_first_dropout=0.1 is not implemented"),
        ({"summary_proj_to_labels": True}, "summary_proj_to_labels=True is not implemented"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' is not implemented"),
        ({"embedding_size": 0}, "embedding_size=0 makes no model"),
        ({"hidden_size": 13}, "must be a multiple of num_attention_heads=3"),
        ({"add_cross_attention": True}, "needs is_decoder=True"),
        ({"summary_last_dropout": 1.5}, "summary_last_dropout=1.5 is no probability"),
    ],
)
def test_values_that_make_no_model_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        ElectraConfig(**{**SMALL, **fields})


def test_fields_that_say_what_is_done_anyway_are_kept(tmp_path):
    config = ElectraConfig(**SMALL, summary_first_dropout=0, summary_proj_to_labels=False)
    config.save_pretrained(tmp_path)
    again = ElectraConfig.from_pretrained(tmp_path)
    assert (again.summary_first_dropout, again.summary_proj_to_labels) == (0, False)
    assert ElectraForMultipleChoice(again)(IDS[:, None]).logits.shape == (2, 1)


def test_what_a_model_refuses():
    model = ElectraModel(ElectraConfig(**SMALL))
    with pytest.raises(ValueError, match="past_key_values need is_decoder=True"):
        model(IDS, past_key_values=Cache())
    with pytest.raises(ValueError, match="15 tokens, but the model has 14 positions"):
        model(torch.full((1, 15), 5))
    with pytest.raises(ValueError, match="encoder_hidden_states need a config of is_decoder=True"):
        model(IDS, encoder_hidden_states=torch.randn(2, 3, 12))
    with pytest.raises(ValueError, match="num_labels=3: a question answering head has 2"):
        ElectraForQuestionAnswering(ElectraConfig(**SMALL, num_labels=3))
