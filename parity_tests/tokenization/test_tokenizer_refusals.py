"""What a call refuses or warns of, and what it says: what came, where it stood, and what to pass instead."""

import pytest
import torch

from minihf import BertTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:a text has more:UserWarning", "ignore:.*max_length:UserWarning")


class Table:
    """As a data frame, which would give the names of its columns."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ((None,), TypeError, "text is None"),
        ((3,), TypeError, "text is the int 3"),
        ((b"bytes",), TypeError, "bytes"),
        (({"text": "one"},), TypeError, "dict"),
        ((["one", None],), TypeError, r"text\[1\] is None"),
        ((["one", 3.5],), TypeError, r"text\[1\] is the float 3.5"),
        ((["one"], [None]), TypeError, r"text_pair\[0\] is None"),
        (("one", 3), TypeError, "text_pair is the int 3"),
        (([("one", None)],), TypeError, r"text\[0\]\[1\] is None"),
        (([["one", "two", "three"]],), TypeError, "is_split_into_words=True"),
        ((["one"], "two"), TypeError, "batch of 1"),
        (("one", ["two"]), TypeError, "text_pair"),
        ((["one"], ["two", "three"]), ValueError, "equally long"),
        (([],), ValueError, "empty"),
        ((None, "two"), TypeError, "text is None; pass a str or a sequence .* text_target"),
        (("one", None, None, "two"), TypeError, "text_pair_target .* whose first, text_target, is None"),
        ((None, "two", "three"), TypeError, "text_pair .* whose first, text, is None"),
        (("one", None, 3), TypeError, "text_target is the int 3"),
        (("one", None, ["one", None]), TypeError, r"text_target\[1\] is None; a str was expected; give .* ''"),
        ((None, None, ["one"], ["two", "three"]), ValueError, "text_target is a batch of 1, text_pair_target one of 2"),
        ((Table(),), TypeError, "Table"),
        ((["fine", "half \ud83d"],), ValueError, "text 1 holds .* surrogate"),
    ],
)
def test_what_is_no_text_is_named(load, arguments, error, told):
    with pytest.raises(error, match=told):
        load("bert").ours(*arguments)


@pytest.mark.parametrize(
    ("text", "told"),
    [("one", "list of words"), ([["one", 2]], r"text\[0\]\[1\] is the int 2"), ([["a"], 3], r"text\[1\]")],
)
def test_what_is_no_list_of_words_is_named(load, text, told):
    with pytest.raises(TypeError, match=told):
        load("bert").ours(text, is_split_into_words=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"padding": "longer"}, "'longest', 'max_length', 'do_not_pad'"),
        ({"padding": 1}, "padding=1 is unknown"),
        ({"truncation": "first"}, "'longest_first', 'only_first', 'only_second', 'do_not_truncate'"),
        ({"return_tensors": "tf"}, "'pt'"),
        ({"padding": True, "padding_side": "top"}, "'right', 'left'"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of=0"),
        ({"truncation": True, "max_length": 1}, "no room for the 2 special tokens"),
        ({"truncation": True, "max_length": -1}, "max_length=-1"),
        ({"truncation": True, "max_length": 6, "stride": 4}, "stride=4"),
        ({"truncation": True, "max_length": 6, "stride": -1}, "stride=-1"),
        ({"truncation": "only_second", "max_length": 40}, "only_second.*text 0"),
        ({"truncation": True, "max_length": 7, "padding": True, "pad_to_multiple_of": 4}, "multiple"),
    ],
)
def test_options_that_cannot_be_met_are_named(load, options, told):
    with pytest.raises(ValueError, match=told):
        load("bert").ours(["one two three", "four"], **options)


def test_a_pair_among_texts_needs_room_too(load):
    with pytest.raises(ValueError, match="no room for the 3 special tokens"):
        load("bert").ours(["one", ("two", "three")], truncation=True, max_length=2)


def test_truncation_that_one_text_has_no_room_for(load):
    ours, _ = load("bert")
    for truncation, length, stride in (("only_first", 10, 0), ("only_second", 7, 0), ("only_second", 12, 5)):
        with pytest.raises(ValueError, match=truncation):
            ours("the " * 5, "the " * 30, truncation=truncation, max_length=length, stride=stride)
    assert ours("one")["input_ids"] == ours(["one"])["input_ids"][0]  # the engine is as it was


def test_padding_without_a_pad_token(load):
    ours, _ = load("gpt2")
    ours.pad_token = None
    with pytest.raises(ValueError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        ours(["one", "two three"], padding=True)
    ours.pad_token = "<nowhere>"
    with pytest.raises(ValueError, match=r"add_special_tokens\(\{'pad_token': '<nowhere>'\}\)"):
        ours(["one", "two three"], padding=True)
    assert ours.add_special_tokens({"pad_token": "<nowhere>"}) == 1
    assert ours(["one", "two three"], padding=True)["input_ids"][0][-1] == len(ours) - 1


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_tensors_of_ragged_rows(load, kind):
    with pytest.raises(ValueError, match=r"3 to 5 entries.*padding=True.*truncation=True"):
        load("bert").ours(["the", "the the the"], return_tensors=kind)


def test_what_does_nothing_is_warned_of(load):
    ours, _ = load("bert")
    with pytest.warns(UserWarning, match="max_length is ignored") as seen:
        ours(["one", "two"], padding=True, max_length=4)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="more than the 64 tokens") as seen:
        ours("the " * 100)
    assert seen[0].filename == __file__
    ours.model_max_length = int(1e30)
    with pytest.warns(UserWarning, match="no largest length") as seen:
        assert len(ours("the " * 100, truncation=True)["input_ids"]) == 102
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="no largest length"):
        ours("the", padding="max_length")


def test_options_that_there_are_not_are_named(load):
    ours = load("bert").ours
    for call in (ours, ours.encode, ours.tokenize, ours.encode_plus):
        with pytest.raises(TypeError, match="pad_to_max_length"):
            call("one", pad_to_max_length=True)


@pytest.mark.parametrize(("given", "named"), [(("vocab.txt",), {}), ((), {}), ((), {"vocab_file": "vocab.txt"})])
def test_a_tokenizer_of_a_file_name_is_told_where_those_go(given, named):
    with pytest.raises(TypeError, match=r"tokenizer_object=.* BertTokenizer\.from_pretrained"):
        BertTokenizer(*given, **named)


@pytest.mark.parametrize("ids", ["the", None, [None], [1.5], torch.rand(2, 3), [[1, 2], ["the"]]])
def test_what_are_no_ids_is_named(load, ids):
    ours = load("bert").ours
    for method in (ours.decode, ours.batch_decode, ours.convert_ids_to_tokens):
        with pytest.raises(TypeError, match=r"ids, whole numbers, were expected, and (the |None)"):
            method(ids)


@pytest.mark.parametrize("tokens", [None, 3, [3], ["the", None]])
def test_what_are_no_tokens_is_named(load, tokens):
    ours = load("bert").ours
    for method in (ours.convert_tokens_to_ids, ours.add_tokens):
        with pytest.raises(TypeError, match="a token, a str, or a list of them was expected, and "):
            method(tokens)
