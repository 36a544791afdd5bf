"""Batches for language models: masked, as BERT learns (arXiv 1810.04805, section 3.1), and causal.

Of the tokens that are not special, a share is chosen to be guessed. Of these most become the mask token, some become
another token, drawn from the vocabulary, and the rest stay as they are: in use, a model never sees a mask token, and so
it must not rely on one. The labels hold what stood there, and -100 where there is nothing to guess.

Draws are made in the order of `transformers` (5.23), with torch's random numbers for "pt" and NumPy's for "np", so that
under one seed batches are equal to its own.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from minihf.data.collators import Batch, Examples, filled, refuse_texts, some
from minihf.nn.losses import IGNORED
from minihf.tokenization.encoding import BatchEncoding, to_lists

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer


class TorchDice:
    """Torch's random numbers: its global ones, or with a seed a row of their own."""

    def __init__(self, seed: int | None):
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def hit(self, probabilities: np.ndarray) -> np.ndarray:
        """True with these probabilities."""
        p = torch.as_tensor(probabilities, dtype=torch.get_default_dtype())
        return torch.bernoulli(p, generator=self.generator).bool().numpy()

    def ids(self, places: np.ndarray, below: int) -> np.ndarray:
        """For each place that is True an id less than `below`. (The reference draws for all places.)"""
        return torch.randint(below, places.shape, generator=self.generator).numpy()[places]

    def state(self) -> str:
        return self.generator.get_state().numpy().tobytes().hex()

    def set_state(self, state: str) -> None:
        self.generator.set_state(torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8))


class NumpyDice:
    """The same with NumPy's."""

    def __init__(self, seed: int | None):
        self.generator = None if seed is None else np.random.default_rng(seed)

    def hit(self, probabilities: np.ndarray) -> np.ndarray:
        return (self.generator or np.random).binomial(1, probabilities).astype(bool)

    def ids(self, places: np.ndarray, below: int) -> np.ndarray:
        integers = self.generator.integers if self.generator else np.random.randint
        return integers(0, below, size=np.count_nonzero(places), dtype=np.int64)

    def state(self) -> dict:
        return self.generator.bit_generator.state

    def set_state(self, state: dict) -> None:
        self.generator.bit_generator.state = state


Dice = TorchDice | NumpyDice


def mask_tokens(
    ids: np.ndarray,
    chosen: np.ndarray,
    dice: Dice,
    *,
    mask_token_id: int,
    vocab_size: int,
    mask_replace_prob: float,
    random_replace_prob: float,
) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads, and the labels, (B, T) each.

    Args:
        ids: (B, T).
        chosen: the tokens to guess, bool (B, T).
        mask_replace_prob, random_replace_prob: of these, the share that becomes the mask token, or any token.
    """
    inputs, labels = ids.copy(), np.where(chosen, ids, IGNORED)
    masked = chosen & dice.hit(np.full(ids.shape, mask_replace_prob))
    inputs[masked] = mask_token_id
    if mask_replace_prob < 1 and random_replace_prob > 0:
        share = random_replace_prob / (1 - mask_replace_prob)  # of those that are not masked
        other = chosen & ~masked & dice.hit(np.full(ids.shape, share))
        inputs[other] = dice.ids(other, vocab_size)
    return inputs, labels


def choose_tokens(special: np.ndarray, probability: float, dice: Dice) -> np.ndarray:
    """Tokens to guess, none of them special: bool (B, T)."""
    return dice.hit(np.where(special, 0, probability))


def choose_words(special: np.ndarray, offsets: np.ndarray, probability: float, dice: Dice) -> np.ndarray:
    """The tokens of whole words to guess: a word is, if its first token is chosen. bool (B, T)."""
    words, begins = words_of(offsets, special)
    first = dice.hit(np.where(begins, probability, 0))
    return np.stack([np.isin(row, row[hits]) for row, hits in zip(words, first, strict=True)])


def words_of(offsets: np.ndarray, special: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each token's word, -1 for special tokens, and which tokens begin one: (B, T) each.

    A word begins where characters are left out, or after a special token.

    Args:
        offsets: where each token begins and ends in its text, (B, T, 2).
        special: bool (B, T).
    """
    starts, ends = offsets[..., 0], offsets[..., 1]
    begins = ~special
    begins[:, 1:] &= (starts[:, 1:] != ends[:, :-1]) | special[:, :-1]
    return np.where(special, -1, begins.cumsum(1)), begins


