"""RoBERTa, CamemBERT and XLM-RoBERTa beyond the harness: positions, files as they are published, three names."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minihf
from minihf import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Cache, RobertaConfig
from minihf.inspection.batches import randomise
from minihf.inspection.compare import KeepDouble
from minihf.inspection.pairs import chunked, heads_of, make_pair
from minihf.models.architectures import class_for
from minihf.models.camembert import CamembertConfig
from minihf.models.roberta import RobertaForCausalLM, RobertaForMaskedLM, RobertaModel
from minihf.models.xlm_roberta import XLMRobertaConfig
from minihf.nn.positions import positions_from_ids, positions_from_mask

KINDS = {"roberta": "Roberta", "camembert": "Camembert", "xlm-roberta": "XLMRoberta"}
SMALL = {
    "vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17,
    "max_position_embeddings": 14, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2,
}
# As roberta-base has it, but for the sizes.
PUBLISHED = {
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "model_type": "roberta", **SMALL,
}
LM_HEAD = {"lm_head.bias", "lm_head.dense.weight", "lm_head.dense.bias"}
LM_HEAD |= {"lm_head.layer_norm.weight", "lm_head.layer_norm.bias"}
NEW = {
    "ForMaskedLM": LM_HEAD,
    "ForCausalLM": LM_HEAD,
    "ForSequenceClassification": {
        f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    },
    "ForMultipleChoice": {"classifier.weight", "classifier.bias"},
    "ForTokenClassification": {"classifier.weight", "classifier.bias"},
    "ForQuestionAnswering": {"qa_outputs.weight", "qa_outputs.bias"},
}


def old_file(model) -> dict[str, torch.Tensor]:
    """The tensors as files of 2019 hold them: old names of norms, both names of what is tied, a stale buffer."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["roberta.embeddings.position_ids"] = torch.arange(14)[None]
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }


