"""A call leaves no trace: not in the next call, not in another thread's, not in a copy."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer

CALLS = [
    {},
    {"padding": True},
    {"truncation": True, "max_length": 5},
    {"padding": "max_length", "max_length": 12},
    {"padding": True, "truncation": True, "max_length": 7, "stride": 1, "return_overflowing_tokens": True},
    {"padding": True, "padding_side": "left", "pad_to_multiple_of": 4},
]


@pytest.fixture
def pair_of_texts():
    return ["the parser of arguments", "one", ""], ["an argument", "of the parser, the first", "x"]


def test_calls_in_turn(load, pair_of_texts):
    ours, _ = load("bert")
    alone = [load("bert").ours(*pair_of_texts, **options) for options in CALLS]
    for options, expected in [*zip(CALLS, alone, strict=True), *zip(CALLS[::-1], alone[::-1], strict=True)]:
        assert ours(*pair_of_texts, **options) == expected
        with pytest.raises(ValueError, match="only_first"):  # a failure leaves no trace either
            ours(*pair_of_texts, truncation="only_first", max_length=4)
        with pytest.raises(TypeError):
            ours(*pair_of_texts, truncation=True, max_length=5, padding=True, pad_to_multiple_of=2.5)
    assert ours.backend_tokenizer.padding is None
    assert ours.backend_tokenizer.truncation is None


def test_the_engines_own_settings_stay_and_do_not_count(minilm, load):
    ours = load("minilm").ours
    before = ours.backend_tokenizer.to_str()
    assert Tokenizer.from_file(str(minilm / "tokenizer.json")).to_str() == before
    assert len(ours("the " * 200)["input_ids"]) == 202
    assert len(ours("the")["input_ids"]) == 3
    assert ours.backend_tokenizer.to_str() == before
    assert len(ours.backend_tokenizer.encode("the " * 200)) == len(ours.backend_tokenizer.encode("the")) == 128


def test_threads(load, pair_of_texts):
    ours, _ = load("bert")
    expected = [ours(*pair_of_texts, **options) for options in CALLS]

    def work(number: int) -> list[bool]:
        turns = [(number + i) % len(CALLS) for i in range(60)]
        return [ours(*pair_of_texts, **CALLS[turn]) == expected[turn] for turn in turns]

    with ThreadPoolExecutor(8) as threads:
        assert all(same for seen in threads.map(work, range(8)) for same in seen)


def test_copies(load, texts):
    ours, _ = load("bert")
    ours.add_special_tokens({"bos_token": "<new>", "extra_special_tokens": ["<x>"]})
    ours.padding_side = "left"
    ours.split_special_tokens = True
    texts = [*texts, "[SEP]<x>"]
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert other(texts, padding=True) == ours(texts, padding=True)
        assert repr(other) == repr(ours)
        assert other.all_special_ids == ours.all_special_ids
        other.add_tokens("<another>")
        assert len(other) == len(ours) + 1


def test_processes(load, pair_of_texts):
    """As `dataset.map(tokenize, num_proc=2)` does; it also knows the tokenizer again by its pickle."""
    ours = load("bert").ours
    before = pickle.dumps(ours)
    expected = [ours(*pair_of_texts, **options) for options in CALLS]
    assert pickle.dumps(ours) == before
    with multiprocessing.get_context("fork").Pool(2) as processes:
        answers = [processes.apply_async(ours, pair_of_texts, options) for options in CALLS]
        assert [answer.get(60) for answer in answers] == expected
