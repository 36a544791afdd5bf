"""Ids back to text, and the roles of tokens."""

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models

from minihf.tokenization import PreTrainedTokenizerFast

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@pytest.mark.filterwarnings("ignore:a text has more:UserWarning")
def test_decoding(pair, texts):
    ours, reference = pair
    for text in texts:
        ids = reference(text)["input_ids"]
        for skip in (False, True):
            for clean in (None, False, True):
                options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
                assert ours.decode(ids, **options) == reference.decode(ids, **options), (text, options)
        tokens = reference.convert_ids_to_tokens(ids)
        assert ours.convert_ids_to_tokens(ids) == tokens
        assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == reference.convert_ids_to_tokens(ids, True)
        assert ours.convert_tokens_to_ids(tokens) == reference.convert_tokens_to_ids(tokens)
        assert ours.convert_tokens_to_string(tokens) == reference.convert_tokens_to_string(tokens)


def test_what_decoding_takes(load):
    ours, reference = load("bert")
    rows = [ours("the parser")["input_ids"], ours("the argument of the")["input_ids"]]
    batch = ours(["the parser", "the argument of the"], padding=True, return_tensors="pt")
    for ids in (
        rows,
        rows[0],
        tuple(rows[0]),
        rows[0][1],
        batch["input_ids"],
        batch["input_ids"].numpy(),
        list(batch["input_ids"]),
    ):
        assert ours.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True)
        assert ours.batch_decode(ids) == reference.batch_decode(ids)
    for ids in (torch.tensor(rows[0]), np.array(rows[0]), list(torch.tensor(rows[0])), torch.tensor(rows[0][1])):
        assert ours.decode(ids) == reference.decode(ids)
    assert ours.decode(ours("the parser")) == ours.decode(rows[0])
    assert ours.decode([]) == reference.decode([]) == ""
    assert ours.batch_decode([]) == []
    with pytest.raises(ValueError, match="-100"):
        ours.decode([5, -100])
    assert ours.convert_ids_to_tokens(torch.tensor(rows[0])) == ours.convert_ids_to_tokens(rows[0])
    assert ours.convert_ids_to_tokens(np.int64(3)) == ours.convert_ids_to_tokens(3) == "[SEP]"
    assert ours.convert_ids_to_tokens([3, len(ours)]) == ["[SEP]", None]


def test_cleaning_of_spaces(load):
    ours, reference = load("odd")  # whose decoder joins by nothing else
    for tokenizer in (ours, reference):
        tokenizer.clean_up_tokenization_spaces = True
        tokenizer.backend_tokenizer.decoder = None
    tokens = ["do", "n't", "!", ",", "'", "it", "'s", ".", "we", "'re", "'ve", "'m", "?"]
    for tokenizer in (ours, reference):
        tokenizer.add_tokens(tokens)
    ids = ours.convert_tokens_to_ids(tokens)
    assert ours.decode(ids) == reference.decode(ids)
    assert ours.decode(ids) != ours.decode(ids, clean_up_tokenization_spaces=False)


def test_the_vocabulary(pair):
    ours, reference = pair
    assert ours.get_vocab() == reference.get_vocab()
    assert (len(ours), ours.vocab_size) == (len(reference), reference.vocab_size)
    assert ours.is_fast is True
    assert ours.convert_tokens_to_ids("nowhere to be found") == reference.convert_tokens_to_ids("nowhere to be found")
    for two in (False, True):
        assert ours.num_special_tokens_to_add(two) == reference.num_special_tokens_to_add(two)
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    ):
        assert getattr(ours, name) == getattr(reference, name), name


def test_further_names(pair):
    ours, reference = pair
    for name in (
        "vocab",
        "added_tokens_encoder",
        "max_len_single_sentence",
        "max_len_sentences_pair",
        "pad_token_type_id",
        "extra_special_tokens_ids",
    ):
        assert getattr(ours, name) == getattr(reference, name), name
    assert ours.get_added_vocab() == reference.get_added_vocab()
    mine, other = (
        {index: token.__getstate__() for index, token in tokenizer.added_tokens_decoder.items()} for tokenizer in pair
    )
    assert mine == other
    assert bool(ours) is True
    assert bool(PreTrainedTokenizerFast(Tokenizer(models.BPE()))) is True
    assert ours.additional_special_tokens_ids == ours.extra_special_tokens_ids
    assert {"model_max_length": ours.model_max_length, **ours.special_tokens_map}.items() <= ours.init_kwargs.items()
    for text in ("do n't , please .", "a b"):
        assert ours.clean_up_tokenization(text) == reference.clean_up_tokenization(text)


