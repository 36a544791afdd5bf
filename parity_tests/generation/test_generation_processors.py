"""The processors, each against the reference's own, float32, ties and edges included; and in the reference's order."""

import random

import pytest
import torch
import transformers
from transformers.generation import logits_process as theirs

from minihf.generation import forcing, penalties, truncations
from minihf.generation.config import GenerationConfig
from minihf.generation.guidance import guidance
from minihf.generation.processors import LogitsProcessor, LogitsProcessorList, processors_for, renormalized
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel

V = 33
KINDS = ["normal", "ties", "flat", "peaked", "forbidden"]


def scores(kind: str = "normal", rows: int = 4) -> torch.Tensor:
    x = torch.randn(rows, V) * 3
    if kind == "ties":
        x = x.round()
    if kind == "flat":
        x = torch.zeros(rows, V)
    if kind == "peaked":
        x[:, 7] = 200
    if kind == "forbidden":
        x[:, ::2] = -torch.inf
    return x


def text(length: int, rows: int = 4, tokens: int = V) -> torch.Tensor:
    return torch.randint(0, tokens, (rows, length))


def same(ours, other, x: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
    ids = text(3, len(x)) if ids is None else ids
    before = x.clone(), ids.clone()
    got = ours(ids, x)
    assert torch.equal(x, before[0])  # a pure function
    assert torch.equal(ids, before[1])
    assert got.dtype == torch.float32
    expected = other(ids, x.clone())
    assert torch.equal(got, expected), (got - expected).abs().nan_to_num().max()
    return got


# Truncations


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_truncation_is_the_references(kind, keep):
    x, least = scores(kind), {"min_tokens_to_keep": keep}
    for t in (0.01, 0.5, 1.7, 100.0):
        same(truncations.temperature(t), theirs.TemperatureLogitsWarper(t), x)
    for k in (1, 2, 10, 32, 33, 34, 1000):
        same(truncations.top_k(k, keep), theirs.TopKLogitsWarper(k, **least), x)
    for p in (1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-7):
        same(truncations.top_p(p, keep), theirs.TopPLogitsWarper(p, **least), x)
        same(truncations.typical_p(p, keep), theirs.TypicalLogitsWarper(p, **least), x)
    for p in (0.0, 1e-6, 0.1, 0.5, 1.0):
        same(truncations.min_p(p, keep), theirs.MinPLogitsWarper(p, **least), x)
    for h in (1e-6, 0.1, 0.4, 0.9, 1.0):
        same(truncations.top_h(h), theirs.TopHLogitsWarper(h), x)
    for e in (1e-9, 3e-4, 0.02, 0.2, 0.99):
        same(truncations.epsilon_cutoff(e, keep), theirs.EpsilonLogitsWarper(e, **least), x)
        same(truncations.eta_cutoff(e, keep), theirs.EtaLogitsWarper(e, **least), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_kth_highest_is_topk_s(dtype):
    x = torch.randn(3, 57).to(dtype)
    x[0, ::2], x[1, :50], x[2, 3] = x[0, 0].item(), -torch.inf, torch.nan  # ties, ruled out, a fault
    before = x.clone()
    for k in (1, 2, 7, 8, 56, 57):
        expected = x.topk(k).values[:, -1:]
        for rows in (x, x.clone().requires_grad_(dtype != torch.bfloat16), x.T.contiguous().T):
            torch.testing.assert_close(truncations.highest(rows, k), expected, rtol=0, atol=0, equal_nan=True)
        with torch.inference_mode():
            torch.testing.assert_close(truncations.highest(x * 1, k), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


def test_each_truncation_cuts_somewhere():
    """So that the test above can see it."""
    x = scores()
    for cut in (
        truncations.top_k(5),
        truncations.top_p(0.5),
        truncations.typical_p(0.5),
        truncations.min_p(0.1),
        truncations.top_h(0.4),
        truncations.epsilon_cutoff(0.02),
        truncations.eta_cutoff(0.02),
    ):
        kept = (cut(text(3), x) > -torch.inf).sum(-1)
        assert ((kept >= 1) & (kept < V)).all()


def test_top_h_looks_at_a_hundred_tokens():
    x = torch.randn(3, 250)
    got = same(truncations.top_h(1.0), theirs.TopHLogitsWarper(1.0), x)
    assert (got > -torch.inf).sum(-1).max() <= 100


def test_what_they_keep():
    x = scores()
    assert (truncations.top_k(5)(text(3), x) > -torch.inf).sum(-1).tolist() == [5] * 4
    assert (truncations.top_p(1e-9)(text(3), x) > -torch.inf).sum(-1).tolist() == [1] * 4
    assert (truncations.top_p(1e-9, 3)(text(3), x) > -torch.inf).sum(-1).tolist() == [3] * 4
    kept = truncations.top_p(0.7)(text(3), x) > -torch.inf
    for row, keep in zip(x.softmax(-1), kept, strict=True):
        assert row[keep].sum() >= 0.7  # enough
        assert row[keep].sum() - row[keep].min() < 0.7  # and not one too many
        assert row[keep].min() >= row[~keep].max()
    tied = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    assert (truncations.top_k(2)(text(3, 1), tied) > -torch.inf).sum() == 3  # those that tie with the second stay


# Penalties


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalty", [1.3, 0.4])
def test_repetition(kind, penalty):
    x = scores(kind)
    for length in (0, 1, 5, 40):
        same(penalties.repetition(penalty), theirs.RepetitionPenaltyLogitsProcessor(penalty), x, text(length))
    encoder = text(6)
    other = theirs.EncoderRepetitionPenaltyLogitsProcessor(penalty, encoder)
    same(penalties.encoder_repetition(penalty, encoder), other, x)
    beams = scores(kind, rows=12)  # three beams a text
    same(penalties.encoder_repetition(penalty, encoder), other, beams)


def test_padding_before_a_prompt_repeats_nothing():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 1, 0, 1, 1]])
    other = theirs.RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=(mask != 0).int().argmax(1))
    pad = 31
    for length in (5, 6, 9):
        ids = text(length, tokens=30)
        ids[:, :5] = ids[:, :5].masked_fill(mask == 0, pad)
        x = scores()
        got = same(penalties.repetition(1.5, mask), other, x, ids)
        assert torch.equal(got[:3, pad], x[:3, pad])
    rows = text(7, rows=8)  # two beams a text
    doubled = theirs.RepetitionPenaltyLogitsProcessor(
        1.5, prompt_ignore_length=(mask.repeat_interleave(2, 0) != 0).int().argmax(1)
    )
    same(penalties.repetition(1.5, mask), doubled, scores(rows=8), rows)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_ngram_twice(size):
    banned = 0
    for length in (0, 1, 2, 3, 4, 7, 25):
        ids = text(length, tokens=3)
        got = same(penalties.no_repeat_ngram(size), theirs.NoRepeatNGramLogitsProcessor(size), scores(), ids)
        banned += got.isneginf().sum()
        for other in (1, 2, 5, 9):
            encoder = text(other, tokens=3)
            reference = theirs.EncoderNoRepeatNGramLogitsProcessor(size, encoder)
            got = same(penalties.no_repeat_ngram(size, encoder), reference, scores(), ids)
            banned += got.isneginf().sum()
            same(
                penalties.no_repeat_ngram(size, encoder[:2]),
                theirs.EncoderNoRepeatNGramLogitsProcessor(size, encoder[:2]),
                scores(),
                ids,
            )  # two beams a text
    assert banned > 10


