"""`tokenizer(...)` gives what the reference gives: every option against every other, over every shape of input."""

import itertools
import random
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore:a text has more:UserWarning", "ignore:.*max_length:UserWarning")

VALUES = {
    "add_special_tokens": [True, False],
    "padding": [False, True, "longest", "max_length", "do_not_pad"],
    "truncation": [None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate"],
    "max_length": [None, 8, 16, 40],
    "stride": [0, 2],
    "pad_to_multiple_of": [None, 8, 3],
    "padding_side": [None, "left", "right"],
    "return_tensors": [None, "np", "pt"],
    "return_token_type_ids": [None, True, False],
    "return_attention_mask": [None, False],
    "return_overflowing_tokens": [False, True],
    "return_special_tokens_mask": [False, True],
    "return_offsets_mapping": [False, True],
    "return_length": [False, True],
    "split_special_tokens": [None, True],
}


def every_two_values_together() -> list[dict]:
    """Options such that every two values of two options meet in one of them; few enough to try them all."""
    chance = random.Random(0)
    names = list(VALUES)
    open_pairs = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(VALUES[a]))
        for j in range(len(VALUES[b]))
    }
    chosen = []
    while open_pairs:
        tries = [{name: chance.randrange(len(VALUES[name])) for name in names} for _ in range(60)]
        (first, i), (second, j) = min(open_pairs)
        for numbers in tries:
            numbers |= {first: i, second: j}
        met = [set(itertools.combinations(numbers.items(), 2)) & open_pairs for numbers in tries]
        best = max(range(len(tries)), key=lambda k: len(met[k]))
        open_pairs -= met[best]
        chosen.append({name: VALUES[name][number] for name, number in tries[best].items()})
    return chosen


OPTIONS = every_two_values_together()
SHAPES = [
    "text",
    "pair",
    "batch",
    "batch of pairs",
    "tuples",
    "words",
    "pair of words",
    "batch of words",
    "batch of word pairs",
]


def inputs(shape: str, texts: list[str]) -> tuple[tuple, bool]:
    """The positional arguments of a shape, and whether they are words."""
    texts = texts[::2]
    words = [text.split() for text in texts]
    return {
        "text": ((texts[0],), False),
        "pair": ((texts[1], texts[3]), False),
        "batch": ((texts,), False),
        "batch of pairs": ((texts, texts[::-1]), False),
        "tuples": ((list(zip(texts, texts[::-1], strict=True)),), False),
        "words": ((words[0],), True),
        "pair of words": ((words[1], words[3]), True),
        "batch of words": ((words,), True),
        "batch of word pairs": ((words, words[::-1]), True),
    }[shape]


