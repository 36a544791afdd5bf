"""What all pipelines do: texts become rows of ids, rows become batches, batches go through the model, and the answers
come back in the order of the texts.

A task says the rest in four steps, and each task has a file:

    settle   the options of a call, checked and complete
    encode   texts -> rows of ids, one or several a text
    read     the model's output -> what the answer needs of each row
    answer   a text, its rows, what was read of them -> the answer

Rows of about the same length go through the model together, whichever texts they are of, so that little is padded; and
an encoder reads real tokens alone ("packed", see `minihf.fast.packed`). A text's answer does not depend on the texts
beside it.
"""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Encoding
from torch import Tensor
from torch.utils.data import Dataset

from minihf.checkpoints.hub import Source
from minihf.checkpoints.publish import PushToHubMixin, pushes
from minihf.models.base import Model
from minihf.nn.output import Output
from minihf.pipelines.batching import batched, packed, table
from minihf.pipelines.inputs import as_device, checked_size, elements, told
from minihf.tokenization import Tokenizer
from minihf.tokenization.options import UNLIMITED

LIST, STREAM = 1024, 32  # how many texts are sorted together: of a list, and the look-ahead in what comes one by one
TOKENS = {"cpu": 2048}  # of one batch, padding included; more gains nothing
TOKENS_ELSEWHERE = 16384
TOKENIZER_OPTIONS = (
    "add_special_tokens", "padding", "truncation", "max_length", "stride", "is_split_into_words", "pad_to_multiple_of",
    "padding_side",
)  # fmt: skip


