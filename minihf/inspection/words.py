"""Tokens as people can read them: spaces seen, the bytes of half a character as numbers, nothing that breaks a line."""

from functools import cache
from typing import Any

VISIBLE = {" ": "␣", "▁": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


@cache
def byte_of() -> dict[str, int]:
    """The character that GPT-2 writes for a byte -> the byte; printable ones stand for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


def word(tokenizer: Any, token: int) -> str:
    """One token: `␣the`, `##ing`, `<0xE6>`, `⟨E6-9D⟩`; `#42` without a tokenizer, or where it has no such token."""
    written = None if tokenizer is None else tokenizer.convert_ids_to_tokens(token)
    if written is None:
        return f"#{token}"
    table = byte_of()
    if all(c in table for c in written):
        data = bytes(table[c] for c in written)
        text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if data.decode(errors="replace") == text:  # so its tokens are bytes
            written = text if "\ufffd" not in text else f"⟨{data.hex('-').upper()}⟩"
    return visible(written) or "⟨⟩"


def visible(text: str) -> str:
    """On one line, spaces and control characters seen."""
    seen = (VISIBLE.get(c, c) for c in text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in seen)


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