def assert_same(ours, reference, told=""):
    assert list(ours) == list(reference), told
    for name, value in reference.items():
        assert type(ours[name]) is type(value), (name, told)
        if isinstance(value, torch.Tensor | np.ndarray):
            assert ours[name].dtype == value.dtype, (name, told)
            assert ours[name].shape == value.shape, (name, told)
            assert (ours[name] == value).all(), (name, told)
        else:
            assert ours[name] == value, (name, told)
    assert len(ours.encodings) == len(reference.encodings)
    for mine, other in zip(ours.encodings, reference.encodings, strict=True):
        assert (mine.tokens, mine.word_ids, mine.sequence_ids) == (other.tokens, other.word_ids, other.sequence_ids), (
            told
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_two_options_together(pair, texts, shape):
    arguments, words = inputs(shape, texts)
    compared = refused = 0
    for options in OPTIONS:
        told = f"{shape}: {options}"
        try:
            expected = pair.reference(*arguments, is_split_into_words=words, **options)
        except BaseException:  # the engine panics, where a stride is as long as what is left of a text
            refused += 1
            with pytest.raises((ValueError, TypeError)):
                pair.ours(*arguments, is_split_into_words=words, **options)
            continue
        # two answers of the reference are errors here, each tested by itself
        alone = options["truncation"] == "only_second" and "pair" not in shape and shape != "tuples"
        limit = options["max_length"] is not None or pair.ours.model_max_length < 1e20
        ragged = any(isinstance(value, np.ndarray) and value.dtype.kind == "O" for value in expected.values())
        if (alone and limit) or ragged:
            refused += 1
            with pytest.raises(ValueError, match=r"only_second|padding=True"):
                pair.ours(*arguments, is_split_into_words=words, **options)
            continue
        compared += 1
        assert_same(pair.ours(*arguments, is_split_into_words=words, **options), expected, told)
    assert len(OPTIONS) == compared + refused
    assert compared > len(OPTIONS) / 3


def test_each_text_alone_and_with_another(pair, texts):
    for text in texts:
        assert_same(pair.ours(text), pair.reference(text), repr(text))
        full = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_length": True}
        assert_same(pair.ours(text, texts[0], **full), pair.reference(text, texts[0], **full), repr(text))
        assert_same(pair.ours(texts[0], text), pair.reference(texts[0], text), repr(text))
        assert_same(pair.ours([text], [texts[0]]), pair.reference([text], [texts[0]]), repr(text))


def test_a_long_text_in_overlapping_parts(pair, sources):
    options = {"truncation": True, "max_length": 50, "stride": 11, "return_overflowing_tokens": True, "padding": True}
    text = sources[2][:6000]
    ours = pair.ours(text, return_offsets_mapping=True, return_tensors="pt", **options)
    assert_same(ours, pair.reference(text, return_offsets_mapping=True, return_tensors="pt", **options))
    assert len(ours["input_ids"]) > 20
    question = {**options, "truncation": "only_second", "return_overflowing_tokens": True}
    batch = [["What?", "Where is it?"], [text, text[:300]]]
    ours = pair.ours(*batch, **question)
    assert_same(ours, pair.reference(*batch, **question))
    assert set(ours["overflow_to_sample_mapping"]) == {0, 1}


def test_a_batch_equals_its_rows(pair, texts):
    batch = pair.ours(texts, return_offsets_mapping=True)
    for i, text in enumerate(texts):
        row = pair.ours(text, return_offsets_mapping=True)
        assert {name: value[i] for name, value in batch.items()} == dict(row)


class Column(Sequence):
    """As a column of a dataset: a sequence that is no list."""

    def __init__(self, values: list):
        self.values = values

    def __getitem__(self, index):
        return self.values[index]

    def __len__(self):
        return len(self.values)


class Rows:
    """The least that is a sequence: it has a length, and rows by number."""

    def __init__(self, values: list):
        self.values = values

    def __getitem__(self, index: int):
        return self.values[index]

    def __len__(self):
        return len(self.values)


def test_a_batch_is_any_sequence(load, texts):
    ours, _ = load("bert")
    expected = ours(texts, texts)
    for made in (tuple, Column, np.array):
        assert ours(made(texts), made(texts)) == expected
    assert ours(text for text in texts) == ours(texts)
    assert ours(Rows(texts), Rows(texts)) == expected
    assert ours(np.array(texts, dtype=object)) == ours(texts)
    words = [text.split() for text in texts]
    expected = ours(words, is_split_into_words=True)
    assert ours(Column([Column(row) for row in words]), is_split_into_words=True) == expected
    assert ours(tuple(np.array(row, dtype=str) for row in words), is_split_into_words=True) == expected
    assert ours(np.array(words[0]), is_split_into_words=True) == ours(words[0], is_split_into_words=True)


def test_pairs_and_texts_may_share_a_batch(load):
    ours, reference = load("bert")
    batch = ["one", ("two", "three"), ["four", "five"]]
    assert_same(ours(batch), reference(batch))
    words = [["one"], (["two"], ["three", "four"]), []]
    assert_same(ours(words, is_split_into_words=True), reference(words, is_split_into_words=True))


def test_an_empty_second_text_of_a_single_text_counts_as_none(load):
    ours, reference = load("bert")
    assert_same(ours("one", ""), reference("one", ""))
    assert_same(ours(["one"], [""]), reference(["one"], [""]))


def test_the_tokenizers_own_sides_and_limit(load, texts):
    ours, reference = load("bert")
    for tokenizer in (ours, reference):
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        tokenizer.model_max_length = 9
    assert_same(ours(texts, truncation=True, padding=True), reference(texts, truncation=True, padding=True))
    assert ours(texts, truncation=True, padding="max_length", return_tensors="pt")["input_ids"].shape == (len(texts), 9)


def test_the_outputs_that_the_model_names(load):
    ours, reference = load("bert")
    for tokenizer in (ours, reference):
        tokenizer.model_input_names = ["input_ids"]
    assert_same(ours("one"), reference("one"))
    assert list(ours("one", return_token_type_ids=True)) == ["input_ids", "token_type_ids"]


def test_encode_and_tokenize(pair, texts):
    ours, reference = pair
    for text in texts:
        assert ours.tokenize(text) == reference.tokenize(text)
        assert ours.tokenize(text, "two", add_special_tokens=True) == reference.tokenize(
            text, "two", add_special_tokens=True
        )
        assert ours.encode(text) == reference.encode(text)
        assert ours.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)
    for options in ({"max_length": 8}, {"truncation": True, "max_length": 8, "padding": "max_length"}):
        assert ours.encode(texts[0], texts[2], **options) == reference.encode(texts[0], texts[2], **options)
    assert torch.equal(ours.encode(texts[0], return_tensors="pt"), reference.encode(texts[0], return_tensors="pt"))
    words = ["two", "words"]
    assert ours.tokenize(words, is_split_into_words=True) == reference.tokenize(words, is_split_into_words=True)
    with pytest.raises(TypeError, match="one text"):
        ours.tokenize(words)
    assert ours.encode_plus(*texts[:2]) == ours(*texts[:2])
    assert ours.batch_encode_plus(texts, padding=True) == ours(texts, padding=True)
    with pytest.raises(TypeError, match="not one str"):
        ours.batch_encode_plus("one")
    assert ours.tokenize(texts[0], add_special_tokens=True, truncation=True, max_length=5) == (
        ours(texts[0], truncation=True, max_length=5).tokens()
    )


