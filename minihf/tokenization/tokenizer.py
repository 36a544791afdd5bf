"""The tokenizer: what people call, over an engine of the `tokenizers` library that does the work.

The engine holds what a `tokenizer.json` holds. It is lent the settings for padding and truncation for one call: each
call finds and leaves it as it was, and a lock keeps the settings of two threads apart.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Engine

from minihf.checkpoints.hub import CheckpointError, Source
from minihf.tokenization import folder
from minihf.tokenization.chat import apply_chat_template, get_chat_template, named_templates
from minihf.tokenization.encoding import BatchEncoding, to_lists
from minihf.tokenization.engines import encode, open_engine
from minihf.tokenization.inputs import Row, to_rows
from minihf.tokenization.options import SIDES, padding_settings, truncation_settings
from minihf.tokenization.padding import pad
from minihf.tokenization.training import trained_anew
from minihf.tokenization.vocabulary import Token, Vocabulary

NO_LIMIT = int(1e30)  # the model_max_length that files give where there is none
# What WordPiece's spaces between tokens leave behind, in the order in which it is put right.
CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class Tokenizer(Vocabulary):
    """Text to ids and back. The reference's `PreTrainedTokenizerFast`, by which name it can also be had.

    Args:
        tokenizer_object: an engine, which is copied.
        tokenizer_file: or the `tokenizer.json` to read it from.
        model_max_length: the most tokens that the model takes; what `truncation=True` cuts at.
        padding_side, truncation_side: "right" or "left".
        model_input_names: what a call returns unless it is asked otherwise.
        clean_up_tokenization_spaces: whether `decode` removes spaces before punctuation; BPE adds none and is let be.
        split_special_tokens: read special tokens in a text as ordinary characters.
        extra_special_tokens, additional_special_tokens: further special tokens, under the new and the old name.
        added_tokens_decoder: id -> token, of tokens to add where the engine lacks them.
        chat_template: the Jinja template that writes chats, or a dict of several by name: "default", "tool_use", ...
        name_or_path: where it was loaded from.
        settings: further keys of `tokenizer_config.json`, which are kept and written back.
        special_tokens: `bos_token`, `eos_token`, `unk_token`, `sep_token`, `pad_token`, `cls_token`, `mask_token`: each
            a str or AddedToken, added to the vocabulary if it is not there; None to do without one that the family has.

    Raises:
        CheckpointError: a file that is no tokenizer, or one of another family. ValueError: settings that cannot be.
    """

    is_fast = True
    # What a family takes for granted, and how its vocabulary files become an engine: `complete` the settings, `read`
    # the files, `build` an engine from what they hold, and frame texts by the `template`.
    model_input_names: list[str] = ["input_ids", "attention_mask"]
    padding_side = "right"
    family_tokens: ClassVar[dict[str, str]] = {}
    mask_takes_space = False  # the mask token counts the space before it as its own
    ends: ClassVar[dict[str, bool]] = {}  # add_bos_token and add_eos_token where they are not False
    algorithm: ClassVar[str | None] = None
    vocab_files: ClassVar[tuple[str, ...]] = ()
    more_files: ClassVar[tuple[str, ...]] = ()  # those that need not be there
    options: ClassVar[tuple[str, ...]] = ()  # while loading
    idle: ClassVar[tuple[str, ...]] = ()  # options of older releases that change nothing
    keeps_files = False  # it is saved as the files that it was read from
    keeps_name = False  # it is saved under its name, whatever the reference makes of that
    rebuilt_alike = True  # the reference's class of this name builds the same engine
    complete = read = build = template = None

    def __init__(
        self,
        tokenizer_object: Engine | None = None,
        *,
        tokenizer_file: str | Path | None = None,
        model_max_length: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        model_input_names: list[str] | None = None,
        clean_up_tokenization_spaces: bool | None = False,
        split_special_tokens: bool = False,
        chat_template: str | dict[str, str] | list[dict[str, str]] | None = None,
        extra_special_tokens: Iterable[Token] | None = None,
        additional_special_tokens: Iterable[Token] | None = None,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        name_or_path: str | Path = "",
        settings: Mapping[str, Any] | None = None,
        **special_tokens: Token | None,
    ):
        engine = self._opened(tokenizer_object, tokenizer_file)
        # An engine that was saved while it padded or truncated tells with what, and on which side.
        padding, truncation = engine.padding or {}, engine.truncation or {}
        stated = {"pad_token": padding["pad_token"]} if padding else {}
        extra = [*(extra_special_tokens or ()), *(additional_special_tokens or ())]
        super().__init__(engine, stated | self.family_tokens | special_tokens, extra, added_tokens_decoder)
        self.split_special_tokens = split_special_tokens
        self.padding_side = padding_side or padding.get("direction", type(self).padding_side)
        self.truncation_side = truncation_side or truncation.get("direction", "right")
        limit = NO_LIMIT if model_max_length is None else model_max_length
        self.model_input_names = list(model_input_names or type(self).model_input_names)
        self.clean_up_tokenization_spaces = bool(clean_up_tokenization_spaces)
        self.chat_template = named_templates(chat_template)
        self.name_or_path = str(name_or_path)
        self.settings = dict(settings or {})
        sides = {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        problems = [f"{name} is {side!r}, not 'right' or 'left'" for name, side in sides.items() if side not in SIDES]
        if type(limit) not in (int, float) or not limit >= 1:
            problems.append(f"model_max_length is {limit!r}, not a positive number")
        if problems:
            raise ValueError("; ".join(problems))
        self.model_max_length = int(min(limit, NO_LIMIT))

    @classmethod
    def _opened(cls, engine: Engine | None, file: str | Path | None) -> Engine:
        if (engine is None) == (file is None):
            raise TypeError(
                f"{cls.__name__} takes either a tokenizers.Tokenizer, tokenizer_object=, or a tokenizer.json, "
                f"tokenizer_file=; a folder or a hub name is for {cls.__name__}.from_pretrained"
            )
        engine = open_engine(Path(file)) if engine is None else copy.deepcopy(engine)
        found = type(engine.model).__name__
        if cls.algorithm not in (None, found):
            raise CheckpointError(
                f"{file or 'the engine'} is a {found} tokenizer, and {cls.__name__} is {cls.algorithm}; load it with "
                "PreTrainedTokenizerFast, which takes every tokenizer.json as it stands"
            )
        return engine

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "Tokenizer":
        """Load a tokenizer of this class from a folder or a hub name; `AutoTokenizer` finds the class itself.

        The options are those of `AutoTokenizer.from_pretrained`, save the two that tell the class.
        """
        return folder.load(cls, *Source.split(name_or_path, options))

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write `tokenizer_config.json`, `tokenizer.json` and chat templates, for minihf and transformers alike.

        Returns the paths.
        """
        return folder.save(self, Path(save_directory))

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[Token] | None = None,
    ) -> "Tokenizer":
        """A tokenizer that works as this one does, with a vocabulary made from other texts.

        Args:
            text_iterator: texts, or lists of texts.
            vocab_size: the number of tokens to arrive at, special ones included.
            length: how many items the iterator gives, where that is known.
            new_special_tokens: special tokens to have beside those of this tokenizer.
        """
        new = list(new_special_tokens or ())
        engine = trained_anew(self._engine, text_iterator, vocab_size, length, new)
        extra = [*self.extra_special_tokens, *new]
        return type(self)(engine, extra_special_tokens=extra, settings=self.settings, **folder.facts(self))

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Encode a text, a pair of texts, or a batch of either.

        Args:
            text: a str, or any sequence of them: a batch. A batch may also hold pairs, as tuples of two.
            text_pair: the second text of a pair, or of each pair of the batch.
            add_special_tokens: put the model's special tokens around each text.
            padding: True or "longest" (fill to the longest row), "max_length" (fill to that), False or "do_not_pad".
            truncation: True or "longest_first" (cut the longer text of a pair first), "only_first", "only_second",
                False or "do_not_truncate". None truncates if `max_length` is given and nothing is padded.
            max_length: in tokens, special ones included; without it the tokenizer's `model_max_length`.
            stride: how many tokens two consecutive parts of a truncated text share.
            is_split_into_words: each text is a list of words.
            pad_to_multiple_of: pad to the next multiple of this.
            padding_side: "right" or "left" instead of the tokenizer's own.
            return_tensors: "pt" (torch), "np" (NumPy), or None for lists.
            return_token_type_ids, return_attention_mask: None returns them if they are in `model_input_names`.
            return_overflowing_tokens: what truncation cuts off makes further rows; `overflow_to_sample_mapping` tells
                from which text each row is.
            return_special_tokens_mask: 1 for special tokens.
            return_offsets_mapping: each token's (start, end) in its text, in characters.
            return_length: each row's number of tokens, padding included.

        Returns:
            `input_ids`, and `token_type_ids` and `attention_mask` as asked: lists (T), or (B, T) for a batch, for
            tensors, and with `return_overflowing_tokens`.

        Raises:
            TypeError: what is no text; it says which. ValueError: options that are unknown or cannot be met.
        """
        rows, batched = to_rows(text, text_pair, is_split_into_words)
        if truncation is None:
            truncation = max_length is not None and padding is False
        cut = truncation_settings(self, truncation, max_length, stride, rows, add_special_tokens)
        fill = padding_settings(self, padding, max_length, pad_to_multiple_of, padding_side, cut)
        encodings = self._encode(rows, add_special_tokens, is_split_into_words, cut, fill)
        if cut is None and max(map(len, encodings)) > self.model_max_length:
            # the same words each time, so that Python says them once
            warnings.warn(
                f"a text has more than the {self.model_max_length} tokens that the model takes: pass truncation=True, "
                "or cut it before it reaches the model",
                stacklevel=2,
            )
        if return_overflowing_tokens:
            samples = [i for i, encoding in enumerate(encodings) for _ in (encoding, *encoding.overflowing)]
            encodings = [part for encoding in encodings for part in (encoding, *encoding.overflowing)]

        data: dict[str, Any] = {"input_ids": [encoding.ids for encoding in encodings]}
        if self._returns("token_type_ids", return_token_type_ids):
            data["token_type_ids"] = [encoding.type_ids for encoding in encodings]
        if self._returns("attention_mask", return_attention_mask):
            data["attention_mask"] = [encoding.attention_mask for encoding in encodings]
        if return_special_tokens_mask:
            data["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
        if return_offsets_mapping:
            data["offset_mapping"] = [encoding.offsets for encoding in encodings]
        if not (batched or return_tensors or return_overflowing_tokens):
            data = {name: value[0] for name, value in data.items()}
        if return_length:
            data["length"] = [len(encoding) for encoding in encodings]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        return BatchEncoding(data, encodings, tensor_type=return_tensors)

    def _for_targets(self) -> "Tokenizer":
        """What encodes the texts that a model is to write; families that treat them otherwise have another."""
        return self

    def _returns(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _encode(self, rows: list[Row], *settings: Any) -> list[Encoding]:
        with self._lock:
            return encode(self._engine, rows, *settings)

    def tokenize(
        self, text: Any, pair: Any = None, add_special_tokens: bool = False, is_split_into_words: bool = False
    ) -> list[str]:
        """The tokens of a text, or of a pair."""
        rows, batched = to_rows(text, pair, is_split_into_words)
        if batched:
            raise TypeError("tokenize takes one text; for a batch there is tokenizer(texts).tokens(i)")
        return self._encode(rows, add_special_tokens, is_split_into_words, None, None)[0].tokens

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any) -> Any:
        """The `input_ids` alone; the options are those of a call."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    pad = pad
    apply_chat_template = apply_chat_template
    get_chat_template = get_chat_template

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str | list[str]:
        """Ids to text: a str for an id or a row of ids, a list of str for a batch. Lists, arrays and tensors are taken.

        Raises:
            ValueError: ids that are negative, such as the -100 of ignored labels.
        """
        ids = to_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        ids = [ids] if isinstance(ids, int) else ids
        batched = bool(ids) and isinstance(ids[0], list)
        decode = self._engine.decode_batch if batched else self._engine.decode
        try:
            texts = decode(ids, skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise ValueError("ids are 0 or more; put the pad token in place of the -100 in labels") from error
        clean = clean_up_tokenization_spaces
        if clean is None:
            clean = self.clean_up_tokenization_spaces
        if not clean or type(self._engine.model).__name__ == "BPE":  # whose spaces are the text's own
            return texts
        return [cleaned(text) for text in texts] if batched else cleaned(texts)

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """`decode`, always as a list."""
        ids = to_lists(sequences)
        texts = [] if ids == [] else self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    def __repr__(self) -> str:
        limit = "none" if self.model_max_length >= NO_LIMIT else self.model_max_length
        return (
            f"{type(self).__name__}({self.name_or_path!r}, {type(self._engine.model).__name__}, {len(self)} tokens, "
            f"model_max_length={limit}, padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )


def cleaned(text: str) -> str:
    for wrong, right in CLEAN_UP:
        text = text.replace(wrong, right)
    return text
