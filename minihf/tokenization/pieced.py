"""Tokenizers whose words are cut by Python: CTRL's and Marian's, which `tokenizers` has no model for.

CTRL marks the pieces that do not end a word ("hel@@", "lo"); Marian numbers the pieces of a SentencePiece model by a
vocabulary of its own. The engine has a plain table of pieces, and is lent what cuts a text into them for each call, so
that added tokens, truncation and padding are its own work. It cannot write such a part down: these families are saved
as the files that they were read from. Their words are their pieces: `word_ids` counts those.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import (
    NormalizedString,
    PreTokenizedString,
    Regex,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as Engine

from minihf.checkpoints.files import read_json
from minihf.tokenization.engines import framed
from minihf.tokenization.tokenizer import Tokenizer

Piece = tuple[int, int, str]  # start and end in the text, in characters, and the token


class PiecedTokenizer(Tokenizer):
    """A tokenizer that says itself, in `pieces`, how a text is cut; see `Tokenizer`."""

    is_fast = False
    algorithm = "WordLevel"
    keeps_files = keeps_name = True
    files: dict[str, bytes]  # name -> content of those that it was read from

    def pieces(self, text: str) -> Iterable[Piece]:
        """The pieces of a text without added tokens."""
        raise NotImplementedError(f"{type(self).__name__} has no pieces(text)")

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """As that of `Tokenizer`; a piece that the vocabulary lacks is shown as it was cut."""
        cut = {self.unk_token: 0}

        def noted(part: str) -> Iterator[Piece]:
            for start, end, piece in self.pieces(part):
                cut.setdefault(piece, len(cut))
                yield start, end, piece

        teller = copy.copy(self)
        teller._lock, teller.pieces = self._lock, noted
        tokens = Tokenizer.tokenize(teller, text, pair, add_special_tokens, **options)
        if self.unk_token not in tokens:
            return tokens
        # The engine spells what it does not know as the unknown token, so it is asked again with these very pieces.
        teller._engine = table_engine(cut, None, {"unk_token": self.unk_token})
        teller._engine.add_tokens([token for _, token in sorted(self.added_tokens_decoder.items())])
        teller._engine.post_processor = self._engine.post_processor
        teller.split_special_tokens = self.split_special_tokens
        return Tokenizer.tokenize(teller, text, pair, add_special_tokens, **options)

    @contextmanager
    def _lent(self) -> Iterator[None]:
        self._engine.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(_Cutter(self.pieces))
        try:
            yield
        finally:
            self._engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


class _Cutter:
    """What `tokenizers` asks of a part that is written in Python."""

    def __init__(self, pieces: Any):
        self.pieces = pieces

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(lambda _, part: [_spelled(part[a:b], piece) for a, b, piece in self.pieces(part.normalized)])


def _spelled(part: NormalizedString, piece: str) -> NormalizedString:
    """This part of a text, written as the piece; it still knows where it begins and ends."""
    surface = part.normalized
    if surface == piece:
        return part
    if not surface:
        part.append(piece)
    elif piece.endswith(surface):
        part.prepend(piece.removesuffix(surface))
    elif len(surface) == len(piece) == 1:
        part.map(lambda _: piece)
    else:  # what is prepended begins where the part does, and what replaces it ends where it does
        if piece[1:]:
            part.prepend(piece[:-1])
        part.replace(Regex(rf"[\s\S]{{{len(surface)}}}\z"), piece[-1])
    return part


def table_engine(vocab: dict[str, int], rest: None, settings: Mapping[str, Any]) -> Engine:
    """Pieces and their numbers; what is none of them is the unknown one."""
    unknown = str(settings.get("unk_token", "<unk>"))
    if unknown not in vocab:
        raise ValueError(f"the vocabulary has no unknown token {unknown!r}")
    return Engine(models.WordLevel(vocab, unk_token=unknown))


class CTRLTokenizer(PiecedTokenizer):
    """BPE over words cut at spaces, "@@" after each piece that another follows; see `Tokenizer`.

    Keskar et al. 2019; salesforce/ctrl. A newline belongs to the word before it. `control_codes`: the words that a text
    may begin with, to say what kind it is.
    """

    family_tokens = {"unk_token": "<unk>"}
    vocab_files = ("vocab.json", "merges.txt")
    control_codes: ClassVar[dict[str, int]] = {
        "Pregnancy": 168629, "Christianity": 7675, "Explain": 106423, "Fitness": 63440, "Saving": 63163, "Ask": 27171,
        "Ass": 95985, "Joke": 163509, "Questions": 45622, "Thoughts": 49605, "Retail": 52342, "Feminism": 164338,
        "Writing": 11992, "Atheism": 192263, "Netflix": 48616, "Computing": 39639, "Opinion": 43213, "Alone": 44967,
        "Funny": 58917, "Gaming": 40358, "Human": 4088, "India": 1331, "Joker": 77138, "Diet": 36206, "Legal": 11859,
        "Norman": 4939, "Tip": 72689, "Weight": 52343, "Movies": 46273, "Running": 23425, "Science": 2090,
        "Horror": 37793, "Confession": 60572, "Finance": 12250, "Politics": 16360, "Scary": 191985, "Support": 12654,
        "Technologies": 32516, "Teenage": 66160, "Event": 32769, "Learned": 67460, "Notion": 182770,
        "Wikipedia": 37583, "Books": 6665, "Extract": 76050, "Confessions": 102701, "Conspiracy": 75932,
        "Links": 63674, "Narcissus": 150425, "Relationship": 54766, "Relationships": 134796, "Reviews": 41671,
        "News": 4256, "Translation": 26820, "multilingual": 128406,
    }  # fmt: skip

    @staticmethod
    def read(vocab: str, merges: str, settings: Mapping[str, Any]) -> tuple[dict[str, int], None, list]:
        return read_json(Path(vocab)), None, []

    @staticmethod
    def build(vocab: dict[str, int], rest: None, settings: Mapping[str, Any]) -> Engine:
        engine = table_engine(vocab, rest, settings)
        spaced = decoders.WordPiece(prefix=" ", cleanup=False)  # no token begins with a space
        whole = [decoders.Fuse(), decoders.Replace("@@ ", ""), decoders.Replace(Regex(r"^\s+|\s+$"), "")]
        engine.decoder = decoders.Sequence([spaced, *whole])
        return engine

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        return framed(tokenizer, {})

    @cached_property
    def _bpe(self) -> models.BPE:
        lines = self.files["merges.txt"].decode().split("\n")[1:-1]  # the first names the version
        merges = [tuple(line.split()) for line in lines]
        characters = {character for token in json.loads(self.files["vocab.json"]) for character in token}
        symbols = sorted(characters) + sorted(character + "</w>" for character in characters)
        symbols += [left + right for left, right in merges]
        vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(["<unk>", *symbols]))}
        return models.BPE(vocab, merges, unk_token="<unk>", end_of_word_suffix="</w>")

    def pieces(self, text: str) -> Iterable[Piece]:
        for match in re.finditer(r"[\S\x1c-\x1f]+\n?", text):  # those four are spaces for Python alone
            word, start = match.group().encode(), match.start()
            for token in self._bpe.tokenize(match.group()):
                first, last = token.offsets  # in bytes
                piece = word[first:last].decode()
                yield start, start + len(piece), piece if last == len(word) else piece + "@@"
                start += len(piece)