TARGETS = [
    {"text_target": "one two"},
    {"text": "one", "text_target": "the second text"},
    {"text": "one", "text_target": ["the second", "text"]},
    {"text": ["one", "the two"], "text_target": ["the second text", "a"]},
    {"text": ["one", "the two"], "text_pair": ["b", "c"], "text_target": ["the second text", "a"]},
    {"text_target": ["the second text", "a"], "text_pair_target": ["b", "c d e f g"]},
    {"text": "one", "text_target": "the second text", "text_pair_target": "b"},
    {"text": ["a"], "text_target": [["the", "words"]], "is_split_into_words": True},
]
TARGET_OPTIONS = [
    {},
    {"padding": True, "return_tensors": "pt"},
    {"padding": "max_length", "max_length": 12, "return_tensors": "np"},
    {"truncation": True, "max_length": 5, "max_target_length": 4},
    {"truncation": True, "max_length": 7, "stride": 1, "return_overflowing_tokens": True, "return_length": True},
    {"add_special_tokens": False, "return_offsets_mapping": True},
]


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_targets(load, make):
    ours, reference = load(make)
    for arguments, options in itertools.product(TARGETS, TARGET_OPTIONS):
        made = ours(**arguments, **options)
        assert_same(made, reference(**arguments, **options), f"{arguments}, {options}")
        assert ("labels" in made) == ("text" in arguments)


