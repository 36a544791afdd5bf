"""When texts stop: at end tokens, by time, at strings as in the reference's criterion, by the caller's own rules."""

import random
import time

import pytest
import torch
from transformers.generation import stopping_criteria as theirs

from minihf.generation.config import GenerationConfig
from minihf.generation.stopping import StoppingCriteria, StoppingCriteriaList, at_string, at_token, stop_for

IDS = torch.tensor([[5, 7, 1], [7, 1, 5], [1, 1, 7], [7, 7, 2]])


def rule(own=None, tokenizer=None, scores=None, started=None, **settings):
    return stop_for(
        GenerationConfig(**settings), device="cpu", own=own, tokenizer=tokenizer, scores=scores, started=started
    )


def test_a_text_ends_with_its_last_token():
    for tokens in ([7], [7, 5], [9]):
        for ids in (IDS, IDS[:, :1]):
            expected = theirs.EosTokenCriteria(tokens)(ids, None)
            assert torch.equal(at_token(tokens, "cpu")(ids), expected)
            assert torch.equal(rule(eos_token_id=tokens)(ids), expected)
    assert rule(eos_token_id=[7, 5])(IDS).tolist() == [False, True, True, False]
    assert rule() is None


def test_time():
    assert rule(max_time=60.0)(IDS).tolist() == [False] * 4
    assert rule(max_time=60.0, started=time.monotonic() - 61)(IDS).tolist() == [True] * 4
    assert rule(max_time=60.0, started=time.monotonic() - 61, eos_token_id=5)(IDS).tolist() == [True] * 4
    soon = rule(max_time=0.02)
    assert not soon(IDS).any()
    time.sleep(0.03)
    assert soon(IDS).all()


STRINGS = [
    "stop", "st", "op", "to", "e", " ", "the ", "on", "s", "東", "é", "café", "京", "\n", "\n\n", "  ", "p t", ". S",
    "👍", "in the", " in", "don't", "n't", ", o", "s, s", ["stop", "é"], ["京", "\n", "the operation"],
]  # fmt: skip


@pytest.mark.parametrize("make", ["byte level", "word piece", "byte fallback"])
def test_strings_are_found_where_the_reference_finds_them(make, tokenizers):
    """In texts as they are written, and with tokens at random between, which break words and characters."""
    ours, other = tokenizers[make]
    draw, encoded, hits = random.Random(7), ours(texts(), add_special_tokens=False)["input_ids"], 0
    # Half a character makes this decoder give up on all bytes around it; the reference finds what no text shows.
    first = 257 if make == "byte fallback" else 0
    any_token = range(first, len(ours))
    for strings in STRINGS:
        if make == "word piece" and "\n" in strings:
            continue  # the reference refuses what no token can give
        rows = []
        for tokens in encoded:
            for end in range(1, len(tokens)):
                row = tokens[max(0, end - 14) : end]
                if draw.random() < 0.4 and min(row) >= first:
                    row = [draw.choice(any_token) if draw.random() < 0.3 else token for token in row]
                rows.append([draw.choice(any_token)] * (14 - len(row)) + row)
        ids = torch.tensor(rows)
        got = rule(stop_strings=strings, tokenizer=ours)(ids)
        assert torch.equal(got, theirs.StopStringCriteria(other, strings)(ids, None)), strings
        hits += got.sum()
    assert hits > 100


def texts() -> list[str]:
    return [
        "The stopping of the operation: stop, stopped, stopper and top operas. Stop the stops!\n",
        "one two three four; last topper, oh stop it\nnew lines\n\nand tabs\tto stop at. don't stop in the café",
        "naïve café, 東京と京都 are 天気; 👍🏽 to be or not to be, in the mind to suffer\n",
    ]


def test_where_a_string_ends_a_text(tokenizers):
    """Its end is in the last token; where it was there before, the text had its chance to stop."""
    tokenizer = tokenizers["byte level"][0]

    def stops(string: str, *pieces: str) -> bool:
        ids = [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
        return at_string([string], tokenizer)(torch.tensor([ids])).item()

    assert stops("stop", "to s", "top")
    assert stops(" s", "to", " s")
    assert not stops("stop", "stop", "x")
    assert not stops("stop", "sto")
    cut = tokenizer("cost €", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(cut[:-1]).endswith("\ufffd")
    for end in range(1, len(cut)):
        assert not at_string(["€"], tokenizer)(torch.tensor([cut[:end]])).item()
    assert at_string(["€"], tokenizer)(torch.tensor([cut])).item()
    long = "a string that is longer than any token, and than the whole text"
    assert not stops(long, "the text")
    assert stops(long, "then " + long)


def test_strings_take_a_tokenizer():
    with pytest.raises(ValueError, match=r"stop_strings=\['a'\] takes generate\(..., tokenizer=tokenizer\)"):
        rule(stop_strings=["a"])


def test_the_callers_own(tokenizers):
    asked = []

    class Own(StoppingCriteria):
        def __call__(self, input_ids, scores):
            asked.append(scores)
            return input_ids[:, -1] == 1

    expected = [True, False, False, False]
    for own in (Own(), [Own()], StoppingCriteriaList([Own()])):
        assert rule(own)(IDS).tolist() == expected
        assert rule(own, eos_token_id=7)(IDS).tolist() == [True, False, True, False]
    assert asked == [None] * 6
    scores = [torch.zeros(4, 9)]
    stop = rule([Own()], scores=scores)
    stop(IDS)
    scores.append(torch.ones(4, 9))
    stop(IDS)
    assert [len(given) for given in asked[6:]] == [1, 2]
    assert rule([lambda ids, scores: ids.shape[1] >= 3])(IDS).tolist() == [True] * 4
    assert rule([lambda ids, scores: ids.shape[1] > 3])(IDS).tolist() == [False] * 4
    assert rule([lambda ids, scores: torch.tensor(True)], eos_token_id=7)(IDS).tolist() == [True] * 4


def test_a_list_of_criteria_is_one_of_the_references(tokenizers):
    rules = [lambda ids, scores: ids[:, -1] == 1, lambda ids, scores: ids[:, 0] == 1]
    assert torch.equal(StoppingCriteriaList(rules)(IDS, None), theirs.StoppingCriteriaList(rules)(IDS, None))


def test_what_is_no_criterion_is_refused():
    with pytest.raises(TypeError, match=r"stopping_criteria takes callables .* not 'stop'"):
        rule(["stop"])
    with pytest.raises(ValueError, match=r"answered with shape \(4, 1\): expected a bool, or one for each row, \(4,\)"):
        rule([lambda ids, scores: ids[:, :1] == 1])(IDS)
    with pytest.raises(NotImplementedError, match="has no __call__"):
        StoppingCriteria()(IDS, None)
