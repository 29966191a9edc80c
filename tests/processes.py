"""Several processes that reduce over gloo, as a launcher would start them."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState

PATIENCE = 600
"""Seconds until a rank counts as stuck."""


def run_in_two_processes(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work(*arguments)` returns on the first rank of a world of two on this machine; both must succeed.

    The ranks are forked: each would take longer to import the Trainer than to do its work.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork, heard, ranks = multiprocessing.get_context("fork"), [], []
    for rank in range(2):
        here, there = fork.Pipe(duplex=False)
        heard.append(here)
        ranks.append(fork.Process(target=_rank, args=(rank, port, there, work, arguments), daemon=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the parent, which a rank does not need
        for rank in ranks:
            rank.start()
    try:
        told = [here.recv() if here.poll(PATIENCE) else (None, "stuck") for here in heard]
        for rank in ranks:
            rank.join(PATIENCE)
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(error for _, error in told), "\n".join(error for _, error in told)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return told[0][0]


def _rank(rank: int, port: int, there: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place = {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": 1}
    os.environ.update({name: str(value) for name, value in {**world, **place}.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        there.send((work(*arguments), ""))
        PartialState().destroy_process_group()
    except BaseException:
        there.send((None, f"rank {rank}: {traceback.format_exc()}"))
        raise
