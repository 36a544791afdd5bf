"""Which examples a step sees: a function of the seed, the epoch and the place in it, so that a run can go on anywhere.

The order of an epoch depends on nothing that came before, and with a generator of its own a `DataLoader` draws nothing
from the global one. So the position of a run is two numbers, the epoch and the batches seen in it, and to go on skips
indices, not examples. The order is that of accelerate's seedable sampler, which the reference's Trainer uses.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

Order = Callable[[int], Sequence[int]]  # epoch -> indices


def shuffled(length: int, seed: int) -> Order:
    """A new order for each epoch."""
    return lambda epoch: torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


def in_order(length: int) -> Order:
    return lambda epoch: range(length)


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, for `DataLoader(batch_sampler=…)`: an epoch each time it is iterated over.

        batches = EpochBatches(shuffled(len(dataset), seed=42), batch_size=8)
        loader = DataLoader(dataset, batch_sampler=batches, generator=torch.Generator())
        for epoch in range(state["epoch"], epochs):
            batches.begin(epoch, state["batches"] if epoch == state["epoch"] else 0)
            for batch in loader: …

    Args:
        order: epoch -> indices; a pure function.
        batch_size: of one process.
        drop_last: leave out a last batch that is not full.
        rank, world_size: of several processes each takes the batches rank, rank + world_size, … The last round starts
            the epoch anew where it would leave a process without a full batch, so that all have as many.
    """

    def __init__(self, order: Order, batch_size: int, *, drop_last: bool = False, rank: int = 0, world_size: int = 1):
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size} must be positive, and rank {rank} one of the {world_size} processes"
            )
        self.order, self.batch_size, self.drop_last = order, batch_size, drop_last
        self.rank, self.world_size = rank, world_size
        self.begin(0)

    def begin(self, epoch: int, batches: int = 0) -> None:
        """What the next iteration gives: this epoch, without its first `batches`, those of each process."""
        self.epoch, self.skipped = epoch, batches

    def __iter__(self) -> Iterator[list[int]]:
        indices = list(self.order(self.epoch))
        size = self.batch_size * self.world_size  # of a round
        rest = len(indices) % size
        if rest and self.drop_last:
            indices = indices[:-rest]
        elif rest and self.world_size > 1:
            indices += (indices * (size // len(indices) + 1))[: size - rest]
        batches = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        yield from batches[self.rank :: self.world_size][self.skipped :]

    def __len__(self) -> int:
        """Batches of a whole epoch, for each process."""
        rounds, rest = divmod(len(self.order(self.epoch)), self.batch_size * self.world_size)
        return rounds + bool(rest and not self.drop_last)
