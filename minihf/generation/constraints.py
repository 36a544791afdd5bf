"""What a beam search must bring into a text: a phrase, or one of several; and how far a text has come with it."""

from dataclasses import dataclass
from typing import Any

from minihf.generation.config import GenerationConfig


class Constraint:
    """What people derive their own constraints from. It is told each token of a text, and remembers how far it is.

    Attributes:
        seqlen: the most tokens that it takes.
    """

    seqlen: int

    def __init__(self):
        self.test()

    def test(self) -> None:
        """Does it come to its end by doing what it asks for? ValueError if not."""
        for _ in range(10_000):
            token = self.advance()
            token = token[0] if isinstance(token, list) else token
            if token is None or not self.does_advance(token):
                raise ValueError(f"{type(self).__name__}: does_advance() denies the token that advance() gives")
            if self.update(token)[1]:
                break
        if self.remaining() != 0:
            raise ValueError(f"{type(self).__name__}: to do what advance() says does not fulfil it")
        self.reset()

    def advance(self) -> int | list[int] | None:
        """The token that brings it a step further, or several, or None when it is fulfilled."""
        raise NotImplementedError(f"{type(self).__name__} has no advance()")

    def does_advance(self, token_id: int) -> bool:
        """Would this token bring it a step further?"""
        raise NotImplementedError(f"{type(self).__name__} has no does_advance(token_id)")

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take the next token: is it a step further, is it fulfilled, is it back at its beginning?"""
        raise NotImplementedError(f"{type(self).__name__} has no update(token_id)")

    def reset(self) -> None:
        """Back to the beginning."""
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def remaining(self) -> int:
        """How many steps there are to go."""
        raise NotImplementedError(f"{type(self).__name__} has no remaining()")

    def copy(self, stateful: bool = False) -> "Constraint":
        """Another one like it, at its beginning; with `stateful`, as far as this one."""
        raise NotImplementedError(f"{type(self).__name__} has no copy(stateful)")


class PhrasalConstraint(Constraint):
    """These tokens in a row."""

    def __init__(self, token_ids: list[int]):
        self.token_ids = checked("token_ids", token_ids)
        self.seqlen = len(token_ids)
        self.reset()

    def reset(self) -> None:
        self.found = 0

    @property
    def completed(self) -> bool:
        return self.found == self.seqlen

    def advance(self) -> int | None:
        return None if self.completed else self.token_ids[self.found]

    def does_advance(self, token_id: int) -> bool:
        return token_id == self.advance()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.found += 1
        return True, self.completed, False

    def remaining(self) -> int:
        return self.seqlen - self.found

    def copy(self, stateful: bool = False) -> "PhrasalConstraint":
        new = PhrasalConstraint(self.token_ids)
        new.found = self.found if stateful else 0
        return new


class DisjunctiveConstraint(Constraint):
    """One of these phrases, none of which begins with another."""

    def __init__(self, nested_token_ids: list[list[int]]):
        if not isinstance(nested_token_ids, list) or not nested_token_ids:
            raise ValueError(f"nested_token_ids takes a list of lists of ids, at least one, not {nested_token_ids!r}")
        self.token_ids = [checked("nested_token_ids", ids) for ids in nested_token_ids]
        for a in nested_token_ids:
            if sum(a == b[: len(a)] for b in nested_token_ids) > 1:
                raise ValueError(f"of nested_token_ids, {a} begins another or stands twice: leave one out")
        self.seqlen = max(map(len, nested_token_ids))
        self.reset()

    def reset(self) -> None:
        self.current_seq: list[int] = []

    @property
    def completed(self) -> bool:
        return self.current_seq in self.token_ids

    def advance(self) -> list[int] | None:
        n = len(self.current_seq)
        next_tokens = [ids[n] for ids in self.token_ids if ids[:n] == self.current_seq and len(ids) > n]
        return [*dict.fromkeys(next_tokens)] or None  # each once, in order

    def does_advance(self, token_id: int) -> bool:
        return token_id in (self.advance() or ())

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.current_seq = [*self.current_seq, token_id]
        return True, self.completed, False

    def remaining(self) -> int:
        return 0 if self.completed else self.seqlen - len(self.current_seq)

    def copy(self, stateful: bool = False) -> "DisjunctiveConstraint":
        new = DisjunctiveConstraint(self.token_ids)
        new.current_seq = [*self.current_seq] if stateful else []
        return new


def checked(name: str, ids: Any) -> list[int]:
    right = isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids)
    if not right:
        raise ValueError(f"{name} takes ids from 0 up, at least one in a list, not {ids!r}")
    return ids


def constraints_of(config: GenerationConfig) -> list[Constraint]:
    """The `constraints`, and those that `force_words_ids` says in plain lists.

    TypeError: one of them does not do what a `Constraint` does.
    """
    found = [*(config.constraints or ())]
    for constraint in found:
        if not all(hasattr(constraint, name) for name in ("advance", "update", "copy", "seqlen")):
            raise TypeError(f"constraints takes Constraint objects, not {constraint!r}; ids go into force_words_ids")
    for words in config.force_words_ids or ():
        found.append(DisjunctiveConstraint(words) if isinstance(words[0], list) else PhrasalConstraint(words))
    return found


@dataclass(frozen=True)
class Progress:
    """How far a text has come with all constraints: one at a time is under way, and starts anew where it breaks off."""

    pending: tuple[Constraint, ...]
    longest: int
    current: Constraint | None = None
    fulfilled: int = 0

    @classmethod
    def at_start(cls, constraints: list[Constraint]) -> "Progress":
        return cls(tuple(c.copy() for c in constraints), max(c.seqlen for c in constraints))

    @property
    def completed(self) -> bool:
        return not self.pending and self.current is None

    @property
    def bank(self) -> int:
        """The more, the further: whole constraints first, then steps of the one that is under way."""
        steps = self.longest - self.current.remaining() if self.current is not None else 0
        return self.fulfilled * self.longest + steps

    def advance(self) -> list[int]:
        """The tokens that would bring it further."""
        tokens: list[int] = []
        for constraint in self.pending if self.current is None else [self.current]:
            more = constraint.advance()
            tokens += more if isinstance(more, list) else [] if more is None else [more]
        return tokens

    def after(self, token: int) -> "Progress":
        """What it is with one more token."""
        pending, current, fulfilled = self.pending, self.current, self.fulfilled
        if current is None:
            at = next((i for i, c in enumerate(pending) if c.does_advance(token)), None)
            if at is None:
                return self
            current, pending = pending[at].copy(), (*pending[:at], *pending[at + 1 :])
        else:
            current = current.copy(stateful=True)
        _, completed, broken = current.update(token)
        if broken:
            pending = (*pending, current.copy())
        if completed:
            fulfilled += 1
        return Progress(pending, self.longest, None if broken or completed else current, fulfilled)
