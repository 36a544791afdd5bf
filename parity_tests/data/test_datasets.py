"""With the `datasets` library: its ways of loading and mapping lead through our tokenizers and collators to a model."""

import json

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

import minihf
from minihf.data.chunking import ConstantLengthDataset, constant_length, context_windows, group_texts

LABELS = [1, 0, 0, 1, 1]


@pytest.fixture
def dataset(texts) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": texts, "label": LABELS})


@pytest.fixture
def files(tmp_path, texts):
    """The same table, as csv, json lines and text."""
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in zip(texts, LABELS, strict=True))
    )
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in zip(texts, LABELS, strict=True))
    )
    (tmp_path / "rows.txt").write_text("\n".join(texts) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind, file", [("csv", "rows.csv"), ("json", "rows.jsonl"), ("text", "rows.txt")])
@pytest.mark.parametrize("streaming", [False, True])
def test_local_files(bert, texts, files, kind, file, streaming):
    loaded = datasets.load_dataset(
        kind, data_files=str(files / file), split="train", streaming=streaming, cache_dir=str(files / "cache")
    )
    columns = ["text"] if kind == "text" else ["text", "label"]
    mapped = loaded.map(lambda rows: bert.ours(rows["text"]), batched=True, remove_columns=["text"])
    (batch,) = DataLoader(mapped, batch_size=8, collate_fn=minihf.DataCollatorWithPadding(bert.ours))
    wanted = bert.ours(texts, padding=True, return_tensors="pt")
    for key, value in wanted.items():
        assert torch.equal(batch[key], value)
    assert ("labels" in batch) == ("label" in columns)
    if "labels" in batch:
        assert batch["labels"].tolist() == LABELS


def test_pandas(bert, texts):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": texts, "label": LABELS})
    mapped = datasets.Dataset.from_pandas(frame).map(lambda rows: bert.ours(rows["text"]), batched=True)
    assert mapped["input_ids"][:] == bert.ours(texts)["input_ids"]
    assert bert.ours(frame["text"])["input_ids"] == mapped["input_ids"][:]  # a column is a batch


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_in_every_format_become_the_same_batches(bert, texts, dataset, form, workers):
    mapped = dataset.map(lambda rows: bert.ours(rows["text"], return_special_tokens_mask=True), batched=True)
    mapped = mapped.remove_columns("text")
    mapped.set_format(form)
    lm = minihf.DataCollatorForLanguageModeling(bert.ours, seed=3)
    plain = mapped.with_format(None).remove_columns("label")
    for collator, rows in ((minihf.DataCollatorWithPadding(bert.ours), mapped), (lm, mapped.remove_columns("label"))):
        loader = DataLoader(rows, batch_size=3, collate_fn=collator, num_workers=workers)
        first, second = loader
        assert first["input_ids"].dtype == second["input_ids"].dtype == torch.int64
        assert first["attention_mask"].sum().item() == sum(map(len, bert.ours(texts[:3])["input_ids"]))
        if collator is lm:
            # a worker's numbers are those of the seed plus its own
            for i, batch in enumerate((first, second)):
                dice = minihf.DataCollatorForLanguageModeling(bert.ours, seed=3 + (i if workers else 0))
                if not workers and i:
                    dice(plain.select(range(3)).to_list())
                again = dice(plain.select(range(3 * i, min(3 * i + 3, 5))).to_list())
                assert torch.equal(batch["labels"], again["labels"])
        else:
            assert torch.cat([first["labels"], second["labels"]]).tolist() == LABELS


def test_a_text_column_that_was_left_is_named(bert, dataset):
    mapped = dataset.map(lambda rows: bert.ours(rows["text"]), batched=True)
    with pytest.raises(ValueError, match=r"column 'text' holds texts.*dataset\.remove_columns\('text'\)"):
        next(iter(DataLoader(mapped, batch_size=3, collate_fn=minihf.DataCollatorWithPadding(bert.ours))))


@pytest.mark.parametrize("streaming", [False, True])
def test_chunking_inside_map(bert, texts, dataset, streaming):
    rows = dataset.to_iterable_dataset() if streaming else dataset
    ids = rows.map(lambda rows: bert.ours(rows["text"]), batched=True, remove_columns=["text", "label"])
    blocks = list(ids.map(group_texts, batched=True, fn_kwargs={"block_size": 16}))
    wanted = group_texts(bert.ours(texts), 16)
    assert [block["input_ids"] for block in blocks] == wanted["input_ids"]
    assert [block["labels"] for block in blocks] == wanted["labels"]
    windows = rows.map(
        lambda rows: context_windows(rows["text"], bert.ours, 9), batched=True, remove_columns=["text", "label"]
    )
    assert [row["input_ids"] for row in windows] == context_windows(texts, bert.ours, 9)["input_ids"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_blocks_shares_out_shards(gpt, dataset, workers):
    """`datasets` gives each worker shards of its own; nothing is read twice, and nothing lost."""
    rows = dataset.to_iterable_dataset(num_shards=2)
    blocks = ConstantLengthDataset(gpt.ours, rows, seq_length=8, content_field="text")
    loader = DataLoader(blocks, batch_size=None, num_workers=workers)
    texts = list(dataset["text"])
    shares = [texts] if workers == 0 else [texts[:3], texts[3:]]
    wanted = [block for share in shares for block in constant_length(share, gpt.ours, 8)]
    assert sorted(list(map(int, row["input_ids"])) for row in loader) == sorted(wanted)


def test_splits_and_shuffles_reach_the_same_rows(bert, dataset):
    split = dataset.train_test_split(test_size=2, seed=0)
    mapped = split.map(lambda rows: bert.ours(rows["text"]), batched=True, remove_columns=["text"])
    seen = [
        label
        for part in ("train", "test")
        for batch in DataLoader(mapped[part], batch_size=2, collate_fn=minihf.DataCollatorWithPadding(bert.ours))
        for label in batch["labels"].tolist()
    ]
    assert sorted(seen) == sorted(LABELS)
