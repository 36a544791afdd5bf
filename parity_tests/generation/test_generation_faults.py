"""Would the comparison of searches notice? Faults planted in the search and its cache, each of which must show."""

import pytest
import torch

from minihf.generation import beam_search as search
from minihf.inspection.pairs import make_pair
from minihf.nn.beams import BeamCache, SharedContext

NAMES = {
    "gpt2": "GPT2LMHeadModel",
    "mistral": "MistralForCausalLM",
    "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
}
reorder, attend, shared = BeamCache.reorder, BeamCache.attend, SharedContext.__init__
add = search.Finalists.add


def stay(cache, rows):
    reorder(cache, None)


def see_all(cache, rows):
    reorder(cache, rows)
    cache.mask = torch.zeros_like(cache.mask)


def of_the_first_layer(cache, *args, bias=None, **kwargs):
    return attend(cache, *args, bias=None if bias is None else bias.roll(1, -1), **kwargs)


def no_window(cache, *args, **kwargs):
    cache.window = None
    return attend(cache, *args, **kwargs)


def unpadded(context, mask, beams):
    shared(context, None, beams)


def unpenalised(ended, *candidates):
    ended.length_penalty = 0
    return add(ended, *candidates)


def older_lose(ended, *candidates):
    ended.scores = ended.scores - 5
    return add(ended, *candidates)


FAULTS = {
    "beams stay where they were": ("gpt2", BeamCache, "reorder", stay),
    "a beam sees the others": ("gpt2", BeamCache, "reorder", see_all),
    "T5's bias of the place before": ("t5", BeamCache, "attend", of_the_first_layer),
    "Mistral's beams see past the window": ("mistral", BeamCache, "attend", no_window),
    "the encoder's padding is read": ("bart", SharedContext, "__init__", unpadded),
    "no length penalty": ("gpt2", search.Finalists, "add", unpenalised),
    "what ended before counts less": ("gpt2", search.Finalists, "add", older_lose),
}


@pytest.fixture(scope="module")
def pairs():
    made = {kind: make_pair(kind, name).to(torch.float64) for kind, name in NAMES.items()}
    return {kind: (pair.ours.eval(), pair.theirs.eval()) for kind, pair in made.items()}


def found(model):
    torch.manual_seed(0)
    ids = torch.randint(12, 40, (3, 6))
    mask = torch.ones_like(ids)
    if model.config.is_encoder_decoder:
        mask[1, 3:] = 0
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 9, "pad_token_id": 2}
    settings |= {"eos_token_id": list(range(20, 30)), "length_penalty": 1.5}
    start = {"decoder_start_token_id": 3} if model.config.is_encoder_decoder else {}
    out = model.generate(
        ids, attention_mask=mask, output_scores=True, return_dict_in_generate=True, **settings, **start
    )
    return out.sequences, out.sequences_scores


def same(ours, theirs) -> bool:
    return torch.equal(ours[0], theirs[0]) and torch.allclose(ours[1], theirs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_search_shows(fault, pairs, monkeypatch):
    kind, owner, name, wrong = FAULTS[fault]
    ours, theirs = pairs[kind]
    expected = found(theirs)
    assert same(found(ours), expected)
    monkeypatch.setattr(owner, name, wrong)
    assert not same(found(ours), expected)
