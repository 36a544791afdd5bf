"""`BatchEncoding`: a mapping for the model that also finds tokens, words and characters from one another."""

import copy
import pickle

import numpy as np
import pytest
import torch

from minihf.tokenization import BatchEncoding

pytestmark = pytest.mark.filterwarnings("ignore:a text has more:UserWarning")


def test_tokens_words_and_characters(pair, texts):
    first, second = texts[:10], texts[10:20]
    ours, reference = (tokenizer(first, second) for tokenizer in pair)
    found = 0
    for row in range(len(first)):
        assert ours.tokens(row) == reference.tokens(row)
        assert ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)
        for token in range(len(ours["input_ids"][row])):
            assert ours.token_to_sequence(row, token) == reference.token_to_sequence(row, token)
            assert ours.token_to_word(row, token) == reference.token_to_word(row, token)
            assert ours.token_to_chars(row, token) == reference.token_to_chars(row, token)
        for sequence, text in enumerate((first[row], second[row])):
            for char in range(len(text) + 1):
                assert ours.char_to_token(row, char, sequence) == reference.char_to_token(row, char, sequence)
                assert ours.char_to_word(row, char, sequence) == reference.char_to_word(row, char, sequence)
                found += ours.char_to_token(row, char, sequence) is not None
            for word in {word for word in ours.word_ids(row) if word is not None}:
                assert ours.word_to_tokens(row, word, sequence) == reference.word_to_tokens(row, word, sequence)
                try:
                    span = reference.word_to_chars(row, word, sequence)
                except TypeError:  # the reference stumbles over a word that there is not
                    span = None
                assert ours.word_to_chars(row, word, sequence) == span
    assert found > 500


def test_a_single_number_is_a_place_in_row_0(load):
    encoding = load("bert").ours("Attend to arguments")
    token = encoding.char_to_token(10)
    assert encoding.token_to_chars(token).start == 10
    assert encoding.token_to_word(token) == encoding.char_to_word(10) == 2
    assert encoding.word_to_chars(2) == encoding.word_to_chars(0, 2) == (10, 19)
    assert encoding.word_to_tokens(2).start == token
    assert encoding.word_ids() == encoding.word_ids(0)
    assert encoding.token_to_sequence(token) == 0
    assert encoding.token_to_chars(0) is None
    last = len(encoding.input_ids) - 2
    for find in (encoding.token_to_chars, encoding.token_to_word, encoding.token_to_sequence):
        assert find(-2) == find(0, -2) == find(last)
    assert encoding.words() == encoding.word_ids()


def test_what_is_known_of_the_rows(load):
    ours, reference = load("bert")
    for arguments in (("one",), ("one", "two"), (["one", "two"],), (["one"], ["two"])):
        for tensors in (None, "pt"):
            first, second = (tokenizer(*arguments, return_tensors=tensors) for tokenizer in (ours, reference))
            assert (first.n_sequences, first.is_fast) == (second.n_sequences, second.is_fast)
    data = {"input_ids": [[1, 2], [3, 4]]}
    for options in ({}, {"n_sequences": 2}, {"tensor_type": "np", "prepend_batch_axis": True}):
        first, second = BatchEncoding(data, **options), type(reference("one"))(data, **options)
        assert (first.n_sequences, first.is_fast) == (second.n_sequences, second.is_fast)
        assert np.array_equal(first["input_ids"], second["input_ids"])
        for wrong in (0, "labels"):
            for encoding in (first, second):
                with pytest.raises(KeyError):
                    encoding[wrong]


def test_keys_attributes_and_indices(load):
    encoding = load("bert").ours(["one two", "three"])
    assert encoding.input_ids is encoding["input_ids"]
    assert list(encoding.keys()) == ["input_ids", "token_type_ids", "attention_mask"]
    assert {**encoding} == dict(encoding.items())
    assert encoding[1].ids == encoding["input_ids"][1]
    assert [record.ids for record in encoding[0:2]] == encoding["input_ids"]
    assert len(encoding.encodings) == 2
    assert BatchEncoding({"a": [1, 2, 3]})[1:] == {"a": [2, 3]}
    with pytest.raises(AttributeError, match="labels"):
        _ = encoding.labels
    encoding["labels"] = [0, 1]
    assert encoding.labels == [0, 1]
    with pytest.raises(ValueError, match="only what tokenizer"):
        BatchEncoding({"a": [1]}).tokens()


def test_it_is_the_keywords_of_a_model(load):
    def model(input_ids, attention_mask=None, token_type_ids=None):
        return input_ids.sum() + attention_mask.sum() + token_type_ids.sum()

    encoding = load("bert").ours("one two", "three", return_tensors="pt")
    assert model(**encoding) == sum(value.sum() for value in encoding.values())


def test_copies_and_pickles(load):
    encoding = load("bert").ours(["one two", "three"])
    for other in (copy.copy(encoding), copy.deepcopy(encoding), pickle.loads(pickle.dumps(encoding))):
        assert other == encoding
        assert other.tokens(1) == encoding.tokens(1)


def test_tensors(load, texts):
    ours, reference = load("bert")
    data = {
        "ids": [[1, 2], [3, 4]], "floats": [0.5, 1.5], "flags": [True, False], "none": [[], []], "deep": [[[1]], [[3]]],
        "arrays": [np.array([1.5, 2.5]), np.array([3.5, 4.5])], "array": np.array([1, 2], dtype=np.int32),
    }  # fmt: skip
    other = type(reference("one"))(data, tensor_type="pt")
    made = BatchEncoding(data, tensor_type="pt")
    for name, value in other.items():
        assert made[name].dtype == value.dtype, name
        assert torch.equal(made[name], value), name
    other = type(reference("one"))(data, tensor_type="np")
    made = BatchEncoding(data, tensor_type="np")
    for name, value in other.items():
        assert made[name].dtype == value.dtype, name
        assert np.array_equal(made[name], value), name
    tensors = BatchEncoding({"rows": [torch.ones(2), torch.zeros(2)], "tensor": torch.ones(3)}, tensor_type="pt")
    assert tensors["rows"].shape == (2, 2)
    encoding = ours("one two")
    assert encoding.convert_to_tensors("pt", prepend_batch_axis=True) is encoding
    assert torch.equal(encoding["input_ids"], ours("one two", return_tensors="pt")["input_ids"])
    assert encoding.convert_to_tensors(None) is encoding
    for wrong, told in (([["a"]], "numbers"), ([None, 1], "numbers"), ([[1], [1, 2]], "1 to 2 entries.*padding=True")):
        for kind in ("pt", "np") if wrong != [["a"]] else ("pt",):
            with pytest.raises(ValueError, match=f"'wrong' cannot become one tensor.*{told}"):
                BatchEncoding({"wrong": wrong}, tensor_type=kind)


def test_to_a_device(load):
    encoding = load("bert").ours("one two", return_tensors="pt")
    encoding["labels"] = [1]
    assert encoding.to("meta") is encoding
    assert {value.device.type for value in encoding.values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert encoding["labels"] == [1]
    assert encoding.to(torch.device("meta"), non_blocking=True).input_ids.device.type == "meta"
    before = encoding.input_ids
    with pytest.raises(TypeError, match=r"float16.*a device was expected"):
        encoding.to(torch.float16)
    assert encoding.input_ids is before
