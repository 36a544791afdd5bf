"""Long texts, cut into blocks that a model can read: three ways, as the Hugging Face course has them.

    group_texts        ids one behind the other, then cut: nothing is lost but the end     (chapter 7, masked models)
    context_windows    each text cut by itself, short last pieces left out                 (chapter 7, causal models)
    constant_length    texts one behind the other, an end token after each, as a stream    (the same, at scale)

The first two are for `dataset.map(..., batched=True)`; the last holds no more than a few texts at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from minihf.tokenization.encoding import to_lists

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer

TEXTS_AT_A_TIME = 64  # the engine encodes several at once, on several cores


def group_texts(examples: Mapping[str, Any], block_size: int, *, drop_last: bool = True) -> dict[str, list[list]]:
    """The rows of each column one behind the other, cut into blocks; `labels` are a copy of the `input_ids`.

        dataset.map(group_texts, batched=True, fn_kwargs={"block_size": 128})

    Args:
        examples: columns of a batch, of which each row is a list: what a tokenizer returned. More rows at a time
            (`batch_size`) lose fewer ends. Columns that are not of the tokenizer are to be removed before.
        block_size: in tokens.
        drop_last: leave out the last block where it is shorter.

    Raises:
        ValueError: a column that is no list of lists, or is not as long as the others: it is named.
    """
    if block_size < 1:
        raise ValueError(f"block_size={block_size}; a positive number of tokens was expected")
    columns = {name: joined(name, rows) for name, rows in examples.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different numbers of tokens, {lengths}: remove those that are not ids")
    total = next(iter(lengths.values()), 0)
    end = total - total % block_size if drop_last else total
    blocks = {
        name: [column[i : min(i + block_size, end)] for i in range(0, end, block_size)]
        for name, column in columns.items()
    }
    return blocks | ({"labels": [list(block) for block in blocks["input_ids"]]} if "input_ids" in blocks else {})


def joined(name: str, rows: Any) -> list:
    rows = to_lists(rows)
    if any(not isinstance(row, list) for row in rows):
        raise ValueError(
            f"the column {name!r} is no list of tokens for each text, and cannot be cut into blocks: remove it, "
            "dataset.map(..., remove_columns=dataset.column_names) when the texts are tokenized"
        )
    return list(chain.from_iterable(rows))


def context_windows(
    texts: list[str], tokenizer: "Tokenizer", context_length: int, *, stride: int = 0, drop_last: bool = True
) -> dict[str, list[list[int]]]:
    """Each text cut into windows of `context_length` tokens: `input_ids`.

        dataset.map(
            lambda rows: context_windows(rows["content"], tokenizer, 128),
            batched=True, remove_columns=dataset.column_names,
        )

    Args:
        stride: how many tokens two windows of a text share.
        drop_last: leave out windows that are shorter: the last of a text, and texts that fill none.
    """
    encoded = tokenizer(
        texts, truncation=True, max_length=context_length, stride=stride, return_overflowing_tokens=True
    )
    return {"input_ids": [ids for ids in encoded["input_ids"] if len(ids) == context_length or not drop_last]}


def constant_length(texts: Iterable[str], tokenizer: "Tokenizer", seq_length: int) -> Iterator[list[int]]:
    """Blocks of `seq_length` ids from a stream of texts, an end token after each text. The rest is left out.

    No other special tokens are put in.

    Raises:
        ValueError: the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no end token to put between texts: choose one, tokenizer.eos_token = "
            "tokenizer.sep_token, or add one, tokenizer.add_special_tokens({'eos_token': '<eos>'})"
        )
    texts, ids = iter(texts), []
    while several := list(islice(texts, TEXTS_AT_A_TIME)):
        for row in tokenizer(several, add_special_tokens=False, return_attention_mask=False)["input_ids"]:
            ids += [*row, tokenizer.eos_token_id]
        full = len(ids) - len(ids) % seq_length
        yield from (ids[i : i + seq_length] for i in range(0, full, seq_length))
        ids = ids[full:]


class ConstantLengthDataset(IterableDataset):
    """`constant_length` as what a `DataLoader` or a `Trainer` takes, once or without end.

    Of several workers each reads its own share of the texts; a `datasets.IterableDataset` shares out its own shards.

    Args:
        tokenizer: with an end token.
        dataset: texts, or mappings that hold them, such as a streaming dataset's rows; iterated anew for each epoch.
        infinite: begin again at the end.
        seq_length: of a block, in tokens.
        content_field: which of a mapping's values is the text.

    Yields:
        `input_ids` and `labels`, the same list of ids.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        dataset: Iterable[str | Mapping[str, Any]],
        infinite: bool = False,
        seq_length: int = 1024,
        content_field: str = "content",
    ):
        self.tokenizer, self.dataset, self.infinite = tokenizer, dataset, infinite
        self.seq_length, self.content_field = seq_length, content_field

    def texts(self) -> Iterator[str]:
        worker = None if isinstance(self.dataset, IterableDataset) else get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        while True:
            text = None
            for text in islice(self.dataset, first, None, step):
                yield text[self.content_field] if isinstance(text, Mapping) else text
            if text is None or not self.infinite:
                return

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        for ids in constant_length(self.texts(), self.tokenizer, self.seq_length):
            yield {"input_ids": ids, "labels": list(ids)}
