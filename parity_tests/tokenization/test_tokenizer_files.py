"""Folders become tokenizers and tokenizers folders, as the reference reads and writes them."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, normalizers

import minihf.tokenization as ours_of
from minihf.checkpoints.hub import CheckpointError
from minihf.tokenization import AutoTokenizer, BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

pytestmark = pytest.mark.filterwarnings("ignore:a text has more:UserWarning")
MAKES = ["minilm", "bert", "bert vocabulary", "gpt2", "gpt2 vocabulary", "odd"]
FAMILIES = dict(
    zip(
        MAKES,
        [BertTokenizer, BertTokenizer, BertTokenizer, GPT2Tokenizer, GPT2Tokenizer, PreTrainedTokenizerFast],
        strict=True,
    )
)


def write(folder: Path, **files: dict) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def change(file: Path, **keys) -> None:
    content = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def assert_equal(ours, reference, texts):
    """The same vocabulary, roles and limits, and the same ids for all texts, alone and in pairs."""
    assert ours.get_vocab() == reference.get_vocab()
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.all_special_ids == reference.all_special_ids
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    ):
        assert getattr(ours, name) == getattr(reference, name), name
    asked = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
    for arguments in ((texts,), (texts, texts[::-1])):
        first, second = (tokenizer(*arguments, **asked) for tokenizer in (ours, reference))
        assert dict(first) == dict(second)
    for ids in first["input_ids"]:
        assert ours.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True)


# Saving


@pytest.mark.parametrize("make", MAKES)
def test_saved_and_loaded_by_both(make, load, texts, tmp_path):
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
    assert type(again) is FAMILIES[make]
    assert_equal(again, reference, texts)
    assert_equal(again, ours, texts)
    assert again.settings == ours.settings
    assert again.extra_special_tokens == reference.extra_special_tokens == ["<x>", "<y>"]
    assert json.loads(again.backend_tokenizer.to_str()) == json.loads(ours.backend_tokenizer.to_str())


@pytest.mark.parametrize("make", ["bert", "gpt2"])
def test_saved_by_the_reference(make, load, texts, tmp_path):
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
    make, part, value, copy_of, texts, tmp_path
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


# Loading


@pytest.mark.parametrize("make", MAKES)
def test_the_family_that_is_loaded(make, folders):
    assert type(AutoTokenizer.from_pretrained(str(folders[make]))) is FAMILIES[make]


def test_the_family_by_every_sign(copy_of):
    folder = copy_of("bert vocabulary")
    config = folder / "tokenizer_config.json"
    assert type(AutoTokenizer.from_pretrained(folder)) is BertTokenizer
    change(config, tokenizer_class="BertTokenizerFast")
    assert type(AutoTokenizer.from_pretrained(folder)) is BertTokenizer
    change(config, tokenizer_class=...)
    write(folder, config={"tokenizer_class": "BertTokenizer", "model_type": "gpt2"})
    assert type(AutoTokenizer.from_pretrained(folder)) is BertTokenizer
    write(folder, config={"model_type": "bert"})
    assert type(AutoTokenizer.from_pretrained(folder)) is BertTokenizer
    write(folder, config={})
    assert type(AutoTokenizer.from_pretrained(folder)) is BertTokenizer  # by vocab.txt
    assert type(AutoTokenizer.from_pretrained(folder, tokenizer_type="bert")) is BertTokenizer
    with pytest.raises(
        FileNotFoundError, match=r"neither 'tokenizer.json' nor 'vocab.json' and 'merges.txt'.*vocab\.txt"
    ):
        AutoTokenizer.from_pretrained(folder, config=transformers.GPT2Config())
    with pytest.raises(ValueError, match="'roberta' is unknown; known are bert, gpt2"):
        AutoTokenizer.from_pretrained(folder, tokenizer_type="roberta")
    change(config, tokenizer_class="T5Tokenizer")
    with pytest.raises(ValueError, match=r"only BertTokenizer and GPT2Tokenizer .* T5Tokenizer.*save_pretrained"):
        AutoTokenizer.from_pretrained(folder)
    with pytest.raises(TypeError, match=r"AutoTokenizer\.from_pretrained"):
        AutoTokenizer()


def test_the_family_by_name(folders, texts):
    assert ours_of.BertTokenizerFast is BertTokenizer
    assert ours_of.GPT2TokenizerFast is GPT2Tokenizer
    for family, make in ((BertTokenizer, "bert"), (GPT2Tokenizer, "gpt2 vocabulary")):
        loaded = family.from_pretrained(folders[make])
        assert type(loaded) is family
        assert_equal(loaded, getattr(transformers, family.__name__).from_pretrained(folders[make]), texts)
    plain = PreTrainedTokenizerFast.from_pretrained(folders["bert"])
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folders["bert"])
    assert dict(plain(texts)) == dict(reference(texts))
    assert plain.special_tokens_map == reference.special_tokens_map == {}
    with pytest.raises(CheckpointError, match="is a WordPiece tokenizer, and GPT2Tokenizer is BPE"):
        GPT2Tokenizer.from_pretrained(folders["bert"])


def test_the_files_of_older_releases(copy_of, texts):
    folder = copy_of("bert vocabulary")
    mask = {"content": "[MASK]", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
    write(
        folder,
        tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": False, "max_len": 40, "pad_token": "p"},
        special_tokens_map={
            "pad_token": "[PAD]", "mask_token": mask, "sep_token": {**mask, "content": "[SEP]", "lstrip": False},
            "bos_token": "<x>",
        },
        added_tokens={"<x>": 1500, "fizz": 1501, "buzz": 1502},
    )  # fmt: skip
    texts = [*texts, "a [MASK] <x>fizz buzzing"]
    ours = AutoTokenizer.from_pretrained(folder)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(folder), texts)
    assert (ours.pad_token, ours.model_max_length, ours.convert_tokens_to_ids("buzz")) == ("[PAD]", 40, 1502)

    change(
        folder / "special_tokens_map.json", additional_special_tokens=["fizz"]
    )  # the reference forgets that it is special
    ours = AutoTokenizer.from_pretrained(folder)
    assert ours.extra_special_tokens == ["fizz"]
    assert "fizz" not in ours.decode(ours("a fizz")["input_ids"], skip_special_tokens=True)
    write(folder, added_tokens={"<x>": 1500, "fizz": 1600})
    with pytest.raises(CheckpointError, match="fizz': 1600"):
        AutoTokenizer.from_pretrained(folder)


def test_tokens_with_flags_in_the_config(copy_of, texts):
    folder = copy_of("bert vocabulary")
    flags = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    change(
        folder / "tokenizer_config.json",
        mask_token={"__type": "AddedToken", "content": "<mask>", **flags},
        added_tokens_decoder={
            "0": {"content": "[PAD]", **flags}, "1501": {"content": "buzz", **flags, "special": False},
            "1500": {"content": "<mask>", **flags, "special": False},
        },
        bos_token=None,
        additional_special_tokens=["buzz"],
        clean_up_tokenization_spaces=True,
        model_max_length=1000000000000000019884624838656,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    write(folder, special_tokens_map={"pad_token": "[SEP]"}, added_tokens={"never": 1700})  # of an earlier save
    texts = [*texts, "a   <mask> buzz   [PAD]"]
    ours = AutoTokenizer.from_pretrained(folder)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(folder), texts)
    assert (ours.mask_token, ours.mask_token_id, ours.pad_token) == ("<mask>", 1500, "[PAD]")
    assert "never" not in ours.get_vocab()


@pytest.mark.parametrize("make", ["bert", "gpt2", "bert vocabulary", "gpt2 vocabulary"])
def test_a_vocabulary_without_the_familys_tokens(make, copy_of, texts):
    folder = copy_of(make)
    change(folder / "tokenizer_config.json", pad_token="<p>", eos_token="<e>", unk_token="[UNK]")
    reference = transformers.AutoTokenizer if make != "gpt2" else transformers.PreTrainedTokenizerFast
    options = {"bos_token": "<|endoftext|>"} if make == "gpt2" else {}
    ours = AutoTokenizer.from_pretrained(folder)
    assert_equal(ours, reference.from_pretrained(folder, **options), texts)
    assert ours.pad_token_id == len(ours) - 1
    assert ours.eos_token_id < ours.pad_token_id


@pytest.mark.parametrize("make", ["minilm", "bert vocabulary", "gpt2 vocabulary"])
def test_options_come_before_the_files(make, folders, texts):
    options = {
        "model_max_length": 17, "padding_side": "left", "truncation_side": "left", "pad_token": "<p>",
        "extra_special_tokens": ["<x>"], "clean_up_tokenization_spaces": True, "model_input_names": ["input_ids"],
    }  # fmt: skip
    ours = AutoTokenizer.from_pretrained(folders[make], use_fast=True, **options)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(folders[make], **options), texts)
    assert ours.pad_token == "<p>"
    assert AutoTokenizer.from_pretrained(folders[make], unk_token=None).unk_token is None


@pytest.mark.parametrize(
    ("make", "options"),
    [
        ("bert", {"do_lower_case": False}),
        ("bert", {"do_lower_case": False, "strip_accents": True}),
        ("bert", {"strip_accents": False}),
        ("bert", {"tokenize_chinese_chars": False}),
        ("bert vocabulary", {"do_lower_case": True, "strip_accents": None}),
        ("bert vocabulary", {"tokenize_chinese_chars": False}),
        ("gpt2 vocabulary", {"add_prefix_space": True}),
        ("gpt2 vocabulary", {"add_bos_token": True}),
        ("gpt2 vocabulary", {"add_bos_token": True, "add_eos_token": True}),
    ],
)
def test_options_of_a_family(make, options, folders, texts, tmp_path):
    ours = AutoTokenizer.from_pretrained(folders[make], **options)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(folders[make], **options), texts)
    assert dict(ours(texts)) != dict(AutoTokenizer.from_pretrained(folders[make])(texts))
    ours.save_pretrained(tmp_path)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), texts)
    assert_equal(ours, AutoTokenizer.from_pretrained(tmp_path), texts)


def test_options_of_a_family_change_a_file_of_bytes_too(folders, texts, tmp_path):
    spaced = AutoTokenizer.from_pretrained(folders["gpt2"], add_prefix_space=True)
    assert spaced.tokenize("the") == AutoTokenizer.from_pretrained(folders["gpt2"]).tokenize(" the")
    framed = AutoTokenizer.from_pretrained(folders["gpt2"], add_bos_token=True)
    assert framed("the", "the")["input_ids"].count(framed.bos_token_id) == 2
    framed.save_pretrained(tmp_path)
    assert_equal(framed, transformers.AutoTokenizer.from_pretrained(tmp_path), texts)


def test_options_that_are_refused(folders):
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoTokenizer.from_pretrained(folders["bert"], trust_remote_code=True)
    assert AutoTokenizer.from_pretrained(folders["bert"], trust_remote_code=False)
    with pytest.raises(TypeError, match=r"unknown options: do_lower, pad\. .*do_lower_case.*revision"):
        AutoTokenizer.from_pretrained(folders["bert"], do_lower=True, pad="<p>")
    with pytest.raises(
        ValueError, match=r"do_lower_case=True does not apply: the normalizer .* no BertNormalizer but a Sequence"
    ):
        AutoTokenizer.from_pretrained(folders["odd"], do_lower_case=True)
    with pytest.raises(ValueError, match="add_prefix_space=True does not apply"):
        AutoTokenizer.from_pretrained(folders["bert"], add_prefix_space=True)
    with pytest.raises(ValueError, match="padding_side is 'up'"):
        AutoTokenizer.from_pretrained(folders["bert"], padding_side="up")


def test_code_that_a_folder_brings_is_left_alone(copy_of, texts):
    folder = copy_of("bert")
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
        tokenizer_file="/etc/passwd",
    )
    (folder / "evil.py").write_text("raise SystemExit")
    ours = AutoTokenizer.from_pretrained(folder)
    assert ours(texts)
    assert "auto_map" not in ours.settings


def hub(home: Path, name: str, folder: Path, commit: str = "0" * 40) -> Path:
    """A repository as the hub's cache holds it."""
    repository = home / ("models--" + name.replace("/", "--"))
    shutil.copytree(folder, repository / "snapshots" / commit, ignore=shutil.ignore_patterns("*.safetensors"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return home


def test_from_the_hubs_cache(folders, texts, tmp_path):
    hub(tmp_path, "someone/bert", folders["bert"])
    hub(tmp_path, "gpt", folders["gpt2 vocabulary"])
    ours = AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path), texts)
    assert ours.name_or_path == "someone/bert"
    ours = AutoTokenizer.from_pretrained("gpt", cache_dir=tmp_path, revision="0" * 40, local_files_only=True)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained("gpt", cache_dir=tmp_path), texts)
    with pytest.raises(FileNotFoundError, match="nobody/nothing"):
        AutoTokenizer.from_pretrained("nobody/nothing", cache_dir=tmp_path)


