"""Every test runs offline, on one thread, and away from the user's caches."""

import gc
import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # two threads are slower on models this small
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_dwt-tests-")

from collections.abc import Iterator

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _http

from hf_dwt.publish import upload as pushing

from .hub import TOKEN, Hub

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave all that the imports made out of garbage collections: `Trainer.train` collects, over 400,000 objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def earlier_modules_stay_out_of_collections() -> None:
    """Likewise what the tests of the modules before have imported and keep."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    with Hub().serving() as hub:
        yield hub


@pytest.fixture
def hub(hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The small Hub, empty, with the real client pointed at it and its waits between tries made short."""
    hub_server.reset()
    for name, value in (("ENDPOINT", hub_server.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for function in (_http.http_backoff, _http._http_backoff_base):
        monkeypatch.setitem(function.__kwdefaults__, "base_wait_time", 0.01)
    monkeypatch.setattr(pushing, "WAITS", (0.01, 0.01, 0.01))
    huggingface_hub.close_session()
    yield hub_server
    huggingface_hub.close_session()
