"""Guessing ahead changes nothing: greedy texts are the plain ones, drawn ones the reference's under one seed."""

import copy
import functools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

import minihf
from minihf.generation.assisted import accepted
from minihf.generation.guessers import Draft, Lookup, best_threshold
from minihf.inspection.families import FAMILIES, Variant
from minihf.inspection.pairs import heads_of, make_pair

WRITERS = [
    (model_type, name)
    for model_type in FAMILIES
    for name in heads_of(model_type)
    if getattr(minihf, name).can_generate
]
WAYS = [{"temperature": 1.9}, {"temperature": 0.6, "top_k": 9}, {"top_p": 0.8, "repetition_penalty": 1.2}, {"top_k": 0}]
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
        parameter += 0.2 * noise * parameter.std(correction=0).clamp(max=1)
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


@pytest.mark.parametrize(
    "model_type, name",
    [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("t5", "T5ForConditionalGeneration")],
)
def test_draws_are_the_references(model_type, name, writers):
    """The same draws in the same order: how many guesses there are, and how sure a guess must be, is the same too."""
    ours, theirs, draft, their_draft = writers(model_type, name)
    lengths = set()
    for seed in range(4):
        way = WAYS[seed]
        schedule = ["constant", "heuristic", "heuristic_transient", "heuristic"][seed]
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


def test_guesses_are_right_now_and_then(writers, monkeypatch):
    """Else the tests above would see one side only; and the more are right, the fewer times the model is run."""
    model, _, draft, _ = writers("llama", "LlamaForCausalLM")
    learned, learn = [], Draft.learn
    monkeypatch.setattr(Draft, "learn", lambda self, n, right: learned.append((n, right)) or learn(self, n, right))
    settings = {**prompt(model), "max_new_tokens": 30, "assistant_confidence_threshold": 0.0, "num_assistant_tokens": 4}
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    with_hook = write(model, assistant_model=draft, **settings)
    handle.remove()
    assert torch.equal(with_hook.sequences, write(model, **settings).sequences)
    assert any(n == right for n, right in learned)
    assert any(n > right for n, right in learned)
    assert len(calls) == len(learned) == 30 - sum(right for _, right in learned) < 30


@pytest.mark.parametrize("model_type, name", [("gpt2", "GPT2LMHeadModel"), ("bart", "BartForConditionalGeneration")])
def test_states_and_weights_are_those_of_plain_decoding(model_type, name, writers):
    """Each token's own. (After the prompt's, the reference gives those of the wrong places.)"""
    model, _, draft, _ = writers(model_type, name)
    settings = {**prompt(model, 1), "output_hidden_states": True, "output_attentions": True}
    plain = write(model, **settings)
    for guesser in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 2}):
        out = write(model, **settings, **guesser)
        assert set(out) == set(plain)
        for kind in (key for key in out if "hidden_states" in key or "attentions" in key):
            steps = [([x], [y]) for x, y in zip(out[kind], plain[kind], strict=True)]
            if not kind.startswith("encoder"):
                steps = [(x, y) for [x], [y] in steps]
            for mine, theirs in steps:
                for x, y in zip(mine, theirs, strict=True):
                    assert x.shape == y.shape
                    torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)


def test_a_windows_cache_goes_back():
    """Of a window, and of a text many times as long; as draft and as the model."""
    fields = {"sliding_window": 5, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 31, "max_position_embeddings": 99}
    torch.manual_seed(0)
    model = minihf.MistralForCausalLM(minihf.MistralConfig(**fields)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5 if parameter.dim() > 1 else 0.2)
    draft = near(model)
    for length in (2, 9):
        ids = torch.randint(3, 31, (1, length))
        settings = {"input_ids": ids, "max_new_tokens": 60, "eos_token_id": None, "num_assistant_tokens": 7}
        plain = write(model, **settings)
        for guesser in ({"assistant_model": draft}, {"assistant_model": model}, {"prompt_lookup_num_tokens": 6}):
            out = write(model, **settings, **guesser, assistant_confidence_threshold=0.0)
            assert_same(out, plain)
            assert out.past_key_values.length == length + 59
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"from 9 tokens to 8: a window of 5 has dropped"):
        cache.crop(8)


