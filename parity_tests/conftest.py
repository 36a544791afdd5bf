"""What holds for every test: no network, nobody's own files, one seed."""

import os
import shutil
import tempfile

import pytest

# huggingface_hub reads its environment when it is imported, so this comes before any test module.
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
    del os.environ[name]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": tempfile.mkdtemp(prefix="minihf-hf-home-"),
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
HF_HOME = os.environ["HF_HOME"]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # under xdist there is a process for each core
        import torch

        torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    shutil.rmtree(HF_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)
