"""Tokens and their ids, and which of them are special.

The tokens themselves live in the engine, a `tokenizers.Tokenizer`; this knows the roles that some of them play: which
pads, which masks, which begins and ends a text.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Engine

from minihf.tokenization.encoding import to_lists
from minihf.tokenization.inputs import no_ids, told

Token = str | AddedToken
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("extra_special_tokens", "additional_special_tokens")  # the same list, under its new and its old name


def _token(name: str) -> property:
    """`pad_token` and its like: a str or None. Setting it adds nothing to the vocabulary: `add_special_tokens` does."""

    def set_token(self: "Vocabulary", token: Token | None) -> None:
        if not isinstance(token, Token | None):
            raise TypeError(f"{name} is a str or None, not {token!r}; to set it by its id, set {name}_id")
        self._special[name] = None if token is None else str(token)

    return property(lambda self: self._special[name], set_token)


def _token_id(name: str) -> property:
    """`pad_token_id` and its like: an int, or None where there is no such token."""

    def get_id(self: "Vocabulary") -> int | None:
        return None if self._special[name] is None else self.convert_tokens_to_ids(self._special[name])

    def set_id(self: "Vocabulary", token_id: int | None) -> None:
        token = None if token_id is None else self._engine.id_to_token(token_id)
        if token is None and token_id is not None:
            raise ValueError(f"{name}_id={token_id}: the vocabulary has {len(self)} tokens and none of this id")
        self._special[name] = token

    return property(get_id, set_id)


class Vocabulary:
    """An engine's tokens, with their roles.

    Args:
        engine: taken over, not copied.
        special_tokens: the token of each role. What the engine lacks is added to it: first `added_tokens_decoder`, in
            the order of its ids, then these, then the extra ones.
        extra_special_tokens: special tokens without a role of their own.
        added_tokens_decoder: id -> token.

    Raises:
        ValueError: roles that there are not, or tokens that are none, all of them listed.
    """

    bos_token, bos_token_id = _token("bos_token"), _token_id("bos_token")
    eos_token, eos_token_id = _token("eos_token"), _token_id("eos_token")
    unk_token, unk_token_id = _token("unk_token"), _token_id("unk_token")
    sep_token, sep_token_id = _token("sep_token"), _token_id("sep_token")
    pad_token, pad_token_id = _token("pad_token"), _token_id("pad_token")
    cls_token, cls_token_id = _token("cls_token"), _token_id("cls_token")
    mask_token, mask_token_id = _token("mask_token"), _token_id("mask_token")

    def __init__(
        self,
        engine: Engine,
        special_tokens: Mapping[str, Token | None],
        extra_special_tokens: Iterable[Token] = (),
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
    ):
        extra = list(extra_special_tokens)
        given = [(name, token) for name, token in special_tokens.items() if token is not None]
        problems = [f"{name!r} is no special token" for name in special_tokens if name not in SPECIAL_TOKENS]
        problems += [
            f"{name} is {token!r}, and a token is a str or an AddedToken"
            for name, token in given + [(EXTRA[0], token) for token in extra]
            if not isinstance(token, Token)
        ]
        if problems:
            raise ValueError("; ".join(problems))
        self._engine = engine
        self._lock = threading.Lock()
        self.split_special_tokens = False
        self._special = dict.fromkeys(SPECIAL_TOKENS) | {name: str(token) for name, token in given}
        self.extra_special_tokens = extra
        roles = dict(given)
        self._add_missing(added_tokens_decoder or {}, [roles[name] for name in SPECIAL_TOKENS if name in roles] + extra)

    def _add_missing(self, decoder: Mapping[int, AddedToken], special: list[Token]) -> None:
        present = list(self._engine.get_added_tokens_decoder().values())
        named = set(self._special.values())
        new = [token for _, token in sorted(decoder.items()) if token not in present]
        new = [as_special(token) if token.content in named else token for token in new]
        contents = {token.content for token in present + new}
        for token in special:
            if str(token) not in contents:
                contents.add(str(token))
                new.append(as_special(token))
        if new:
            self._engine.add_tokens(new)

    @property
    def split_special_tokens(self) -> bool:
        """Whether special tokens in a text are read as ordinary characters."""
        return self._split

    @split_special_tokens.setter
    def split_special_tokens(self, value: bool) -> None:
        self._split = self._engine.encode_special_tokens = bool(value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        self.split_special_tokens = self._split  # which the engine's own copy forgets

    @property
    def backend_tokenizer(self) -> Engine:
        """The engine itself."""
        return self._engine

    def __len__(self) -> int:
        """The number of tokens, added ones included: the rows that a model's embedding must have."""
        return self._engine.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added ones."""
        return self._engine.get_vocab_size(with_added_tokens=False)

    def __bool__(self) -> bool:
        return True  # one without a token, too, is a tokenizer

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, added ones included."""
        return self._engine.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """`get_vocab()`."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """id -> token, of the tokens that were added to those of the algorithm, and of all special ones."""
        return self._engine.get_added_tokens_decoder()

    def get_added_vocab(self) -> dict[str, int]:
        """`added_tokens_decoder` the other way round: token -> id, in the order of the ids."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """`get_added_vocab()`."""
        return self.get_added_vocab()

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Role -> token, for the roles that have one."""
        return {name: token for name, token in self._special.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys((*self.special_tokens_map.values(), *self.extra_special_tokens)))

    @property
    def all_special_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a role of their own. Setting them adds none to the vocabulary, as with the others."""
        return self._extra

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Iterable[Token] | None) -> None:
        self._extra = list(dict.fromkeys(map(str, _tokens(EXTRA[0], () if tokens is None else tokens))))

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        return self.convert_tokens_to_ids(self.extra_special_tokens)

    # the former names
    additional_special_tokens = extra_special_tokens
    additional_special_tokens_ids = extra_special_tokens_ids

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int | None] | None:
        """A token's id, or a list of ids; for a token that there is not that of the unknown token, if there is one."""
        if not isinstance(tokens, str):
            if not isinstance(tokens, Iterable):
                raise TypeError(f"a token, a str, or a list of them was expected, and {told(tokens)} came")
            return [self.convert_tokens_to_ids(token) for token in tokens]
        token_id = self._engine.token_to_id(tokens)
        if token_id is None and self.unk_token is not None:
            return self._engine.token_to_id(self.unk_token)
        return token_id

    def convert_ids_to_tokens(
        self, ids: int | Iterable[int], skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """An id's token, or a list of tokens (of a list, array or tensor); None for an id that there is not."""
        ids = to_lists(ids)
        if isinstance(ids, int):
            return self._engine.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        try:
            return [self._engine.id_to_token(index) for index in ids if index not in skipped]
        except TypeError as error:
            raise no_ids(ids) from error

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Tokens joined to a text, as `decode` joins them."""
        return " ".join(tokens) if self._engine.decoder is None else self._engine.decoder.decode(tokens)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text, or a pair of texts, is given."""
        return self._engine.num_special_tokens_to_add(pair)

    def add_tokens(self, new_tokens: Token | list[Token], special_tokens: bool = False) -> int:
        """Add tokens that are not there yet, at the end of the vocabulary; returns how many were added.

        The model's embedding has to grow with it: `model.resize_token_embeddings(len(tokenizer))`.
        """
        one = isinstance(new_tokens, Token) or not isinstance(new_tokens, Iterable)
        tokens = [new_tokens] if one else list(new_tokens)
        for token in tokens:
            if not isinstance(token, Token):
                raise TypeError(f"a token, a str, or a list of them was expected, and {told(token)} came")
        add = self._engine.add_special_tokens if special_tokens else self._engine.add_tokens
        with self._lock:
            return add(tokens)

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Token | list[Token]],
        replace_extra_special_tokens: bool = True,
        *,
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Give roles to tokens, and add those that are not there yet; returns how many were added.

        Args:
            special_tokens_dict: such as `{"pad_token": "[PAD]", "extra_special_tokens": ["<a>", "<b>"]}`.
            replace_extra_special_tokens: False keeps the extra ones there are. Either way none leaves the vocabulary.
            replace_additional_special_tokens: its former name.

        Raises:
            ValueError: a role that there is not. TypeError: what is no token.
        """
        replace = replace_extra_special_tokens and replace_additional_special_tokens
        tokens: list[AddedToken] = []
        for name, value in special_tokens_dict.items():
            if name not in SPECIAL_TOKENS + EXTRA:
                raise ValueError(f"{name!r} is no special token; these are: {', '.join(SPECIAL_TOKENS + EXTRA)}")
            if name not in EXTRA and not isinstance(value, Token):
                raise TypeError(f"{name} is {value!r}; a str or an AddedToken was expected")
            tokens += map(as_special, _tokens(name, value) if name in EXTRA else [value])
        for name, value in special_tokens_dict.items():
            if name in EXTRA:
                kept = [] if replace and value else self.extra_special_tokens
                self.extra_special_tokens = [*kept, *value]
            else:
                self._special[name] = str(value)
        return self.add_tokens(tokens, special_tokens=True)


def _tokens(name: str, values: Any) -> list[Token]:
    if not isinstance(values, list | tuple) or not all(isinstance(token, Token) for token in values):
        raise TypeError(f"{name} is {values!r}; a list of tokens was expected")
    return list(values)


def as_special(token: Token) -> AddedToken:
    """A token that no text splits and that decoding can skip."""
    token = AddedToken(token, special=True, normalized=False) if isinstance(token, str) else token
    token.special = True
    return token
