"""Ids back to text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minihf.tokenization.encoding import to_lists
from minihf.tokenization.inputs import no_ids

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer

# What WordPiece's spaces between tokens leave behind, in the order in which it is put right.
CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def decode(
    tokenizer: "Tokenizer",
    token_ids: Any,
    skip_special_tokens: bool = False,
    clean_up_tokenization_spaces: bool | None = None,
) -> str | list[str]:
    """Ids to text: a str for an id or a row of ids, a list of str for a batch. Lists, arrays and tensors are taken.

    Raises:
        ValueError: ids that are negative, such as the -100 of ignored labels. TypeError: what are no ids.
    """
    engine = tokenizer.backend_tokenizer
    ids = to_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
    ids = [ids] if isinstance(ids, int) else ids
    batched = bool(ids) and isinstance(ids[0], list)
    try:
        texts = (engine.decode_batch if batched else engine.decode)(ids, skip_special_tokens=skip_special_tokens)
    except OverflowError as error:
        raise ValueError("ids are 0 or more; put the pad token in place of the -100 in labels") from error
    except TypeError as error:
        raise no_ids(ids) from error
    clean = clean_up_tokenization_spaces
    if clean is None:
        clean = tokenizer.clean_up_tokenization_spaces
    if not clean or type(engine.model).__name__ == "BPE":  # whose spaces are the text's own
        return texts
    return [clean_up_tokenization(text) for text in texts] if batched else clean_up_tokenization(texts)


def batch_decode(
    tokenizer: "Tokenizer",
    sequences: Any,
    skip_special_tokens: bool = False,
    clean_up_tokenization_spaces: bool | None = None,
) -> list[str]:
    """`decode`, always as a list."""
    ids = to_lists(sequences)
    texts = [] if ids == [] else tokenizer.decode(ids, skip_special_tokens, clean_up_tokenization_spaces)
    return [texts] if isinstance(texts, str) else texts


def clean_up_tokenization(text: str) -> str:
    """Without the spaces that stand before punctuation and within English contractions."""
    for wrong, right in CLEAN_UP:
        text = text.replace(wrong, right)
    return text
