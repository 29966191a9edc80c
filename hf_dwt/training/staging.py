"""Saves that are whole: made in a folder of their own, whose files then replace those of the save before."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..publish.bookkeeping import Bookkeeping
from ..publish.card import CARD_FILE
from ..publish.model_files import WEIGHTS, weights_read

logger = logging.getLogger(__name__)

_STAGING = "_hf_dwt_saving"  # emptied before each save: a name that no library uses


@contextmanager
def replaced_at_the_end(folder: Path, bookkeeping: Bookkeeping) -> Iterator[Path]:
    """A folder to save into; at the end of the block its files move into `folder`, and none where it raises.

    A warning names weights which lay there before and would be read in place of those that were saved.
    """
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        yield staging
        names = _take_place_of(staging, folder)
        with bookkeeping("the check of what else lies in the folder"):
            _warn_of_what_is_read_instead(names, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _take_place_of(staging: Path, folder: Path) -> set[str]:
    """Move the files of a finished save into `folder`, weights last, and touch nothing else; their names."""
    # A README.md here is peft's: our card has more, and keeps what a user wrote.
    names = {path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()} - {CARD_FILE}
    for name in sorted(names, key=lambda name: bool(WEIGHTS.fullmatch(name))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, folder / name)
    return names


def _warn_of_what_is_read_instead(saved: set[str], folder: Path) -> None:
    """Weights that lay there before and that `from_pretrained` would read in place of those that were saved."""
    files = {path.name: path for path in folder.iterdir()}
    read = weights_read(files, adapter="adapter_config.json" in files)
    if read - saved and any(WEIGHTS.fullmatch(name) for name in saved):
        logger.warning(
            "from_pretrained(%r) reads %s, which lay there before, and not the weights that were saved now: move it "
            "away, with adapter_config.json if it is an adapter.",
            str(folder),
            min(read),
        )
