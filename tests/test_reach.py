"""An id that is neither cached nor can be asked for is refused after one request, not after minutes of them."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from hf_dwt import DistillationError, assess_teacher, from_weak_teacher
from hf_dwt.hub_access import no_connection

from .hub import Hub
from .models import tiny
from .training import trainer

FILES = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A Hub that hangs up on everybody; a list of who called."""
    calls: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:  # closed
                    return
                calls.append(address)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + FILES)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.close_session()
        yield calls
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    huggingface_hub.close_session()


CALLS: dict[str, Callable[[str, Path], Any]] = {
    "from_weak_teacher": lambda name, _: from_weak_teacher(name, hidden_size=32),
    "assess_teacher": lambda name, _: assess_teacher(name, ["some text"]),
    "DistillationTrainer": lambda name, out: trainer(tiny("bert"), name, out),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_request_is_enough_to_know(name: str, deaf: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DistillationError, match="='nobody/no-such-model': is neither here .*no connection.*spelling"):
        CALLS[name]("nobody/no-such-model", tmp_path)
    assert len(deaf) == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_hub_that_answers_has_the_last_word(
    name: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + FILES)
    with pytest.raises(DistillationError) as error:
        CALLS[name]("nobody/no-such-model", tmp_path)
    assert "no connection" not in str(error.value) and "no-such-model" in str(error.value)


def test_what_is_here_is_not_asked_for(deaf: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert")
    for source in (tmp_path, str(tmp_path), model, "not/an/id", "/no/such/folder"):
        assert no_connection(source, {}) is None
    assert no_connection("me/model", {"local_files_only": True}) is None
    snapshot = tmp_path / "models--me--model" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("main")
    (snapshot / "config.json").write_text("{}")
    assert no_connection("me/model", {"cache_dir": str(tmp_path)}) is None
    assert not deaf
    assert "no connection" in str(no_connection("me/other", {"cache_dir": str(tmp_path)}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert no_connection("me/other", {"cache_dir": str(tmp_path)}) is None
