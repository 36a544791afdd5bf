"""`tokenizer.pad`: rows that were encoded apart meet in one batch."""

import itertools

import numpy as np
import pytest
import torch

SENTENCES = ["the parser", "an argument of the parser that is longer", "", "one"]


def rows(tokenizer, **options) -> list[dict]:
    return [dict(tokenizer(text, **options)) for text in SENTENCES]


def assert_same(ours, reference):
    assert list(ours) == list(reference)
    for name, value in reference.items():
        if isinstance(value, torch.Tensor | np.ndarray):
            assert type(ours[name]) is type(value)
            assert ours[name].dtype == value.dtype
            assert ours[name].tolist() == value.tolist()
        else:
            assert ours[name] == value


@pytest.mark.filterwarnings("ignore:.*max_length:UserWarning")
def test_every_option(pair):
    ours, reference = pair
    given = rows(ours, return_special_tokens_mask=True)
    columns = {name: [row[name] for row in given] for name in given[0]}
    bare = [{"input_ids": row["input_ids"], "labels": i} for i, row in enumerate(given)]
    names = ("padding", "max_length", "pad_to_multiple_of", "padding_side", "return_attention_mask")
    values = [
        (True, False, "longest", "max_length", "do_not_pad"),
        (None, 24),
        (None, 8),
        (None, "left", "right"),
        (None, False),
    ]
    for chosen in itertools.product(*values):
        options = dict(zip(names, chosen, strict=True))
        for encoded in (given, columns, bare, ours(SENTENCES), given[1]):
            first, second = (tokenizer.pad(encoded, **options) for tokenizer in (ours, reference))
            assert_same(first, second)


def test_tensors_in_and_out(pair):
    ours, reference = pair
    given = [row for row in rows(ours) if row["input_ids"]]
    for kind in ("pt", "np"):
        assert_same(ours.pad(given, return_tensors=kind), reference.pad(given, return_tensors=kind))
        make = torch.tensor if kind == "pt" else np.array
        tensors = [{name: make(value) for name, value in row.items()} for row in given]
        assert_same(ours.pad(tensors), reference.pad(tensors))
        assert isinstance(ours.pad(tensors)["input_ids"], torch.Tensor if kind == "pt" else np.ndarray)
        columns = {name: [row[name] for row in tensors] for name in tensors[0]}
        assert_same(ours.pad(columns), reference.pad(columns))
        batch = ours(SENTENCES, padding=True, return_tensors=kind)
        assert_same(ours.pad(batch, pad_to_multiple_of=16), reference.pad(batch, pad_to_multiple_of=16))
        one = ours.pad(tensors[0], pad_to_multiple_of=16)
        assert_same(one, reference.pad(given[0], pad_to_multiple_of=16, return_tensors=kind))


def test_one_row_with_a_label(load):
    ours, _ = load("bert")
    row = {"input_ids": torch.tensor([2, 5, 3]), "labels": torch.tensor(1)}
    padded = ours.pad(row, padding="max_length", max_length=5)
    assert padded["input_ids"].tolist() == [2, 5, 3, 0, 0]
    assert padded["attention_mask"].tolist() == [1, 1, 1, 0, 0]
    assert padded["labels"].tolist() == 1


def test_what_was_given_is_not_changed(load):
    ours, _ = load("bert")
    given = rows(ours)
    columns = {name: [list(row[name]) for row in given] for name in given[0]}
    ours.pad(given)
    ours.pad(columns)
    assert given == rows(ours)
    assert columns == {name: [row[name] for row in given] for name in given[0]}


def test_what_cannot_be_padded_is_named(load):
    ours, _ = load("bert")
    for given, error, told in (
        ([{"ids": [1]}], ValueError, "needs input_ids; there is 'ids'"),
        ([], TypeError, "empty"),
        ("text", TypeError, "str"),
        ([{"input_ids": [1], "labels": 1}, {"input_ids": [1]}], ValueError, "row 1 has the keys"),
        ({"input_ids": [[1], [2]], "labels": [1]}, ValueError, "different numbers of rows: .*'labels': 1"),
        ([{"input_ids": [1]}, {"input_ids": [1, 2]}], ValueError, "pad token"),
    ):
        if told == "pad token":
            ours.pad_token = None
        with pytest.raises(error, match=told):
            ours.pad(given)
    with pytest.raises(ValueError, match="'labels' cannot become one tensor"):
        load("bert").ours.pad(
            [{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2]}], return_tensors="pt"
        )


def test_the_type_of_padding(load):
    ours, reference = load("bert")
    ours.pad_token_type_id = reference._pad_token_type_id = 3
    assert reference.pad_token_type_id == 3
    for side in ("left", "right"):
        made, expected = (tokenizer(SENTENCES, padding=True, padding_side=side) for tokenizer in (ours, reference))
        assert_same(made, expected)
        assert made["token_type_ids"][3].count(3) > 3
        assert_same(ours.pad(rows(ours), padding_side=side), expected)


def test_labels_that_nobody_padded(load):
    given = [{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2]}]
    with pytest.raises(ValueError, match=r"'labels' cannot .* data collator"):
        load("bert").ours.pad(given, return_tensors="pt")
