"""What people pass as text, made into what the engine encodes: one row a text, a pair of texts being a tuple.

A text is a `str`; with `is_split_into_words` it is a list of words. A batch is any sequence of texts: a list, a tuple,
an array, a column of a dataset. Whatever else comes is refused here, with the place where it stood.
"""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

Text = str | list[str]
Row = Text | tuple[Text, Text]


def to_rows(text: Any, text_pair: Any, words: bool, names: tuple[str, str]) -> tuple[list[Row], bool]:
    """The rows for the engine, and whether a batch was passed (rather than one text or one pair).

    As in the reference, an empty `text_pair` of a single text counts as none. Errors call the two by their `names`.

    Raises:
        TypeError: what is no text. ValueError: an empty batch, or one of another length than its pairs.
    """
    name, pair_name = names
    if words:
        text = _as_list(text, name, words)
        text_pair = None if text_pair is None else _as_list(text_pair, pair_name, words)
    if _is_one(text, words):
        first = _text(text, name, words)
        second = None if text_pair is None else _text(text_pair, pair_name, words)
        return [(first, second) if second else first], False

    texts = _as_list(text, name, words)
    if not texts:
        raise ValueError("the batch of texts is empty; pass at least one text")
    if text_pair is None:
        if set(map(type, texts)) == {str}:
            return texts, True
        return [_row(item, f"{name}[{i}]", words) for i, item in enumerate(texts)], True
    if _is_one(text_pair, words):
        raise TypeError(f"{name} is a batch of {len(texts)}, {pair_name} a single text; pass a batch of as many")
    pairs = _as_list(text_pair, pair_name, words)
    if len(texts) != len(pairs):
        raise ValueError(
            f"{name} is a batch of {len(texts)}, {pair_name} one of {len(pairs)}; they must be equally long"
        )
    firsts = [_text(item, f"{name}[{i}]", words) for i, item in enumerate(texts)]
    seconds = [_text(item, f"{pair_name}[{i}]", words) for i, item in enumerate(pairs)]
    return list(zip(firsts, seconds, strict=True)), True


def refuse_surrogates(rows: list[Row]) -> None:
    """ValueError for the first text that is no Unicode: a `str` may hold half a surrogate pair, UTF-8 may not."""
    for i, row in enumerate(rows):
        for text in _flat(row):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text {i} holds {text[error.start]!r} at character {error.start}, half of a surrogate pair, which "
                    "is no character; clean it with text.encode('utf-8', 'replace').decode()"
                ) from error


def _is_one(value: Any, words: bool) -> bool:
    return (not value or isinstance(value[0], str)) if words else isinstance(value, str)


def _text(value: Any, where: str, words: bool) -> Text:
    if not words:
        if isinstance(value, str):
            return value
        hint = "; give an empty text as ''" if value is None else ""
        raise TypeError(f"{where} is {told(value)}; a str was expected{hint}")
    text = _as_list(value, where, words)
    for i, word in enumerate(text):
        if not isinstance(word, str):
            raise TypeError(f"{where}[{i}] is {told(word)}; a word, a str, was expected")
    return text


def _row(value: Any, where: str, words: bool) -> Row:
    """One entry of a batch: a text, or two texts that make a pair."""
    if words:
        value = _as_list(value, where, words)
        one = not value or isinstance(value[0], str)
    else:
        one = not isinstance(value, list | tuple)
    if one:
        return _text(value, where, words)
    if len(value) != 2:
        hint = "" if words else "; if these are the words of one text, pass is_split_into_words=True"
        raise TypeError(f"{where} is {told(value)} of length {len(value)}, and a pair has two texts{hint}")
    return _text(value[0], f"{where}[0]", words), _text(value[1], f"{where}[1]", words)


def _as_list(value: Any, where: str, words: bool) -> list:
    if isinstance(value, list):
        return value
    sequence = isinstance(value, Iterable) or hasattr(value, "__getitem__")
    table = isinstance(value, Mapping) or hasattr(value, "columns")  # of which one column was meant
    if isinstance(value, str | bytes) or table or not sequence:
        wanted = "a list of words, as is_split_into_words=True says," if words else "a str, or a sequence of them,"
        raise TypeError(f"{where} is {told(value)}; {wanted} was expected")
    return list(value)


def _flat(row: Row) -> list[str]:
    return [row] if isinstance(row, str) else [text for part in row for text in _flat(part)]


def no_ids(value: Any) -> TypeError:
    """The error for what should have been ids; it names the first that is none."""
    while isinstance(value, list | tuple) and value:
        value = next((item for item in value if type(item) is not int), value[0])
    return TypeError(f"ids, whole numbers, were expected, and {told(value)} came")


def told(value: Any) -> str:
    return "None" if value is None else f"the {type(value).__name__} {reprlib.repr(value)}"
