"""Small tokenizers of three makes: of bytes (GPT-2), of pieces (BERT), of characters or else bytes (Llama)."""

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import minihf

TEXTS = [
    "The stopping of the operation: stop, stopped, stopper and top operas. Stop the stops!\n",
    "one two three four; last topper, oh stop it\nnew lines\n\nand tabs\tto stop at. don't stop",
    "naïve café, Zürich — 東京と京都 are 天気 cities; 日本語 and 中文字 😀 emojis 👍🏽 \n",
    "to be or not to be that is the question whether it is nobler in the mind to suffer",
]


def byte_level() -> Tokenizer:
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(TEXTS, trainer=trainer)
    return engine


def word_piece() -> Tokenizer:
    engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer(lowercase=False)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=180, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    engine.train_from_iterator([*TEXTS, "abcdef"], trainer=trainer)
    return engine


def byte_fallback() -> Tokenizer:
    engine = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    engine.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special[:1], show_progress=False)
    engine.train_from_iterator([text.replace(" ", "▁") for text in TEXTS[:2] + TEXTS[3:]], trainer=trainer)
    vocab = list(engine.get_vocab(with_added_tokens=False).items())
    pieces = [token for token, _ in sorted(vocab, key=lambda item: item[1]) if token != "<unk>"]
    engine.model = models.BPE(
        vocab={token: i for i, token in enumerate([*special, *pieces])},
        merges=[],
        byte_fallback=True,
        unk_token="<unk>",
    )
    return engine


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, tuple]:
    """make -> (ours, the reference's)."""
    engines = {"byte level": byte_level(), "word piece": word_piece(), "byte fallback": byte_fallback()}
    return {
        name: (
            minihf.PreTrainedTokenizerFast(tokenizer_object=engine),
            transformers.PreTrainedTokenizerFast(tokenizer_object=engine),
        )
        for name, engine in engines.items()
    }
