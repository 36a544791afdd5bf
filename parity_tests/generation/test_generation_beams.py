"""Every model that writes, searched and drawn from, against the reference: ids, scores and the rows they came from."""

import pytest
import torch

import minihf
from minihf.generation.reader import Reader
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import heads_of, make_pair
from minihf.nn.beams import BeamCache

WRITERS = [
    (model_type, name)
    for model_type in FAMILIES
    for name in heads_of(model_type)
    if getattr(minihf, name).can_generate
]
WAYS = [
    {},
    {"do_sample": True, "num_return_sequences": 3},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "length_penalty": 1.7},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": -0.5},
    {"num_beams": 2, "early_stopping": "never", "length_penalty": 2.0, "repetition_penalty": 1.3},
    {"num_beams": 3, "do_sample": True, "top_k": 7, "temperature": 1.5},
    {"num_beams": 3, "eos_token_id": None},
]




@pytest.fixture(scope="module")
def writers():
    made = {}

    def get(model_type, name):
        if (model_type, name) not in made:
            pair = make_pair(model_type, name).to(torch.float64)
            made[model_type, name] = pair.ours.eval(), pair.theirs.eval()
        return made[model_type, name]

    return get


def prompts(model, padded: bool) -> dict:
    torch.manual_seed(1)
    vocab = min(model.config.vocab_size, getattr(model.config, "decoder_vocab_size", None) or 10**9)
    ids = torch.randint(12, vocab, (3, 6))
    mask = torch.ones_like(ids)
    if padded and model.config.is_encoder_decoder:
        mask[1, 4:] = mask[2, 3:] = 0
    elif padded:
        mask[1, :2] = mask[2, :3] = 0
    start = {"decoder_start_token_id": 3} if model.config.is_encoder_decoder else {"bos_token_id": 3}
    inputs = {"input_ids": ids, "attention_mask": mask, "pad_token_id": 2, **start}
    free = [model.generate(**inputs, max_new_tokens=9, num_beams=n, eos_token_id=None) for n in (1, 3)]
    ends = [int(free[0][0, -4]), int(free[0][1, -2]), int(free[1][2, -6])]  # so that some end, early and late
    return {**inputs, "eos_token_id": ends}


def write(model, seed: int = 4, **settings):
    torch.manual_seed(seed)
    return model.generate(**{"max_new_tokens": 9, "return_dict_in_generate": True, **settings})


def assert_same(ours, theirs):
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        a, b = (torch.stack(x[name]).double() for x in (ours, theirs))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # both sides are rounded to float32
    if "beam_indices" in theirs:
        assert torch.equal(ours.beam_indices, theirs.beam_indices)
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("model_type, name", WRITERS)
def test_equals_the_reference(model_type, name, padded, writers):
    ours, theirs = writers(model_type, name)
    inputs = prompts(ours, padded)
    if hasattr(ours, "first_position") and ours.first_position:  # the reference counts from 0, where padding's are
        theirs = None  # so the oracle is our own loop without a cache
    ended = 0
    for way in WAYS[padded::2]:  # half of them for each kind of batch
        way = {**inputs, "output_scores": True, "output_logits": True, **way}
        a = write(ours, **way)
        assert_same(a, write(ours, use_cache=False, **way) if theirs is None else write(theirs, **way))
        ended += int((a.sequences[:, -1] == 2).sum())
    assert ended > 0


