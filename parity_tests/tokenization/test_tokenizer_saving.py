"""Tokenizers become folders that both libraries read alike, and are trained anew as the reference trains them."""

import json
import os
from pathlib import Path

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, normalizers

from minihf.tokenization import AutoTokenizer, GPT2Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:a text has more:UserWarning")


@pytest.mark.parametrize("make", ["minilm", "bert", "bert vocabulary", "gpt2", "gpt2 vocabulary", "odd"])
def test_saved_and_loaded_by_both(make, load, texts, tmp_path, assert_equal):
    ours = load(make).ours
    ours.add_special_tokens({"additional_special_tokens": ["<x>", AddedToken("<y>", lstrip=True)], "mask_token": "<m>"})
    ours.add_tokens(["buzz", AddedToken("Fizz", single_word=True, normalized=False)])
    ours.padding_side, ours.model_max_length = "left", 33
    texts = [*texts, "<x> buzz <y>Fizz Fizzy<m>"]
    paths = ours.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["tokenizer.json", "tokenizer_config.json"]
    assert {Path(path) for path in paths} == set((tmp_path / "new" / "folder").iterdir())
    again = AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert type(again) is type(ours)
    assert_equal(again, reference, texts)
    assert_equal(again, ours, texts)
    assert again.settings == ours.settings
    assert again.extra_special_tokens == reference.extra_special_tokens == ["<x>", "<y>"]
    assert json.loads(again.backend_tokenizer.to_str()) == json.loads(ours.backend_tokenizer.to_str())


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_saved_by_the_reference(make, load, texts, tmp_path, assert_equal):
    reference = load(make).reference
    reference.add_special_tokens({"extra_special_tokens": ["<x>"], "bos_token": "<s>"})
    reference.add_tokens([AddedToken("fizz", rstrip=True)])
    reference.save_pretrained(tmp_path)
    assert_equal(AutoTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path), texts)


@pytest.mark.parametrize(
    ("make", "part", "value"),
    [
        ("bert", "normalizer", normalizers.Sequence([normalizers.BertNormalizer(), normalizers.Replace("the", "fox")])),
        ("bert", "normalizer", normalizers.BertNormalizer(lowercase=False)),
        ("gpt2", "normalizer", normalizers.Lowercase()),
    ],
)
def test_an_engine_that_the_reference_would_not_rebuild_is_saved_so_that_it_need_not(
    make, part, value, copy_of, texts, tmp_path, assert_equal
):
    folder = copy_of(make)
    engine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    setattr(engine, part, value)
    engine.save(str(folder / "tokenizer.json"))
    ours = AutoTokenizer.from_pretrained(folder)
    assert json.loads(ours.backend_tokenizer.to_str()) == json.loads(engine.to_str())  # as it stands
    rebuilt = transformers.AutoTokenizer.from_pretrained(folder)
    assert dict(rebuilt(texts)) != dict(ours(texts))
    ours.save_pretrained(tmp_path / "saved")
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "saved"), texts)


def test_saving_over_an_older_folder(copy_of):
    folder = copy_of("minilm")
    assert (folder / "special_tokens_map.json").exists()
    ours = AutoTokenizer.from_pretrained(folder)
    ours.pad_token = "[MASK]"
    ours.mask_token = None
    ours.save_pretrained(folder)
    again, reference = AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert again.pad_token == reference.pad_token == "[MASK]"
    assert again.mask_token is None
    assert reference.mask_token is None


def test_a_failure_while_saving_leaves_what_was_there(copy_of, monkeypatch):
    folder = copy_of("bert")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ours = AutoTokenizer.from_pretrained(folder)
    ours.add_tokens("new")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        ours.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_training_anew(load, sources, texts, tmp_path, assert_equal):
    makes = load("gpt2")
    for tokenizer in makes:
        tokenizer.pad_token = tokenizer.add_special_tokens({"pad_token": "<p>"}) and "<p>"
    lines = [source.splitlines() for source in sources]
    ours, reference = (
        tokenizer.train_new_from_iterator(iter(lines), 700, new_special_tokens=["<new>"]) for tokenizer in makes
    )
    texts = [*texts, "a <new>thing"]
    assert_equal(ours, reference, texts)
    assert type(ours) is GPT2Tokenizer
    assert len(ours) == 700
    assert ours.get_vocab() != makes.ours.get_vocab()
    ours.save_pretrained(tmp_path)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), texts)


@pytest.mark.parametrize("make", ["minilm", "odd"])
def test_training_word_pieces_anew(make, load, sources, texts):
    """The trainer of word pieces breaks ties by chance, in the reference too; what it must keep is compared."""
    makes = load(make)
    ours, reference = (
        tokenizer.train_new_from_iterator(sources, 700, new_special_tokens=["<new>"]) for tokenizer in makes
    )
    assert type(ours) is type(makes.ours)
    assert len(ours) == len(reference) == 700
    assert ours.special_tokens_map == reference.special_tokens_map
    assert (
        ours.all_special_ids
        == reference.all_special_ids
        == [ours.get_vocab()[token] for token in ours.all_special_tokens]
    )
    assert ours.all_special_ids != makes.ours.all_special_ids
    parts = [json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in (ours, reference)]
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        assert parts[0][part] == parts[1][part], part
    assert len(set(ours.get_vocab()) & set(reference.get_vocab())) > 600
    for text in texts:
        first, second = (tokenizer(text, "the <new>") for tokenizer in (ours, reference))
        assert ours.decode(first["input_ids"]) == reference.decode(second["input_ids"])
        assert "<new>" not in ours.decode(first["input_ids"], skip_special_tokens=True)
