"""Every knob of `generate`, in every mode that it goes with: ids equal the reference's under one seed."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

import minihf
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minihf.models.t5 import T5Config, T5ForConditionalGeneration

V, PAD, ENDS = 61, 2, [1, 40]
MODES = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_k": 0, "temperature": 1.5},
    "sampled beams": {"num_beams": 3, "do_sample": True, "top_k": 0, "temperature": 1.5},
}


@torch.no_grad()
def make_pair(kind: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same lively model on both sides; float64, so that no rounding breaks a tie."""
    if kind == "gpt2":
        sizes = {"vocab_size": V, "n_embd": 20, "n_head": 5, "n_layer": 2, "n_positions": 40}
        sizes |= {"bos_token_id": 3, "eos_token_id": ENDS, "pad_token_id": PAD}
        ours = GPT2LMHeadModel(GPT2Config(**sizes))
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    else:
        sizes = {"vocab_size": V, "d_model": 20, "d_kv": 6, "num_heads": 3, "d_ff": 30, "num_layers": 2}
        sizes |= {"decoder_start_token_id": 3, "eos_token_id": ENDS, "pad_token_id": PAD}
        ours = T5ForConditionalGeneration(T5Config(**sizes))
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    torch.manual_seed(3)
    for name, parameter in ours.named_parameters():
        spread = 0.1 if parameter.dim() == 1 else 2.0 if "wpe" in name else 0.6
        parameter.normal_(mean=float(name.endswith("weight") and parameter.dim() == 1), std=spread)
    theirs.load_state_dict(ours.state_dict())
    return ours.double().eval(), theirs.double().eval()


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple]:
    return {kind: make_pair(kind) for kind in ("gpt2", "t5")}


@pytest.fixture(scope="module")
def plain(pairs) -> dict[tuple[str, str], torch.Tensor]:
    """What comes without a knob, for each kind and mode."""
    return {(kind, mode): equal(pairs[kind], **MODES[mode]) for kind in pairs for mode in MODES}


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Three, of which two are padded on the left."""
    torch.manual_seed(11)
    ids, mask = torch.randint(5, 20, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[1, :2] = mask[2, :1] = 0
    return ids.masked_fill(mask == 0, PAD), mask


def both(pair, **settings) -> list:
    ids, mask = prompts()
    out = []
    for model in pair:
        torch.manual_seed(5)
        out.append(model.generate(ids, **{"attention_mask": mask, "max_new_tokens": 9, **settings}))
    return out


def equal(pair, **settings) -> torch.Tensor:
    ours, theirs = both(pair, **settings)
    assert torch.equal(ours, theirs), f"{settings}\n{ours}\n{theirs}"
    return ours


def favoured(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores + 3 * (torch.arange(V) % 7 == input_ids.shape[1] % 7)


def above(text: int, ids: torch.Tensor) -> list[int]:
    """Which tokens may follow: others after each, and for each text."""
    return [1, *range(10 + text, V, 3 + int(ids[-1]) % 4)]


def long_enough(input_ids: torch.Tensor, scores) -> torch.Tensor:
    return (input_ids[:, -1] % 5 == 0) & (input_ids.shape[1] > 3)


# What matters to every model, in every mode.
KNOBS = [
    {"max_length": 11, "max_new_tokens": None},
    {"min_new_tokens": 6},
    {"min_length": 12},
    {"min_length": 3, "min_new_tokens": 6},  # which wins
    {"max_time": 0.0},
    {"eos_token_id": [*range(15)]},
    {"eos_token_id": [*range(30)], "min_new_tokens": 4},
    {"eos_token_id": 7, "pad_token_id": 4},
    {"sequence_bias": {(9,): 6.0, (12, 9): -5.0, (10,): 2.5}},
    {"sequence_bias": [[[9], 6.0], [[12, 9], -5.0]]},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 0.4},
    {"bad_words_ids": [[i] for i in range(30, V)]},
    {"bad_words_ids": [[i, j] for i in range(20, V, 2) for j in range(20, V)]},
    {"forced_eos_token_id": 33},
    {"forced_eos_token_id": [33], "max_new_tokens": 4, "eos_token_id": None},
    {"exponential_decay_length_penalty": (2, 1.9)},
    {"suppress_tokens": [*range(20, V, 2)]},
    {"begin_suppress_tokens": [*range(20, V)]},
    {"renormalize_logits": True, "repetition_penalty": 1.3},
    {"remove_invalid_values": True, "suppress_tokens": [*range(30, V)]},
    {"prefix_allowed_tokens_fn": above},
    {"logits_processor": [favoured]},
    {"stopping_criteria": [long_enough]},
    {"use_cache": False, "repetition_penalty": 1.5},
    # Of a decoder without an encoder, these look at the prompts.
    {"encoder_repetition_penalty": 2.5},
    {"encoder_repetition_penalty": 0.5, "repetition_penalty": 1.2},
    {"encoder_no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0},
    {"encoder_no_repeat_ngram_size": 2, "suppress_tokens": [*range(20, V)]},
]
# These reshape what is drawn from.
DRAWN = [
    {"temperature": 0.4},
    {"top_k": 4},
    {"top_k": 2, "temperature": 3.0},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"top_h": 0.5},
    {"typical_p": 0.5},
    {"epsilon_cutoff": 0.05},
    {"eta_cutoff": 0.1},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "epsilon_cutoff": 0.01},
    {"top_k": 5, "renormalize_logits": True, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    {"logits_processor": [favoured], "top_p": 0.5},
]
# These are for a decoder with an encoder.
WITH_ENCODER = [
    {"forced_bos_token_id": 17},
    {"forced_bos_token_id": 17, "begin_suppress_tokens": [*range(20, V)]},
    {"decoder_start_token_id": 30},
]


def name_of(settings: dict) -> str:
    return ", ".join(f"{name}={str(value)[:12]}" for name, value in settings.items())


@pytest.mark.parametrize("settings", KNOBS, ids=name_of)
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_each_knob_in_each_mode(kind, settings, pairs, plain):
    changed = False
    for mode in ("greedy", "sampled beams"):
        if mode == "greedy" or "max_time" not in settings:  # beams of one token are no text
            got = equal(pairs[kind], **{**MODES[mode], **settings})
            changed |= not torch.equal(got, plain[kind, mode])
    assert changed


@pytest.mark.parametrize("settings", DRAWN, ids=name_of)
def test_what_is_drawn_from(settings, pairs, plain):
    changed = False
    for mode in ("sampled", "sampled beams"):
        got = equal(pairs["gpt2"], **{**MODES[mode], **settings})
        changed |= not torch.equal(got, plain["gpt2", mode])
    assert changed


@pytest.mark.parametrize("settings", WITH_ENCODER, ids=name_of)
def test_what_a_decoder_with_an_encoder_knows(settings, pairs, plain):
    changed = False
    for mode in ("greedy", "sampled beams"):
        got = equal(pairs["t5"], **{**MODES[mode], **settings})
        changed |= not torch.equal(got, plain["t5", mode])
    assert changed


def test_each_row_may_start_with_a_token_of_its_own(pairs):
    starts = [[3], [9], [30]]
    got = equal(pairs["t5"], decoder_start_token_id=[start for [start] in starts])
    assert got[:, :1].tolist() == starts


@pytest.mark.parametrize("mode", ["greedy", "sampled"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_guidance(mode, use_cache, pairs, plain):
    """Without padding in the negative prompts: the reference's GPT-2 counts it among the positions there."""
    torch.manual_seed(8)
    for negative in ({}, {"negative_prompt_ids": torch.randint(5, 20, (3, 4))}):
        for scale in (0.5, 3.0):
            got = equal(pairs["gpt2"], **MODES[mode], guidance_scale=scale, use_cache=use_cache, **negative)
            assert not torch.equal(got, plain["gpt2", mode])
    assert torch.equal(equal(pairs["gpt2"], **MODES[mode], guidance_scale=1.0), plain["gpt2", mode])


