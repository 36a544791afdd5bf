"""What models return: read by attribute, key, index and slice, as the reference's records are; tuples in its order."""

import copy
import dataclasses
import pickle
from importlib import import_module

import pytest
import torch
import transformers

from minihf.inspection.batches import takes
from minihf.models.auto import ARCHITECTURES
from minihf.models.outputs import CausalLMOutput, SequenceClassifierOutput
from minihf.nn.output import Output

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 19}
SIZES |= {"vocab_size": 37, "pad_token_id": 0, "num_key_value_heads": 3, "intermediate_size": 20}
SIZES |= {"eos_token_id": 2, "decoder_layers": 2, "decoder_attention_heads": 2}
SIZES |= {"num_decoder_layers": 2, "decoder_start_token_id": 0}  # T5's
CLASSES = {
    name: getattr(import_module(f"minihf.models.{module}"), name)
    for module, tasks in ARCHITECTURES.values()
    for task, name in tasks.items()
    if task != "Config"
}


def inputs_for(name: str, labels: bool) -> dict:
    """Ids, and labels for whatever losses the class has."""
    choices = "MultipleChoice" in name or "DoubleHeads" in name
    ids = torch.randint(3, 37, (2, 3, 7) if choices else (2, 7))
    ids[..., -1] = 2  # BART's answer is read from the end token
    inputs = {"input_ids": ids}
    if takes(CLASSES[name], "decoder_input_ids"):
        inputs["decoder_input_ids"] = ids
    one, many = torch.tensor([1, 0]), torch.randint(2, (2, 7))
    if labels:
        by_head = {
            "BertForPreTraining": {"labels": many, "next_sentence_label": one},
            "AlbertForPreTraining": {"labels": many, "sentence_order_label": one},
            "ElectraForPreTraining": {"labels": many},
            "ForTokenClassification": {"labels": many},
            "ForMaskedLM": {"labels": many},
            "LMHeadModel": {"labels": many},
            "ForCausalLM": {"labels": many},
            "ForConditionalGeneration": {"labels": many},
            "MTModel": {"labels": many},
            "ForQuestionAnswering": {"start_positions": one, "end_positions": one},
            "DoubleHeadsModel": {"labels": ids, "mc_labels": one},
            "Model": {},
        }
        inputs |= next((given for head, given in by_head.items() if name.endswith(head)), {"labels": one})
    return inputs


def pair(name: str, **changes):
    """The same model on both sides, eager."""
    cls = CLASSES[name]
    changes = {**SIZES, **changes}
    ours = cls(cls.config_class(**changes, attn_implementation="eager")).eval()
    theirs_class = getattr(transformers, name)
    theirs = theirs_class(theirs_class.config_class(**changes, attn_implementation="eager")).eval()
    theirs.load_state_dict({**theirs.state_dict(), **ours.state_dict()})  # of computed tables it keeps its own
    return ours, theirs


def leaves(x) -> list[torch.Tensor]:
    """The tensors in a value of an output, in order; a cache's keys and values, too."""
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, tuple):
        return [leaf for part in x for leaf in leaves(part)]
    x = getattr(x, "self_attention_cache", x)
    return [leaf for layer in x.layers for leaf in (layer.keys, layer.values)]


DECODERS = ["BertModel", "BertLMHeadModel"]
CASES = [(name, {}) for name in CLASSES] + [(name, {"is_decoder": True}) for name in DECODERS]
CROSS = {"is_decoder": True, "add_cross_attention": True}
CASES += [(name, CROSS) for name in (*DECODERS, "GPT2Model", "GPT2LMHeadModel")]


