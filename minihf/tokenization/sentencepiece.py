"""SentencePiece files (Kudo and Richardson 2018) made into engines of the `tokenizers` library.

A file holds pieces with scores, and a table that says how characters are normalised; the program also trims a text,
folds its runs of spaces into one, and begins each word with "▁". The engine here does the same with `Precompiled` (the
file's own table), a split at spaces, and `Metaspace`. The reference's release 5.23 leaves out one of these steps for
mBART (the table), mBART-50 and Pegasus (trimming), and then gives other ids than SentencePiece; here all are taken.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Engine

UNIGRAM, BPE = 1, 2  # the numbers of `TrainerSpec.ModelType`
CONTROL, USER_DEFINED = 3, 4  # the numbers of `SentencePiece.Type`
Pieces = list[tuple[str, float]]


class SentencePieces(NamedTuple):
    """What a SentencePiece file holds."""

    pieces: Pieces  # in the order of their ids, with their scores
    charsmap: bytes  # the compiled table of the normalisation; empty: none
    added: list[AddedToken]  # those that no text is split across: control symbols and the user's own


def read_pieces(file: str | Path, kind: int = UNIGRAM) -> SentencePieces:
    """Read a SentencePiece file of this kind. ValueError: it is another, or none."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(Path(file).read_bytes())
    except Exception as error:  # protobuf's, which derives from nothing narrower
        raise ValueError(f"no SentencePiece model: {error}") from error
    if not model.pieces or model.trainer_spec.model_type != kind:
        names = {UNIGRAM: "unigram", BPE: "BPE"}
        found = names.get(model.trainer_spec.model_type, "another") if model.pieces else "no"
        raise ValueError(f"{found} SentencePiece model, and a {names[kind]} one was expected")
    added = [
        AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL)
        for piece in model.pieces
        if piece.type in (CONTROL, USER_DEFINED)
    ]
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return SentencePieces(pieces, model.normalizer_spec.precompiled_charsmap, added)


def merges_of(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges that BPE pieces come from: every cut of each into two pieces, in the order of their ids.

    SentencePiece keeps no list of merges: it joins whichever neighbours make the piece with the best score, and the
    pieces are numbered from the best.
    """
    merges = []
    for piece in sorted(vocab, key=vocab.__getitem__):
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [cut for cut in cuts if cut[0] in vocab and cut[1] in vocab]
        merges += sorted(known, key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
    return merges


def unigram_engine(
    vocab: Pieces,
    charsmap: bytes,
    unk_token: str,
    add_prefix_space: bool = True,
    before: tuple[normalizers.Normalizer, ...] = (),
    spaces_in_offsets: bool = False,
) -> Engine:
    """Pieces that are likeliest together.

    `before` are normalisers that come before the file's own; `spaces_in_offsets` counts the space before a word as a
    part of it.
    """
    unknown = next((index for index, (piece, _) in enumerate(vocab) if piece == unk_token), None)
    if unknown is None:
        raise ValueError(f"no piece is the unknown token {unk_token!r}")
    engine = Engine(models.Unigram(vocab, unk_id=unknown, byte_fallback=False))
    steps = [*before, *([normalizers.Precompiled(charsmap)] if charsmap else [])]
    if spaces_in_offsets:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if steps:
        engine.normalizer = steps[0] if steps[1:] == [] and charsmap else normalizers.Sequence(steps)
    scheme = "always" if add_prefix_space else "never"
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    splits = [pre_tokenizers.WhitespaceSplit(), words]
    engine.pre_tokenizer = words if spaces_in_offsets else pre_tokenizers.Sequence(splits)
    engine.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return engine


def bpe_engine(
    vocab: dict[str, int], merges: list, unk_token: str, add_prefix_space: bool = True, legacy: bool = False
) -> Engine:
    """Llama's: no normalisation, a space is a character of its own, what no piece has is spelled in bytes.

    `legacy` puts a space before each stretch of text between special tokens too, not just before the first.
    """
    fallback = models.BPE(vocab, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True)
    engine = Engine(fallback)
    scheme = "never" if not add_prefix_space else "always" if legacy else "first"
    engine.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    engine.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", left=1)] if add_prefix_space else [])])
    return engine


def charsmap_of(normalizer: normalizers.Normalizer | None) -> bytes:
    """The compiled table that is a part of this normaliser; empty if there is none."""

    def found(plan: Any) -> str:
        if isinstance(plan, dict):
            return plan.get("precompiled_charsmap") or next(filter(None, map(found, plan.values())), "")
        return next(filter(None, map(found, plan)), "") if isinstance(plan, list) else ""

    return b"" if normalizer is None else base64.b64decode(found(json.loads(normalizer.__getstate__())))