def test_guidance_is_for_models_without_an_encoder(pairs):
    with pytest.raises(ValueError, match=r"guidance_scale=2\.0 is for causal language models"):
        both(pairs["t5"][:1], guidance_scale=2.0)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_stop_strings(kind, pairs):
    """A word a token: w5 is in w5 and in w50."""
    engine = Tokenizer(models.WordLevel({"abcdef": 0, **{f"w{i}": i for i in range(1, V)}}, unk_token="abcdef"))
    ours = minihf.PreTrainedTokenizerFast(tokenizer_object=engine)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=engine)
    ids, mask = prompts()
    for strings in ("w5", ["w3", "0 w"], ["w60 w60"]):
        for mode in ("greedy", "sampled"):
            out = []
            for model, tokenizer in zip(pairs[kind], (ours, theirs), strict=True):
                torch.manual_seed(5)
                settings = {"stop_strings": strings, "tokenizer": tokenizer, "max_new_tokens": 12, **MODES[mode]}
                out.append(model.generate(ids, attention_mask=mask, eos_token_id=None, **settings))
            assert torch.equal(*out), (strings, mode)
    with pytest.raises(ValueError, match="stop_strings='w5' takes"):
        pairs[kind][0].generate(ids, stop_strings="w5")


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_scores_are_what_was_chosen_from(kind, pairs):
    """Raw logits and processed scores, step by step."""
    settings = {
        "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "suppress_tokens": [44],
        "top_p": 0.9, "top_k": 30, "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
    }  # fmt: skip
    for mode in ("greedy", "sampled"):
        ours, theirs = both(pairs[kind], **{**MODES[mode], **settings})
        assert torch.equal(ours.sequences, theirs.sequences)
        for name in ("scores", "logits"):
            assert len(ours[name]) == len(theirs[name]) > 2
            for mine, its in zip(ours[name], theirs[name], strict=True):
                assert torch.equal(mine.isneginf(), its.isneginf())
                close = 1e-5 if kind == "gpt2" else 1e-4  # T5's norms are in float32
                assert (mine - its).nan_to_num(0.0, 0.0, 0.0).abs().max() < close
        assert any(not torch.equal(*pair) for pair in zip(ours.scores, ours.logits, strict=True))
