"""The checkpoints, each written once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parity_tests.pipelines.checkpoints import write_checkpoint
from parity_tests.pipelines.writers import write_writer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """Name -> folder."""
    return once(tmp_path_factory, write_checkpoint)


@pytest.fixture(scope="session")
def writer(tmp_path_factory) -> Callable[[str], Path]:
    """Name -> folder, of those that write."""
    return once(tmp_path_factory, write_writer)


def once(factory: pytest.TempPathFactory, write: Callable[[str, Path], Path]) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = write(name, factory.mktemp(name))
        return made[name]

    return get