@pytest.mark.parametrize("model_type, name", WRITERS)
def test_the_shared_cache_is_the_plain_one(model_type, name, writers):
    """Without a cache every row is read whole, so that no cache can be wrong: same ids, scores, weights and states."""
    model = writers(model_type, name)[0]
    way = {"num_beams": 3, "output_scores": True, "output_logits": True, **prompts(model, True)}
    assert_same(write(model, **way), write(model, use_cache=False, **way))


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "MistralForCausalLM", "T5ForConditionalGeneration"])
def test_states_and_weights_are_each_beams_own(name, writers):
    """As the reference's: one entry a new token, one a layer, the first of the prompt's length, then of one token."""
    model_type = next(kind for kind, head in WRITERS if head == name)
    ours, theirs = writers(model_type, name)
    theirs.set_attn_implementation("eager")
    for way in ({"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}, {}):
        # Where a text is padded and has a window, the reference's eager weights are not numbers in float64.
        settings = {**prompts(ours, padded=model_type != "mistral"), **way}
        settings |= {"output_hidden_states": True, "output_attentions": True}
        a, b = write(ours, **settings), write(theirs, **settings)
        assert torch.equal(a.sequences, b.sequences)
        kinds = [k for k in b if "attentions" in k or "hidden_states" in k]
        assert set(kinds) == {k for k in a if "attentions" in k or "hidden_states" in k}
        for kind in kinds:
            steps = ([a[kind]], [b[kind]]) if kind.startswith("encoder") else (a[kind], b[kind])
            for mine, other in zip(*steps, strict=True):
                assert len(mine) == len(other)
                for x, y in zip(mine, other, strict=True):
                    extra = x.shape[-1] - y.shape[-1]  # keys that the reference's window has dropped
                    assert extra >= 0
                    assert not x[..., :extra].any()
                    x = x[..., extra:]
                    if x.shape[-2] > 3:  # the places before are padding somewhere
                        x, y = x[..., 3:, :], y[..., 3:, :]
                    torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)  # Mistral turns in float32
    theirs.set_attn_implementation("sdpa")


def test_scores_of_the_chosen_tokens(writers):
    for kind, name in (("gpt2", "GPT2LMHeadModel"), ("bart", "BartForConditionalGeneration")):
        ours, theirs = writers(kind, name)
        for way in ({"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.7}, {}):
            out = write(ours, output_scores=True, **prompts(ours, False), **way)
            for normalize in (False, True):
                args = out.sequences, out.scores, out.get("beam_indices"), normalize
                a, b = ours.compute_transition_scores(*args), theirs.compute_transition_scores(*args)
                torch.testing.assert_close(a, b.to(a.dtype), atol=1e-6, rtol=1e-6)
            if way:
                a = ours.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
                length = (out.beam_indices >= 0).sum(1)
                torch.testing.assert_close(a.sum(1) / length**0.7, out.sequences_scores, atol=1e-5, rtol=1e-5)


def test_no_keys_are_copied_when_beams_change_places(writers):
    """The prompt is held once a text, and a step adds one key a beam to the buffer that is there."""
    model = writers("gpt2", "GPT2LMHeadModel")[0]
    ids = prompts(model, False)["input_ids"]
    with torch.inference_mode():
        reader = Reader(model, copies=4, beams=True)
        rows = ids.repeat_interleave(4, 0)
        reader(rows)
        cache = reader.cache
        assert isinstance(cache, BeamCache)
        assert [layer.keys.shape[0] for layer in cache.layers] == [3] * len(cache.layers)
        reader(torch.cat([rows, rows[:, :1]], 1))  # the buffer grows
        places = [layer.keys.data_ptr() for layer in cache.layers]
        reader.follow(torch.tensor([3, 3, 0, 0, 4, 5, 6, 7, 11, 10, 9, 8]))
        reader(torch.cat([rows, rows[:, :2]], 1))
        assert [layer.keys.data_ptr() for layer in cache.layers] == places
        assert cache.length == 8
        plain = Reader(model, copies=4)  # which copies
        plain(rows)
        plain(torch.cat([rows, rows[:, :1]], 1))
        plain.follow(torch.tensor([3, 3, 0, 0, 4, 5, 6, 7, 11, 10, 9, 8]))
        plain(torch.cat([rows, rows[:, :2]], 1))
        for layer, copied in zip(reader.unrolled().layers, plain.cache.layers, strict=True):
            assert layer.length == copied.length == 8
            torch.testing.assert_close(layer.keys, copied.keys[:, :, :8])
            torch.testing.assert_close(layer.values, copied.values[:, :, :8])
        assert cache.layers[0].length == 6 + 2 * 4


def test_a_search_of_no_tokens_gives_the_prompts(writers):
    model = writers("gpt2", "GPT2LMHeadModel")[0]
    ids = prompts(model, False)["input_ids"]
    assert torch.equal(model.generate(ids, num_beams=2, max_new_tokens=0), ids)
    for beams in (1, 2):
        given = {"num_beams": beams, "max_new_tokens": 0, "return_dict_in_generate": True, "output_scores": True}
        out = model.generate(ids, **given)
        scores = model.compute_transition_scores(out.sequences, out.scores, getattr(out, "beam_indices", None))
        assert scores.shape == (len(ids), 0)


def test_more_beams_than_tokens(writers):
    """Where a text may begin in two ways only, four beams are two that are real: the others end no search."""
    ours, theirs = writers("bart", "BartForConditionalGeneration")
    inputs = prompts(ours, False) | {"eos_token_id": 7, "forced_eos_token_id": None, "early_stopping": True}
    inputs["prefix_allowed_tokens_fn"] = lambda text, ids: [7, 20]
    for beams in (4, 6):
        way = {**inputs, "num_beams": beams, "num_return_sequences": 3, "output_scores": True, "output_logits": True}
        a = write(ours, **way)
        assert_same(a, write(theirs, **way))
        assert a.sequences_scores.min() > -1e4


NOT_7 = [token for token in range(100) if token != 7]  # those beyond the vocabulary are nowhere
FEW = {
    "two texts of a grammar": {"prefix_allowed_tokens_fn": lambda text, ids: [7, 20] if ids[-1] != 7 else [20]},
    "one text": {"suppress_tokens": NOT_7, "eos_token_id": 7},
    "no text": {"suppress_tokens": list(range(100))},
    "scores that fall below the empty ones'": {"length_penalty": -1000.0},
    "a last token of two, equally probable": {"forced_eos_token_id": [21, 22]},
    "scores above 64": {"sequence_bias": [[[7], 120.0], [[20], 90.0]]},
    "drawn from a few": {"do_sample": True, "top_h": 0.3, "temperature": 0.4},
}


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("way", FEW)
def test_fewer_texts_than_beams(way, early_stopping, writers):
    """The places that are left hold the prompt and no more, in the reference's order, which is that of its `topk`."""
    ours, theirs = writers("gpt2", "GPT2LMHeadModel")
    ids = torch.randint(8, 19, (3, 5), generator=torch.Generator().manual_seed(2))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "num_beams": 4, "num_return_sequences": 4}
    given |= {"early_stopping": early_stopping, "eos_token_id": 20, "pad_token_id": 2, "output_scores": True}
    given |= {"output_logits": True, **FEW[way]}
    for steps in (1, 2, 9):
        a, b = (write(model, **given, max_new_tokens=steps) for model in (ours, theirs))
        assert len(a.sequences) == 12
        assert_same(a, b)