@pytest.mark.filterwarnings("ignore:a text has more:UserWarning")
def test_the_vocabulary_alone(load, texts, tmp_path):
    for make, names in (("bert", ["vocab.txt"]), ("gpt2", ["vocab.json", "merges.txt"])):
        ours = load(make).ours
        written = ours.save_vocabulary(tmp_path / make)
        assert sorted(written) == sorted(str(tmp_path / make / name) for name in names)
        again = type(ours).from_pretrained(tmp_path / make)
        assert again.get_vocab() == ours.get_vocab()
        assert again(texts)["input_ids"] == ours(texts)["input_ids"]
        prefixed = ours.save_vocabulary(tmp_path / make, "of")
        assert sorted(prefixed) == sorted(str(tmp_path / make / f"of-{name}") for name in names)


def test_roles(pair):
    ours, reference = pair
    for role in ROLES:
        assert getattr(ours, f"{role}_token") == getattr(reference, f"{role}_token"), role
        assert getattr(ours, f"{role}_token_id") == getattr(reference, f"{role}_token_id"), role
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.all_special_tokens == reference.all_special_tokens
    assert ours.all_special_ids == reference.all_special_ids
    assert ours.extra_special_tokens == reference.extra_special_tokens == ours.additional_special_tokens


def test_setting_roles(load):
    for tokenizer in load("bert"):
        tokenizer.pad_token = tokenizer.sep_token
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[SEP]", 3)
        tokenizer.bos_token_id = 2
        assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("[CLS]", 2)
        tokenizer.eos_token = AddedToken("[MASK]")
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("[MASK]", 4)
        tokenizer.mask_token = None
        assert (tokenizer.mask_token, tokenizer.mask_token_id) == (None, None)
        tokenizer.cls_token = "<nowhere>"
        assert tokenizer.cls_token_id == tokenizer.unk_token_id == 1
        assert tokenizer("the", padding="max_length", max_length=5)["input_ids"][-1] == 3
    ours = load("bert").ours
    with pytest.raises(TypeError, match="pad_token_id"):
        ours.pad_token = 3
    with pytest.raises(ValueError, match="none of this id"):
        ours.pad_token_id = len(ours)
    ours.unk_token = None
    assert ours.convert_tokens_to_ids(["nowhere", "[SEP]"]) == [None, 3]


def test_ends(load):
    ours, reference = load("gpt2")
    for bos, eos in ((True, False), (True, True), (False, True), (False, False)):
        for tokenizer in (ours, reference):
            tokenizer.add_bos_token, tokenizer.add_eos_token = bos, eos
        assert (ours.add_bos_token, ours.add_eos_token) == (bos, eos)
        assert dict(ours("the", "parser")) == dict(reference("the", "parser"))
        assert ours("the")["input_ids"] == reference("the")["input_ids"]
        assert ours.num_special_tokens_to_add() == bos + eos
    ours = load("bert").ours
    assert (ours.add_bos_token, ours.add_eos_token) == (False, False)
    with pytest.raises(ValueError, match="add_bos_token needs a bos_token"):
        ours.add_bos_token = True
    ours.bos_token, ours.eos_token = ours.cls_token, ours.sep_token
    assert (ours.add_bos_token, ours.add_eos_token) == (True, True)