def test_from_a_subfolder(folders, texts):
    parent, name = folders["bert"].parent, folders["bert"].name
    assert AutoTokenizer.from_pretrained(parent, subfolder=name)(texts) == AutoTokenizer.from_pretrained(
        folders["bert"]
    )(texts)


@pytest.mark.parametrize(
    ("make", "file", "content", "told"),
    [
        ("bert", "tokenizer.json", b"{", r"tokenizer\.json is no tokenizer"),
        ("bert", "tokenizer.json", b"[]", r"tokenizer\.json is no tokenizer"),
        ("bert", "tokenizer.json", b"\xff\xfe", r"tokenizer\.json is no tokenizer"),
        ("bert", "tokenizer_config.json", b"{", r"tokenizer_config\.json.*not JSON"),
        ("bert", "tokenizer_config.json", b"[1]", r"tokenizer_config\.json.*JSON object"),
        ("bert", "tokenizer_config.json", b'{"pad_token": 3, "eos_token": []}', r"pad_token is 3.*eos_token is \[\]"),
        ("bert", "tokenizer_config.json", b'{"padding_side": "up", "model_max_length": "x"}', "side is 'up'.*'x'"),
        ("bert", "tokenizer_config.json", b'{"added_tokens_decoder": {"a": "b"}}', "added tokens"),
        ("bert", "tokenizer_config.json", b'{"added_tokens_decoder": {"1": "b"}}', "added tokens"),
        ("bert", "tokenizer_config.json", b'{"extra_special_tokens": "<x>"}', "extra_special_tokens"),
        ("bert", "special_tokens_map.json", b"nonsense", r"special_tokens_map\.json"),
        ("bert", "config.json", b"{{", r"config\.json"),
        ("bert vocabulary", "vocab.txt", b"\xff\xfe\n", r"vocab\.txt"),
        ("bert vocabulary", "added_tokens.json", b'{"<x>": "one"}', "added tokens"),
        ("gpt2 vocabulary", "vocab.json", b'{"a": "b"}', r"vocab\.json"),
        ("gpt2 vocabulary", "merges.txt", b"#version: 0.2\nnever seen\n", r"merges\.txt"),
    ],
)  # fmt: skip
def test_broken_files_are_named(make, file, content, told, copy_of):
    folder = copy_of(make)
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as raised:
        AutoTokenizer.from_pretrained(folder)
    assert str(folder) in str(raised.value)


def test_folders_without_a_tokenizer(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=re.escape("no 'tokenizer.json'; it holds 'notes.txt'")):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"neither 'tokenizer.json' nor 'vocab.txt'"):
        BertTokenizer.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AutoTokenizer.from_pretrained(tmp_path / "nowhere")


# Training


def test_training_anew(load, sources, texts, tmp_path):
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
