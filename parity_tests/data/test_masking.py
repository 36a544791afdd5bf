"""Masked batches equal the reference's under one seed, over several batches; and keep what was promised about them."""

import copy
import json
import pickle
from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers

import minihf
from minihf.data.masking import words_of

SHARES = [
    {"mask_replace_prob": mask, "random_replace_prob": other}
    for mask, other in ((0.8, 0.1), (0.5, 0.4), (0.0, 1), (1, 0), (0.6, 0))
]


def masked(library, tokenizer, batches, return_tensors, **options):
    """Some batches of one collator."""
    torch.manual_seed(7)
    np.random.seed(7)
    collator = library.DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.4, return_tensors=return_tensors, **options
    )
    return [collator(rows) for rows in batches]


def rows_of(tokenizer, texts, **asked):
    return [dict(tokenizer(text, **asked)) for text in texts]


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("seed", [None, 0, 11])
@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("told", [True, False], ids=["special tokens told", "not told"])
def test_masks_are_the_references(bert, texts, return_tensors, seed, shares, told, assert_equal_batches):
    asked = {"return_special_tokens_mask": told}
    batches = [rows_of(bert.ours, some, **asked) for some in (texts, texts[::-1], texts[:2])]
    ours, theirs = (
        masked(library, tokenizer, batches, return_tensors, seed=seed, **shares)
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    for first, second in zip(ours, theirs, strict=True):
        assert_equal_batches(first, second)
    assert (np.asarray(ours[0]["labels"]) != -100).any()


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("kind", [list, torch.tensor, np.array], ids=["lists", "tensors", "arrays"])
@pytest.mark.parametrize("multiple", [None, 4])
@pytest.mark.parametrize("mlm", [True, False])
def test_lists_of_ids_are_the_references(bert, return_tensors, kind, multiple, mlm, assert_equal_batches):
    if kind is torch.tensor and return_tensors == "np":
        kind = list  # which the reference does not take
    for lengths in ((3, 7, 1), (4, 4), (5, 5)):
        rows = [kind([2, *range(10, 10 + n), 3]) for n in lengths]
        ours, theirs = (
            masked(library, tokenizer, [rows], return_tensors, pad_to_multiple_of=multiple, mlm=mlm)[0]
            for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
        )
        assert_equal_batches(ours, theirs)


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("told", [True, False], ids=["special tokens told", "not told"])
@pytest.mark.parametrize("seed", [None, 3])
def test_whole_words_are_the_references(bert, texts, return_tensors, told, seed, assert_equal_batches):
    asked = {"return_special_tokens_mask": told, "return_offsets_mapping": True}
    width = max(len(ids) for ids in bert.ours(texts)["input_ids"])
    # the reference wants the offsets padded already
    asked |= {"padding": "max_length", "max_length": width}
    batches = [rows_of(bert.ours, some, **asked) for some in (texts, texts[::-1])]
    options = {"whole_word_mask": True, "mask_replace_prob": 1, "random_replace_prob": 0, "seed": seed}
    ours, theirs = (
        masked(library, tokenizer, batches, return_tensors, **options)
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    for first, second in zip(ours, theirs, strict=True):
        assert_equal_batches(first, second)


def test_whole_words_are_whole(bert, texts):
    """By the tokenizer's own word numbers; rows of several lengths, which are padded with their offsets."""
    encodings = [bert.ours(text, return_offsets_mapping=True) for text in texts]
    collator = minihf.DataCollatorForWholeWordMask(bert.ours, mlm_probability=0.5)
    torch.manual_seed(1)
    seen = Counter()
    for _ in range(5):
        batch = collator(encodings)
        for row, encoding in enumerate(encodings):
            chosen = (batch["labels"][row] != -100)[batch["attention_mask"][row].bool()]
            pieces = encoding.word_ids()
            for i, j in pairwise(range(1, len(pieces) - 1)):
                if pieces[i] == pieces[j]:
                    assert chosen[i] == chosen[j]
                    seen[bool(chosen[i])] += 1
            assert not chosen[0]
            assert not chosen[-1]
        guessed = batch["labels"] != -100
        assert (batch["input_ids"][guessed] == bert.ours.mask_token_id).all()
    assert min(seen[True], seen[False]) > 10


def test_words_begin_at_gaps_and_after_special_tokens():
    offsets = np.array([[[0, 0], [0, 2], [2, 5], [6, 7], [0, 0], [0, 3], [0, 0]]])
    special = np.array([[1, 0, 0, 0, 1, 0, 1]], dtype=bool)
    words, begins = words_of(offsets, special)
    assert words.tolist() == [[-1, 1, 1, 2, -1, 3, -1]]
    assert begins.tolist() == [[False, True, False, True, False, True, False]]


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_causal_is_the_references(bert, texts, return_tensors, assert_equal_batches):
    rows = rows_of(bert.ours, texts)
    ours, theirs = (
        masked(library, tokenizer, [rows], return_tensors, mlm=False, pad_to_multiple_of=8)[0]
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    assert_equal_batches(ours, theirs)
    assert (np.asarray(ours["labels"])[np.asarray(ours["attention_mask"]) == 0] == -100).all()


def test_causal_without_a_pad_token(gpt, assert_equal_batches):
    """Lists of one length need none."""
    rows = [[5, 6, 7], [8, 9, 10]]
    ours, theirs = (
        library.DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)
        for library, tokenizer in ((minihf, gpt.ours), (transformers, gpt.reference))
    )
    assert_equal_batches(ours, theirs)
    with pytest.raises(ValueError, match="padding needs a pad token"):
        minihf.DataCollatorForLanguageModeling(gpt.ours, mlm=False)([[5], [5, 6]])


def test_special_tokens_and_padding_are_never_guessed(bert, texts):
    collator = minihf.DataCollatorForLanguageModeling(bert.ours, mlm_probability=1.0)
    encoded = bert.ours(texts, padding=True, return_tensors="pt")
    batch = collator(rows_of(bert.ours, texts))
    special = torch.isin(encoded["input_ids"], torch.tensor(bert.ours.all_special_ids))
    assert torch.equal(batch["labels"] == -100, special)
    assert torch.equal(batch["labels"][~special], encoded["input_ids"][~special])
    assert torch.equal(batch["input_ids"][special], encoded["input_ids"][special])


def test_shares_are_those_asked_for(bert):
    """In 200000 tokens: of the chosen 15%, 80% masked, 10% other, 10% as they are."""
    ids = torch.randint(5, len(bert.ours), (200, 1000))
    batch = minihf.DataCollatorForLanguageModeling(bert.ours, seed=0)(list(ids))
    chosen = batch["labels"] != -100
    assert abs(chosen.float().mean() - 0.15) < 0.003
    mask, same = batch["input_ids"] == bert.ours.mask_token_id, batch["input_ids"] == ids
    assert abs(mask[chosen].float().mean() - 0.8) < 0.01
    assert abs(same[chosen].float().mean() - 0.1) < 0.01
    assert same[~chosen].all()


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_a_collator_that_was_used_is_copied_with_its_numbers(bert, texts, return_tensors):
    """As a `DataLoader` does that starts its workers by spawning."""
    rows = rows_of(bert.ours, texts)
    collator = minihf.DataCollatorForLanguageModeling(bert.ours, seed=5, return_tensors=return_tensors)
    collator(rows)
    others = pickle.loads(pickle.dumps(collator)), copy.deepcopy(collator)
    wanted = collator(rows)
    for other in others:
        assert other(rows)["labels"].tolist() == wanted["labels"].tolist()


def test_errors(bert, gpt):
    make = minihf.DataCollatorForLanguageModeling
    with pytest.raises(ValueError, match=r"no mask token.*pass mlm=False"):
        make(gpt.ours)
    with pytest.raises(ValueError, match=r"mlm_probability=1\.5; a number from 0 to 1"):
        make(bert.ours, mlm_probability=1.5)
    with pytest.raises(ValueError, match="mlm_probability=None"):
        make(bert.ours, mlm_probability=None)
    with pytest.raises(ValueError, match=r"random_replace_prob=-0\.1"):
        make(bert.ours, random_replace_prob=-0.1)
    with pytest.raises(ValueError, match="together more than 1"):
        make(bert.ours, random_replace_prob=0.3)
    with pytest.raises(ValueError, match="whole_word_mask=True masks, and mlm=False does not"):
        make(bert.ours, mlm=False, whole_word_mask=True)
    with pytest.warns(UserWarning, match="mask_replace_prob is now 1"):
        collator = make(bert.ours, whole_word_mask=True)
    assert (collator.mask_replace_prob, collator.random_replace_prob) == (1, 0)
    with pytest.raises(ValueError, match=r"the examples have none.*return_offsets_mapping=True"):
        collator([{"input_ids": [5, 6]}])


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_its_own_random_numbers_go_on_where_they_were(bert, return_tensors):
    rows = rows_of(bert.ours, ["some words to guess, and more of them", "a few"])
    settings = {"mlm_probability": 0.5, "return_tensors": return_tensors}
    make = partial(minihf.DataCollatorForLanguageModeling, bert.ours, **settings)
    first = make(seed=3)
    unused = first.random_state()
    begun = [first(rows) for _ in range(2)]
    state = json.loads(json.dumps(first.random_state()))
    then = [first(rows) for _ in range(3)]
    second = make(seed=3)
    for at, expected in ((state, then), (unused, begun)):
        second.set_random_state(at)
        for each in expected:
            batch = second(rows)
            assert all(np.array_equal(batch[name], value) for name, value in each.items())
    other = make()  # has none, and leaves the global ones alone
    other(rows)
    assert other.random_state() == {}
    other.set_random_state(state)
