"""Worker processes that read a run's examples, and what these draw.

A worker that lives for one epoch is seeded from the random state of that epoch's beginning, which a checkpoint holds.
One that stays (`dataloader_persistent_workers`) is seeded so in its first epoch only. In the reference its numbers then
go on from epoch to epoch, where no checkpoint sees them; here each further epoch begins with a seed made of the run's,
the epoch and the worker, so that a run that goes on finds them again.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from minihf.training.seeds import set_seed


def start_worker(worker: int, first: int | None = None) -> None:
    """Workers draw other numbers each, those of other processes too; `first` are theirs that come before.

    None: as the loader seeded it.
    """
    outlast_signal()
    if first is not None:
        set_seed((torch.initial_seed() + first) % 2**32)


def outlast_signal() -> None:
    """SIGTERM ends this process only if it comes from its parent, the loader, which so ends workers that are late.

    A job that is told to end is told in all its processes, and the main one needs its workers to finish the step.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    parent = os.getppid()

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=listen, daemon=True).start()


def tell_epoch(each: Any, epoch: int) -> None:
    """To whatever shuffles or draws by it."""
    if hasattr(each, "set_epoch"):
        each.set_epoch(epoch)


class SeededByEpoch(Dataset):
    """A dataset as workers that stay read it: before the first example of an epoch they get that epoch's seed.

    Their copies of the dataset and of the collator are told the epoch, too, which otherwise only reaches those of the
    main process. What else is asked of it, the dataset answers.

    Args:
        seed: of the run.
        first: how many workers other processes have that come before.
    """

    def __init__(self, dataset: Any, collate: Callable, seed: int, first: int):
        self.dataset, self.collate, self.seed, self.first = dataset, collate, seed, first
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # which the workers see
        self.begun = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)
        tell_epoch(self.dataset, epoch)

    def begin(self) -> None:
        """In a worker: the epoch, if it is another than that of the last example."""
        worker, epoch = get_worker_info(), int(self.epoch)
        if worker is None or epoch == self.begun:
            return
        self.begun = epoch
        tell_epoch(self.dataset, epoch)
        tell_epoch(self.collate, epoch)
        set_seed(int(np.random.SeedSequence([self.seed, epoch, self.first + worker.id]).generate_state(1)[0]))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        self.begin()
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.begin()
        together = getattr(self.dataset, "__getitems__", None)
        return together(indices) if together else [self.dataset[index] for index in indices]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # asked for while a copy is made, which has nothing yet
            raise AttributeError(name)
        return getattr(self.dataset, name)


class StreamSeededByEpoch(SeededByEpoch, IterableDataset):
    """The same of a dataset that is only iterated over."""

    def __iter__(self) -> Iterator[Any]:
        self.begin()
        yield from self.dataset


def seeded_by_epoch(dataset: Any, collate: Callable, seed: int, first: int) -> SeededByEpoch:
    kind = StreamSeededByEpoch if isinstance(dataset, IterableDataset) else SeededByEpoch
    return kind(dataset, collate, seed, first)


def draw_no_seed(loader: Any) -> None:
    """Workers that stay were seeded in the first epoch: those of a run that goes on leave the random state as it is."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        loader.generator = torch.Generator()  # the seed is drawn from this; the order is not


def let_go(loader: Any) -> None:
    """Of an epoch that is broken off: workers that stay have more of it to read, and the next begins with new ones."""
    if isinstance(loader, DataLoader):
        loader._iterator = None
