"""Collators: a list of examples becomes one batch. What a `DataLoader` takes as `collate_fn`, and `Trainer` as its
`data_collator`.

An example is a mapping of names to numbers, lists, arrays or tensors: a dict, a row of a dataset, what a tokenizer
returned. Those of a batch have the same names. Batches are torch tensors ("pt") or NumPy arrays ("np").

The names, arguments, defaults and keys are those of `transformers`' `data_collator.py` (5.23); masks for language
models are drawn in `minihf.data.masking`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from minihf.nn.losses import IGNORED
from minihf.tokenization.encoding import BatchEncoding, to_lists

if TYPE_CHECKING:
    from minihf.models.base import Model
    from minihf.tokenization.tokenizer import Tokenizer

Examples = list[Mapping[str, Any]]
Batch = dict[str, Any] | BatchEncoding


def default_data_collator(features: list[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack the examples as they are: all values of a name must be of one shape.

    Args:
        features: mappings, or objects with attributes. `label` (a number) or else `label_ids` (a list) become `labels`.
            What is a text or None in the first example is left out.
        return_tensors: "pt" or "np".
    """
    rows = [row if isinstance(row, Mapping) else vars(row) for row in some(features)]
    columns = {
        name: [row[name] for row in rows]
        for name, value in rows[0].items()
        if value is not None and not isinstance(value, str)
    }
    labels = {name: columns.pop(name) for name in ("label", "label_ids") if name in columns}
    batch = {"labels": one_label_tensor(*next(iter(labels.items())), return_tensors)} if labels else {}
    return batch | stacked(columns, return_tensors)


