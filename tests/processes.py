"""Several processes that reduce over gloo, as a launcher would start them."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState

PATIENCE = 600
"""Seconds until a rank counts as stuck."""
LOST = "gloo/transport/tcp"
"""In the error of a rank that another one no longer answers."""


def run_in_two_processes(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work(*arguments)` returns on the first rank of a world of two on this machine; both must succeed."""
    return run_in_processes(2, {}, work, *arguments)[0]


def run_in_processes(
    count: int, environment: Mapping[str, str], work: Callable[..., Any], *arguments: Any
) -> list[Any]:
    """What `work(*arguments)` returns on each rank of a world on this machine; all must succeed.

    The ranks are forked: each would take longer to import the Trainer than to do its work. Where every rank has lost
    another one and none has failed, it was the connections between them that did, as happens once in many hundreds of
    worlds: the work is done again, once.

    Args:
        count: of ranks.
        environment: what a launcher sets beside the world and the rank.
        work: what every rank does.
        *arguments: of `work`.
    """
    found = _world(count, environment, work, arguments)
    if all(LOST in error for _, error in found):
        warnings.warn("All ranks have lost their connections; the work is done again.", stacklevel=2)
        found = _world(count, environment, work, arguments)
    assert not any(error for _, error in found), "\n".join(error for _, error in found)
    return [result for result, _ in found]


def _world(
    count: int, environment: Mapping[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> list[tuple[Any, str]]:
    """Of each rank what it returns, or its error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork, pipes, ranks = multiprocessing.get_context("fork"), [], []
    for number in range(count):
        here, there = fork.Pipe(duplex=False)
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        place = {"RANK": str(number), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(count)}
        launched = {"ACCELERATE_USE_CPU": "1", **world, **place, **environment}
        rank = fork.Process(target=_rank, args=(number, launched, there, work, arguments), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of the parent, which a rank does not need
            rank.start()
        there.close()  # so that the pipe of a rank that dies has an end
        pipes.append(here)
        ranks.append(rank)
    try:
        results = [_received(here) for here in pipes]
        for rank in ranks:
            rank.join(PATIENCE)
    finally:
        for rank in ranks:
            rank.kill()
    assert any(error for _, error in results) or not any(rank.exitcode for rank in ranks)
    return results


def _received(here: Connection) -> tuple[Any, str]:
    try:
        return here.recv() if here.poll(PATIENCE) else (None, "a rank is stuck")
    except EOFError:
        return None, "a rank died"


def _rank(
    rank: int,
    environment: Mapping[str, str],
    there: Connection,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        there.send((work(*arguments), ""))
        PartialState().destroy_process_group()
    except BaseException:
        there.send((None, f"rank {rank}: {traceback.format_exc()}"))
        raise
