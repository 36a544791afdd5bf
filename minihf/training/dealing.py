"""A dataset among several processes: each gets its own batches, all as many, and together they are the single run's.

With a length, indices are dealt out (`RankBatches`); a stream is read by all, and each keeps its turn (`RankExamples`);
one of the `datasets` library that lies in enough files is read in parts. The rules are those of accelerate.
"""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, TypeVar

from torch.utils.data import BatchSampler, IterableDataset, Sampler

from minihf.training.distributed import anywhere, rank, world_size

T = TypeVar("T")


class RankBatches(Sampler[list[int]]):
    """A batch sampler's batches, dealt out: of each round this process takes one. All get as many, and full ones.

    Args:
        batches: of a whole run, as a single process would go through them; each process must make the same ones.
        rank, world_size: of this process.
        drop_last: leave out a last round that is not full, rather than fill it up from the beginning of the epoch.
        fill: False: of a last round each takes what is there, and one example where nothing is left, so that all have
            as many batches. What is measured, taken together, begins with `examples` that count.
    """

    def __init__(
        self, batches: BatchSampler, rank: int, world_size: int, *, drop_last: bool = False, fill: bool = True
    ):
        self.batches, self.rank, self.world_size = batches, rank, world_size
        self.drop_last, self.fill = drop_last, fill

    @property
    def sampler(self) -> Any:
        """Where `set_epoch` is looked for."""
        return self.batches.sampler

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    @property
    def examples(self) -> int:
        """How many the processes have together, duplicates not counted."""
        return min(len(self.sampler), len(self) * self.world_size * self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        start: list[int] = []
        round_: list[list[int]] = []
        for number, batch in enumerate(self.batches):
            if number < self.world_size:
                start += batch
            round_.append(batch)
            if len(round_) == self.world_size and len(batch) == self.batch_size:
                yield round_[self.rank]
                round_ = []
        if round_ and not self.drop_last:
            indices = [index for batch in round_ for index in batch]
            yield turn(indices, start, self.rank, self.world_size, self.batch_size, self.fill)

    def __len__(self) -> int:
        rounds, rest = divmod(len(self.batches), self.world_size)
        return rounds + bool(rest and not self.drop_last)


class RankExamples(IterableDataset):
    """A stream's examples, dealt out: of each round, a batch for every process, those of this process.

    A last round that is not full is dealt with as `RankBatches` does.
    """

    def __init__(self, stream: IterableDataset, batch_size: int, rank: int, world_size: int, *, fill: bool = True):
        self.stream, self.batch_size, self.rank, self.world_size = stream, batch_size, rank, world_size
        self.fill = fill
        self.examples = 0  # that the processes had so far

    def __iter__(self) -> Iterator[Any]:
        self.examples, start = 0, []
        examples = iter(self.stream)
        while round_ := [*islice(examples, self.world_size * self.batch_size)]:
            start = start or round_
            self.examples += len(round_)
            yield from turn(round_, start, self.rank, self.world_size, self.batch_size, self.fill)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


def examples_of(loader: Any) -> int | None:
    """How many examples count of all that the processes' loaders have given so far, or will give; None: all."""
    for source in (getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)):
        if isinstance(source, RankBatches | RankExamples):
            return source.examples
    return None


def turn(round_: list[T], start: list[T], rank: int, world_size: int, batch_size: int, fill: bool) -> list[T]:
    """This process's part of a round."""
    if fill:
        round_ = [*round_, *islice(cycle(start), world_size * batch_size - len(round_))]
    return round_[rank * batch_size : (rank + 1) * batch_size] or start[:1]


def sharded(stream: IterableDataset, batch_size: int, *, ordered: bool = False) -> IterableDataset:
    """This process's part of a dataset that is only iterated over.

    Args:
        ordered: batches of all processes, taken together, are in the stream's order, and nothing is filled up. If not,
            a dataset of the library `datasets` is read in parts, if it can: these may differ in length, so go through
            the batches with `in_step`.
    """
    if world_size() == 1:
        return stream
    shards = getattr(stream, "num_shards", None) or getattr(stream, "n_shards", 1)  # of the library `datasets`
    if shards % world_size() == 0 and not ordered:
        from datasets.distributed import split_dataset_by_node

        return split_dataset_by_node(stream, rank(), world_size())
    return RankExamples(stream, batch_size, rank(), world_size(), fill=not ordered)


def in_step(batches: Iterator[T]) -> Iterator[T]:
    """Batches as long as every process has one: a step that one of them did not take would keep the others waiting."""
    batches = iter(batches)
    while True:
        batch = next(batches, batches)  # an iterator never yields itself
        if anywhere(batch is batches):
            return
        yield batch
