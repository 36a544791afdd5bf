"""Streamed text: in whole words that add up to it, in the reference's pieces; and no reader waits for ever."""

import queue
import threading

import pytest
import torch
import transformers

from minihf.generation.streaming import BaseStreamer, TextIteratorStreamer, TextStreamer, streaming

MAKES = ["byte level", "word piece", "byte fallback"]
WRITTEN = [
    "to be or not to be",
    "the stop\nnew lines\n\nand more lines",
    "naïve café 👍🏽 emojis",
    "東京と京都 are 天気 cities",
    "one  two   three  ",
    "日本語",
    "operation",
    "",
]


class Kept(TextStreamer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pieces = []

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append((text, stream_end))


class TheirsKept(transformers.TextStreamer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pieces = []

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append((text, stream_end))


def tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def write(streamer, prompt: list[int], ids: list[int]) -> None:
    """As `generate` does."""
    streamer.put(torch.tensor([prompt]))
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()


@pytest.mark.parametrize("skip_prompt", [False, True])
@pytest.mark.parametrize("make", MAKES)
def test_pieces_add_up_to_the_text(make, skip_prompt, tokenizers):
    """In whole words: each piece but the last ends with a space, a line, or an ideograph, and no half character."""
    tokenizer = tokenizers[make][0]
    prompt = tokens(tokenizer, "stop the")
    for text in WRITTEN:
        streamer, ids = Kept(tokenizer, skip_prompt), tokens(tokenizer, text)
        write(streamer, prompt, ids)
        pieces = [piece for piece, _ in streamer.pieces]
        assert "".join(pieces) == tokenizer.decode(ids if skip_prompt else prompt + ids), text
        assert [end for _, end in streamer.pieces] == [False] * (len(pieces) - 1) + [True]
        assert len(pieces) == 1 + len(ids) + (not skip_prompt)
        for piece in pieces[:-1]:
            assert piece == "" or piece[-1] in " \n" or "一" <= piece[-1] <= "鿿"
            assert "\ufffd" not in piece


@pytest.mark.parametrize("decode_kwargs", [{}, {"skip_special_tokens": True}], ids=str)
@pytest.mark.parametrize("make", ["byte level", "word piece"])
def test_pieces_are_the_references(make, decode_kwargs, tokenizers):
    ours, other = tokenizers[make]
    for skip_prompt in (False, True):
        mine, its = Kept(ours, skip_prompt, **decode_kwargs), TheirsKept(other, skip_prompt, **decode_kwargs)
        for text in WRITTEN:  # one streamer for several texts
            for streamer in (mine, its):
                write(streamer, [0, *tokens(ours, "stop the")], [*tokens(ours, text), 0])
            assert mine.pieces == its.pieces
        assert len(mine.pieces) > 50


def test_a_new_line_keeps_the_space_after_it(tokenizers):
    """The reference forgets all before a new line, and a decoder drops the space before what it takes for the first."""
    ours, other = tokenizers["byte fallback"]
    ids = tokens(ours, "be\n not")
    assert ours.decode(ids) == "be\n not"
    mine, its = Kept(ours), TheirsKept(other)
    for streamer in (mine, its):
        write(streamer, ids[:1], ids[1:])
    assert "".join(piece for piece, _ in mine.pieces) == "be\n not"
    assert "".join(piece for piece, _ in its.pieces) == "be\nnot"


def test_it_writes_to_the_standard_output(tokenizers, capsys):
    tokenizer = tokenizers["byte level"][0]
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    streamer.put(torch.tensor([tokens(tokenizer, "stop")]))
    for token in tokens(tokenizer, " be or"):
        streamer.put(torch.tensor([token]))
    assert capsys.readouterr().out == " be "
    streamer.end()
    assert capsys.readouterr().out == "or\n"
    with pytest.raises(ValueError, match="writes one text, not 2"):
        streamer.put(torch.ones(2, 3, dtype=torch.long))


def test_an_iterator_gives_what_another_thread_writes(tokenizers):
    tokenizer = tokenizers["byte level"][0]
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20)
    for text in WRITTEN[:3]:  # one streamer for several texts
        thread = threading.Thread(target=write, args=(streamer, [5], tokens(tokenizer, text)))
        thread.start()
        assert "".join(streamer) == text
        thread.join()


def test_a_reader_does_not_wait_for_ever(tokenizers):
    """It gets the error that ended the writing thread."""
    tokenizer = tokenizers["byte level"][0]
    streamer = TextIteratorStreamer(tokenizer, timeout=20)
    raised = []

    def failing(error: BaseException):
        try:
            with streaming(streamer):
                streamer.put(torch.tensor(tokens(tokenizer, "to be")))
                raise error
        except type(error) as again:
            raised.append(again)

    for error in (MemoryError("no room"), KeyboardInterrupt(), StopIteration("odd")):
        thread = threading.Thread(target=failing, args=(error,))
        thread.start()
        read = [next(streamer)]
        with pytest.raises(type(error)):
            read += [next(streamer)]
        thread.join()
        assert read == ["to "]
        assert raised.pop() is error
    thread = threading.Thread(target=write, args=(streamer, [5], tokens(tokenizer, "be")))
    thread.start()
    assert "".join(streamer) == tokenizer.decode([5]) + "be"  # what failed before leaves nothing behind
    thread.join()
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamer(tokenizer, timeout=0.01))


def test_every_streamer_hears_of_the_end():
    class Own(BaseStreamer):
        def __init__(self):
            self.heard = []

        def put(self, value):
            self.heard.append(value)

        def end(self):
            self.heard.append("end")

    class Foreign:
        heard: list
        put, end, __init__ = Own.put, Own.end, Own.__init__

    for streamer in (Own(), Foreign()):
        with streaming(streamer):
            streamer.put(1)
        with pytest.raises(OSError, match="disk"), streaming(streamer):
            raise OSError("disk")
        assert streamer.heard == [1, "end", "end"]
    with streaming(None):
        pass
    with pytest.raises(OSError, match="disk"), streaming(None):
        raise OSError("disk")
    for method in (lambda: BaseStreamer().put(1), lambda: BaseStreamer().end()):
        with pytest.raises(NotImplementedError, match="BaseStreamer has no"):
            method()
