"""Folders become tokenizers as the reference reads them: every file, every sign of a family, every option."""

import json
import re
import shutil
from pathlib import Path

import pytest
import transformers

import minihf.tokenization as ours_of
from minihf.checkpoints.hub import CheckpointError, Source
from minihf.tokenization import AutoTokenizer, BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

pytestmark = pytest.mark.filterwarnings("ignore:a text has more:UserWarning")
FAMILIES = {
    "minilm": BertTokenizer,
    "bert": BertTokenizer,
    "bert vocabulary": BertTokenizer,
    "gpt2": GPT2Tokenizer,
    "gpt2 vocabulary": GPT2Tokenizer,
    "odd": PreTrainedTokenizerFast,
}


def write(folder: Path, **files: dict) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def change(file: Path, **keys) -> None:
    content = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


@pytest.mark.parametrize("make", FAMILIES)
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
    with pytest.raises(ValueError, match="'deberta' is unknown; known are albert, bart, bert"):
        AutoTokenizer.from_pretrained(folder, tokenizer_type="deberta")
    change(config, tokenizer_class="DebertaTokenizer")
    with pytest.raises(ValueError, match=r"only these .* GPT2Tokenizer.*no DebertaTokenizer.*save_pretrained"):
        AutoTokenizer.from_pretrained(folder)
    with pytest.raises(TypeError, match=r"AutoTokenizer\.from_pretrained"):
        AutoTokenizer()


def test_the_family_by_name(folders, texts, assert_equal):
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


def test_the_files_of_older_releases(copy_of, texts, assert_equal):
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


def test_tokens_with_flags_in_the_config(copy_of, texts, assert_equal):
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
def test_a_vocabulary_without_the_familys_tokens(make, copy_of, texts, assert_equal):
    folder = copy_of(make)
    change(folder / "tokenizer_config.json", pad_token="<p>", eos_token="<e>", unk_token="[UNK]")
    reference = transformers.AutoTokenizer if make != "gpt2" else transformers.PreTrainedTokenizerFast
    options = {"bos_token": "<|endoftext|>"} if make == "gpt2" else {}
    ours = AutoTokenizer.from_pretrained(folder)
    assert_equal(ours, reference.from_pretrained(folder, **options), texts)
    assert ours.pad_token_id == len(ours) - 1
    assert ours.eos_token_id < ours.pad_token_id


@pytest.mark.parametrize("make", ["minilm", "bert vocabulary", "gpt2 vocabulary"])
def test_options_come_before_the_files(make, folders, texts, assert_equal):
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
def test_options_of_a_family(make, options, folders, texts, tmp_path, assert_equal):
    ours = AutoTokenizer.from_pretrained(folders[make], **options)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(folders[make], **options), texts)
    assert dict(ours(texts)) != dict(AutoTokenizer.from_pretrained(folders[make])(texts))
    ours.save_pretrained(tmp_path)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), texts)
    assert_equal(ours, AutoTokenizer.from_pretrained(tmp_path), texts)


def test_options_of_a_family_change_a_file_of_bytes_too(folders, texts, tmp_path, assert_equal):
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


def test_from_the_hubs_cache(folders, texts, tmp_path, assert_equal):
    hub(tmp_path, "someone/bert", folders["bert"])
    hub(tmp_path, "gpt", folders["gpt2 vocabulary"])
    ours = AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path), texts)
    assert ours.name_or_path == "someone/bert"
    ours = AutoTokenizer.from_pretrained("gpt", cache_dir=tmp_path, revision="0" * 40, local_files_only=True)
    assert_equal(ours, transformers.AutoTokenizer.from_pretrained("gpt", cache_dir=tmp_path), texts)
    with pytest.raises(FileNotFoundError, match="nobody/nothing"):
        AutoTokenizer.from_pretrained("nobody/nothing", cache_dir=tmp_path)


def test_a_branch_that_moves_while_it_is_read(folders, tmp_path, monkeypatch):
    repository = hub(tmp_path, "someone/bert", folders["bert"], "a" * 40) / "models--someone--bert"
    later = shutil.copytree(repository / "snapshots" / ("a" * 40), repository / "snapshots" / ("b" * 40))
    change(later / "tokenizer_config.json", padding_side="left")
    find = Source.find

    def find_and_move(self, filename):
        path = find(self, filename)
        if filename == "tokenizer.json":
            (repository / "refs" / "main").write_text("b" * 40)
        return path

    monkeypatch.setattr(Source, "find", find_and_move)
    assert AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path).padding_side == "right"
    assert AutoTokenizer.from_pretrained("someone/bert", cache_dir=tmp_path).padding_side == "left"


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