def test_padding_among_the_guesses(writers):
    """RoBERTa counts no position for a pad token: what was counted of wrong guesses is taken back."""
    model, _, draft, _ = writers("roberta", "RobertaForCausalLM")
    pad = model.config.pad_token_id
    likely = {"sequence_bias": {(pad,): 6.0}, "no_repeat_ngram_size": 2, "pad_token_id": pad}
    likely["input_ids"] = torch.tensor([[9, 12, 9, 12, 9]])
    likely |= {"attention_mask": torch.ones(1, 5, dtype=torch.long), "eos_token_id": None, "max_new_tokens": 10}
    plain = write(model, **likely)
    assert (plain.sequences[0, 5:] == pad).any()
    assert (plain.sequences[0, 5:] != pad).any()
    out = write(model, **likely, assistant_model=draft, assistant_confidence_threshold=0.0)
    assert_same(out, plain)
    assert torch.equal(out.past_key_values.counted, plain.past_key_values.counted)


def test_speculative_sampling_follows_the_models_distribution():
    """Of many draws, whatever the guesses are drawn from."""
    torch.manual_seed(0)
    scores, drafts = 1.5 * torch.randn(3, 5), torch.randn(2, 5)
    drafts[1, 2] = -torch.inf  # which then must come from the rest
    counts, seconds = torch.zeros(5), torch.zeros(5)
    for _ in range(6000):
        guesses = torch.multinomial(drafts.softmax(-1), 1).squeeze(1)
        chosen = accepted(guesses, drafts, scores)
        counts[chosen[0]] += 1
        if len(chosen) > 1:
            seconds[chosen[1]] += 1
    for found, expected in ((counts, scores[0]), (seconds, scores[1])):
        expected = expected.softmax(-1) * found.sum()
        assert ((found - expected) ** 2 / expected).sum() < 18.5  # chi-squared with 4 degrees: one time in a thousand


def test_a_cold_draw_is_the_greedy_text(writers):
    model, _, draft, _ = writers("gpt2", "GPT2LMHeadModel")
    greedy = write(model, **prompt(model))
    for guesser in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 3}):
        cold = write(model, **prompt(model), do_sample=True, temperature=1e-4, **guesser)
        assert torch.equal(cold.sequences, greedy.sequences)


def test_the_best_threshold_is_scikit_learns():
    for seed in range(40):
        rng = np.random.RandomState(seed)
        right = rng.rand(12) < 0.6
        right[:2] = [True, False]
        sure = np.round(rng.rand(12), 1 + seed % 2)  # some are equal
        false, true, thresholds = roc_curve(right, sure)
        expected = thresholds[np.argmin(false + 3 * (1 - true))]
        assert best_threshold(sure.tolist(), right.tolist()) == expected


def test_the_lookup_takes_the_first_place_and_the_longest_words():
    lookup = Lookup(3, 2, 10, ends=[9])
    for ids, guesses in [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),
        ([2, 7, 1, 2, 3, 1, 2], [3, 1, 2]),  # two tokens before one
        ([5, 2, 7, 8, 1, 2], [7, 8, 1]),
        ([1, 2, 1, 2, 9, 1, 2], [1, 2]),  # no end token, nor what is after it
        ([1, 9, 1], []),
        ([1, 2, 3], []),
        ([4], []),
    ]:
        assert lookup.guess(torch.tensor([ids]), 8)[0].tolist() == guesses
    assert Lookup(3, 2, 10, limit=8).guess(torch.tensor([[1, 2, 3, 4, 1, 2]]), 8)[0].tolist() == [3, 4]
    assert lookup.guess(torch.tensor([[1, 2, 1]]), 0)[0].tolist() == []
    forbidding = Lookup(3, 2, 10, processors=[lambda ids, x: x.index_fill(1, torch.tensor([4]), -torch.inf)])
    assert forbidding.guess(torch.tensor([[1, 2, 3, 4, 1, 2]]), 8)[0].tolist() == [3]
    assert forbidding.guess(torch.tensor([[1, 2, 4, 1, 2, 5, 1, 2]]), 8)[0].tolist() == [5, 1, 2]  # the next place


