"""Two small tokenizers, ours beside the reference's over the same files."""

from pathlib import Path
from typing import NamedTuple

import pytest
import transformers
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from minihf.tokenization import PreTrainedTokenizerFast

TEXTS = [
    "attention weights are probabilities",
    "the tokenizer splits uncommon words into several pieces, e.g. electroencephalographically",
    "a",
    "masks hide padding; padding fills the short rows of a batch!",
    "gradients accumulate, learning rates decay",
]
ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


class Pair(NamedTuple):
    ours: PreTrainedTokenizerFast
    reference: transformers.PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


def pair_of(engine: Engine, path: Path, **options) -> Pair:
    engine.save(str(path))
    makers = PreTrainedTokenizerFast, transformers.PreTrainedTokenizerFast
    return Pair(*(make(tokenizer_file=str(path), **options) for make in makers))


@pytest.fixture(scope="session")
def bert_engine() -> Engine:
    engine = Engine(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=97, special_tokens=[*ROLES.values()], show_progress=False)
    engine.train_from_iterator(TEXTS, trainer=trainer)
    cls, sep = engine.token_to_id("[CLS]"), engine.token_to_id("[SEP]")
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return engine


@pytest.fixture(params=["right", "left"])
def bert(request, bert_engine, tmp_path_factory) -> Pair:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    path = tmp_path_factory.mktemp("bert") / "tokenizer.json"
    return pair_of(bert_engine, path, padding_side=request.param, model_input_names=names, **ROLES)


@pytest.fixture
def gpt(tmp_path_factory) -> Pair:
    """Byte-level BPE with an end token and nothing else: no pad token, no mask token."""
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<end>"], show_progress=False)
    engine.train_from_iterator(TEXTS, trainer=trainer)
    return pair_of(engine, tmp_path_factory.mktemp("gpt") / "tokenizer.json", eos_token="<end>")


@pytest.fixture
def assert_equal_batches():
    def assert_equal_batches(ours, theirs):
        """The same keys; of each the same kind, dtype, shape and values."""
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            got = ours[key]
            assert type(got) is type(value), key
            assert getattr(got, "dtype", None) == getattr(value, "dtype", None), key
            assert getattr(got, "shape", None) == getattr(value, "shape", None), key
            assert got.tolist() == value.tolist() if hasattr(value, "tolist") else got == value, key

    return assert_equal_batches