@dataclass
class DefaultDataCollator:
    """`default_data_collator`, which remembers what to return."""

    return_tensors: str = "pt"

    def __call__(self, features: list[Any], return_tensors: str | None = None) -> dict[str, Any]:
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pad a batch to its own longest example, not to the longest of all.

    Args:
        tokenizer: tells the pad token and the side.
        padding: True or "longest", "max_length", or False.
        max_length: what "max_length" pads to; None: the tokenizer's `model_max_length`.
        pad_to_multiple_of: pad on to the next multiple of this.
        return_tensors: "pt" or "np".

    `label` and `label_ids`, one a text, become `labels`. Columns do as well as examples: `collator(dataset[:8])`.
    """

    tokenizer: "Tokenizer"
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Examples | Mapping[str, list]) -> Batch:
        batch = padded(self, features, self.return_tensors)
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


@dataclass
class DataCollatorForTokenClassification:
    """Pad the inputs, and with them the labels, of which each token has one.

    The arguments are those of `DataCollatorWithPadding`, and label_pad_token_id: what the labels are filled with; the
    losses leave -100 out. The labels keep their name, `labels` or `label`.
    """

    tokenizer: "Tokenizer"
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: str = "pt"

    def __call__(self, features: Examples, return_tensors: str | None = None) -> Batch:
        return_tensors = return_tensors or self.return_tensors
        name, labels, inputs = without_labels(features)
        batch = padded(self, inputs, return_tensors)
        if labels is not None:
            length, side = batch["input_ids"].shape[1], self.tokenizer.padding_side
            labels = filled(labels, length, self.label_pad_token_id, side)
            batch[name] = integers("labels", labels, return_tensors)
        return batch


@dataclass
class DataCollatorForSeq2Seq:
    """Pad the inputs to their longest, and the labels to theirs.

    The arguments are those of `DataCollatorForTokenClassification`, and model: the one that is trained. What its
    decoder reads, `decoder_input_ids`, is then made of the labels here, as a loss outside of the model needs it (label
    smoothing). Without labels, `labels` is None.
    """

    tokenizer: "Tokenizer"
    model: "Model | None" = None
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: str = "pt"

    def __call__(self, features: Examples, return_tensors: str | None = None) -> Batch:
        return_tensors = return_tensors or self.return_tensors
        _, labels, inputs = without_labels(features)
        batch = padded(self, inputs, return_tensors)
        if labels is None or all(row is None for row in labels):
            batch["labels"] = None
            return batch
        if self.padding not in (False, "do_not_pad"):
            fixed = self.padding == "max_length" and self.max_length is not None
            length = self.max_length if fixed else max(map(len, labels))
            length += -length % (self.pad_to_multiple_of or 1)
            labels = filled(labels, length, self.label_pad_token_id, self.tokenizer.padding_side)
        batch["labels"] = integers("labels", labels, return_tensors)
        prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if prepare is not None:
            ids = prepare(labels=torch.as_tensor(batch["labels"]))
            batch["decoder_input_ids"] = ids.numpy() if return_tensors == "np" else ids
        return batch


@dataclass
class DataCollatorForMultipleChoice:
    """Pad all choices of all examples to one length: each input becomes (B, choices, T), `labels` (B,).

    An example's inputs are lists with an entry for each choice, of which all examples have as many. The arguments are
    those of `DataCollatorWithPadding`.
    """

    tokenizer: "Tokenizer"
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Examples, return_tensors: str | None = None) -> dict[str, Any]:
        return_tensors = return_tensors or self.return_tensors
        _, labels, inputs = without_labels(features)
        choices = [len(row["input_ids"]) for row in inputs]
        if len(set(choices)) > 1:
            raise ValueError(f"the examples have {choices} choices; all examples of a batch must have as many")
        flat = [{name: value[i] for name, value in row.items()} for row in inputs for i in range(choices[0])]
        batch = padded(self, flat, return_tensors)
        # (B * choices, T) -> (B, choices, T)
        batch = {name: value.reshape(len(inputs), choices[0], -1) for name, value in batch.items()}
        if labels is not None:
            batch["labels"] = integers("labels", labels, return_tensors)
        return batch


@dataclass
class DataCollatorWithFlattening:
    """No padding: all texts one behind the other in a single row, (1, tokens), with positions that begin anew.

    Models that keep such texts apart do so by `position_ids`, where no cache is kept and no mask is given: GPT-2, CTRL,
    Llama, Mistral and Mixtral, called with `use_cache=False`. In others a text would see those before it.

    Args:
        return_tensors: "pt" or "np".
        return_position_ids: return `position_ids`.
        separator_id: the label of a text's first token, which follows from no text.
        return_flash_attn_kwargs: return where the texts begin and end, `cu_seq_lens_q` and `cu_seq_lens_k`, and the
            longest one's length, `max_length_q` and `max_length_k`.
        return_seq_idx: return `seq_idx`, the number of each token's text.
        position_ids_start: of a text's first token; RoBERTa and its kind count from the pad token's id + 1.

    Where there are no `labels`, they are the `input_ids`. All else that the examples hold is left out.
    """

    return_tensors: str = "pt"
    return_position_ids: bool = True
    separator_id: int = IGNORED
    return_flash_attn_kwargs: bool = False
    return_seq_idx: bool = False
    position_ids_start: int = 0

    def __call__(
        self, features: Examples, return_tensors: str | None = None, separator_id: int | None = None
    ) -> dict[str, Any]:
        separator = self.separator_id if separator_id is None else separator_id
        texts = [to_lists(row["input_ids"]) for row in some(features)]
        labels = [to_lists(row["labels"]) for row in features] if "labels" in features[0] else texts
        for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
            if len(text) != len(label):
                raise ValueError(f"example {i} has {len(text)} input_ids and {len(label)} labels: a label each")
        lengths = [len(text) for text in texts]
        rows = {"input_ids": texts, "labels": [[separator, *label[1:]] for label in labels]}
        if self.return_position_ids:
            first = self.position_ids_start
            rows["position_ids"] = [range(first, first + length) for length in lengths]
        return_tensors = return_tensors or self.return_tensors
        batch = {name: integers(name, [list(chain(*row))], return_tensors) for name, row in rows.items()}
        if self.return_seq_idx:
            batch["seq_idx"] = as_int32(np.repeat(range(len(texts)), lengths)[None], return_tensors)
        if self.return_flash_attn_kwargs:
            ends = as_int32(np.cumsum([0, *lengths]), return_tensors)
            batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        return batch


def some(features: Any) -> Any:
    if not len(features):
        raise ValueError("a batch of no examples came; at least one was expected")
    return features


def without_labels(features: Examples) -> tuple[str, list | None, list[dict[str, Any]]]:
    """What the labels are called, `label` or `labels`; the labels, if there are any; the examples without them."""
    name = "label" if "label" in some(features)[0] else "labels"
    labels = [to_lists(row[name]) for row in features] if name in features[0] else None
    return name, labels, [{key: value for key, value in row.items() if key != name} for row in features]


def padded(collator: Any, features: Examples | Mapping[str, list], return_tensors: str) -> BatchEncoding:
    """The examples, padded by the collator's tokenizer as the collator's fields say."""
    refuse_texts(some(features))
    return collator.tokenizer.pad(
        features,
        padding=collator.padding,
        max_length=collator.max_length,
        pad_to_multiple_of=collator.pad_to_multiple_of,
        return_tensors=return_tensors,
    )


def refuse_texts(features: Examples | Mapping[str, list]) -> None:
    """ValueError for the first column that holds texts: a batch holds numbers."""
    for name, value in (features if isinstance(features, Mapping) else features[0]).items():
        while isinstance(value, list | tuple | np.ndarray) and len(value):
            value = value[0]
        if isinstance(value, str | bytes):
            raise ValueError(
                f"the column {name!r} holds texts, such as {value[:30]!r}, and a batch holds numbers: remove it, "
                f"dataset = dataset.remove_columns({name!r})"
            )


def filled(rows: list[list], length: int, fill: Any, side: str) -> list[list]:
    """Rows of labels (or of what else each token has one of), brought to one length."""
    for i, row in enumerate(rows):
        if len(row) > length:
            raise ValueError(f"example {i} has {len(row)} labels, and there is room for {length}: truncate them, too")
    gaps = [[fill] * (length - len(row)) for row in rows]
    return [row + gap if side == "right" else gap + row for row, gap in zip(rows, gaps, strict=True)]


def stacked(columns: Mapping[str, Any], return_tensors: str) -> dict[str, Any]:
    """Each column as one tensor; ValueError names the one that cannot be."""
    return BatchEncoding(columns, tensor_type=return_tensors).data


def integers(name: str, rows: list, return_tensors: str) -> torch.Tensor | np.ndarray:
    """Labels and ids, as int64."""
    values = stacked({name: rows}, return_tensors)[name]
    return values.long() if return_tensors == "pt" else values.astype(np.int64)


def as_int32(array: np.ndarray, return_tensors: str) -> torch.Tensor | np.ndarray:
    array = array.astype(np.int32)
    return torch.from_numpy(array) if return_tensors == "pt" else array


def one_label_tensor(name: str, values: list, return_tensors: str) -> torch.Tensor | np.ndarray:
    """Classes as int64, all else as float32: a number that is not whole, or a `label` that is a list of zeros and ones.

    `label_ids` are lists in any case: those of whole numbers are classes.
    """
    array = stacked({name: to_lists(values)}, "np")[name]
    whole = array.dtype.kind in "biu" and (name == "label_ids" or array.ndim == 1)
    array = array.astype(np.int64 if whole else np.float32)
    return torch.from_numpy(array) if return_tensors == "pt" else array