class Pipeline(PushToHubMixin, ABC):
    """A model and its tokenizer, called with texts: `pipeline(task, ...)` makes it.

    Args:
        model: in eval mode from here on, and on `device`.
        tokenizer: the one that it was trained with.
        task: as the caller named it.
        device: "cuda:1", a number (of a GPU; -1 is the CPU), a `torch.device`; None: the GPU where there is one.
        batch_size: how many rows go through the model together; None: as many as make good use of it.
        source: where the checkpoint lies, for tasks that read more of its files.
        options: the task's own (see its class), for all calls.

    Raises:
        TypeError: what is no model of minihf, or has no head for the task; unknown options.
    """

    head: ClassVar[str] = "Model"
    """The head that does the task, "ForMaskedLM"; "Model": every one can."""
    reads: ClassVar[str] = "a text"
    """An input, in words."""
    further: ClassVar[tuple[str, ...]] = TOKENIZER_OPTIONS
    """What `settle` takes beside the options that it names, where it takes any."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        task: str = "",
        device: int | str | torch.device | None = None,
        batch_size: int | None = None,
        source: Source | None = None,
        **options: Any,
    ):
        if not isinstance(model, Model):
            raise TypeError(
                f"model= is a {type(model).__module__}.{type(model).__name__}; a model of minihf was expected, or a "
                "folder or hub name to load one from"
            )
        if not isinstance(tokenizer, Tokenizer):
            raise TypeError(f"tokenizer= is a {type(tokenizer).__name__}; a tokenizer of minihf or a name was expected")
        self.task, self.tokenizer, self.source = task, tokenizer, source
        self.device = as_device(device)
        self.model = model.eval().to(self.device)
        self.batch_size = checked_size(batch_size)
        forward = inspect.signature(model.forward).parameters
        self.types = "token_type_ids" in forward and "token_type_ids" in tokenizer.model_input_names
        self.no_cache = {"use_cache": False} if "use_cache" in forward else {}
        self.options = options
        self.settled({})

    # What a task says

    @abstractmethod
    def settle(self) -> dict[str, Any]:
        """The task's options with their defaults, checked."""

    @abstractmethod
    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        """Of each text, its rows."""

    @abstractmethod
    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list:
        """Of each row of a batch, what the answer needs, on the CPU. What is behind a row's length is padding."""

    @abstractmethod
    def answer(self, item: Any, rows: list[Encoding], read: list, options: dict[str, Any]) -> Any:
        """What the caller gets for one input, from what was read of its rows."""

    # What all do

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        progress: bool = False,
        num_workers: int | None = None,
        **options: Any,
    ) -> Any:
        """Answer a text, or many.

        Args:
            inputs: a text; a list of texts, or another sequence such as a column of a dataset; or a generator or
                `torch` dataset, which are read as answers are asked for.
            batch_size: the rows that go through the model together, instead of the pipeline's own number.
            progress: show a bar.
            num_workers: as in the reference, where processes prepare the texts; here it changes nothing.
            options: the task's own, for this call.

        Returns:
            The answer; for a list a list of answers; for what is read one by one, an iterator over answers.
        """
        options = self.settled(options)
        size = self.batch_size if batch_size is None else checked_size(batch_size)
        if isinstance(inputs, str | Mapping) or self.is_one(inputs):
            return next(self.answers([inputs], 1, options, size, progress))
        if isinstance(inputs, Iterator | Dataset) or (isinstance(inputs, Iterable) and not hasattr(inputs, "__len__")):
            return self.answers(inputs, size or STREAM, options, size, progress)
        if isinstance(inputs, bytes) or not (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")):
            raise TypeError(f"{self.task} reads {self.reads}, or a list or generator of them; {told(inputs)} came")
        return list(self.answers(inputs, LIST, options, size, progress))

    def is_one(self, inputs: Any) -> bool:
        """Whether it is one input, though it is neither a str nor a mapping."""
        return False

    def settled(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of a call over those of the pipeline, over the task's defaults.

        Raises:
            TypeError: an option that the task does not have.
        """
        parameters = inspect.signature(self.settle).parameters.values()
        names = [p.name for p in parameters if p.kind != p.VAR_KEYWORD]
        if len(names) < len(parameters):
            names += self.further
        for name in options.keys() | self.options.keys():
            if name not in names:
                near = get_close_matches(name, names, n=1)
                raise TypeError(
                    f"{self.task} has no option {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}")
                )
        return self.settle(**self.merged(options))

    def merged(self, options: dict[str, Any]) -> dict[str, Any]:
        return self.options | options

    def answers(
        self, items: Iterable, window: int, options: dict[str, Any], size: int | None, progress: bool
    ) -> Iterator[Any]:
        """The answers in order; `window` texts are looked at together."""
        bar = None
        if progress:
            from tqdm.auto import tqdm

            bar = tqdm(total=len(items) if hasattr(items, "__len__") else None, unit=" texts")
        items = elements(items)
        while some := list(islice(items, window)):
            yield from self.answer_some(some, options, size, bar)
        if bar is not None:
            bar.close()

    def answer_some(self, items: list, options: dict[str, Any], size: int | None, bar: Any) -> list:
        rows_of = self.encode(items, options)
        rows = [row for own in rows_of for row in own]
        owner = [i for i, own in enumerate(rows_of) for _ in own]
        to_do = [len(own) for own in rows_of]
        read: list = [None] * len(rows)
        for batch in self.batches(rows, size, options):
            for i, result in zip(batch, self.forward([rows[i] for i in batch], options), strict=True):
                read[i] = result
                to_do[owner[i]] -= 1
                if bar is not None and not to_do[owner[i]]:
                    bar.update()
        results = iter(read)
        return [
            self.answer(item, own, list(islice(results, len(own))), options)
            for item, own in zip(items, rows_of, strict=True)
        ]

    def batches(self, rows: list[Encoding], size: int | None, options: dict[str, Any]) -> Iterator[list[int]]:
        """The numbers of the rows that go through the model together."""
        limit = self.tokens_at_once() if self.pad_id is not None else 0

        def fitting(longest: Encoding) -> int:
            return size or max(1, limit // max(1, self.cost(longest, options)))

        return batched(rows, self.kinds(rows, options), fitting)

    def kinds(self, rows: list[Encoding], options: dict[str, Any]) -> list[int]:
        """Rows of different kinds cannot go together: BART and T5 read a text's class at its last end token, and want
        as many of them in each row."""
        end = self.model.config.eos_token_id if self.model.config.is_encoder_decoder else None
        return [0] * len(rows) if end is None else [row.ids.count(end) for row in rows]

    def cost(self, row: Encoding, options: dict[str, Any]) -> int:
        """How many tokens the model has to do with for a row of this length."""
        return len(row)

    def tokens_at_once(self) -> int:
        return TOKENS.get(self.device.type, TOKENS_ELSEWHERE)

    @property
    def pad_id(self) -> int | None:
        """What fills short rows: what the model knows as padding, else what the tokenizer does. Decoders read a text's
        class at its last token before the padding that they know themselves, so there the tokenizer's is of no use."""
        own = getattr(self.model.config, "pad_token_id", None)
        return own if own is not None or self.head == "ForSequenceClassification" else self.tokenizer.pad_token_id

    def forward(self, rows: list[Encoding], options: dict[str, Any]) -> list:
        with torch.inference_mode(), nullcontext() if options.get("padding") else packed(self.model):
            output = self.model(**self.collate(rows), **self.no_cache)
            return self.read(output, rows, options)

    def collate(self, rows: list[Encoding], left: bool = False) -> dict[str, Tensor]:
        """The model's arguments: (B, T) each, padded on the right, which no answer depends on."""
        shortest, longest = min(map(len, rows)), max(map(len, rows))
        if not shortest:
            raise ValueError("a text has no token, not even a special one: there is nothing for the model to read")
        if shortest < longest and self.pad_id is None:
            raise ValueError(
                "a batch of rows of different lengths needs a pad token, and there is none: set model.config"
                ".pad_token_id = tokenizer.eos_token_id, or leave out batch_size, and texts are read one by one"
            )
        parts = {"input_ids": ("ids", self.pad_id or 0), "attention_mask": ("attention_mask", 0)}
        parts |= {"token_type_ids": ("type_ids", 0)} if self.types else {}
        return {name: table(rows, part, fill, left).to(self.device) for name, (part, fill) in parts.items()}

    @property
    def longest(self) -> int | None:
        """How many tokens a row can have: what the tokenizer says, and the model's positions allow."""
        limits = [self.model.position_limit, self.tokenizer.model_max_length]
        return min((x for x in limits if x is not None and x < UNLIMITED), default=None)

    def tokenized(self, texts: list, options: Mapping[str, Any]) -> list[Encoding]:
        """A row for each text, or pair of texts as a tuple, cut to what the model can read.

        The reference cuts only when it is asked to, and its model then breaks off; here a warning tells of it.
        """
        if not texts:
            return []
        options, asked = dict(options), "truncation" in options or "max_length" in options
        if not asked and self.model.position_limit is not None:
            options |= {"truncation": True, "max_length": self.model.position_limit}
        elif options.get("truncation") and options.get("max_length") is None:
            options["max_length"] = self.longest
        rows = self.tokenizer(texts, **options).encodings
        if not asked and any(row.overflowing for row in rows):
            warnings.warn(
                f"a text has more than the {self.model.position_limit} tokens that the model reads, and was cut; "
                "truncation=True cuts without this warning",
                stacklevel=2,
            )
        return rows

    @pushes
    def save_pretrained(self, save_directory: str | Path, *, max_shard_size: int | str = "50GB") -> None:
        """Write model and tokenizer into a folder, which `pipeline(task, folder)` loads."""
        self.model.save_pretrained(save_directory, max_shard_size=max_shard_size)
        self.tokenizer.save_pretrained(save_directory)

    def __repr__(self) -> str:
        model, device = type(self.model).__name__, str(self.device)
        return f"{type(self).__name__}(task={self.task!r}, model={model}, device={device!r})"