def test_a_family_may_encode_targets_otherwise(load):
    ours = load("bert").ours
    target = load("gpt2").ours
    ours._for_targets = lambda: target
    source, labels = ours("the parser"), target("un deux")
    both = ours("the parser", text_target="un deux")
    assert both.pop("labels") == labels["input_ids"]
    assert both == source
    assert ours(text_target="un deux") == labels
    with ours.as_target_tokenizer():
        assert ours("un deux") == labels
        assert ours.tokenize("un deux") == target.tokenize("un deux")
        assert ours("un deux", text_target="un deux")["labels"] == labels["input_ids"]
    assert ours("the parser") == source
    with pytest.raises(ZeroDivisionError), ours.as_target_tokenizer():
        raise ZeroDivisionError
    assert ours("the parser") == source
    made = ours.prepare_seq2seq_batch(["the parser"], ["un deux"], max_length=4, max_target_length=3)
    expected = ours(["the parser"], text_target=["un deux"], truncation=True, max_length=4, max_target_length=3)
    assert made == expected
    assert len(made["labels"][0]) == 3
    plain = load("bert").ours
    with plain.as_target_tokenizer():
        assert plain("the parser") == source


def test_the_references_own_names_of_options(load):
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy, TensorType

    named = {"padding": PaddingStrategy.MAX_LENGTH, "truncation": TruncationStrategy.LONGEST_FIRST}
    ours, reference = load("bert")
    for tensors in TensorType.PYTORCH, TensorType.NUMPY:
        options = {**named, "max_length": 5, "return_tensors": tensors}
        assert_same(ours(["one", "a b c d e"], **options), reference(["one", "a b c d e"], **options))


def test_no_word_of_warning_where_none_is_wanted(load):
    ours = load("bert").ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ours("the " * 100, verbose=False)["input_ids"]) == 102
        ours(["one", "two"], padding=True, max_length=4, verbose=False)
        ours.pad({"input_ids": [[2, 3]]}, max_length=4, verbose=False)
        ours.model_max_length = int(1e30)
        ours("one", truncation=True, padding="max_length", verbose=False)


def framed(tokenizer, row, pair, **options):
    """Ids of texts made apart, then framed."""
    ids = [None if text is None else tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in (row, pair)]
    return tokenizer.prepare_for_model(*ids, **options)


def test_ids_made_apart(pair, texts):
    """They are cut, framed and padded as the reference does with texts."""
    ours, reference = pair
    chosen = [texts[i] for i in (0, 5, 10, 13)]
    options = [
        {},
        {"add_special_tokens": False},
        {"truncation": True, "max_length": 8, "stride": 1, "return_overflowing_tokens": True},
        {"padding": "max_length", "max_length": 70, "truncation": "only_first"},
        {"return_special_tokens_mask": True, "return_token_type_ids": True},
    ]
    for row, other, asked in itertools.product(chosen, (None, chosen[0]), options):
        expected = reference(row, other, **asked)
        made = framed(ours, row, other, **asked)
        assert list(made) == list(expected)
        for name, value in expected.items():
            assert made[name] == value, (row, other, asked, name)
    first, second = [ours.convert_tokens_to_ids(ours.tokenize(text)) for text in chosen[:2]]
    for ids, given in (((first, second), chosen[:2]), ((first,), chosen[:1])):
        expected = reference(*given, return_special_tokens_mask=True, return_token_type_ids=True)
        assert ours.build_inputs_with_special_tokens(*ids) == expected["input_ids"]
        assert ours.create_token_type_ids_from_sequences(*ids) == expected["token_type_ids"]
        assert ours.get_special_tokens_mask(*ids) == expected["special_tokens_mask"]
        row = expected["input_ids"]
        mask = reference.get_special_tokens_mask(row, already_has_special_tokens=True)
        assert ours.get_special_tokens_mask(torch.tensor(row), already_has_special_tokens=True) == mask
    made = ours.prepare_for_model(first, return_length=True, return_tensors="pt")
    row = reference(chosen[0])["input_ids"]
    assert made["input_ids"].tolist() == row
    assert made["length"] == len(row)
    made = ours.prepare_for_model(np.array(first), return_tensors="np", prepend_batch_axis=True)
    assert made["input_ids"].tolist() == [row]
    with pytest.raises(ValueError, match=f"{len(ours)} is the id of no token"):
        ours.prepare_for_model([len(ours)])
    with pytest.raises(ValueError, match="one row"):
        ours.get_special_tokens_mask(first, second, already_has_special_tokens=True)
