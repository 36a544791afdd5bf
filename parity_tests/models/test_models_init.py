"""First values: every parameter of a fresh model has the spread, the zeros and the ones of the reference's."""

import re
from dataclasses import fields
from importlib import import_module

import pytest
import torch
import transformers

from minihf.models.auto import ARCHITECTURES

SIZES = {"hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 5, "max_position_embeddings": 64}
SIZES |= {"vocab_size": 301, "pad_token_id": 3, "num_key_value_heads": 5, "intermediate_size": 70}
SIZES |= {"decoder_layers": 2, "decoder_attention_heads": 6, "num_decoder_layers": 2}  # the last is T5's
CLASSES = {
    name: getattr(import_module(f"minihf.models.{module}"), name)
    for module, tasks in ARCHITECTURES.values()
    for task, name in tasks.items()
    if task != "Config"
}
EVERY = pytest.mark.parametrize("name", CLASSES)


def fresh(name: str, **changes):
    cls, theirs = CLASSES[name], getattr(transformers, name)
    changes = {**SIZES, "num_labels": 2 if "QuestionAnswering" in name else 7, **changes}
    return cls(cls.config_class(**changes)), theirs(theirs.config_class(**changes))


@EVERY
@pytest.mark.parametrize(
    "changes", [{}, {"initializer_range": 0.3, "add_cross_attention": True, "is_decoder": True}], ids=["", "cross"]
)
def test_first_values_are_the_references(name, changes):
    if "T5" in name:  # whose config is never one half's
        changes = {**changes, "is_decoder": False}
    model, theirs = fresh(name, **changes)
    computed = {key for key, _ in model.named_buffers()} - model.state_dict().keys()
    ours, theirs = model.state_dict(), theirs.state_dict()
    assert list(ours) == [key for key in ours if key in theirs]
    assert set(ours) == set(theirs) - computed
    spreads = set()
    for key, a in ours.items():
        b = theirs[key]
        assert a.shape == b.shape, key
        if torch.equal(b, b.flatten()[0].expand_as(b)):  # zeros or ones
            assert torch.equal(a, b), key
            continue
        # the relative error of each measured spread is 1 / sqrt(2 n): five of both together
        assert abs(a.std() / b.std() - 1) < 5 / a.numel() ** 0.5, key
        assert abs(a.mean()) < 5 * a.std() / a.numel() ** 0.5, key
        assert torch.equal((a == 0).all(-1), (b == 0).all(-1)), key  # the row of the padding
        if a.numel() > 2000:
            assert (a - a.mean()).div(a.std()).pow(4).mean() > 2.4, key  # of a normal distribution 3, of a uniform 1.8
            spreads.add(round(a.std().item() / changes.get("initializer_range", 0.02), 1))
    if "T5" in name:
        return  # each of its layers has a spread of its own, and no initializer_range
    # GPT-2's last layers have 1 / sqrt(2 * 3 layers) of it; GPT's Conv1D has 0.02, whatever the config says.
    assert spreads <= {1.0, 0.4 if name.startswith("GPT2") else 0.1 if name.startswith("OpenAIGPT") else 1.0}
    assert (0.4 in spreads) == name.startswith("GPT2")


@EVERY
def test_tied_parameters_are_one(name):
    ours, theirs = fresh(name, tie_word_embeddings=True)
    parameters = dict(ours.named_parameters(remove_duplicate=False))
    for target, source in ours.tied.items():
        assert parameters[target] is parameters[source]
    computed = {key for key, _ in ours.named_buffers()} - ours.state_dict().keys()
    frozen = sum(p.numel() for key, p in theirs.named_parameters() if key in computed)
    assert ours.num_parameters() == theirs.num_parameters() - frozen
    assert ours.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)
    names = [{ours.tied.get(key, key) for key, _ in model.named_parameters()} for model in (ours, theirs)]
    assert names[0] == names[1] - computed  # of two tied ones either may come first
    untied = CLASSES[name](ours.config.from_dict(ours.config.to_dict(), tie_word_embeddings=False))
    parameters = dict(untied.named_parameters(remove_duplicate=False))
    for target, source in untied.tied.items():  # encoder and decoder of T5 share their embeddings all the same
        assert (parameters[target] is parameters[source]) == (target in untied.ties())
    assert ("lm_head.weight" in untied.tied) <= ("lm_head.weight" not in untied.ties())


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM"])
def test_the_padding_row_is_zero_and_stays_so(name):
    ours, _ = fresh(name)
    table = ours.get_input_embeddings()
    assert table.padding_idx == 3
    assert (table.weight[3] == 0).all()
    assert (table.weight[2] != 0).any()
    ours.base_model(torch.tensor([[5, 3, 3]])).last_hidden_state.sum().backward()
    assert (table.weight.grad[3] == 0).all()


def test_one_seed_one_model():
    for name in CLASSES:
        states = []
        for _ in range(2):
            torch.manual_seed(7)
            states.append(fresh(name)[0].state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@EVERY
def test_dropout_is_the_configs(name):
    """Every dropout of the config is where the reference has it, by its path."""
    names = [field.name for field in fields(CLASSES[name].config_class) if "drop" in field.name]
    changes = {n: 0.1 + 0.07 * i for i, n in enumerate(names)}
    ours, theirs = fresh(name, **changes)

    def dropouts(model):
        return {path: m.p for path, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}

    a, b = dropouts(ours), dropouts(theirs)
    for path in a.keys() - b.keys():  # of a function, the reference keeps the number alone
        parent, _, last = path.rpartition(".")
        if isinstance(getattr(theirs.get_submodule(parent), last, None), float):
            b[path] = getattr(theirs.get_submodule(parent), last)
    # ALBERT's layers have one there that is never called.
    b = {path: p for path, p in b.items() if not re.search(r"albert_layers\.\d+\.dropout$", path)}
    assert {path: p for path, p in a.items() if path in b} == a
    assert {path: p for path, p in b.items() if p not in (0, 0.0) and path not in a} == {}
