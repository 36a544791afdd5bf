"""Marian's tokenizer: a SentencePiece model for each of two languages, and one vocabulary that numbers both's pieces.

Junczys-Dowmunt et al. 2018; the checkpoints Helsinki-NLP/opus-mt-*. SentencePiece itself cuts the text, as in the
reference. A text for a model of several languages begins with the one to translate into: `>>fr<< Good morning`. The
newer checkpoints (opus-mt-tc-*) have a vocabulary for each side: `separate_vocabs`.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Engine
from tokenizers import processors

from minihf.checkpoints.files import read_json
from minihf.tokenization.decoding import clean_up_tokenization
from minihf.tokenization.encoding import to_lists
from minihf.tokenization.pieced import Piece, PiecedTokenizer, table_engine
from minihf.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SOURCE, TARGET = "source.spm", "target.spm"
VOCAB, TARGET_VOCAB = "vocab.json", "target_vocab.json"


class MarianTokenizer(PiecedTokenizer):
    """Source texts with one SentencePiece model, `text_target` with another, `</s>` after each; see `Tokenizer`.

    Options of its own, while loading: `source_lang` and `target_lang` (kept, and used for nothing), `separate_vocabs`
    (False), `sp_model_kwargs` (None: what SentencePiece is made with, such as `enable_sampling`).
    """

    family_tokens = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    vocab_files = (SOURCE, TARGET, VOCAB)
    more_files = (TARGET_VOCAB,)
    options = ("source_lang", "target_lang", "separate_vocabs", "sp_model_kwargs")
    _model = SOURCE  # of the two, the one that cuts texts

    @staticmethod
    def complete(settings: dict[str, Any]) -> dict[str, Any]:
        return settings | {"model_max_length": settings["model_max_length"] or 512}

    @staticmethod
    def read(source: str, target: str, vocab: str, settings: Mapping[str, Any]) -> tuple[dict[str, int], None, list]:
        return read_json(Path(vocab)), None, []

    build = staticmethod(table_engine)

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        """`A </s>`, `A B </s>`."""
        eos = tokenizer.eos_token
        return processors.TemplateProcessing(
            single=["$A", eos], pair=["$A", "$B:0", eos], special_tokens=[(eos, tokenizer.eos_token_id)]
        )

    @property
    def separate_vocabs(self) -> bool:
        """Whether each side has a vocabulary of its own."""
        return bool(self.settings.get("separate_vocabs"))

    @property
    def supported_language_codes(self) -> list[str]:
        """The codes that a source text may begin with: `>>fr<<`."""
        if self.separate_vocabs:
            return []
        vocab = self.get_vocab()
        codes = [token for token in vocab if token.startswith(">>") and token.endswith("<<")]
        return sorted(codes, key=vocab.__getitem__)

    def pieces(self, text: str) -> Iterable[Piece]:
        from sentencepiece.sentencepiece_pb2 import SentencePieceText

        start = text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0
        if start:
            yield 0, start, text[:start]
        content, done = text[start:].encode(), 0
        cut = self._processors[self._model].encode(content, out_type="serialized_proto")
        for piece in SentencePieceText.FromString(cut).pieces:
            start += len(content[done : piece.begin].decode())  # which no piece has: spaces at the edges
            end = start + len(content[piece.begin : piece.end].decode())
            yield start, end, piece.piece
            start, done = end, piece.end

    @cached_property
    def _processors(self) -> dict[str, "SentencePieceProcessor"]:
        from sentencepiece import SentencePieceProcessor

        options = self.settings.get("sp_model_kwargs") or {}
        return {name: SentencePieceProcessor(model_proto=self.files[name], **options) for name in (SOURCE, TARGET)}

    @cached_property
    def _target_engine(self) -> Engine:
        """Another vocabulary under the same added tokens."""
        engine = table_engine(json.loads(self.files[TARGET_VOCAB]), None, {"unk_token": self.unk_token})
        added = self._engine.get_added_tokens_decoder()
        engine.add_tokens([added[index] for index in sorted(added)])
        return engine

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_processors"}

    def _for_targets(self) -> Tokenizer:
        targets = copy.copy(self)
        targets._model, targets._lock, targets._processors = TARGET, self._lock, self._processors
        if self.separate_vocabs:
            targets._engine = self._target_engine
            targets._engine.post_processor = self.template(targets)
        return targets

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Tokens joined to a text, as `decode` joins them: a space after each special one."""
        special = set(self.all_special_tokens)
        texts, run = [], []
        for token in [*tokens, None]:
            if token is not None and token not in special:
                run.append(token)
                continue
            texts.append(self._processors[self._model].decode_pieces(run) if run else "")
            texts.append("" if token is None else f"{token} ")
            run = []
        return "".join(texts).replace("▁", " ").strip()

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str | list[str]:
        """As that of `Tokenizer`; where each side has a vocabulary, ids are of the target's."""
        ids = to_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        ids = [ids] if isinstance(ids, int) else ids
        if ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        if any(index < 0 for index in ids):
            raise ValueError("ids are 0 or more; put the pad token in place of the -100 in labels")
        side = self._for_targets() if self.separate_vocabs and self._model == SOURCE else self
        tokens = side.convert_ids_to_tokens(ids, skip_special_tokens)
        text = side.convert_tokens_to_string([token or self.unk_token for token in tokens])
        return clean_up_tokenization(text) if clean_up_tokenization_spaces else text
