"""Diverse beam search against transformers 4.51.3, whose texts are stored: scripts/make_generation_fixtures.py."""

from unittest.mock import Mock

import pytest
import torch

from minihf.generation.group_beams import Diversity
from parity_tests.generation.stored import cases_of, inputs_of, models_by_name

CASES = cases_of("groups")
FLAGS = {"return_dict_in_generate": True, "output_scores": True}


@pytest.fixture(scope="module")
def models():
    return models_by_name()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"][:5])
def test_equals_the_reference(case, models):
    model, settings = models[case["model"]], case["settings"]
    out = model.generate(**inputs_of(case), **settings, **FLAGS)
    assert out.sequences.tolist() == case["sequences"]
    torch.testing.assert_close(out.sequences_scores, torch.tensor(case["sequences_scores"]), atol=1e-5, rtol=1e-5)
    if "scores" in case and settings["eos_token_id"] is None:  # the reference goes on with texts that are over
        for mine, theirs in zip(out.scores, case["scores"], strict=False):
            torch.testing.assert_close(mine[[0, 1, -1]], torch.tensor(theirs).to(mine.dtype), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"][:5])
def test_beam_indices_lead_to_the_scores(case, models):
    """A text's token scores sum to its score. (The reference's indices of groups after the first lead elsewhere.)"""
    model = models[case["model"]]
    out = model.generate(**inputs_of(case), **case["settings"], **FLAGS)
    length = (out.beam_indices >= 0).sum(1)
    start = out.sequences.size(1) - out.beam_indices.size(1)
    assert start == (1 if case["model"].startswith("T5") else 6)
    ends = case["settings"]["eos_token_id"]
    sequences = out.sequences.clone()
    totals = torch.zeros(len(sequences))
    for i, row in enumerate(sequences):
        for step in range(length[i]):
            options = [int(row[start + step])]
            if isinstance(ends, list) and step == length[i] - 1 and options[0] == ends[0]:
                options = ends  # whichever it was, it is shown as the first
            totals[i] += max(out.scores[step][out.beam_indices[i, step], token] for token in options)
    penalty = case["settings"].get("length_penalty", 1.0)
    torch.testing.assert_close(totals / length**penalty, out.sequences_scores, atol=1e-4, rtol=1e-4)


def test_the_cache_changes_nothing(models):
    for case in CASES[::5]:
        model, inputs = models[case["model"]], inputs_of(case)
        a = model.generate(**inputs, **case["settings"], **FLAGS)
        b = model.generate(**inputs, **case["settings"], **FLAGS, use_cache=False)
        assert torch.equal(a.sequences, b.sequences)
        assert torch.equal(a.beam_indices, b.beam_indices)
        torch.testing.assert_close(a.sequences_scores, b.sequences_scores)


def test_groups_keep_apart(models):
    """Of groups of one beam, each is greedy search with what those before it chose made less likely."""
    model, ids = models["GPT2LMHeadModel"], torch.tensor([[5, 9, 30, 11, 7]])
    out = model.generate(
        ids, num_beams=3, num_beam_groups=3, diversity_penalty=100.0, num_return_sequences=3, max_new_tokens=6
    )
    first = out[:, 5:]
    assert all(len(set(first[:, step].tolist())) == 3 for step in range(6))
    assert model.generate(ids, max_new_tokens=6).tolist()[0] in out.tolist()


def test_diversity():
    diversity = Diversity(0.5)
    diversity.chosen = torch.tensor([[1, 1, 3], [0, 2, 2]])
    out = diversity(torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, 5))
    assert out.tolist() == [[0, -1, 0, -0.5, 0]] * 2 + [[-0.5, 0, -1, 0, 0]] * 2


def test_a_stop_rule_ends_texts_as_in_beam_search(models):
    """The old release would wait until all beams stop at once."""
    model, ids = models["LlamaForCausalLM"], torch.tensor([[5, 9, 30, 11, 7]])
    settings = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.3, "max_new_tokens": 9}
    free = model.generate(ids, **settings)
    wanted = int(free[0, 8])
    out = model.generate(ids, **settings, stopping_criteria=[lambda ids, _: ids[:, -1] == wanted], pad_token_id=0)
    by_token = model.generate(ids, **settings, eos_token_id=wanted)
    assert torch.equal(out, by_token)
    at_once = model.generate(ids, **settings, stopping_criteria=[lambda *_: True], num_return_sequences=4)
    assert at_once.shape == (4, 6)


def test_own_processors_see_a_group_at_a_time(models):
    model, seen = models["GPT2LMHeadModel"], []
    ids = torch.tensor([[5, 9, 30], [8, 3, 2]])
    settings = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.3, "max_new_tokens": 2}
    model.generate(ids, **settings, logits_processor=[lambda ids, x: seen.append((ids.shape, x.shape)) or x])
    assert seen == [((4, 3), (4, 61))] * 3 + [((4, 4), (4, 61))] * 3
    texts = model.generate(ids, **settings, prefix_allowed_tokens_fn=lambda text, _: [20 + text, 30 + text])
    assert (texts[0, 3:] % 10 == 0).all()
    assert (texts[1, 3:] % 10 == 1).all()


def test_no_streamer(models):
    with pytest.raises(ValueError, match="set num_beams=1"):
        models["GPT2LMHeadModel"].generate(
            torch.tensor([[5]]), num_beams=2, num_beam_groups=2, diversity_penalty=1.0, streamer=Mock()
        )