BIASES = {(4,): 2.5, (1, 2): -torch.inf, (0, 1, 2): 3.0, (2, 2): -1.5, (1, 0): 0.1, (0,): -4.0, (2, 1, 0): 0.7}


@pytest.mark.parametrize("kind", ["normal", "forbidden"])
def test_sequence_bias(kind):
    changed = 0
    for length in (0, 1, 2, 3, 10):
        for _ in range(5):
            ids, x = text(length, tokens=3), scores(kind)
            got = same(penalties.sequence_bias(BIASES, "cpu"), theirs.SequenceBiasLogitsProcessor(BIASES), x, ids)
            changed += (got != x).sum()
    assert changed > 100 or kind == "forbidden"
    with pytest.raises(ValueError, match="has the token 33: there are 33 tokens"):
        penalties.sequence_bias({(3, V): 1.0}, "cpu")(text(3), scores())


def test_bad_words():
    words, ends = [[4], [1, 2], [5], [0, 1, 2], [2, 2], [5, 4]], [5, 6]
    for length in (0, 1, 2, 3, 10):
        for _ in range(5):
            ids, x = text(length, tokens=3), scores()
            got = same(penalties.bad_words(words, ends, "cpu"), theirs.NoBadWordsLogitsProcessor(words, ends), x, ids)
            assert got[:, 4].isneginf().all()
            assert got[:, 5].isfinite().all()  # an end token is no bad word
    assert torch.equal(penalties.bad_words([[5]], ends, "cpu")(ids, x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_exponential_decay(kind):
    ours = penalties.exponential_decay(7, 1.3, [5, 8], "cpu")
    other = theirs.ExponentialDecayLengthPenalty((4, 1.3), [5, 8], 3)
    for length in (0, 6, 7, 8, 12, 30):
        x = scores(kind)
        got = same(ours, other, x, text(length))
        if kind == "normal":
            assert torch.equal(got, x) == (length <= 7)


# Forcing


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_forced_and_suppressed_tokens(kind):
    for length in (1, 4, 5, 6, 9):
        x, ids = scores(kind), text(length)
        same(forcing.no_end_before(5, [3, 8], "cpu"), theirs.MinLengthLogitsProcessor(5, [3, 8]), x, ids)
        same(forcing.no_end_before(6, [3], "cpu"), theirs.MinNewTokensLengthLogitsProcessor(2, 4, 3), x, ids)
        same(forcing.forced(1, [9], "cpu"), theirs.ForcedBOSTokenLogitsProcessor(9), x, ids)
        same(forcing.forced(5, [9, 2], "cpu"), theirs.ForcedEOSTokenLogitsProcessor(6, [9, 2]), x, ids)
        for tokens in ([1, 7], [0, V - 1], [V, 500, -1, 4], []):  # some are in no vocabulary
            same(forcing.suppressed(tokens, "cpu"), theirs.SuppressTokensLogitsProcessor(tokens), x, ids)
            other = theirs.SuppressTokensAtBeginLogitsProcessor(tokens, 4)
            same(forcing.suppressed(tokens, "cpu", at=4), other, x, ids)


def test_only_allowed_tokens():
    def allowed(text: int, ids: torch.Tensor) -> list[int]:
        assert ids.dim() == 1
        return [text, 4 * text + int(ids[-1]) % 3, 30]

    for kind in KINDS:
        for rows, beams in ((4, 1), (6, 3)):
            x, ids = scores(kind, rows), text(5, rows)
            same(forcing.allowed_only(allowed, beams), theirs.PrefixConstrainedLogitsProcessor(allowed, beams), x, ids)
    x = scores(rows=6)
    x[:3, [0, 1, 2, 30]] = x[
        3, 30
    ] = -torch.inf  # the first text's three beams have nothing left, one of the second's has
    x[4:, 1] = -torch.inf
    got = same(forcing.allowed_only(allowed, 3), theirs.PrefixConstrainedLogitsProcessor(allowed, 3), x, text(5, 6))
    assert (got[:3].amax(-1) == 0).all()
    with pytest.raises(ValueError, match="allows no token for text 0 after"):
        forcing.allowed_only(lambda text, ids: [], 1)(text(2), x[:4])


def test_invalid_values_and_renormalizing():
    x = scores()
    x[0, 3], x[1, 4], x[2, 5], x[3] = torch.nan, torch.inf, -torch.inf, torch.nan
    got = forcing.finite(text(2), x)
    assert torch.equal(got, theirs.InfNanRemoveLogitsProcessor()(text(2), x))
    assert got.isfinite().all()
    same(renormalized, theirs.LogitNormalization(), scores("forbidden"))


# The order


@pytest.fixture(scope="module")
def reference():
    sizes = {"vocab_size": V, "n_embd": 4, "n_head": 1, "n_layer": 1, "n_positions": 60}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=None))


