"""Text while it is written: a streamer is given the prompt's ids and then each new token, and gives whole words.

Tokens are pieces of words, and of characters: what they say is certain only when more have come.
"""

import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

# CJK ideographs: each is a word to whoever waits for it.
IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class BaseStreamer:
    """What people derive their own streamers from."""

    def put(self, value: Tensor) -> None:
        """First the prompts (B, T), then the next ids (B,), again and again."""
        raise NotImplementedError(f"{type(self).__name__} has no put(value)")

    def end(self) -> None:
        """That was the last token."""
        raise NotImplementedError(f"{type(self).__name__} has no end()")

    def fail(self, error: BaseException) -> None:
        """Generating ended with this error."""
        self.end()


class TextStreamer(BaseStreamer):
    """Writes a text to the standard output, word by word.

    Args:
        tokenizer: the model's.
        skip_prompt: leave the prompt out.
        decode_kwargs: options of `tokenizer.decode`, as skip_special_tokens.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any):
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._begin()

    def _begin(self) -> None:
        self.at_prompt = True
        self.ids: list[int] = []  # of the line that is being written
        self.given = 0  # how many characters of it are out

    def put(self, value: Tensor) -> None:
        """Take the prompt (1, T) or (T,), or the next token (1,); give what is certain by now.

        Raises:
            ValueError: several texts.
        """
        if value.dim() > 1 and len(value) > 1:
            raise ValueError(f"a text streamer writes one text, not {len(value)}: generate them one by one")
        skip, self.at_prompt = self.skip_prompt and self.at_prompt, False
        if skip:
            return
        self.ids.extend(value.flatten().tolist())
        text = self.tokenizer.decode(self.ids, **self.decode_kwargs)
        # Else, the last word may go on, and a character that is not whole yet (\ufffd) is in it.
        whole = text.endswith("\n") or is_ideograph(text[-1:])
        certain = len(text) if whole else max(text.rfind(" ") + 1, self.given)
        new, self.given = text[self.given : certain], certain
        if text.endswith("\n"):  # a new line, so that a long text is not decoded again and again
            self.ids = self.ids[-1:]  # decoders drop the space before a first token
            self.given = len(self.tokenizer.decode(self.ids, **self.decode_kwargs))
        self.on_finalized_text(new)

    def end(self) -> None:
        rest = self.tokenizer.decode(self.ids, **self.decode_kwargs)[self.given :] if self.ids else ""
        self._begin()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """What is done with the next piece, which may be empty."""
        sys.stdout.write(text + "\n" if stream_end else text)
        sys.stdout.flush()


class TextIteratorStreamer(TextStreamer):
    """Gives a text piece by piece to whoever iterates over it, while another thread generates.

    Where that thread ends with an error, the reader gets it too.

    Args:
        timeout: seconds that the reader waits for a piece before `queue.Empty`; None: for ever.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any):
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.pieces: queue.Queue[str | BaseException] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.pieces.put(text)
        if stream_end:
            self.pieces.put(StopIteration())

    def fail(self, error: BaseException) -> None:
        self._begin()
        self.pieces.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self.pieces.get(timeout=self.timeout)
        if isinstance(piece, BaseException):
            raise piece
        return piece


@contextmanager
def streaming(streamer: Any) -> Iterator[None]:
    """Whatever happens inside, the streamer hears of the end. None: there is nobody to tell."""
    for name in () if streamer is None else ("put", "end"):
        if not callable(getattr(streamer, name, None)):
            raise TypeError(f"a streamer has put(ids) and end(), as TextStreamer does; got {streamer!r}")
    try:
        yield
    except BaseException as error:
        if streamer is not None:
            streamer.fail(error) if hasattr(streamer, "fail") else streamer.end()
        raise
    if streamer is not None:
        streamer.end()


def is_ideograph(character: str) -> bool:
    return character != "" and any(first <= ord(character) <= last for first, last in IDEOGRAPHS)