def test_it_stops_within_the_guesses_and_streams(writers):
    """A rule that would be passed over if only the last of the new tokens were looked at."""
    model = writers("gpt2", "GPT2LMHeadModel")[0]
    settings = {**prompt(model), "max_new_tokens": 20}
    free = model.generate(**settings)
    at = 11

    def rule(ids, scores):
        return ids.size(1) == at

    class Streamer:
        given: list

        def put(self, value):
            self.given = [*getattr(self, "given", []), *value.flatten().tolist()]

        def end(self):
            self.given.append("end")

    streamer = Streamer()
    guesses = {"assistant_model": model, "num_assistant_tokens": 9, "assistant_confidence_threshold": 0.0}
    out = model.generate(**settings, **guesses, stopping_criteria=[rule], streamer=streamer)
    assert torch.equal(out, free[:, :at])
    assert streamer.given == [*free[0, :at].tolist(), "end"]
    streamed = torch.stack(list(model.stream(**settings, prompt_lookup_num_tokens=4)), dim=1)
    assert torch.equal(streamed, free[:, 6:])


def test_to_the_last_position(writers):
    model, _, draft, _ = writers("gpt2", "GPT2LMHeadModel")
    settings = {**prompt(model), "max_new_tokens": 43}  # 6 + 42 are read
    plain = model.generate(**settings)
    for guesser in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 9}):
        assert torch.equal(model.generate(**settings, **guesser), plain)


def test_prompts_that_are_embeddings(writers):
    model = writers("gpt2", "GPT2LMHeadModel")[0]
    inputs = prompt(model)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    settings = {**inputs, "inputs_embeds": embeds, "max_new_tokens": 30}
    assert torch.equal(model.generate(**settings, prompt_lookup_num_tokens=3), model.generate(**settings))


def test_what_it_cannot_do_is_said(writers):
    model, _, draft, _ = writers("gpt2", "GPT2LMHeadModel")
    other = writers("t5", "T5ForConditionalGeneration")[0]
    one, two = torch.tensor([[5, 6]]), torch.tensor([[5, 6], [7, 8]])
    larger = minihf.GPT2LMHeadModel(minihf.GPT2Config(vocab_size=99, n_embd=8, n_layer=1, n_head=2))
    embeds = {"inputs_embeds": torch.zeros(1, 2, model.config.n_embd, dtype=torch.float64)}
    for settings, message in [
        ({"input_ids": two, "assistant_model": draft}, "assistant_model guesses for one text at a time, not for 2"),
        ({"input_ids": two, "prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens guesses for one text"),
        ({"input_ids": one, "assistant_model": draft, "num_return_sequences": 2, "do_sample": True}, "not for 2"),
        ({"input_ids": one, "assistant_model": draft, "num_beams": 2}, "assistant_model .* set num_beams=1"),
        ({"input_ids": one, "assistant_model": draft, "penalty_alpha": 0.5}, "set penalty_alpha=None"),
        ({"input_ids": one, "assistant_model": draft, "use_cache": False}, "leave use_cache out"),
        ({"input_ids": one, "assistant_model": other}, "both have an encoder, or neither"),
        ({"input_ids": one, "assistant_model": larger}, "assistant_model knows 99 tokens, the model"),
        ({**embeds, "assistant_model": draft}, "cannot read embeddings"),
        ({"input_ids": one, "assistant_model": draft, "prompt_lookup_num_tokens": 2}, "one of the two"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.generate(**{"max_new_tokens": 3, **settings})