KNOBS = {
    "sequence_bias": [[[4], 2.5], [[1, 2], -1.0], [[0], 1.5]],
    "encoder_repetition_penalty": 1.4,
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[4], [1, 2], [11]],
    "min_length": 8,
    "min_new_tokens": 2,
    "forced_bos_token_id": 9,
    "forced_eos_token_id": [11, 12],
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (1, 1.5),
    "suppress_tokens": [2, 3],
    "begin_suppress_tokens": [5, 6, 12],
    "renormalize_logits": True,
    "do_sample": True,
    "temperature": 0.6,
    "top_h": 0.9,
    "top_k": 12,
    "top_p": 0.8,
    "min_p": 0.04,
    "typical_p": 0.7,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.03,
}


def both_lists(reference, settings: dict, prompt: int, steps: int, beams: int, rows: int, own=()):
    """Our list and the reference's, as its `generate` makes it."""
    ends = [11, 13]
    encoder = text(7, rows // beams)
    allowed = (lambda row, ids: list(range(20 + row))) if settings.pop("allowed", None) else None
    mask = torch.ones(rows, prompt, dtype=torch.long)
    mask[0, : prompt // 2] = 0
    config = GenerationConfig(**settings, eos_token_id=ends, num_beams=beams)
    config.check_other()
    ours = processors_for(
        config,
        prompt=prompt,
        steps=steps,
        beams=beams,
        mask=mask,
        encoder_ids=encoder,
        own=own,
        prefix_allowed_tokens_fn=allowed,
    )
    other = transformers.GenerationConfig(**settings, eos_token_id=ends, num_beams=beams)
    other.max_length = prompt + steps
    if other.min_new_tokens is not None:
        other.min_length = prompt + other.min_new_tokens
    reference._prepare_special_tokens(other, True)
    made = reference._get_logits_processor(
        other, prompt, encoder, allowed, theirs.LogitsProcessorList(own), "cpu", {"attention_mask": mask}
    )
    return ours, made


def halved(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return logits / 2 + (torch.arange(V) % 5 == 0)


def test_the_order_is_the_references(reference):
    """Settings at random, texts of every length from the prompt to the end; a reversed list would be seen."""
    draw, compared, seen = random.Random(4), 0, 0
    for round in range(150):
        settings = {name: value for name, value in KNOBS.items() if draw.random() < (0.9 if round % 2 else 0.4)}
        settings |= {"allowed": True} if draw.random() < 0.5 else {}
        prompt, steps, beams = draw.choice([1, 2, 4]), 5, draw.choice([1, 3])
        rows = 2 * beams
        own = [halved] if draw.random() < 0.5 else []
        ours, other = both_lists(reference, settings, prompt, steps, beams, rows, own)
        for length in (prompt, prompt + draw.randrange(1, steps), prompt + steps - 1):
            ids, x = text(length, rows, tokens=4), scores(draw.choice(KINDS[:2]), rows).log_softmax(-1)
            before = x.clone()
            try:
                expected = other(ids, x)
            except ValueError:  # where a forced token is forbidden too, its top-h finds nothing left
                continue
            got, backwards = LogitsProcessorList(ours)(ids, x), LogitsProcessorList(reversed(ours))(ids, x)
            assert torch.equal(got.nan_to_num(7.0), expected.nan_to_num(7.0)), (settings, length)
            assert torch.equal(x, before)
            compared += 1
            seen += not torch.equal(got.nan_to_num(7.0), backwards.nan_to_num(7.0))
    assert compared > 300
    assert seen > 200


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_alone_makes_what_the_reference_makes(name, reference):
    settings = {name: KNOBS[name]}
    changed = False
    for sampled in ({}, {"do_sample": True, "top_k": KNOBS["top_k"] if name == "top_k" else 0}):
        for prompt in (1, 3):
            ours, other = both_lists(reference, {**sampled, **settings}, prompt, 4, 1, 3)
            assert len(ours) == len(other) - (name == "min_new_tokens")  # the reference says that twice
            for length in range(prompt, prompt + 4):
                ids, x = text(length, 3, tokens=4), scores(rows=3)
                if name == "remove_invalid_values":
                    x[0, 0] = torch.nan
                got = LogitsProcessorList(ours)(ids, x)
                assert torch.equal(got, other(ids, x))
                changed |= not torch.equal(got, x)
    assert changed or name == "do_sample"


def test_neutral_settings_make_no_processors():
    neutral = {
        "repetition_penalty": 1,
        "encoder_repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "encoder_no_repeat_ngram_size": 0,
        "bad_words_ids": [],
        "sequence_bias": {},
        "remove_invalid_values": False,
        "temperature": 1,
        "top_k": 0,
        "top_p": 1.0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0,
        "eta_cutoff": 0.0,
        "renormalize_logits": False,
        "eos_token_id": 5,
    }
    for do_sample in (False, True):
        config = GenerationConfig(**neutral, do_sample=do_sample)
        assert processors_for(config, prompt=3, steps=2, encoder_ids=text(4)) == []


def test_what_has_no_ids_to_look_at_says_so(caplog):
    config = GenerationConfig(encoder_repetition_penalty=2.0, encoder_no_repeat_ngram_size=2)
    assert processors_for(config, prompt=3, steps=2) == []
    assert "encoder_ look at ids, and embeddings came" in caplog.text


def test_the_callers_own_stand_before_the_truncations():
    class Own(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores.index_fill(1, torch.tensor([3]), 50.0)

    config = GenerationConfig(do_sample=True, top_k=1, suppress_tokens=[3])
    for own in (Own(), [Own()], LogitsProcessorList([Own()])):
        got = LogitsProcessorList(processors_for(config, prompt=3, steps=2, own=own))(text(3), scores())
        assert (got > -torch.inf).nonzero()[:, 1].tolist() == [3] * 4
    with pytest.raises(TypeError, match=r"logits_processor takes callables .* not 5"):
        processors_for(config, prompt=3, steps=2, own=[5])
    with pytest.raises(NotImplementedError, match="has no __call__"):
        LogitsProcessor()(text(3), scores())


def test_each_is_called_by_a_name_that_can_be_told():
    config = GenerationConfig(**KNOBS, eos_token_id=11)
    made = processors_for(config, prompt=3, steps=2, encoder_ids=text(4))
    names = [process.__qualname__.split(".")[0] for process in made]
    assert names[:3] == ["sequence_bias", "encoder_repetition", "repetition"]
    assert names[-3:] == ["epsilon_cutoff", "eta_cutoff", "renormalized"]


# Guidance


@pytest.fixture(scope="module")
def pair():
    sizes = {"vocab_size": V, "n_embd": 12, "n_head": 3, "n_layer": 2, "n_positions": 30}
    ours, other = GPT2LMHeadModel(GPT2Config(**sizes)), transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    torch.manual_seed(2)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    other.load_state_dict(ours.state_dict())
    return ours.double().eval(), other.double().eval()


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("negative", ["none", "given"])
def test_guidance(negative, use_cache, pair):
    given = text(4, rows=3) if negative == "given" else None
    ours = guidance(pair[0], 1.5, negative_prompt_ids=given, use_cache=use_cache)
    other = theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, pair[1], given, use_cache=use_cache)
    ids = text(5, rows=3)
    with torch.no_grad():
        for _ in range(5):
            x = scores(rows=3)
            got, expected = ours(ids, x), other(ids, x)
            assert (got - expected).abs().max() < 1e-5
            assert (got - x.log_softmax(-1)).abs().max() > 0.5
            ids = torch.cat([ids, text(1, rows=3)], dim=1)


@pytest.mark.parametrize("use_cache", [True, False])
def test_padding_before_a_negative_prompt_changes_nothing(use_cache, pair):
    """Each row is as if alone; in the reference's GPT-2, positions count the padding."""
    given, padding = text(4, rows=3), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    options = {"negative_prompt_ids": given, "negative_prompt_attention_mask": padding, "use_cache": use_cache}
    ours = guidance(pair[0], 1.5, **options)
    alone = [
        theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, pair[1], row[mask == 1][None], use_cache=use_cache)
        for row, mask in zip(given, padding, strict=True)
    ]
    ids = text(5, rows=3)
    with torch.no_grad():
        for _ in range(4):
            x = scores(rows=3)
            expected = torch.cat([one(ids[i : i + 1], x[i : i + 1]) for i, one in enumerate(alone)])
            assert (ours(ids, x) - expected).abs().max() < 1e-5
            ids = torch.cat([ids, text(1, rows=3)], dim=1)


def test_guidance_follows_beams_that_move(pair):
    """What its cache holds must be of the text that it is for; the reference goes on with the rows as they stood."""
    given = text(4, rows=2)
    cached, anew = (guidance(pair[0], 2.0, negative_prompt_ids=given, use_cache=use) for use in (True, False))
    ids = text(5, rows=4)
    with torch.no_grad():
        for rows in ([0, 1, 2, 3], [1, 1, 3, 2], [0, 1, 2, 3], [1, 0, 2, 2]):
            ids = torch.cat([ids[rows], text(1, rows=4)], dim=1)
            x = scores(rows=4)
            assert (cached(ids, x) - anew(ids, x)).abs().max() < 1e-5


def test_guidance_refuses(pair):
    with pytest.raises(ValueError, match=r"negative_prompt_attention_mask is \(1, 2\), negative_prompt_ids \(1, 4\)"):
        guidance(pair[0], 2.0, negative_prompt_ids=text(4, 1), negative_prompt_attention_mask=torch.ones(1, 2))
    with pytest.raises(ValueError, match="negative_prompt_ids None"):
        guidance(pair[0], 2.0, negative_prompt_attention_mask=torch.ones(1, 2))