@dataclass
class DataCollatorForLanguageModeling:
    """A batch to learn a language from: padded, with labels.

    Args:
        tokenizer: tells the special tokens, and pads.
        mlm: masked: guess some tokens from those around them. False: causal: the labels are the ids, -100 at the pad
            token (a model shifts them).
        whole_word_mask: choose words, not tokens. Needs `offset_mapping` in the examples
            (`return_offsets_mapping=True`), and always puts the mask token.
        mlm_probability: the share of tokens (words) to guess.
        mask_replace_prob, random_replace_prob: of these, the share that becomes the mask token, or any token.
        pad_to_multiple_of: pad on to the next multiple of this.
        return_tensors: "pt" or "np".
        seed: of random numbers of its own; None: torch's ("pt") or NumPy's ("np") global ones. A `DataLoader`'s worker
            adds its number. Workers that are started for each epoch begin each with the same numbers; those that stay
            have others in each, which `Trainer` tells them by `set_epoch`.

    Examples are mappings with `input_ids`, or lists of ids alone. Where they hold a `special_tokens_mask`
    (`return_special_tokens_mask=True`), it tells what is never chosen; else the tokenizer's special tokens are not.

    Raises:
        ValueError: there is no mask token, or no pad token where one is needed; probabilities that are none.
    """

    tokenizer: "Tokenizer"
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None
    _dice: dict[str, Dice] = field(default_factory=dict, init=False, repr=False, compare=False)
    _epoch: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.mlm and self.tokenizer.mask_token is None:
            raise ValueError(
                "the tokenizer has no mask token, which masked language modeling needs: pass mlm=False for causal "
                "language modeling, or add one, tokenizer.add_special_tokens({'mask_token': '[MASK]'})"
            )
        if self.whole_word_mask and not self.mlm:
            raise ValueError("whole_word_mask=True masks, and mlm=False does not: pass one of them alone")
        shares = {name: getattr(self, name) for name in ("mask_replace_prob", "random_replace_prob")}
        if self.mlm:
            shares["mlm_probability"] = self.mlm_probability
        for name, share in shares.items():
            if share is None or not 0 <= share <= 1:
                raise ValueError(f"{name}={share}; a number from 0 to 1 was expected")
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise ValueError(
                f"mask_replace_prob={self.mask_replace_prob} and random_replace_prob={self.random_replace_prob} are "
                "shares of the same tokens, and together more than 1"
            )
        if self.whole_word_mask and self.mask_replace_prob < 1:
            warnings.warn(
                "whole_word_mask=True puts the mask token for all that is chosen: mask_replace_prob is now 1 and "
                "random_replace_prob 0. Pass these to have no warning.",
                stacklevel=3,
            )
            self.mask_replace_prob, self.random_replace_prob = 1.0, 0.0

    def __call__(self, features: Examples | list[list[int]], return_tensors: str | None = None) -> Batch:
        return_tensors = return_tensors or self.return_tensors
        batch = self.padded(features, return_tensors)
        special, offsets = batch.pop("special_tokens_mask", None), batch.pop("offset_mapping", None)
        ids = np.asarray(batch["input_ids"])  # (B, T)
        if self.mlm:
            dice, p = self.dice(return_tensors), self.mlm_probability
            special = np.isin(ids, self.tokenizer.all_special_ids) if special is None else np.asarray(special) != 0
            if self.whole_word_mask and offsets is None:
                raise ValueError(
                    "whole_word_mask=True finds words by offset_mapping, and the examples have none: "
                    "tokenizer(..., return_offsets_mapping=True) gives it"
                )
            words = self.whole_word_mask
            chosen = choose_words(special, np.asarray(offsets), p, dice) if words else choose_tokens(special, p, dice)
            batch["input_ids"], batch["labels"] = mask_tokens(
                ids,
                chosen,
                dice,
                mask_token_id=self.tokenizer.mask_token_id,
                vocab_size=len(self.tokenizer),
                mask_replace_prob=self.mask_replace_prob,
                random_replace_prob=self.random_replace_prob,
            )
        else:
            batch["labels"] = np.where(ids == self.tokenizer.pad_token_id, IGNORED, ids)
        return batch.convert_to_tensors(return_tensors)

    def padded(self, features: Examples | list[list[int]], return_tensors: str) -> BatchEncoding:
        """The examples, brought to one length: offsets, too, which the tokenizer does not fill."""
        listed = not isinstance(some(features)[0], Mapping)
        rows = [{"input_ids": row} for row in features] if listed else [dict(row) for row in features]
        refuse_texts(rows)
        lengths = {len(row["input_ids"]) for row in rows}
        even = len(lengths) == 1 and max(lengths) % (self.pad_to_multiple_of or 1) == 0
        offsets = [to_lists(row.pop("offset_mapping")) for row in rows if "offset_mapping" in row]
        batch = self.tokenizer.pad(
            rows,
            padding=not (listed and even),  # lists of one length need no pad token
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_attention_mask=False if listed else None,
            return_tensors=return_tensors,
        )
        if offsets:
            length, side = batch["input_ids"].shape[1], self.tokenizer.padding_side
            batch["offset_mapping"] = filled(offsets, length, [0, 0], side)
        return batch

    def dice(self, return_tensors: str) -> Dice:
        """Made at the first batch, where that is made: in a worker, if there is one."""
        if return_tensors not in self._dice:
            seed, worker = self.seed, get_worker_info()
            if seed is not None:
                number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
                seed += number + workers * self._epoch
            self._dice[return_tensors] = TorchDice(seed) if return_tensors == "pt" else NumpyDice(seed)
        return self._dice[return_tensors]

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: where there is a seed, with other numbers than those of any epoch or worker before."""
        self._dice.clear()
        self._epoch = epoch

    def random_state(self) -> dict[str, Any]:
        """Where its own random numbers are, as JSON has it, so that a run can go on; {} if there were none yet."""
        return {} if self.seed is None else {kind: dice.state() for kind, dice in self._dice.items()}

    def set_random_state(self, state: Mapping[str, Any]) -> None:
        self._dice.clear()
        for kind, each in state.items() if self.seed is not None else ():
            self.dice(kind).set_state(each)


@dataclass
class DataCollatorForWholeWordMask(DataCollatorForLanguageModeling):
    """`DataCollatorForLanguageModeling(whole_word_mask=True)` by its name of before transformers 5."""

    whole_word_mask: bool = True
    mask_replace_prob: float = 1.0
    random_replace_prob: float = 0.0
