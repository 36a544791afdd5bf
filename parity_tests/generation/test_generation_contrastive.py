"""Contrastive search against transformers 4.51.3, whose texts are stored: scripts/make_generation_fixtures.py."""

import pytest
import torch
import torch.nn.functional as F

from parity_tests.generation.stored import cases_of, inputs_of, models_by_name

CASES = cases_of("contrastive")


@pytest.fixture(scope="module")
def models():
    return models_by_name()


def test_the_stored_texts_are_lively():
    assert len(CASES) == 24
    assert any(0 in row[-2:] for case in CASES for row in case["sequences"])  # some ended early


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"][:5] + str(case["settings"]["top_k"]))
def test_equals_the_reference(case, models):
    model, inputs = models[case["model"]], inputs_of(case)
    out = model.generate(
        **inputs, **case["settings"], return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    assert out.sequences.tolist() == case["sequences"]
    for name in ("scores", "logits") if "scores" in case else ():
        for mine, theirs in zip(out[name], case[name], strict=False):
            atol = 3e-5 if case["model"].startswith("T5") else 1e-5  # whose norms are computed in float32
            torch.testing.assert_close(mine[[0, 1, -1]], torch.tensor(theirs, dtype=mine.dtype), atol=atol, rtol=1e-5)
    assert len(out.scores) == len(out.logits) == out.sequences.size(1) - len(model_prompt(case))
    assert "hidden_states" not in out
    assert out.past_key_values.length == out.sequences.size(1) - 1


def model_prompt(case) -> list:
    return [0] if case["model"].startswith("T5") else case["inputs"]["input_ids"][0]


def test_each_token_is_the_best_by_definition(models):
    """With all hidden states computed anew for each candidate, without a cache: arXiv 2202.06417, equation 5."""
    model, alpha, k = models["GPT2LMHeadModel"], 0.5, 4
    ids = torch.tensor([[5, 9, 30, 11, 7]])
    out = model.generate(ids, penalty_alpha=alpha, top_k=k, max_new_tokens=8)
    greedy = model.generate(ids, max_new_tokens=8)
    assert not torch.equal(out, greedy)
    with torch.no_grad():
        for T in range(5, 13):
            probabilities, tokens = model(out[:, :T]).logits[0, -1].float().softmax(-1).topk(k)
            values = []
            for p, token in zip(probabilities, tokens, strict=True):
                states = model(torch.cat([out[:, :T], token.view(1, 1)], 1), output_hidden_states=True).hidden_states
                likeness = F.cosine_similarity(states[-1][0, -1:], states[-1][0, :-1]).max()
                values.append((1 - alpha) * p - alpha * likeness)
            assert tokens[torch.stack(values).argmax()] == out[0, T]


def test_a_batch_equals_its_rows(models):
    for case in CASES[1::8]:
        model, inputs = models[case["model"]], inputs_of(case)
        settings = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 8}
        whole = model.generate(**inputs, **settings)
        rows = [model.generate(**{key: x[i : i + 1] for key, x in inputs.items()}, **settings) for i in range(3)]
        assert torch.equal(whole, torch.cat(rows))


def test_what_is_forbidden_is_not_chosen(models):
    """Where fewer than top_k tokens are allowed, the reference may take one that is not, if it resembles less."""
    model, ids = models["GPT2LMHeadModel"], torch.tensor([[5, 9, 30, 11, 7]])
    settings = {"penalty_alpha": 0.9, "top_k": 6, "max_new_tokens": 8}
    free = model.generate(ids, **settings)
    allowed = [20, 21]
    assert not set(free[0, 5:].tolist()) <= set(allowed)
    out = model.generate(ids, **settings, prefix_allowed_tokens_fn=lambda *_: allowed)
    assert set(out[0, 5:].tolist()) <= set(allowed)


def test_outputs_are_the_chosen_texts_own(models):
    """What reading the finished text at once gives."""
    for name in ("GPT2LMHeadModel", "LlamaForCausalLM"):
        model, ids = models[name], torch.tensor([[5, 9, 30, 11, 7], [8, 3, 2, 40, 41]])
        out = model.generate(
            ids, penalty_alpha=0.6, top_k=3, max_new_tokens=6, return_dict_in_generate=True, output_hidden_states=True,
            output_attentions=True, output_logits=True,
        )  # fmt: skip
        with torch.no_grad():
            whole = model(out.sequences[:, :-1], output_hidden_states=True, output_attentions=True, use_cache=True)
        torch.testing.assert_close(torch.stack(out.logits, 1).double(), whole.logits[:, 4:], atol=1e-5, rtol=1e-5)
        assert len(out.hidden_states) == len(out.attentions) == 6
        for layer, states in enumerate(whole.hidden_states):
            mine = torch.cat([step[layer] for step in out.hidden_states], dim=1)
            torch.testing.assert_close(mine, states, atol=1e-6, rtol=1e-6)
        for layer, weights in enumerate(whole.attentions):
            for i, step in enumerate(out.attentions[1:], start=5):
                torch.testing.assert_close(step[layer], weights[:, :, i : i + 1, : i + 1], atol=1e-6, rtol=1e-6)
        for mine, theirs in zip(out.past_key_values.layers, whole.past_key_values.layers, strict=True):
            torch.testing.assert_close(mine.keys[:, :, : mine.used], theirs.keys[:, :, : theirs.used])


def test_it_streams_and_takes_embeddings(models):
    model, ids = models["LlamaForCausalLM"], torch.tensor([[5, 9, 30, 11, 7]])
    settings = {"penalty_alpha": 0.6, "top_k": 3, "max_new_tokens": 6}
    out = model.generate(ids, **settings)
    assert torch.equal(torch.stack(list(model.stream(ids, **settings)), dim=1), out[:, 5:])
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeds, **settings), out[:, 5:])
    assert torch.equal(model.generate(ids, **{**settings, "max_new_tokens": 0}), ids)


def test_what_it_cannot_do_is_said(models):
    model, ids = models["GPT2LMHeadModel"], torch.tensor([[5, 9, 30]])
    cache = model(ids[:, :2], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values do not hold"):
        model.generate(ids, penalty_alpha=0.6, top_k=3, past_key_values=cache)
    with pytest.raises(ValueError, match="pass the model's 48 positions"):  # its last token is read, too
        model.generate(ids, penalty_alpha=0.6, top_k=3, max_new_tokens=46)
    assert model.generate(ids, penalty_alpha=0.6, top_k=3, max_new_tokens=45).size(1) == 48