def test_adding_tokens(load):
    text = "Grüße an <new>und <word> AND BUZZ<extra>"
    makes = load("bert")
    for add in (
        lambda t: t.add_tokens("buzz"),
        lambda t: t.add_tokens(["<new>", AddedToken("<word>", lstrip=True), "[SEP]"]),
        lambda t: t.add_tokens([AddedToken("Gr", normalized=False)], special_tokens=True),
        lambda t: t.add_special_tokens({"bos_token": "<new>", "eos_token": AddedToken("<eos>")}),
        lambda t: t.add_special_tokens({"extra_special_tokens": ["<extra>", "<word>"]}),
        lambda t: t.add_special_tokens({"additional_special_tokens": ["<more>"]}, replace_extra_special_tokens=False),
        lambda t: t.add_special_tokens({"mask_token": AddedToken("[MASK]", lstrip=True)}),
        lambda t: t.add_special_tokens({}),
        lambda t: setattr(t, "extra_special_tokens", ["[SEP]", AddedToken("<more>")]),
        lambda t: setattr(t, "extra_special_tokens", None),
        lambda t: t.add_tokens([]),
    ):
        assert add(makes.ours) == add(makes.reference)
        ours, reference = (tokenizer(text + " a [MASK]") for tokenizer in makes)
        assert dict(ours) == dict(reference)
        assert makes.ours.all_special_ids == makes.reference.all_special_ids
        assert makes.ours.special_tokens_map == makes.reference.special_tokens_map
        assert makes.ours.get_vocab() == makes.reference.get_vocab()
        for skip in (False, True):
            assert makes.ours.decode(ours["input_ids"], skip) == makes.reference.decode(reference["input_ids"], skip)
    assert len(makes.ours) == makes.ours.vocab_size + 7
    with pytest.raises(ValueError, match=r"'padding_token' is no special token.*pad_token"):
        makes.ours.add_special_tokens({"padding_token": "[PAD]"})
    makes.ours.additional_special_tokens = ["<new>"]
    makes.ours.add_special_tokens({"additional_special_tokens": ["<x>"]}, replace_additional_special_tokens=False)
    assert makes.ours.extra_special_tokens == ["<new>", "<x>"]
    with pytest.raises(TypeError, match="extra_special_tokens is '<one>'"):
        makes.ours.extra_special_tokens = "<one>"
    for wrong in ({"pad_token": 3}, {"extra_special_tokens": "<one>"}, {"extra_special_tokens": [3]}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            makes.ours.add_special_tokens(wrong)


def test_special_tokens_read_as_text(load):
    makes = load("bert")
    assert makes.ours("[SEP] it")["input_ids"][1] == 3
    for split in (True, False, None):
        ours, reference = (tokenizer("[SEP] it", split_special_tokens=split) for tokenizer in makes)
        assert ours == reference
        assert (ours["input_ids"][1] != 3) is bool(split)
        assert makes.ours("[SEP] it")["input_ids"][1] == 3
    for tokenizer in makes:
        tokenizer.split_special_tokens = True
    assert makes.ours("[SEP] it")["input_ids"] == makes.reference("[SEP] it")["input_ids"]
    assert makes.ours("[SEP] it")["input_ids"][1] != 3


def test_from_an_engine(byte_bpe, texts):
    import transformers

    options = {
        "bos_token": "<|endoftext|>", "eos_token": "<end>", "pad_token": AddedToken("<pad>", lstrip=True),
        "additional_special_tokens": ["<x>", "<y>"], "model_max_length": 20,
        "model_input_names": ["input_ids", "token_type_ids"], "padding_side": "left", "truncation_side": "left",
    }  # fmt: skip
    before = byte_bpe.to_str()
    ours = PreTrainedTokenizerFast(tokenizer_object=byte_bpe, **options)
    reference = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_bpe, **options)
    assert byte_bpe.to_str() == before
    assert len(ours) == len(byte_bpe.get_vocab()) + 4
    texts = [*texts, "a <pad> <x><y>z <end>"]
    call = {"padding": True, "truncation": True}
    assert dict(ours(texts, **call)) == dict(reference(texts, **call))
    assert ours.get_vocab() == reference.get_vocab()
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.all_special_ids == reference.all_special_ids


def test_from_a_file_that_tells_how_it_pads(minilm):
    import transformers

    ours = PreTrainedTokenizerFast(tokenizer_file=minilm / "tokenizer.json")
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(minilm / "tokenizer.json"))
    assert ours.special_tokens_map == reference.special_tokens_map == {"pad_token": "[PAD]"}
    assert dict(ours(["a", "b c"], padding=True)) == dict(reference(["a", "b c"], padding=True))


def test_what_makes_no_tokenizer_is_named(byte_bpe, tmp_path):
    from minihf.tokenization import BertTokenizer

    with pytest.raises(TypeError, match=r"tokenizer_object=.*tokenizer_file=.*from_pretrained"):
        PreTrainedTokenizerFast()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PreTrainedTokenizerFast(tokenizer_file=tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="BPE tokenizer, and BertTokenizer is WordPiece"):
        BertTokenizer(byte_bpe)
    with pytest.raises(ValueError, match="'pad' is no special token; eos_token is 3"):
        PreTrainedTokenizerFast(byte_bpe, pad="<pad>", eos_token=3)
    with pytest.raises(ValueError, match=r"padding_side is 'up'.*truncation_side is 'down'.*model_max_length is -1"):
        PreTrainedTokenizerFast(byte_bpe, padding_side="up", truncation_side="down", model_max_length=-1)


def test_it_shows_what_it_is(load):
    shown = repr(load("bert").ours)
    assert shown.startswith("BertTokenizer('")
    for part in ("WordPiece", "1500 tokens", "model_max_length=64", "'pad_token': '[PAD]'", "padding_side='right'"):
        assert part in shown
