"""New tokenizers of three kinds, BPE over bytes, WordPiece and Unigram: which needs the fewest tokens?

By default they are trained on Python's standard library. One is saved, for `AutoTokenizer` to load.

    python train/tokenizer.py
    python train/tokenizer.py --train-file book.txt --vocab-size 8000 --kind Unigram

The baseline is a token for each byte. All are judged on texts that they were not trained on: by characters per token,
by the share of tokens that are unknown, and by that of texts that come back unchanged when they are decoded.

The default run, on Python 3.11's library, in 12 s on 2 cores: 3.7 characters per token with BPE, the baseline's 1.0.
Its test asks of a shorter run for 1 more.
"""

from collections import defaultdict

from common import arguments, finish, load
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from minihf import PreTrainedTokenizerFast

COLUMNS = ["text"]
LEAST = 1000
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
EVERY_BYTE = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
KINDS = {
    "BPE": (models.BPE(), trainers.BpeTrainer, EVERY_BYTE),
    "WordPiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer, {}),
    "Unigram": (models.Unigram(), trainers.UnigramTrainer, {"unk_token": "<unk>", **EVERY_BYTE}),
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(
        __doc__, columns=COLUMNS, network=False, out="runs/tokenizer", vocab_size=4000, source_bytes=2_000_000
    )
    parser.add_argument("--kind", choices=KINDS, default="BPE", help="which one to save")
    args = parser.parse_args(argv)
    if args.vocab_size < LEAST:
        parser.error(f"--vocab-size is {args.vocab_size}; {LEAST} is the least: every byte is one of them")
    data = load(args, COLUMNS, whole_texts, unique=("text",))
    texts, held_out = list(data["train"]["text"]), list(data["test"]["text"])

    characters = sum(map(len, held_out))
    per_byte = characters / sum(len(text.encode()) for text in held_out)
    scores = {"baseline: bytes": {"characters per token": per_byte, "unknown": 0.0, "unchanged": 1.0}}
    curves = defaultdict(list)
    sizes = [max(args.vocab_size // part, LEAST // 2) for part in (4, 2, 1)]
    for size, kind in tqdm([(size, kind) for size in sizes for kind in KINDS], desc="training", unit="tokenizer"):
        tokenizer = trained(kind, texts, size)
        scores[kind] = judge(tokenizer, held_out)
        curves[kind].append((len(tokenizer), scores[kind]["characters per token"]))
        if kind == args.kind:
            chosen = tokenizer
    # The card calls the last one the result.
    scores[f"{args.kind}, saved"] = scores.pop(args.kind)
    finish(args, scores, model=chosen, curves=curves, task="feature-extraction", summary="a tokenizer", data=data)


def whole_texts(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def trained(kind: str, texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    model, trainer, options = KINDS[kind]
    engine = Engine(model)
    # WordPiece knows no spaces; the others read bytes, each written as a letter, the space with the word that follows.
    if kind == "WordPiece":
        engine.pre_tokenizer, engine.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    else:
        engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    settings = {"special_tokens": [*SPECIAL.values()], "show_progress": False, **options}
    engine.train_from_iterator(texts, trainer(vocab_size=vocab_size, **settings))
    return PreTrainedTokenizerFast(tokenizer_object=engine, **SPECIAL)


def judge(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, float]:
    rows = tokenizer(texts)["input_ids"]
    tokens = sum(map(len, rows))
    decoded = tokenizer.batch_decode(rows)
    return {
        "characters per token": sum(map(len, texts)) / tokens,
        "unknown": sum(row.count(tokenizer.unk_token_id) for row in rows) / tokens,
        "unchanged": sum(a == b for a, b in zip(decoded, texts, strict=True)) / len(texts),
    }


if __name__ == "__main__":
    main()
