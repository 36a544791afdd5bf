"""What holds for every test: no network, nobody's own files, one seed."""

import os
import shutil
import tempfile
from contextlib import suppress

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

with suppress(ImportError):  # an older PyTorch, or a GPU
    import parity_tests.elsewhere  # noqa: F401  before the first backward, at which autograd sees what devices there are


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


@pytest.fixture
def processor(monkeypatch):
    """Call it with a name: the processor goes by that, and every matrix is large to `minihf.nn.linear`."""
    import torch

    from minihf.nn import linear

    def name_it(name):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
        linear.amd.cache_clear()
        if torch.backends.mkldnn.is_available():
            assert linear.onednn_is_faster() == ("AMD" in name)

    monkeypatch.setattr(linear, "LARGE", 0)
    monkeypatch.setattr(linear, "SMALL", 0)
    yield name_it
    linear.amd.cache_clear()


@pytest.fixture
def hub(tmp_path):
    """A stand-in hub, for processes of their own: `hub.environment` tells them."""
    from parity_tests.hub import StandInHub

    with StandInHub(tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def online(hub, monkeypatch):
    """The same for this process, whose user is logged in as "me"; huggingface_hub read its environment long ago."""
    from huggingface_hub import constants

    known = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": hub.cache}
    known["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in known.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # retries wait seconds
    monkeypatch.setenv("HF_TOKEN", "secret")
    return hub
