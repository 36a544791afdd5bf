"""Gradient checkpointing changes no number: losses and gradients in training, dropout included, are the same bits."""

import copy

import pytest
import torch

import minihf

DECODER = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER |= {"num_key_value_heads": 2, "intermediate_size": 36}
T5 = {"vocab_size": 61, "d_model": 24, "d_kv": 6, "num_layers": 2, "num_heads": 4, "d_ff": 36}
BART = {"vocab_size": 61, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 36, "decoder_ffn_dim": 36, "max_position_embeddings": 20}
MODELS = {
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 20},
        3,
    ),
    "AlbertForMaskedLM": ("AlbertConfig", {**DECODER, "embedding_size": 12, "num_key_value_heads": None}, 1),
    "T5ForConditionalGeneration": ("T5Config", {**T5, "decoder_start_token_id": 0, "pad_token_id": 0}, 4),
    "BartForConditionalGeneration": ("BartConfig", BART, 5),
    "MixtralForCausalLM": ("MixtralConfig", {**DECODER, "num_local_experts": 4}, 2),
}


def gradients(model, batch):
    model.train()
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_same_loss_and_gradients(name):
    config, sizes, layers = MODELS[name]
    sizes = {key: value for key, value in sizes.items() if value is not None}
    model = getattr(minihf, name)(getattr(minihf, config)(**sizes))
    ids = torch.randint(3, 61, (3, 9))
    batch = {"input_ids": ids, "attention_mask": (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()}
    batch["labels"] = ids.masked_fill(batch["attention_mask"] == 0, -100)
    loss, expected = gradients(model, batch)

    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    entered = count_forwards(model)
    assert gradients(model, {**batch, **({"use_cache": True} if name[0] in "GTM" else {})})[0] == loss  # none is made
    assert entered[0] == 2 * (layers if name[0] != "A" else DECODER["num_hidden_layers"])  # each once more
    for key, gradient in gradients(model, batch)[1].items():
        assert torch.equal(gradient, expected[key]), key

    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert gradients(twin, batch)[0] == loss  # its layers are its own
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert twin.is_gradient_checkpointing


def count_forwards(model):
    """How often the first module inside a layer runs."""
    from minihf.models.recompute import layers

    entered = [0]

    def count(module, args):
        entered[0] += 1

    for layer in layers(model):
        first = next(module for module in layer.modules() if not [*module.children()])
        first.register_forward_pre_hook(count)
    return entered


def test_evaluation_and_unknown_settings():
    model = minihf.GPT2LMHeadModel(minihf.GPT2Config(**MODELS["GPT2LMHeadModel"][1])).eval()
    ids = torch.randint(3, 61, (2, 5))
    expected = model(ids).logits
    model.gradient_checkpointing_enable({"use_reentrant": True})
    assert torch.equal(model(ids).logits, expected)
    assert model(ids, use_cache=True).past_key_values is not None
    with pytest.raises(TypeError, match="reentrant"):
        model.gradient_checkpointing_enable({"use_reentrants": True})


@pytest.mark.parametrize("enable", ["activation_checkpointing_enable", "gradient_checkpointing_enable"])
def test_every_second_layer(enable):
    """As the reference's Trainer asks for it, which names all three."""
    model = minihf.GPT2LMHeadModel(minihf.GPT2Config(**MODELS["GPT2LMHeadModel"][1]))
    ids = torch.randint(3, 61, (2, 5))
    loss, expected = gradients(model, {"input_ids": ids, "labels": ids})
    kwargs = {f"{enable.removesuffix('_enable')}_kwargs": None}
    getattr(model, enable)(**kwargs, every_n_layers=2, offload=False)
    entered = count_forwards(model)
    assert gradients(model, {"input_ids": ids, "labels": ids})[0] == loss
    assert entered[0] == 3 + 2  # the first and the third of three, once more
    for key, gradient in gradients(model, {"input_ids": ids, "labels": ids})[1].items():
        assert torch.equal(gradient, expected[key]), key
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    for wrong, said in (({"every_n_layers": 0}, "every_n_layers=0"), ({"offload": True}, "offload=True is not")):
        with pytest.raises(ValueError, match=said):
            getattr(model, enable)(**wrong)
    assert not model.is_gradient_checkpointing