@pytest.mark.parametrize("labels", [False, True], ids=["plain", "labels"])
@pytest.mark.parametrize("recorded", [False, True], ids=["", "recorded"])
@pytest.mark.parametrize("name, changes", CASES, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_fields_and_tuples_are_the_references(name, changes, recorded, labels):
    """The same fields in the same order, by name and as a tuple."""
    ours, theirs = pair(name, **changes)
    given = inputs_for(name, labels)
    if recorded:
        given |= {"output_hidden_states": True, "output_attentions": True}
    if "add_cross_attention" in changes:
        given["encoder_hidden_states"] = torch.randn(2, 3, 12)
    a, b = ours(**given), theirs(**given)
    assert list(a) == [key for key in b if b[key] != ()]  # where nothing was to record, the reference has ()
    as_tuple, expected = ours(**given, return_dict=False), theirs(**given, return_dict=False)
    expected = tuple(value for value in expected if value != ())
    assert type(as_tuple) is tuple
    assert len(as_tuple) == len(expected)
    for got, key, want in zip(as_tuple, a, expected, strict=True):
        assert len(leaves(got)) == len(leaves(a[key])) == len(leaves(want))
        for x, y, z in zip(leaves(got), leaves(a[key]), leaves(want), strict=True):
            # of several choices, the reference alone gives the last hidden state their dimension back
            torch.testing.assert_close(x, z.reshape(x.shape), rtol=1e-4, atol=1e-5)
            assert torch.equal(x, y)


@pytest.mark.parametrize("name", CLASSES)
def test_return_dict_of_the_config(name):
    """False gives tuples to the caller; inside, a head still reads its base model's fields."""
    ours, _ = pair(name)
    given = inputs_for(name, labels=True)
    expected = ours(**given)
    ours.config.return_dict = False
    got = ours(**given)
    assert type(got) is tuple
    assert len(got) == len(expected)
    assert torch.equal(got[0], expected[0])
    assert type(ours(**given, return_dict=True)) is type(expected)


def test_reading():
    loss, logits, hidden = torch.tensor(1.0), torch.ones(2, 3), (torch.zeros(1),)
    out = SequenceClassifierOutput(loss, logits, hidden_states=hidden)
    assert out.loss is out["loss"] is out[0] is loss
    assert out.logits is out["logits"] is out[1] is out[-2] is logits
    assert out[2] is out[-1] is out.hidden_states is hidden
    assert out[:2] == (loss, logits)
    first, *rest = out.to_tuple()
    assert first is loss
    assert len(rest) == 2
    assert list(out) == list(out.keys()) == ["loss", "logits", "hidden_states"]
    assert [v is w for v, w in zip(out.values(), out.to_tuple(), strict=True)] == [True] * 3
    assert dict(out) == dict(out.items()) == {**out}
    assert "loss" in out
    assert "attentions" not in out
    assert len(out) == 3
    assert out.attentions is None
    assert out.get("attentions") is None
    assert out.get("attentions", 5) == 5
    assert out.get("loss") is loss


def test_without_a_loss_the_logits_come_first():
    logits = torch.ones(2, 3)
    out = CausalLMOutput(logits=logits)
    assert out[0] is logits
    assert out.to_tuple() == (logits,)
    with pytest.raises(IndexError):
        _ = out[1]


def test_what_is_not_there():
    out = CausalLMOutput(logits=torch.ones(1))
    for key in ("loss", "banana"):
        with pytest.raises(KeyError, match=rf"CausalLMOutput has no '{key}' here; it has logits"):
            _ = out[key]
    with pytest.raises(AttributeError):
        _ = out.banana


def test_a_field_that_is_set_later_is_there():
    out = CausalLMOutput(logits=torch.ones(1))
    out.loss = torch.tensor(2.0)
    assert out[0] is out.loss
    assert "loss" in out


def test_copies():
    out = CausalLMOutput(loss=torch.tensor(1.0), logits=torch.ones(2))
    again = copy.deepcopy(out)
    assert type(again) is CausalLMOutput
    assert isinstance(again, Output)
    assert torch.equal(again.logits, out.logits)
    assert again.logits is not out.logits


# A language model's logits in training, which are computed when they are read


def unread():
    calls = []
    out = CausalLMOutput(torch.tensor(1.0), lambda: (calls.append(1), torch.ones(2))[1], hidden_states=())
    return out, calls


def test_whoever_does_not_read_the_logits_does_not_pay_for_them():
    out, calls = unread()
    assert out[0] is out.loss is out["loss"] is out.get("loss") is out[:1][0]
    assert list(out) == ["loss", "logits", "hidden_states"]
    assert "logits" in out
    assert len(out) == 3
    assert calls == []


@pytest.mark.parametrize(
    "read",
    [
        lambda out: out.logits, lambda out: out["logits"], lambda out: out[1], lambda out: out[-2],
        lambda out: out.to_tuple()[1], lambda out: out[:2][1], lambda out: out.get("logits"),
        lambda out: dict(out)["logits"], lambda out: out.values()[1], lambda out: copy.deepcopy(out).logits,
        lambda out: pickle.loads(pickle.dumps(out)).logits, lambda out: dataclasses.replace(out).logits,
    ],
)  # fmt: skip
def test_however_they_are_read_they_are_computed_once(read):
    out, calls = unread()
    assert torch.equal(read(out), torch.ones(2))
    assert out.logits is out["logits"]
    assert calls == [1]


HEADS_OF_WORDS = [name for name, cls in CLASSES.items() if cls.output_embeddings is not None]


@pytest.mark.parametrize("name", HEADS_OF_WORDS)
def test_every_head_over_the_vocabulary_spares_its_logits_in_training(name):
    """And they, the loss and the gradients are those of evaluation (dropout is off)."""
    rates = {key for key, value in vars(CLASSES[name].config_class()).items() if "drop" in key and value}
    ours, _ = pair(name, **dict.fromkeys(rates, 0.0))
    given = inputs_for(name, labels=True)
    given["labels"] = given["labels"].masked_fill(torch.rand(given["labels"].shape) < 0.4, -100)
    field = "prediction_logits" if name.endswith("ForPreTraining") else "logits"
    results = []
    for mode in (True, False):
        out = ours.train(mode)(**given)
        assert callable(vars(out)[field]) == mode
        ours.zero_grad()
        out.loss.backward(retain_graph=True)
        results.append([out.loss, out[field], *(p.grad for p in ours.parameters() if p.grad is not None)])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


TWO_LOSSES = "PreTraining", "DoubleHeads"
WORDS = [name for name, cls in CLASSES.items() if cls.output_embeddings and not any(x in name for x in TWO_LOSSES)]


@pytest.mark.parametrize("name", [name for name in WORDS if takes(CLASSES[name], "labels")])
def test_each_loss_of_words_takes_the_number_of_items(name):
    """Of this batch and others, whose gradients are added up with these: the sum of the loss is divided by it."""
    model = CLASSES[name](CLASSES[name].config_class(**SIZES)).eval()
    inputs = inputs_for(name, labels=True)
    inputs["labels"] = torch.randint(3, 37, (2, 7))
    mean, share = model(**inputs).loss, model(**inputs, num_items_in_batch=28).loss
    tokens = float(28 * share / mean)
    assert tokens == pytest.approx(14) or tokens == pytest.approx(12)  # the last of a text may have no next one
