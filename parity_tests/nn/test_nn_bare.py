"""The bare model gives what the plain one gives, bit for bit, and sees through nothing that is not ours."""

import pytest
import torch
from torch import nn

from minihf.inspection.batches import cast, make_batch, randomise
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import heads_of
from minihf.models.architectures import class_for
from minihf.nn.bare import bare

HEADS = [(model_type, name, task) for model_type in FAMILIES for name, task in heads_of(model_type).items()]


def make(model_type, name, task):
    family = FAMILIES[model_type]
    config = class_for(model_type, "Config")(**{**family.config, **family.special.get(name, {})})
    model = class_for(model_type, task)(config)
    randomise(model)
    return model.eval()


@pytest.mark.parametrize("model_type, name, task", HEADS)
def test_every_head_gives_the_same_bits(model_type, name, task):
    model = make(model_type, name, task)
    for mask in ("full", "left"):
        batch = cast(make_batch(model, task, mask), torch.float32)
        plain, light = model(**batch), bare(model)(**batch)
        assert type(light) is type(plain)
        for key, value in plain.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(light[key], value)


def test_no_module_of_ours_is_left_in_it():
    def inside(x):
        children = x.values() if isinstance(x, dict) else x if isinstance(x, list) else vars(x).values()
        for child in children:
            assert not isinstance(child, nn.Module)
            if isinstance(child, (dict, list)) or type(child).__module__ == "minihf.nn.bare":
                inside(child)

    for head in HEADS:
        inside(bare(make(*head)))


def test_gradients_and_weights_are_shared():
    model = make("gpt2", "GPT2LMHeadModel", "ForCausalLM")
    light = bare(model)
    ids = torch.tensor([[5, 6, 7]])
    light(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    before = light(ids).logits
    with torch.no_grad():
        model.transformer.wte.weight.mul_(2)
    assert not torch.equal(light(ids).logits, before)
    assert torch.equal(light(ids).logits, model(ids).logits)


def test_a_hook_a_strange_class_and_a_put_in_forward_are_kept():
    model = make("gpt2", "GPT2LMHeadModel", "ForCausalLM")
    ids = torch.tensor([[5, 6, 7]])
    h = model.transformer.h
    heard = []
    h[0].mlp.c_fc.register_forward_hook(lambda module, args, output: heard.append(1))

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    h[1].mlp = Doubled(h[1].mlp)
    forward = h[2].ln_1.forward
    h[2].ln_1.forward = lambda x: forward(x) + 1
    light = bare(model)
    assert light.transformer.h[1].mlp is h[1].mlp
    assert light.transformer.h[2].ln_1 is h[2].ln_1
    assert torch.equal(light(ids).logits, model(ids).logits)
    assert len(heard) == 2


@torch.no_grad()
def test_activations_overwrite_only_what_nobody_hears():
    model = make("bert", "BertModel", "Model")
    ids, heard = torch.tensor([[5, 6, 7]]), []
    layers = model.encoder["layer"]
    layers[1].intermediate["dense"].register_forward_hook(lambda module, args, output: heard.append(output))
    plain, wanted = model(ids)[0], heard.pop().clone()
    light = bare(model)
    assert torch.equal(light(ids)[0], plain)
    assert torch.equal(heard.pop(), wanted)
    for i, layer in enumerate(light.encoder["layer"]):
        x = torch.randn(5)
        assert (layer.activation(x).data_ptr() == x.data_ptr()) == (i != 1)


@torch.no_grad()
def test_nothing_is_overwritten_where_an_identity_stands_for_a_layer():
    """What it gives on is the residual, which is needed once more."""
    family = FAMILIES["bert"].config
    model = class_for("bert", "Model")(class_for("bert", "Config")(**{**family, "intermediate_size": 28})).eval()
    randomise(model)
    model.encoder["layer"][1].intermediate["dense"] = nn.Identity()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(bare(model)(ids)[0], model(ids)[0])


def test_containers_and_layers_put_in_by_others_work():
    model = make("gpt2", "GPT2LMHeadModel", "ForCausalLM")
    model.lm_head = nn.Sequential(nn.Linear(30, 16), nn.GELU(), nn.Linear(16, 59))
    model.transformer.h = nn.Sequential(*model.transformer.h)
    model.eval()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model.generate(ids, max_new_tokens=5), model.generate(ids, max_new_tokens=5, use_cache=False))
    out = model(ids, labels=ids)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:]))


def test_a_method_changed_after_a_first_use_counts(monkeypatch):
    model = make("gpt2", "GPT2LMHeadModel", "ForCausalLM")
    ids = torch.tensor([[5, 6, 7]])
    model.generate(ids, max_new_tokens=2)
    monkeypatch.setattr("minihf.models.gpt2.GPT2MLP.forward", lambda self, x: -3 * x)
    assert torch.equal(model.generate(ids, max_new_tokens=8), model.generate(ids, max_new_tokens=8, use_cache=False))


def test_a_model_in_training_stays_as_it_is():
    model = make("gpt2", "GPT2LMHeadModel", "ForCausalLM").train()
    assert bare(model) is model


def test_global_hooks_are_honoured():
    model = make("gpt2", "GPT2Model", "Model")
    heard = []
    handle = nn.modules.module.register_module_forward_hook(lambda *args: heard.append(1))
    try:
        bare(model)(torch.tensor([[5]]))
    finally:
        handle.remove()
    assert len(heard) > 20
