"""Texts flattened into one row: each gets what it gets alone, and what the reference gives it."""

import pytest
import torch
import transformers

import minihf
from minihf.data.collators import DataCollatorWithFlattening

SIZES = {"vocab_size": 89, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ROPE = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 20, "max_position_embeddings": 32}
FAMILIES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {**SIZES, "n_positions": 12}),
    "ctrl": ("CTRLConfig", "CTRLLMHeadModel", {**SIZES, "dff": 14, "n_positions": 12}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", ROPE),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**ROPE, "sliding_window": 4}),
    "mistral without a window": ("MistralConfig", "MistralForCausalLM", {**ROPE, "sliding_window": None}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**ROPE, "num_local_experts": 3, "sliding_window": 4}),
}
LENGTHS = [5, 1, 9, 2, 3]  # 20 in all: more than GPT-2's and CTRL's 12 positions


@pytest.fixture
def texts() -> list[dict]:
    return [{"input_ids": torch.randint(0, 89, (length,))} for length in LENGTHS]


@pytest.fixture(params=FAMILIES)
def pair(request, tmp_path):
    """Ours and the reference's, with the same random parameters. float32, as the reference rotates."""
    config, name, fields = FAMILIES[request.param]
    ours = getattr(minihf, name)(getattr(minihf, config)(**fields)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    ours.save_pretrained(tmp_path)
    return ours, getattr(transformers, name).from_pretrained(tmp_path).eval()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1, theirs.abs().max().item()))


def grads(loss: torch.Tensor, model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_flattened_is_the_references(pair, texts, impl):
    batch = DataCollatorWithFlattening()(texts)
    for model in pair:
        model.set_attn_implementation(impl)
    ours, theirs = (model(**batch, use_cache=False) for model in pair)
    assert_close(ours.logits, theirs.logits)
    assert_close(ours.loss, theirs.loss)
    our_grads, their_grads = (grads(out.loss, model) for out, model in zip((ours, theirs), pair, strict=True))
    assert our_grads.keys() == their_grads.keys()
    for name, grad in their_grads.items():
        assert_close(our_grads[name], grad)


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_flattened_is_each_text_alone(pair, texts, impl):
    ours = pair[0].double()
    ours.set_attn_implementation(impl)
    batch = DataCollatorWithFlattening()(texts)
    output = ours(**batch, use_cache=False)
    alone = [ours(text["input_ids"][None], use_cache=False).logits for text in texts]
    torch.testing.assert_close(output.logits, torch.cat(alone, dim=1), rtol=0, atol=1e-10)

    together = grads(output.loss, ours)
    ours.zero_grad()
    guessed = sum(LENGTHS) - len(LENGTHS)
    for text in texts:
        ids = text["input_ids"][None]
        ours(ids, labels=ids, use_cache=False, num_items_in_batch=guessed).loss.backward()
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, rtol=0, atol=1e-10, msg=name)


def test_with_a_cache_or_a_mask_the_row_is_one_text(pair, texts):
    """As in the reference: it keeps texts apart only where neither is. (PARITY.md, 1.6)"""
    batch = DataCollatorWithFlattening()(texts[2:4])
    apart = pair[0](**batch, use_cache=False).logits
    for extra in ({"use_cache": True}, {"use_cache": False, "attention_mask": torch.ones_like(batch["input_ids"])}):
        ours, theirs = (model(**batch, **extra).logits for model in pair)
        assert_close(ours, theirs)
        assert (ours - apart).abs().max() > 1e-3


def test_several_rows_of_several_texts(pair):
    """Positions (B, T), differently cut; and one row of positions for all."""
    ids = torch.randint(0, 89, (3, 9))
    rows = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 0, 1, 2, 3, 0, 1]])
    for positions in (rows, rows[:1]):
        ours, theirs = (model(ids, position_ids=positions, use_cache=False).logits for model in pair)
        assert_close(ours, theirs)


def test_one_text_is_still_no_longer_than_the_positions():
    model = minihf.GPT2LMHeadModel(minihf.GPT2Config(**FAMILIES["gpt2"][2]))
    with pytest.raises(ValueError, match="20 tokens, but the model has 12 positions"):
        model(torch.zeros(1, 20, dtype=torch.long), use_cache=False)
    with pytest.raises(IndexError, match="wpe has 12 rows"):
        model(torch.zeros(1, 20, dtype=torch.long), position_ids=torch.arange(20)[None], use_cache=False)
