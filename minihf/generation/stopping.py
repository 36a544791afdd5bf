"""When a text is at its end: a rule takes the ids so far (B, T) and says of each row whether it is done, bool (B,)."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minihf.generation.config import GenerationConfig

StopRule = Callable[[Tensor], Tensor]


class StoppingCriteria:
    """What people derive their own rules from; any callable (input_ids, scores) -> bool or bools (B,) does as well."""

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...] | None) -> bool | Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(input_ids, scores)")


class StoppingCriteriaList(list):
    """Rules, of which one is enough: bool (B,)."""

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...] | None) -> Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for rule in self:
            done = done | rule(input_ids, scores)
        return done


def stop_for(
    config: GenerationConfig,
    *,
    device: torch.device | str,
    tokenizer: Any = None,
    own: Sequence[Callable] | None = None,
    started: float | None = None,
    scores: list[Tensor] | None = None,
) -> StopRule | None:
    """All that the settings ask for, in one; None: nothing ends a text but its greatest length.

    Args:
        tokenizer: for `stop_strings`.
        own: the caller's, (input_ids, scores) -> bool, or bools (B,).
        started: when, on the clock of `time.monotonic()`; None: now.
        scores: of the steps so far, a list that the loop adds to, for the caller's rules; None: they get None.

    Raises:
        ValueError: stop strings without a tokenizer. TypeError: `own` is no list of callables.
    """
    rules = [at_token(config.end_tokens, device)] if config.end_tokens else []
    if config.max_time is not None:
        rules.append(at_time((time.monotonic() if started is None else started) + config.max_time))
    if config.stop_strings is not None:
        if tokenizer is None:
            raise ValueError(f"stop_strings={config.stop_strings!r} takes generate(..., tokenizer=tokenizer)")
        if not callable(getattr(tokenizer, "decode", None)):
            raise TypeError(f"stop_strings take the model's tokenizer, which has decode(ids), and {tokenizer!r} came")
        strings = config.stop_strings
        rules.append(at_string([strings] if isinstance(strings, str) else strings, tokenizer))
    for rule in () if own is None else own if isinstance(own, (list, tuple)) else [own]:
        if not callable(rule):
            raise TypeError(f"stopping_criteria takes callables (input_ids, scores) -> bool, not {rule!r}")
        rules.append(by_caller(rule, scores))
    if len(rules) < 2:
        return rules[0] if rules else None

    def any_of(ids: Tensor) -> Tensor:
        done = rules[0](ids)
        for rule in rules[1:]:
            done = done | rule(ids)
        return done

    return any_of


def at_token(tokens: list[int], device: torch.device | str) -> StopRule:
    """The last token is one of these."""
    ends = torch.tensor(tokens, device=device)
    return lambda ids: (ids[:, -1:] == ends).any(-1)


def at_time(end: float) -> StopRule:
    """It is later than this, on the clock of `time.monotonic()`."""
    return lambda ids: torch.full((len(ids),), time.monotonic() > end, device=ids.device)


def at_string(strings: Sequence[str], tokenizer: Any) -> StopRule:
    """One of these strings is in the text, and ends in its last token: there, or further in it ("st", "opping")."""
    # A token is at least a byte. More, since decoders drop the space before the first; and what is cut off may leave
    # three of the four bytes of a character, at which some decoders give up on all the bytes around it.
    longest = max(len(string.encode()) for string in strings) + 4

    def text_of(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def ends(row: list[int]) -> bool:
        for cut in range(4):
            text = text_of(row[cut:])
            found = any(string in text for string in strings)
            if found or "\ufffd" not in text:
                break
        if not found:
            return False
        old = max(same(text_of(row[cut : len(row) - last]), text) for last in range(1, 5))
        return any(text.find(string, max(old - len(string) + 1, 0)) >= 0 for string in strings)

    return lambda ids: torch.tensor([ends(row) for row in ids[:, -longest:].tolist()], device=ids.device)


def same(a: str, b: str) -> int:
    """With how many of the same characters both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def by_caller(rule: Callable, scores: list[Tensor] | None) -> StopRule:
    def asked(ids: Tensor) -> Tensor:
        done = rule(ids, None if scores is None else tuple(scores))
        if done is None:
            raise ValueError("a stopping criterion answered None: it returns a bool, or one for each row")
        done = torch.as_tensor(done, dtype=torch.bool, device=ids.device)
        if done.dim() > 0 and done.shape != ids.shape[:1]:
            raise ValueError(
                f"a stopping criterion answered with shape {tuple(done.shape)}: expected a bool, or one for each row, "
                f"({len(ids)},)"
            )
        return done.expand(len(ids))

    return asked