@pytest.fixture
def published(tmp_path):
    """A folder as roberta-base is, and the model that is in it."""
    model = RobertaForMaskedLM(RobertaConfig.from_dict(PUBLISHED)).eval()
    randomise(model)
    save_file(old_file(model), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    return tmp_path, model


# Positions.


def test_positions_are_counted_over_the_ids_from_the_one_after_the_pad_token():
    ids = torch.tensor([[0, 9, 1, 7, 2], [1, 1, 0, 9, 2], [0, 9, 2, 1, 1]])
    assert positions_from_ids(ids, 1).tolist() == [[2, 3, 1, 4, 5], [1, 1, 2, 3, 4], [2, 3, 4, 1, 1]]
    assert positions_from_ids(ids, 9).tolist()[0] == [10, 9, 11, 12, 13]
    past = torch.tensor([[4], [0], [2]])
    assert positions_from_ids(ids, 1, past).tolist() == [[6, 7, 1, 8, 9], [1, 1, 2, 3, 4], [4, 5, 6, 1, 1]]


def test_a_pad_token_inside_a_text_counts_for_nothing_whatever_the_mask_says():
    pair = make_pair("roberta", "RobertaModel").to(torch.float64)
    ids = torch.tensor([[5, 6, 2, 7, 2, 2, 8, 9]])
    table = pair.ours.embeddings.position_embeddings
    seen = []
    table.register_forward_hook(lambda module, args, output: seen.append(args[0].tolist()))
    for mask in (None, torch.ones_like(ids), torch.tensor([[1, 1, 0, 1, 0, 1, 1, 0]])):
        ours, theirs = pair.ours(ids, attention_mask=mask)[0], pair.theirs(ids, attention_mask=mask)[0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert seen == [[[3, 4, 2, 5, 2, 2, 6, 7]]] * 3


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_changes_nothing(side):
    """By the ids alone, without position ids."""
    model = make_pair("roberta", "RobertaModel").ours.double()
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
    pads = [[2] * (6 - len(row)) for row in rows]
    ids = torch.tensor([row + pad if side == "right" else pad + row for row, pad in zip(rows, pads, strict=True)])
    batch = model(ids, attention_mask=(ids != 2).long())[0]
    for row, padded, x in zip(rows, ids, batch, strict=True):
        torch.testing.assert_close(x[padded != 2], model(torch.tensor([row]))[0][0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_longer_than_the_positions_is_told(kind):
    """Of 14 rows, the first two are no token's."""
    model = AutoModel.from_config(class_for(kind, "Config")(**SMALL)).eval()
    assert model.position_limit == 12
    model(torch.full((1, 12), 5))
    for given in ({"input_ids": torch.full((1, 13), 5)}, {"inputs_embeds": torch.randn(1, 13, 12)}):
        with pytest.raises(ValueError, match="13 tokens, but the model has 12 positions: shorten the text"):
            model(**given)


def test_padding_beyond_the_positions_is_read_as_in_the_reference():
    """Padding has no position of its own, so a row may be longer than the table, as long as its text is not."""
    pair = make_pair("roberta", "RobertaModel").to(torch.float64)
    limit = pair.ours.position_limit
    ids = torch.randint(3, 40, (2, limit + 5))
    ids[0, limit:] = 2  # the pad token
    ids[1, 4:] = 2
    batch = {"input_ids": ids, "attention_mask": (ids != 2).long()}
    with KeepDouble():
        theirs = pair.theirs.eval()(**batch)[0]
    torch.testing.assert_close(pair.ours(**batch)[0][ids != 2], theirs[ids != 2], rtol=0, atol=1e-10)
    ids[0, limit] = 5
    with pytest.raises(ValueError, match=f"{limit + 1} tokens, but the model has {limit} positions"):
        pair.ours(ids)


@pytest.mark.parametrize("sizes", [(3, 4, 1), (1,) * 8, (2, 6)])
def test_a_decoder_that_reads_in_pieces_counts_as_if_it_read_at_once(sizes):
    """Also where a pad token stands inside the text, which has no position of its own."""
    pair = make_pair("roberta", "RobertaForCausalLM").to(torch.float64)
    batch = {"input_ids": torch.tensor([[5, 2, 6, 7, 2, 8, 9, 10], [2, 2, 11, 12, 13, 14, 2, 15]])}
    theirs = pair.theirs(**batch, use_cache=False).logits
    torch.testing.assert_close(chunked(pair.ours, batch, sizes), theirs, rtol=0, atol=1e-10)


def test_embeddings_are_read_in_pieces_too():
    model = make_pair("roberta", "RobertaForCausalLM").ours.double()
    x = torch.randn(2, 8, 28, dtype=torch.float64)
    cache = Cache()
    pieces = [model(inputs_embeds=part, past_key_values=cache).logits for part in x.split([3, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(inputs_embeds=x).logits, rtol=0, atol=1e-12)


def test_a_cache_in_another_order_counts_in_that_order():
    model = make_pair("roberta", "RobertaForCausalLM").ours.double()
    ids = torch.tensor([[5, 2, 2, 6], [7, 8, 9, 10]])
    cache = Cache()
    model(ids, past_key_values=cache)
    rows = torch.tensor([1, 0, 1])
    cache.reorder(rows)
    new = torch.tensor([[11], [12], [13]])
    together = model(torch.cat([ids[rows], new], 1)).logits[:, -1:]
    torch.testing.assert_close(model(new, past_key_values=cache).logits, together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_gives_a_padded_prompt_the_positions_of_an_unpadded_one(use_cache):
    model = make_pair("roberta", "RobertaForCausalLM", seed=3).ours.double()  # whose choices depend on positions
    rows = [[5, 6, 7], [8, 9, 10, 11, 12]]
    ids = torch.tensor([[2, 2, *rows[0]], rows[1]])
    options = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 2, "use_cache": use_cache}
    batch = model.generate(ids, attention_mask=(ids != 2).long(), **options)
    for row, new in zip(rows, batch, strict=True):
        assert new[5:].tolist() == model.generate(torch.tensor([row]), **options)[0, len(row) :].tolist()


def test_position_ids_from_a_mask_begin_where_the_model_says():
    model = make_pair("roberta", "RobertaModel").ours.double()
    ids = torch.tensor([[2, 2, 5, 6, 7]])
    mask = (ids != 2).long()
    positions = model.first_position + positions_from_mask(mask)
    by_hand = model(ids, attention_mask=mask, position_ids=positions)[0]
    torch.testing.assert_close(by_hand[:, 2:], model(ids, attention_mask=mask)[0][:, 2:], rtol=0, atol=1e-12)


# Files.


def test_a_file_as_published_loads_and_gives_the_references_logits(published):
    folder, model = published
    ours, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(ours) is RobertaForMaskedLM
    assert info["missing_keys"] == info["unexpected_keys"] == set()
    assert info["stale"] == ["roberta.embeddings.position_ids"]
    assert ours.lm_head.decoder.weight is ours.roberta.embeddings.word_embeddings.weight
    assert ours.lm_head.decoder.bias is ours.lm_head.bias
    assert ours.config.layer_norm_eps == 1e-5
    ids = torch.tensor([[0, 7, 8, 9, 2, 1], [0, 7, 2, 1, 1, 1]])
    theirs = transformers.RobertaForMaskedLM.from_pretrained(folder)
    for mask in (None, (ids != 1).long()):
        a, b = ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits
        torch.testing.assert_close(a[ids != 1], b[ids != 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(ids).logits, model(ids).logits)


def test_the_head_may_lack_the_names_of_what_is_tied(published):
    folder, model = published
    for dropped in (["lm_head.decoder.weight", "lm_head.decoder.bias"], ["lm_head.decoder.weight", "lm_head.bias"]):
        held = old_file(model)
        for name in dropped:
            del held[name]
        save_file(held, folder / "model.safetensors")
        ours, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
        assert info["missing_keys"] == set()
        assert torch.equal(ours.lm_head.decoder.bias, model.lm_head.bias)
        assert ours.lm_head.decoder.bias is ours.lm_head.bias


@pytest.mark.parametrize("prefix", ["roberta.", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_file_with_or_without_its_prefix(kind, prefix, tmp_path):
    """Loaded into a head class, exactly the head is new."""
    base = AutoModel.from_config(class_for(kind, "Config")(**SMALL))
    base.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in held.items()}, tmp_path / "model.safetensors")
    for task, new in NEW.items():
        model, info = class_for(kind, task).from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["new"]) == new, task
        assert info["unexpected"] == info["missing"] == []
        loaded = model.base_model.embeddings.word_embeddings.weight
        assert torch.equal(loaded, base.embeddings.word_embeddings.weight)
        assert model.base_model.config.model_type == kind


# Three names.


@pytest.mark.parametrize("kind, name", KINDS.items())
def test_each_family_has_its_own_names_all_the_way_down(kind, name, tmp_path):
    config = AutoConfig.for_model(kind, **SMALL)
    assert type(config).__name__ == f"{name}Config"
    for class_name, task in heads_of(kind).items():
        cls = class_for(kind, task)
        assert cls is getattr(minihf, class_name)
        model = cls(config)
        assert cls.base_model_prefix == getattr(transformers, class_name).base_model_prefix
        assert type(model.base_model).__name__ == f"{name}Model"
        folder = tmp_path / class_name
        model.save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        assert (written["model_type"], written["architectures"]) == (kind, [class_name])
        assert type(AutoConfig.from_pretrained(folder)) is type(config)
        assert type(cls.from_pretrained(folder)) is cls
        theirs = transformers.AutoConfig.from_pretrained(folder)
        assert (theirs.model_type, theirs.architectures) == (kind, [class_name])
    model.base_model.save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base/config.json").read_text())["architectures"] == [f"{name}Model"]
    assert type(AutoModel.from_pretrained(tmp_path / "base")).__name__ == f"{name}Model"


@pytest.mark.parametrize("kind, name", KINDS.items())
def test_defaults_are_the_references(kind, name):
    ours, theirs = AutoConfig.for_model(kind), getattr(transformers, f"{name}Config")()
    for field in SMALL.keys() | {"hidden_act", "hidden_dropout_prob", "classifier_dropout", "is_decoder", "use_cache"}:
        assert getattr(ours, field) == getattr(theirs, field), field


def test_one_familys_config_is_not_the_others(tmp_path):
    with pytest.raises(TypeError, match="CamembertModel takes a CamembertConfig, not a RobertaConfig"):
        minihf.CamembertModel(RobertaConfig(**SMALL))
    with pytest.raises(TypeError, match="not a XLMRobertaConfig"):
        minihf.CamembertForMaskedLM(XLMRobertaConfig(**SMALL))
    CamembertConfig(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(minihf.CheckpointError, match="'camembert' model, not a 'xlm-roberta'"):
        XLMRobertaConfig.from_pretrained(tmp_path)


# Refusals.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pad", [None, -1, 13, 14])
def test_a_pad_token_that_leaves_no_position_is_refused(kind, pad):
    with pytest.raises(ValueError, match=f"pad_token_id={pad} leaves no position.*max_position_embeddings=14"):
        class_for(kind, "Config")(**{**SMALL, "pad_token_id": pad})


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' is not implemented"),
        ({"hidden_act": "gelu9"}, "hidden_act='gelu9' is not implemented"),
        ({"hidden_size": 13}, "must be a multiple of num_attention_heads=3"),
        ({"add_cross_attention": True}, "needs is_decoder=True"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True is not implemented"),
        ({"pad_token_id": 99}, "pad_token_id=99 is outside the vocabulary of 41"),
    ],
)
def test_values_that_make_no_model_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        RobertaConfig(**{**SMALL, **fields})


def test_an_encoder_keeps_no_past():
    with pytest.raises(ValueError, match="past_key_values need is_decoder=True"):
        RobertaModel(RobertaConfig(**SMALL))(torch.tensor([[5]]), past_key_values=Cache())
    with pytest.raises(ValueError, match="num_labels=3: a question answering head has 2"):
        minihf.RobertaForQuestionAnswering(RobertaConfig(**SMALL, num_labels=3))


@pytest.mark.parametrize("kind, name", KINDS.items())
def test_a_head_of_the_other_direction_warns_under_its_own_name(kind, name, caplog):
    AutoModelForMaskedLM.from_config(class_for(kind, "Config")(**SMALL, is_decoder=True))
    AutoModelForCausalLM.from_config(class_for(kind, "Config")(**SMALL))
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith(f"{name}ForMaskedLM with is_decoder=True")
    assert told[1].startswith(f"{name}ForCausalLM with is_decoder=False")
    assert issubclass(class_for(kind, "ForCausalLM"), RobertaForCausalLM)
