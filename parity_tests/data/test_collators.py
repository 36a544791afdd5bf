"""Each collator gives the reference's batch: keys, kinds, dtypes, values. What cannot be a batch is refused by name."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import minihf
from minihf.tokenization.encoding import BatchEncoding

KINDS = {
    "lists": list,
    "tensors": torch.tensor,
    "arrays": lambda value: np.array(value) if isinstance(value, list) else np.int64(value),
}
EXAMPLES = {
    "one class each": [{"label": i % 3, "input_ids": [i, 2, 3]} for i in range(4)],
    "a number each": [{"label": i / 3, "input_ids": [i, 2, 3]} for i in range(4)],
    "several classes each": [{"label": [i % 2, 1, 0], "input_ids": [i, 2, 3]} for i in range(4)],
    "a list of classes": [{"label_ids": [i, 1, -100], "x": [0.5 * i, 1.0]} for i in range(4)],
    "a list of numbers": [{"label_ids": [i / 2, 1.0], "flag": bool(i % 2)} for i in range(4)],
    "labels": [{"labels": i, "input_ids": [[i, 2], [3, 4]], "text": "left out", "none": None} for i in range(4)],
    "arrays": [{"label": np.int32(i), "x": np.full(3, i, dtype=np.float64), "y": np.arange(2)} for i in range(4)],
    "None as label": [{"label": None, "label_ids": [1, i]} for i in range(4)],
    "objects": [SimpleNamespace(label=i, input_ids=[i, 1]) for i in range(3)],
}


def tokens(rng: np.random.RandomState, lengths: list[int], **more) -> list[dict]:
    """Rows of ids, with labels for each token and types."""
    rows = []
    for length in lengths:
        ids = rng.randint(5, 90, length).tolist()
        rows.append({"input_ids": ids, "token_type_ids": [i % 2 for i in range(length)]})
        rows[-1] |= {name: make(rng, length) for name, make in more.items()}
    return rows


def in_kind(rows: list[dict], kind: str) -> list[dict]:
    return rows if kind == "lists" else [{key: KINDS[kind](value) for key, value in row.items()} for row in rows]


def classes(rng, length):
    return rng.randint(0, 7, length).tolist()


def summary(rng, length):
    return rng.randint(5, 90, length % 4 + 1).tolist()


@pytest.fixture
def rng() -> np.random.RandomState:
    return np.random.RandomState(5)


# The default one


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_default_is_the_references(name, return_tensors, assert_equal_batches):
    ours = minihf.default_data_collator(EXAMPLES[name], return_tensors)
    theirs = transformers.default_data_collator(EXAMPLES[name], return_tensors)
    assert_equal_batches(ours, theirs)
    assert_equal_batches(minihf.DefaultDataCollator(return_tensors)(EXAMPLES[name]), theirs)
    assert_equal_batches(minihf.DefaultDataCollator()(EXAMPLES[name], return_tensors), theirs)


def test_default_with_tensors(assert_equal_batches):
    rows = [{"label": torch.tensor(i), "x": torch.rand(3, dtype=torch.float64), "ids": torch.arange(2)} for i in (1, 0)]
    assert_equal_batches(minihf.default_data_collator(rows), transformers.default_data_collator(rows))
    rows = [{"label_ids": torch.tensor([i, 2]), "x": torch.tensor(0.5)} for i in (1, 0)]
    assert_equal_batches(minihf.default_data_collator(rows), transformers.default_data_collator(rows))


def test_default_refuses_rows_of_several_lengths():
    with pytest.raises(ValueError, match="'input_ids' cannot become one tensor: its rows have 1 to 2 entries"):
        minihf.default_data_collator([{"input_ids": [1, 2]}, {"input_ids": [1]}])
    with pytest.raises(ValueError, match="no examples came"):
        minihf.default_data_collator([])
    with pytest.raises(ValueError, match="return_tensors='tf' is unknown"):
        minihf.default_data_collator([{"input_ids": [1, 2]}], return_tensors="tf")


# Padding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize(
    "options",
    [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 13}, {"padding": "longest"}],
    ids=str,
)
@pytest.mark.parametrize("label", ["label", "labels", "label_ids", None])
def test_padding_is_the_references(bert, rng, kind, return_tensors, options, label, assert_equal_batches):
    rows = tokens(rng, [3, 7, 1, 5])
    if label:
        rows = [{**row, label: i % 2} for i, row in enumerate(rows)]
    ours, theirs = (
        library.DataCollatorWithPadding(tokenizer, return_tensors=return_tensors, **options)(in_kind(rows, kind))
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    assert_equal_batches(ours, theirs)


def test_encodings_of_the_tokenizer_itself(bert, texts, assert_equal_batches):
    rows = [bert.ours(text) for text in texts]
    assert isinstance(rows[0], BatchEncoding)
    theirs = transformers.DataCollatorWithPadding(bert.reference)([bert.reference(text) for text in texts])
    assert_equal_batches(minihf.DataCollatorWithPadding(bert.ours)(rows), theirs)
    assert len(rows[2]["input_ids"]) < theirs["input_ids"].shape[1]  # the caller's rows are as they were


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_no_padding_of_equal_lengths(bert, rng, return_tensors, assert_equal_batches):
    rows = tokens(rng, [4, 4], labels=classes)
    for name in ("DataCollatorWithPadding", "DataCollatorForTokenClassification", "DataCollatorForSeq2Seq"):
        ours, theirs = (
            getattr(library, name)(tokenizer, padding=False, return_tensors=return_tensors)(rows)
            for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
        )
        assert_equal_batches(ours, theirs)


def test_columns_of_a_slice_are_padded_too(bert, rng, assert_equal_batches):
    """`collator(dataset[:8])`: a slice of a dataset is a dict of columns."""
    rows = tokens(rng, [3, 7, 1], label=lambda rng, length: length % 2)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    theirs = transformers.DataCollatorWithPadding(bert.reference)(columns)
    assert_equal_batches(minihf.DataCollatorWithPadding(bert.ours)(columns), theirs)
    with pytest.raises(ValueError, match="the column 'text' holds texts"):
        minihf.DataCollatorWithPadding(bert.ours)(columns | {"text": ["a", "b", "c"]})


COLLATORS = [
    "DataCollatorWithPadding",
    "DataCollatorForTokenClassification",
    "DataCollatorForSeq2Seq",
    "DataCollatorForLanguageModeling",
]


@pytest.mark.parametrize("name", COLLATORS)
def test_a_column_of_texts_is_named(bert, name):
    rows = [{"text": "a b", "input_ids": [5, 6]}, {"text": "c", "input_ids": [7]}]
    with pytest.raises(ValueError, match=r"column 'text' holds texts, such as 'a b'.*remove_columns\('text'\)"):
        getattr(minihf, name)(bert.ours)(rows)
    words = [{"input_ids": [5, 6], "tokens": ["un", "##fit"]}]
    with pytest.raises(ValueError, match="column 'tokens' holds texts, such as 'un'"):
        getattr(minihf, name)(bert.ours)(words)
    with pytest.raises(ValueError, match="no examples came"):
        getattr(minihf, name)(bert.ours)([])


@pytest.mark.parametrize("name", COLLATORS)
def test_no_pad_token(gpt, name):
    options = {"mlm": False} if name.endswith("LanguageModeling") else {}
    with pytest.raises(ValueError, match=r"this tokenizer has none: .*tokenizer\.pad_token = tokenizer\.eos_token"):
        getattr(minihf, name)(gpt.ours, **options)([{"input_ids": [5, 6]}, {"input_ids": [5]}])


# Token classification


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("options", [{}, {"label_pad_token_id": 9, "pad_to_multiple_of": 4}], ids=str)
@pytest.mark.parametrize("label", ["label", "labels"])
def test_token_classification_is_the_references(bert, rng, kind, return_tensors, options, label, assert_equal_batches):
    rows = in_kind(tokens(rng, [3, 7, 1, 5], **{label: classes}), kind)
    for call in (rows, [{key: value for key, value in row.items() if key != label} for row in rows]):
        ours, theirs = (
            library.DataCollatorForTokenClassification(tokenizer, **options)(call, return_tensors=return_tensors)
            for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
        )
        assert_equal_batches(ours, theirs)


def test_more_labels_than_tokens(bert):
    rows = [{"input_ids": [5, 6, 7], "labels": [1, 2, 3]}, {"input_ids": [5], "labels": [1, 2, 3, 4]}]
    with pytest.raises(ValueError, match="example 1 has 4 labels, and there is room for 3"):
        minihf.DataCollatorForTokenClassification(bert.ours)(rows)
    with pytest.raises(ValueError, match="example 1 has 4 labels, and there is room for 3"):
        minihf.DataCollatorForSeq2Seq(bert.ours, padding="max_length", max_length=3)(rows)


# Encoder-decoders


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize(
    "options",
    [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 13}, {"label_pad_token_id": 0}],
    ids=str,
)
def test_seq2seq_is_the_references(bert, rng, kind, return_tensors, options, assert_equal_batches):
    rows = in_kind(tokens(rng, [3, 7, 1, 6], labels=summary), kind)
    ours, theirs = (
        library.DataCollatorForSeq2Seq(tokenizer, **options)(rows, return_tensors)
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    assert_equal_batches(ours, theirs)


@pytest.mark.parametrize("labels", ["absent", "None"])
def test_seq2seq_without_labels(bert, rng, labels, assert_equal_batches):
    rows = [row | ({"labels": None} if labels == "None" else {}) for row in tokens(rng, [3, 2])]
    ours, theirs = (
        library.DataCollatorForSeq2Seq(tokenizer)(rows)
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    assert ours["labels"] is None
    assert_equal_batches(ours, theirs)


SIZES = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 16,
}
T5_SIZES = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
TOKENS = {"vocab_size": 97, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2}
ENCODER_DECODERS = {
    "BartForConditionalGeneration": ("BartConfig", {**SIZES, **TOKENS}),
    "MBartForConditionalGeneration": ("MBartConfig", {**SIZES, **TOKENS}),
    "MarianMTModel": ("MarianConfig", {**SIZES, **TOKENS, "decoder_vocab_size": 97}),
    "PegasusForConditionalGeneration": ("PegasusConfig", {**SIZES, **TOKENS}),
    "T5ForConditionalGeneration": ("T5Config", {**T5_SIZES, "vocab_size": 97}),
    "MT5ForConditionalGeneration": ("MT5Config", {**T5_SIZES, "vocab_size": 97}),
}


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_seq2seq_makes_the_decoders_ids(bert, rng, name, assert_equal_batches):
    rows = tokens(rng, [3, 7, 1, 6], labels=summary)
    config, fields = ENCODER_DECODERS[name]
    batches = []
    for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference)):
        model = getattr(library, name)(getattr(library, config)(**fields))
        batches.append(library.DataCollatorForSeq2Seq(tokenizer, model=model)(rows))
    assert "decoder_input_ids" in batches[0]
    assert_equal_batches(*batches)
    model = getattr(minihf, name)(getattr(minihf, config)(**fields))
    arrays = minihf.DataCollatorForSeq2Seq(bert.ours, model=model, return_tensors="np")(rows)
    assert isinstance(arrays["decoder_input_ids"], np.ndarray)
    assert arrays["decoder_input_ids"].tolist() == batches[0]["decoder_input_ids"].tolist()


# Multiple choice


@pytest.mark.parametrize("label", ["label", "labels"])
@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}], ids=str)
def test_multiple_choice_is_the_references(bert, rng, label, options, assert_equal_batches):
    rows = []
    for i in range(3):
        choices = tokens(rng, [3 + i, 2, 5])
        rows.append({key: [choice[key] for choice in choices] for key in choices[0]} | {label: i})
    ours, theirs = (
        library.DataCollatorForMultipleChoice(tokenizer, **options)(rows)
        for library, tokenizer in ((minihf, bert.ours), (transformers, bert.reference))
    )
    assert ours["input_ids"].shape[:2] == (3, 3)
    assert_equal_batches(ours, theirs)
    arrays = minihf.DataCollatorForMultipleChoice(bert.ours, **options)(rows, return_tensors="np")
    assert_equal_batches(arrays, {key: value.numpy() for key, value in theirs.items()})
    rows[1]["input_ids"] = rows[1]["input_ids"][:2]
    with pytest.raises(ValueError, match=r"\[3, 2, 3\] choices"):
        minihf.DataCollatorForMultipleChoice(bert.ours)(rows)


# Flattening


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_flash_attn_kwargs": True, "return_seq_idx": True},
        {"return_position_ids": False, "separator_id": 7},
        {"position_ids_start": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("labelled", [True, False])
def test_flattening_is_the_references(rng, kind, return_tensors, options, labelled, assert_equal_batches):
    rows = in_kind(tokens(rng, [3, 7, 1, 5], **({"labels": classes} if labelled else {})), kind)
    ours, theirs = (
        library.DataCollatorWithFlattening(return_tensors=return_tensors, **options)(rows)
        for library in (minihf, transformers)
    )
    assert_equal_batches(ours, theirs)
    ours, theirs = (
        library.DataCollatorWithFlattening(**options)(rows, return_tensors, separator_id=11)
        for library in (minihf, transformers)
    )
    assert_equal_batches(ours, theirs)


def test_flattening_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="example 1 has 2 input_ids and 1 labels"):
        minihf.DataCollatorWithFlattening()([{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1]}])
