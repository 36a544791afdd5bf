"""The tokenizer: what people call, over an engine of the `tokenizers` library that does the work.

The engine holds what a `tokenizer.json` holds. It is lent the settings for padding and truncation for one call: each
call finds and leaves it as it was, and a lock keeps the settings of two threads apart.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Engine

from minihf.checkpoints.hub import CheckpointError, Source
from minihf.checkpoints.publish import PushToHubMixin, pushes
from minihf.tokenization import engines, folder, former
from minihf.tokenization.call import call, encode, tokenize
from minihf.tokenization.chat import apply_chat_template, get_chat_template, named_templates
from minihf.tokenization.decoding import batch_decode, clean_up_tokenization, decode
from minihf.tokenization.inputs import Row
from minihf.tokenization.options import SIDES
from minihf.tokenization.padding import pad
from minihf.tokenization.training import trained_anew
from minihf.tokenization.vocabulary import Token, Vocabulary

NO_LIMIT = int(1e30)  # the model_max_length that files give where there is none


def _end(name: str, place: int) -> property:
    """`add_bos_token` and its like: whether each text is given that token. Setting one takes other frames away."""
    role = name.removeprefix("add_")

    def get_end(self: "Tokenizer") -> bool:
        some = next(iter(self.get_vocab().values()))
        made = self.prepare_for_model([some], return_special_tokens_mask=True)
        return bool(made["special_tokens_mask"][place]) and made["input_ids"][place] == getattr(self, f"{role}_id")

    def set_end(self: "Tokenizer", value: bool) -> None:
        if value and getattr(self, f"{role}_id") is None:
            raise ValueError(f"{name} needs a {role}, and this tokenizer has none; set that first")
        ends = {end: getattr(self, end) for end in engines.ENDS} | {name: bool(value)}
        self.settings |= ends
        self._engine.post_processor = engines.framed(self, ends)

    return property(get_end, set_end)


class Tokenizer(PushToHubMixin, Vocabulary):
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
    add_bos_token, add_eos_token = _end("add_bos_token", 0), _end("add_eos_token", -1)

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
        self._reads_targets = False
        self.padding_side = padding_side or padding.get("direction", type(self).padding_side)
        self.truncation_side = truncation_side or truncation.get("direction", "right")
        limit = NO_LIMIT if model_max_length is None else model_max_length
        self.model_input_names = list(model_input_names or type(self).model_input_names)
        self.clean_up_tokenization_spaces = bool(clean_up_tokenization_spaces)
        self.chat_template = named_templates(chat_template)
        self.name_or_path = str(name_or_path)
        self.settings = dict(settings or {})
        self.pad_token_type_id = self.settings.get("pad_token_type_id", 0)
        sides = {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        problems = [f"{name} is {side!r}, not 'right' or 'left'" for name, side in sides.items() if side not in SIDES]
        if type(limit) not in (int, float) or not limit >= 1:
            problems.append(f"model_max_length is {limit!r}, not a positive number")
        if problems:
            raise ValueError("; ".join(problems))
        self.model_max_length = int(min(limit, NO_LIMIT))

    @classmethod
    def _opened(cls, engine: Engine | None, file: str | Path | None) -> Engine:
        if (engine is None) == (file is None) or isinstance(engine, str | Path):
            raise TypeError(
                f"{cls.__name__} takes either a tokenizers.Tokenizer, tokenizer_object=, or a tokenizer.json, "
                f"tokenizer_file=; a folder or a hub name is for {cls.__name__}.from_pretrained"
            )
        engine = engines.open_engine(Path(file)) if engine is None else copy.deepcopy(engine)
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

    @pushes
    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write `tokenizer_config.json`, `tokenizer.json` and chat templates, for minihf and transformers alike.

        With push_to_hub=True they are uploaded as well, and all arguments of `push_to_hub` taken. Returns the paths.
        """
        return folder.save(self, Path(save_directory))

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary alone, as `vocab.txt` or `vocab.json` and `merges.txt`; returns the paths."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        return tuple(self._engine.model.save(str(save_directory), filename_prefix))

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **options: Any,
    ) -> "Tokenizer":
        """A tokenizer that works as this one does, with a vocabulary made from other texts.

        Args:
            text_iterator: texts, or lists of texts.
            vocab_size: the number of tokens to arrive at, special ones included.
            length: how many items the iterator gives, where that is known.
            new_special_tokens: special tokens to have beside those of this tokenizer.
            special_tokens_map: special tokens that are to be spelt anew, such as `{"[MASK]": "<mask>"}`.
            options: those of the trainer, such as `min_frequency` and `show_progress` (False).

        Raises:
            ValueError: options that the trainer of this algorithm has not, or an algorithm that none trains.
        """
        new, renamed = list(new_special_tokens or ()), dict(special_tokens_map or {})
        engine = trained_anew(self._engine, text_iterator, vocab_size, length, new, renamed, options)
        known = folder.facts(self)
        known |= {name: renamed.get(token, token) for name, token in self.special_tokens_map.items()}
        extra = [*(renamed.get(token, token) for token in self.extra_special_tokens), *new]
        return type(self)(engine, extra_special_tokens=extra, settings=self.settings, **known)

    __call__ = call
    encode = encode
    tokenize = tokenize
    pad = pad
    decode = decode
    batch_decode = batch_decode
    clean_up_tokenization = staticmethod(clean_up_tokenization)
    apply_chat_template = apply_chat_template
    get_chat_template = get_chat_template
    # of older releases
    as_target_tokenizer = former.as_target_tokenizer
    encode_plus = former.encode_plus
    batch_encode_plus = former.batch_encode_plus
    prepare_seq2seq_batch = former.prepare_seq2seq_batch
    prepare_for_model = former.prepare_for_model
    build_inputs_with_special_tokens = former.build_inputs_with_special_tokens
    create_token_type_ids_from_sequences = former.create_token_type_ids_from_sequences
    get_special_tokens_mask = former.get_special_tokens_mask

    def _for_targets(self) -> "Tokenizer":
        """What encodes targets; a family whose targets are framed or cut up in another way has another one for them."""
        return self

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """Around each encoding: what a family lends its engine for that time."""
        yield

    def _encode(self, rows: list[Row], split_special_tokens: bool | None, *settings: Any) -> list[Encoding]:
        with self._lock, self._lent():
            if split_special_tokens is not None:
                self._engine.encode_special_tokens = split_special_tokens
            try:
                return engines.encode(self._engine, rows, *settings)
            finally:
                self._engine.encode_special_tokens = self.split_special_tokens

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of a text's own the model takes, beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair's own the model takes, beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings and special tokens that this tokenizer has, as `tokenizer_config.json` names them."""
        return self.settings | folder.facts(self)

    def __repr__(self) -> str:
        limit = "none" if self.model_max_length >= NO_LIMIT else self.model_max_length
        return (
            f"{type(self).__name__}({self.name_or_path!r}, {type(self._engine.model).__name__}, {len(self)} tokens, "
            f"model_max_length={limit}, padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )
