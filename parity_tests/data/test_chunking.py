"""Cutting long texts: as the course does it, and nothing is lost but what is said to be."""

from itertools import chain, islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import minihf
from minihf.data.chunking import ConstantLengthDataset, constant_length, context_windows, group_texts


def as_in_the_course(examples, chunk_size):
    """What chapter 7 does with a batch, said again."""
    whole = {key: [token for row in rows for token in row] for key, rows in examples.items()}
    total = len(whole["input_ids"]) // chunk_size * chunk_size
    blocks = {key: [row[i : i + chunk_size] for i in range(0, total, chunk_size)] for key, row in whole.items()}
    return blocks | {"labels": blocks["input_ids"]}


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_group_texts_is_the_courses(bert, texts, size):
    encoded = bert.ours(texts)
    examples = dict(encoded) | {"word_ids": [encoded.word_ids(i) for i in range(len(texts))]}
    wanted = as_in_the_course(examples, size)
    assert group_texts(examples, size) == wanted
    for kind in (torch.tensor, np.array):
        assert group_texts({"input_ids": [kind(row) for row in examples["input_ids"]]}, size) == {
            key: wanted[key] for key in ("input_ids", "labels")
        }


def test_group_texts_may_keep_the_rest():
    blocks = group_texts({"input_ids": [[1, 2, 3], [], [4, 5]], "flags": [[0, 0, 0], [], [1, 1]]}, 2, drop_last=False)
    assert blocks["input_ids"] == [[1, 2], [3, 4], [5]]
    assert blocks["flags"] == [[0, 0], [0, 1], [1]]
    blocks["labels"][0][0] = -100
    assert blocks["input_ids"][0][0] == 1  # the labels are a copy, to be changed
    assert group_texts({"input_ids": []}, 2) == {"input_ids": [], "labels": []}


def test_group_texts_names_what_is_no_list_of_tokens():
    with pytest.raises(ValueError, match=r"column 'text' is no list of tokens.*remove_columns=dataset\.column_names"):
        group_texts({"input_ids": [[1], [2]], "text": ["a", "b"]}, 2)
    with pytest.raises(ValueError, match="column 'label' is no list of tokens"):
        group_texts({"input_ids": [[1], [2]], "label": [0, 1]}, 2)
    with pytest.raises(ValueError, match=r"\{'input_ids': 3, 'words': 2\}: remove those"):
        group_texts({"input_ids": [[1, 2], [2]], "words": [[0], [1]]}, 2)
    with pytest.raises(ValueError, match="block_size=0"):
        group_texts({"input_ids": [[1]]}, 0)


@pytest.mark.parametrize("stride", [0, 2])
def test_context_windows_are_the_courses(gpt, texts, stride):
    """Against the reference's tokenizer, and the loop over `length` that the course writes."""
    theirs = gpt.reference(
        texts, truncation=True, max_length=8, stride=stride, return_overflowing_tokens=True, return_length=True
    )
    rows = zip(theirs["length"], theirs["input_ids"], strict=True)
    full = [ids for length, ids in rows if length == 8]
    assert 0 < len(full) < len(theirs["input_ids"])
    assert context_windows(texts, gpt.ours, 8, stride=stride) == {"input_ids": full}
    whole = context_windows(texts, gpt.ours, 8, stride=stride, drop_last=False)
    assert whole == {"input_ids": theirs["input_ids"]}


def stream(tokenizer, texts):
    return list(chain.from_iterable([*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]))


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_constant_length_is_the_stream_cut(gpt, texts, size):
    many = texts * 30  # more than are encoded at a time
    whole = stream(gpt.ours, many)
    wanted = [whole[i : i + size] for i in range(0, len(whole) // size * size, size)]
    assert list(constant_length(iter(many), gpt.ours, size)) == wanted


def test_constant_length_holds_few_texts(gpt):
    """It asks for no more of an endless stream than it needs."""
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield "masks hide padding"

    assert len(list(islice(constant_length(endless(), gpt.ours, 16), 5))) == 5
    assert asked <= 64


def test_constant_length_needs_an_end_token(bert):
    with pytest.raises(ValueError, match=r"no end token.*tokenizer\.eos_token = tokenizer\.sep_token"):
        next(constant_length(["a"], bert.ours, 4))
    bert.ours.eos_token = bert.ours.sep_token
    end, ids = bert.ours.sep_token_id, bert.ours("a", add_special_tokens=False)["input_ids"]
    assert next(constant_length(["a", "a"], bert.ours, 4)) == [*ids, end, *ids, end]  # and no [CLS]


@pytest.mark.parametrize("field", [None, "content"])
@pytest.mark.parametrize("workers", [0, 2])
def test_constant_length_dataset_in_a_loader(gpt, texts, field, workers):
    rows = texts if field is None else [{"content": text} for text in texts]
    dataset = ConstantLengthDataset(gpt.ours, rows, seq_length=16)
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=minihf.default_data_collator)
    shares = [texts] if workers == 0 else [texts[0::2], texts[1::2]]
    wanted = [block for share in shares for block in constant_length(share, gpt.ours, 16)]
    for _ in range(2):  # an epoch each
        batches = list(loader)
        got = [block for batch in batches for block in batch["input_ids"].tolist()]
        assert sorted(got) == sorted(wanted)
        assert all(torch.equal(batch["input_ids"], batch["labels"]) for batch in batches)


def test_constant_length_dataset_without_end(gpt, texts):
    endless = ConstantLengthDataset(gpt.ours, texts, infinite=True, seq_length=16)
    got = list(islice(endless, 200))
    whole = stream(gpt.ours, texts * 100)
    assert [block["input_ids"] for block in got] == [whole[i : i + 16] for i in range(0, 3200, 16)]
    assert list(ConstantLengthDataset(gpt.ours, [], infinite=True)) == []
