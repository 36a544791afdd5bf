"""What a tokenizer returns: a mapping of names to ids and masks, which also knows what each token was in the text.

The mapping holds a model's keyword arguments, so `model(**encoding)` works. Beside it lie the engine's own records, one
a row, and through them tokens, words and characters are found from one another.
"""

import reprlib
from collections import UserDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Encoding


class CharSpan(NamedTuple):
    """Characters `text[start:end]`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `tokens[start:end]`."""

    start: int
    end: int


class BatchEncoding(UserDict):
    """Ids and masks by name; values are also attributes (`encoding.input_ids`), and `encoding[0]` is row 0's record.

    Where a method takes a row and a place in it, a single number is the place, in row 0. A negative token counts from
    the end.

    Args:
        data: lists of numbers, arrays or tensors.
        encoding: the engine's records, one a row; without them the methods that need them raise ValueError.
        tensor_type: "pt" or "np" converts all values; None leaves them.
        prepend_batch_axis: on conversion, give each value a leading axis of size 1.
        n_sequences: 1 for texts, 2 for pairs; None asks the records.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Encoding | list[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ):
        self.data = dict(data or {})
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def encodings(self) -> list[Encoding] | None:
        """The engine's records, one a row."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether there are such records."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs; None where that is unknown."""
        if self._n_sequences is None and self._encodings:
            return self._encodings[0].n_sequences
        return self._n_sequences

    def __getitem__(self, item: str | int | slice) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError(f"{item!r}: only what tokenizer(...) itself returns has records; its keys are {list(self.data)}")

    def __getattr__(self, name: str) -> Any:
        if name != "data" and name in self.data:  # "data" itself is absent while a copy is being made
            return self.data[name]
        raise AttributeError(f"{type(self).__name__} has no attribute and no key {name!r}")

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, special and padding ones included."""
        return self._record(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the number of its word in the text; None for special tokens."""
        return self._record(batch_index).word_ids

    def words(self, batch_index: int = 0) -> list[int | None]:
        """The former name of `word_ids`."""
        return self.word_ids(batch_index)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 or 1, the text of the pair that it comes from; None for special tokens."""
        return self._record(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        record, token = self._token(batch_or_token_index, token_index)
        return record.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        record, token = self._token(batch_or_token_index, token_index)
        return record.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        record, token = self._token(batch_or_token_index, token_index)
        span = record.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that a character lies in; None where it lies in none, such as a space."""
        record, char = self._place(batch_or_char_index, char_index)
        return record.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        record, char = self._place(batch_or_char_index, char_index)
        return record.char_to_word(char, sequence_index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        record, word = self._place(batch_or_word_index, word_index)
        span = record.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        record, word = self._place(batch_or_word_index, word_index)
        span = record.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> "BatchEncoding":
        """Turn every value into a torch tensor ("pt") or a NumPy array ("np"), in place; None changes nothing.

        Raises:
            ValueError: rows of different lengths, values that are no numbers, or another `tensor_type`.
        """
        if tensor_type is None:
            return self
        if tensor_type not in ("pt", "np"):
            raise ValueError(f"return_tensors={tensor_type!r} is unknown: pass 'pt' (torch), 'np' (NumPy) or None")
        convert = to_tensor if tensor_type == "pt" else to_array
        for key, value in self.data.items():
            try:
                self.data[key] = convert([value] if prepend_batch_axis else value)
            except (ValueError, TypeError, RuntimeError) as error:
                hint = "; labels made apart are filled by a data collator" if key == "labels" else ""
                raise ValueError(f"{key!r} cannot become one tensor: {_unfit(value)}{hint}") from error
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> "BatchEncoding":
        """Move the tensors to a device, in place; what is no tensor stays.

        Raises:
            TypeError: a dtype, as ids and masks keep theirs.
        """
        if not isinstance(device, str | int | torch.device):
            raise TypeError(f"to({device!r}): a device was expected, such as 'cuda'; ids and masks keep their dtype")
        for key, value in self.data.items():
            if isinstance(value, torch.Tensor):
                self.data[key] = value.to(device=device, non_blocking=non_blocking)
        return self

    def _record(self, index: int) -> Encoding:
        if self._encodings is None:
            raise ValueError("only what tokenizer(...) itself returns knows its tokens, words and characters")
        return self._encodings[index]

    def _place(self, first: int, second: int | None) -> tuple[Encoding, int]:
        return (self._record(0), first) if second is None else (self._record(first), second)

    def _token(self, first: int, second: int | None) -> tuple[Encoding, int]:
        record, token = self._place(first, second)
        return record, token + len(record) if token < 0 else token


def to_array(value: Any) -> np.ndarray:
    """Nested lists as an array; what holds no number at all becomes int64, as ids are."""
    array = np.array(value)
    if array.dtype == object:
        raise TypeError("these are not all numbers")
    return array if array.size else array.astype(np.int64)


def to_tensor(value: Any) -> torch.Tensor:
    """As `to_array`, for torch; Python's floats become torch's default dtype."""
    if isinstance(value, torch.Tensor):
        return value
    leaf = value
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, torch.Tensor):
        return torch.stack([to_tensor(item) for item in value])
    tensor = torch.from_numpy(to_array(value))  # five times as fast as torch.tensor, which reads lists item by item
    return tensor.to(torch.get_default_dtype()) if type(leaf) is float else tensor


def to_lists(value: Any) -> Any:
    """Tensors and arrays, or lists of them, as plain lists; numbers stay."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        # most often these are millions of plain ids, which need no look one by one
        return list(value) if set(map(type, value)) <= {int} else [to_lists(item) for item in value]
    return value


def _unfit(value: Any) -> str:
    lengths = {len(row) for row in value if hasattr(row, "__len__")} if hasattr(value, "__iter__") else set()
    if len(lengths) > 1:
        return (
            f"its rows have {min(lengths)} to {max(lengths)} entries. Pass padding=True to fill the short rows, and "
            "truncation=True to cut those that are too long for the model"
        )
    return f"it holds {reprlib.repr(value)}; numbers were expected, nested to one depth"
