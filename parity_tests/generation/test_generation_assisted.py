"""Guessing ahead changes nothing: greedy texts are the plain ones, drawn ones the reference's under one seed."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import roc_curve

import minihf
from minihf.generation.assisted import Draft, Lookup, accepted, assisted, best_threshold
from minihf.generation.reader import Reader
from minihf.inspection.families import FAMILIES, Variant
from minihf.inspection.pairs import heads_of, make_pair

WRITERS = [
    (model_type, name)
    for model_type in FAMILIES
    for name in heads_of(model_type)
    if getattr(minihf, name).can_generate
]
OUTPUTS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.fixture(scope="module")
def writers():
    """(ours, the reference's, a model near ours, the same near the reference's), each in float64."""
    made = {}

    def get(model_type, name):
        if (model_type, name) not in made:
            longer = {"gpt2": {"n_positions": 48}, "llama": {"max_position_embeddings": 48}}.get(model_type, {})
            pair = make_pair(model_type, name, Variant(longer)).to(torch.float64)
            models = [pair.ours.eval(), pair.theirs.eval()]
            made[model_type, name] = *models, *(near(model) for model in models)
        return made[model_type, name]

    return get


@torch.no_grad()
def near(model):
    """A model that guesses right now and then."""
    model = copy.deepcopy(model)
    for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        parameter += 0.06 * noise * parameter.std(correction=0).clamp(max=1)
    return model


def prompt(model, row: int = 0, padded: bool = False) -> dict:
    vocab = min(model.config.vocab_size, getattr(model.config, "decoder_vocab_size", None) or 10**9)
    ids = torch.randint(12, vocab, (1, 3), generator=torch.Generator().manual_seed(row))
    ids = torch.cat([ids, ids], dim=1)  # something to look up
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -2:] = 0 if model.config.is_encoder_decoder else 1
        mask[0, :2] = 1 if model.config.is_encoder_decoder else 0
    start = {"decoder_start_token_id": 3} if model.config.is_encoder_decoder else {"bos_token_id": 3}
    return {"input_ids": ids, "attention_mask": mask, "pad_token_id": 2, "eos_token_id": None, **start}


def write(model, seed: int = 4, **settings):
    torch.manual_seed(seed)
    return model.generate(**{"max_new_tokens": 9, **OUTPUTS, **settings})


def assert_same(ours, theirs):
    assert torch.equal(ours.sequences, theirs.sequences), f"\n{ours.sequences}\n{theirs.sequences}"
    for name in ("scores", "logits"):
        a, b = (torch.stack(x[name]).double() for x in (ours, theirs))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type, name", WRITERS)
def test_greedy_texts_are_the_plain_ones(model_type, name, writers):
    """With a draft model and from the prompt, with processors, an end token, padding."""
    model, _, draft, _ = writers(model_type, name)
    for i, knobs in enumerate([{}, {"repetition_penalty": 1.4, "min_new_tokens": 4, "no_repeat_ngram_size": 3}]):
        inputs = {**prompt(model, i, padded=bool(i)), **knobs}
        free = write(model, **inputs)
        ends = [None, [int(free.sequences[0, -3]), int(free.sequences[0, -1])]]
        for guesser in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 3}):
            for eos in ends:
                plain = write(model, **{**inputs, "eos_token_id": eos})
                out = write(model, **{**inputs, "eos_token_id": eos}, num_assistant_tokens=3 + i, **guesser)
                assert_same(out, plain)
                assert out.past_key_values.length == plain.past_key_values.length


def prepared(draft, **settings):
    """The reference asks its assistant's own config; one with an encoder reads all ids at each guess, whatever its
    cache holds, and guesses the worse for it: here it is given the new ones."""
    for key, value in settings.items():
        setattr(draft.generation_config, key, value)
    forward = type(draft).forward

    @functools.wraps(forward)
    def only_new(self, *args, **kwargs):
        past = kwargs["past_key_values"].get_seq_length()
        if kwargs["decoder_input_ids"].size(1) > past:  # else they are the new ones
            kwargs["decoder_input_ids"] = kwargs["decoder_input_ids"][:, past:]
        return forward(self, *args, **kwargs)

    if draft.config.is_encoder_decoder:
        draft.forward = functools.partial(only_new, draft)
    return draft


@pytest.mark.parametrize("schedule", ["constant", "heuristic", "heuristic_transient"])
@pytest.mark.parametrize(
    "model_type, name",
    [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("t5", "T5ForConditionalGeneration")],
)
def test_draws_are_the_references(model_type, name, schedule, writers):
    """The same draws in the same order: how many guesses there are, and how sure a guess must be, is the same too."""
    ours, theirs, draft, their_draft = writers(model_type, name)
    lengths = set()
    for seed in range(4):
        way = [{"temperature": 1.9}, {"temperature": 0.6, "top_k": 9}, {"top_p": 0.8, "repetition_penalty": 1.2}, {"top_k": 0}][seed]
        drafting = {
            "num_assistant_tokens": 4 + seed % 2,
            "num_assistant_tokens_schedule": schedule,
            "assistant_confidence_threshold": [0.1, 0.0, 0.3, 0.02][seed],
        }
        # The reference's assistant takes tokens of the text for padding where the pad token is not the end token too.
        ends = {"eos_token_id": 7 + seed, "pad_token_id": 7 + seed}
        settings = {**prompt(ours, seed), "do_sample": True, "max_new_tokens": 24, **ends, **way}
        a = write(ours, seed, assistant_model=draft, **settings, **drafting)
        b = write(theirs, seed, assistant_model=prepared(their_draft, **drafting), **settings)
        assert_same(a, b)
        if schedule == "heuristic":
            numbers = (m.generation_config.num_assistant_tokens for m in (draft, their_draft))
            assert len(set(numbers)) == 1
        lengths.add(tuple(a.sequences[0].tolist()))
        c, d = (write(m, seed, prompt_lookup_num_tokens=3, **settings) for m in (ours, theirs))
        assert_same(c, d)
    assert len(lengths) == 4
