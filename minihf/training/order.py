"""In what order a run sees its examples, and how it finds its place again.

For one seed the order is the reference's (`transformers` 5.23 over `accelerate`): each epoch is shuffled with a
generator of its own, seeded by seed + epoch, and each batch is read while the one before it waits to be trained on.
What collators draw, masked words for one, comes of the random state at that moment. So a checkpoint remembers two
states besides the present one, that of the epoch's beginning and that before the waiting batch was read, and a run that
goes on from it sees the same batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    IterDataPipe,
    MapDataPipe,
    Sampler,
    SequentialSampler,
)

from minihf.training.arguments import TrainingArguments
from minihf.training.dealing import RankBatches, in_step, sharded
from minihf.training.distributed import everyone, rank, shared, world_size
from minihf.training.seeds import array, cpu_random_state, packed_state, set_cpu_random_state, text, unpacked_state
from minihf.training.workers import draw_no_seed, let_go, seeded_by_epoch, start_worker, tell_epoch


class SeededSampler(Sampler[int]):
    """All examples in an order that the seed and the epoch decide."""

    def __init__(self, dataset: Sized, seed: int):
        self.dataset, self.seed, self.epoch = dataset, seed, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(len(self.dataset), generator=generator).tolist()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class LengthGroupedSampler(Sampler[int]):
    """Examples of similar length side by side, so that there is little padding; otherwise at random.

    The examples are shuffled and cut into stretches of up to 50 batches; each stretch is sorted, longest first. The
    longest example of all comes first, so that memory runs out at once or never.

    Args:
        batch_size: of all the batches that make a step.
        lengths: of each example.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int]):
        self.batch_size, self.lengths = batch_size, [*lengths]

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        lengths, size = self.lengths, self.batch_size
        order = shared(torch.randperm(len(lengths))).tolist()  # all processes draw, and have one order
        size *= max(min(len(lengths) // (4 * size), 50), 1)
        stretches = [order[i : i + size] for i in range(0, len(order), size)]
        stretches = [sorted(each, key=lambda i: lengths[i], reverse=True) for each in stretches]
        if stretches:
            longest = max(stretches, key=lambda each: lengths[each[0]])  # the first of these
            stretches[0][0], longest[0] = longest[0], stretches[0][0]
        for each in stretches:
            yield from each


def length(data: Any) -> int | None:
    """Of a dataset or a loader; None where it is not known. A loader of a stream has a method that fails."""
    try:
        return len(data)
    except TypeError:
        return None


def same_length(loader: Any) -> int | None:
    """Of a loader, in all processes: were they not to have as many batches, they would wait for each other."""
    lengths = everyone(length(loader))
    if len(set(lengths)) > 1:
        raise ValueError(f"the processes have {lengths} batches; a loader of your own must give each as many")
    return lengths[0]


def train_sampler(dataset: Any, args: TrainingArguments, input_name: str) -> Sampler[int] | None:
    """The order of training; None where the dataset has its own."""
    if isinstance(dataset, IterableDataset) or length(dataset) is None:
        return None
    if args.train_sampling_strategy == "sequential":
        return SequentialSampler(dataset)
    if args.train_sampling_strategy == "random":
        return SeededSampler(dataset, args.seed if args.data_seed is None else args.data_seed)
    if args.length_column_name in (getattr(dataset, "column_names", None) or []):
        lengths = [*dataset[args.length_column_name]]
    elif isinstance(dataset[0], Mapping) and input_name in dataset[0]:
        lengths = [len(row[input_name]) for row in dataset]
    else:
        raise ValueError(
            f"to group examples by length they need a column {args.length_column_name!r} or {input_name!r}, which "
            "tells how long they are"
        )
    step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return LengthGroupedSampler(step, lengths)


def make_loader(
    dataset: Any, collate: Callable, batch_size: int, args: TrainingArguments, sampler: Sampler | None, *, train: bool
) -> DataLoader:
    """A loader of this process's batches. What is evaluated is neither shuffled nor filled up."""
    streamed, several = isinstance(dataset, IterableDataset), args.world_size > 1
    counted = several and streamed and not train  # its examples, as they are read: here, and by no worker
    drop_last = args.dataloader_drop_last and not streamed
    how: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last, "sampler": None if streamed else sampler}
    if several and streamed:
        dataset = sharded(dataset, batch_size, ordered=not train)
    elif several:
        batches = BatchSampler(SequentialSampler(dataset) if sampler is None else sampler, batch_size, drop_last)
        how = {"batch_sampler": RankBatches(batches, rank(), world_size(), drop_last=drop_last, fill=train)}
    workers, before = 0 if counted else args.dataloader_num_workers, rank() * args.dataloader_num_workers
    stay = args.dataloader_persistent_workers and not counted
    stay &= not isinstance(dataset, IterDataPipe | MapDataPipe)  # which a loader itself deals out and seeds
    if train and workers and stay:
        dataset = seeded_by_epoch(dataset, collate, args.seed, before)
    return DataLoader(
        dataset,
        **how,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=stay,
        prefetch_factor=None if counted else args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        in_order=args.dataloader_in_order,
        worker_init_fn=partial(start_worker, first=before) if train else start_worker,
    )


@dataclass
class KeepColumns:
    """A collator that sees only the columns that the model takes, as `remove_unused_columns` asks."""

    collate: Callable
    names: list[str]

    def __call__(self, features: list[Any]) -> Any:
        return self.collate([self.kept(row) for row in features])

    def set_epoch(self, epoch: int) -> None:
        tell_epoch(self.collate, epoch)

    def kept(self, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        return some({name: value for name, value in row.items() if name in self.names}, [*row], self.names)


def keep_columns(dataset: Any, collate: Callable, names: list[str]) -> tuple[Any, Callable]:
    """The dataset without columns that are not among the names, or else a collator that leaves them out."""
    columns = getattr(dataset, "column_names", None)
    if isinstance(dataset, IterableDataset) or not columns or not hasattr(dataset, "remove_columns"):
        return dataset, KeepColumns(collate, names)
    some([name for name in columns if name in names], columns, names)
    return dataset.remove_columns([name for name in columns if name not in names]), collate


def some(kept: Any, columns: list[str], names: list[str]) -> Any:
    if not kept:
        raise ValueError(
            f"none of the dataset's columns ({', '.join(columns)}) is an argument of the model's forward "
            f"({', '.join(names)}). Tokenize the texts; or, where the collator needs these columns, set "
            "remove_unused_columns=False"
        )
    return kept


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to whatever in a loader shuffles by it."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None)
    for each in (loader, getattr(loader, "dataset", None), getattr(loader, "sampler", None), batch_sampler, inner):
        tell_epoch(each, epoch)


class Place:
    """Where in its data a run is. Iterating `batches` moves it on; `as_dict` is what a checkpoint keeps of it."""

    def __init__(self, collator: Any = None) -> None:
        """collator: it may draw from a row of its own, which `random_state` tells and `set_random_state` sets."""
        self.epoch = self.given = 0  # epochs that are over, batches of this one that were given out
        self.at_start = self.before_waiting = cpu_random_state()
        self.collator = collator if hasattr(collator, "set_random_state") else None
        self.own_before_waiting = self.own_state()
        self.generators: list[torch.Generator] = []
        self.generators_at_start: list[torch.Tensor] = []
        self.generators_to_come: dict[str, list[str]] = {}  # of a run that goes on, until its first batch

    def own_state(self) -> Any:
        return None if self.collator is None else self.collator.random_state()

    def set_own_state(self, state: Any) -> None:
        if self.collator is not None and state is not None:
            self.collator.set_random_state(state)

    def batches(self, loader: Any, present: tuple | None = None) -> Iterator[Any]:
        """The epoch's batches from here on, each given out when the next one was read.

        present: a run that goes on gets this random state once it is where it was.
        """
        if self.epoch:
            draw_no_seed(loader)
        self.generators = generators(loader)
        states = self.generators_to_come.get("present" if present is None else "at_start", [])
        for generator, state in zip(self.generators, states, strict=False):
            generator.set_state(torch.from_numpy(array(state, np.uint8)))
        self.generators_at_start, self.generators_to_come = [each.get_state() for each in self.generators], {}
        if present is None:
            self.given, self.at_start = 0, cpu_random_state()
            iterator = evenly(loader, iter(loader))
            waiting = self.read(iterator)
        else:
            own_present = self.own_state()
            set_cpu_random_state(self.at_start)
            iterator = evenly(loader, skipped(loader, self.given))
            set_cpu_random_state(self.before_waiting)
            self.set_own_state(self.own_before_waiting)
            waiting = self.read(iterator)
            set_cpu_random_state(present)
            self.set_own_state(own_present)
        try:
            while waiting is not None:
                batch, waiting = waiting, self.read(iterator)
                self.given += 1
                yield batch
        finally:
            if waiting is not None:
                let_go(loader)

    def read(self, iterator: Iterator[Any]) -> Any:
        self.before_waiting, self.own_before_waiting = cpu_random_state(), self.own_state()
        return next(iterator, None)

    def as_dict(self) -> dict[str, Any]:
        states = {name: packed_state(getattr(self, name)) for name in ("at_start", "before_waiting")}
        own = {"own_before_waiting": self.own_before_waiting, "own_present": self.own_state()}
        of_generators = {"at_start": self.generators_at_start, "present": [x.get_state() for x in self.generators]}
        of_generators = {name: [text(x.numpy()) for x in each] for name, each in of_generators.items()}
        own |= {"generators": self.generators_to_come or of_generators}
        return {"epoch": self.epoch, "given": self.given} | states | own

    @classmethod
    def from_dict(cls, values: dict[str, Any], collator: Any = None) -> "Place":
        """Also puts the collator's own row to where it was."""
        place = cls(collator)
        place.epoch, place.given = values["epoch"], values["given"]
        place.at_start, place.before_waiting = (unpacked_state(values[x]) for x in ("at_start", "before_waiting"))
        place.own_before_waiting = values.get("own_before_waiting")
        place.set_own_state(values.get("own_present"))
        place.generators_to_come = values.get("generators", {})
        return place


def generators(loader: Any) -> list[torch.Generator]:
    """Those that a loader of somebody's own shuffles with."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = (getattr(batch_sampler, "sampler", None), batch_sampler, getattr(loader, "sampler", None), loader)
    found = [getattr(each, "generator", None) for each in holders]
    return [*dict.fromkeys(each for each in found if isinstance(each, torch.Generator))]


def evenly(loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """Of several processes each gets as many batches: of loaders that do not tell their length, too."""
    return in_step(batches) if world_size() > 1 and length(loader) is None else batches


def skipped(loader: Any, count: int) -> Iterator[Any]:
    """A loader's iterator, so many batches on. Examples are not even read where their order is known without them."""
    known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if not known or loader.batch_sampler is None or loader.num_workers:  # workers draw as they collate
        iterator = iter(loader)
        for _ in islice(iterator, count):
            pass
        return iterator
    batches = iter(loader.batch_sampler)
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)  # as each loader does before its first batch
    rest = [*islice(batches, count, None)]
    return iter(
        DataLoader(loader.dataset, batch_sampler=rest, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory)
    )
