"""mBART's tokenizers: a text and a code that says its language.

Liu et al. 2020 (mBART, 25 languages): `A </s> en_XX`; Tang et al. 2020 (mBART-50, 52 of them): `en_XX A </s>`. Both
treat source and target texts alike, each with its own code.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from tokenizers import processors

from minihf.tokenization.sentencepiece import Pieces
from minihf.tokenization.tokenizer import Tokenizer
from minihf.tokenization.unigram import FAIRSEQ_TOKENS, UnigramTokenizer, fairseq_pieces

LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX", "kk_KZ",
    "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN",
)  # fmt: skip
MORE_LANGUAGES = (
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN",
    "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA", "gl_ES",
    "sl_SI",
)  # fmt: skip


class MBartTokenizer(UnigramTokenizer):
    """SentencePiece, `A </s> en_XX` and `A B </s> en_XX`; see `Tokenizer`.

    Options of its own, while loading: `src_lang` ("en_XX") and `tgt_lang` (None: the same). Both can be set later:
    `tokenizer.src_lang = "ro_RO"`.
    """

    family_tokens = FAIRSEQ_TOKENS
    vocab_files = ("sentencepiece.bpe.model",)
    options = ("src_lang", "tgt_lang", "sp_model_kwargs")
    keeps_name = True
    mask_takes_space = True
    languages: ClassVar[tuple[str, ...]] = LANGUAGES
    _spoken: str | None = None  # a language other than `src_lang`, while targets are encoded

    def __init__(self, *engine: Any, **known: Any):
        super().__init__(*engine, **known)
        self.src_lang = self.settings.get("src_lang") or "en_XX"
        self.tgt_lang = self.settings.get("tgt_lang")

    @classmethod
    def complete(cls, settings: dict[str, Any]) -> dict[str, Any]:
        extra = settings["extra_special_tokens"]
        stated = set(map(str, extra))
        return settings | {"extra_special_tokens": [*extra, *(code for code in cls.languages if code not in stated)]}

    @classmethod
    def arranged(cls, pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
        *first, mask = fairseq_pieces(pieces, settings)
        return [*first, *((code, 0.0) for code in cls.languages), mask]

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        """Language code -> id."""
        return {code: self._engine.token_to_id(code) for code in self.languages}

    @property
    def id_to_lang_code(self) -> dict[int, str]:
        """Id -> language code."""
        return {index: code for code, index in self.lang_code_to_id.items()}

    @property
    def src_lang(self) -> str:
        """The language of the texts."""
        return self.settings["src_lang"]

    @src_lang.setter
    def src_lang(self, code: str) -> None:
        self._engine.post_processor = self._frame(code)
        self.settings["src_lang"] = code

    @property
    def tgt_lang(self) -> str | None:
        """The language of the texts given as `text_target`; None: that of the others."""
        return self.settings["tgt_lang"]

    @tgt_lang.setter
    def tgt_lang(self, code: str | None) -> None:
        if code is not None:
            self._known(code)
        self.settings["tgt_lang"] = code

    def _known(self, code: str) -> int:
        index = self._engine.token_to_id(code) if isinstance(code, str) else None
        if index is None:
            raise ValueError(f"{code!r} is no language of this tokenizer; these are: {', '.join(self.languages)}")
        return index

    def _frame(self, code: str) -> processors.PostProcessor:
        """`A </s> code`, `A B </s> code`."""
        ids = [(self.eos_token, self.eos_token_id), (code, self._known(code))]
        end = [self.eos_token, code]
        return processors.TemplateProcessing(single=["$A", *end], pair=["$A", "$B:0", *end], special_tokens=ids)

    @staticmethod
    def template(tokenizer: "MBartTokenizer") -> processors.PostProcessor:
        return tokenizer._frame(tokenizer.src_lang)

    def _for_targets(self) -> Tokenizer:
        targets = copy.copy(self)
        targets._lock, targets._spoken = self._lock, self.tgt_lang or self.src_lang
        return targets

    @contextmanager
    def _lent(self) -> Iterator[None]:
        own = self._engine.post_processor
        if self._spoken is not None:
            self._engine.post_processor = self._frame(self._spoken)
        try:
            yield
        finally:
            self._engine.post_processor = own


class MBart50Tokenizer(MBartTokenizer):
    """SentencePiece, `en_XX A </s>` and `en_XX A B </s>`; otherwise as `MBartTokenizer`."""

    vocab_files = ("sentencepiece.bpe.model",)
    family_tokens = {name: token for name, token in FAIRSEQ_TOKENS.items() if name != "bos_token"}
    languages = LANGUAGES + MORE_LANGUAGES
    spaces_in_offsets = True

    def _frame(self, code: str) -> processors.PostProcessor:
        """`code A </s>`, `code A B </s>`."""
        eos = self.eos_token
        return processors.TemplateProcessing(
            single=[code, "$A", eos],
            pair=[code, "$A", "$B:0", eos],
            special_tokens=[(eos, self.eos_token_id), (code, self._known(code))],
        )
