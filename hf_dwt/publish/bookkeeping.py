"""What training does not need never ends it: records, cards, pictures, clocks and pushes that fail are left out."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from transformers import TrainerCallback

from ..errors import DistillationError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
Default = TypeVar("Default")


class Bookkeeping:
    """Guards what training does not need, and warns once of each part that fails.

    with bookkeeping("the card's picture"):
        draw(record, folder)
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    @contextmanager
    def __call__(self, part: str, let_through: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Leave the rest of the block out where it raises.

        Args:
            part: what is left out then, for the warning.
            let_through: errors that are meant to end the run.
        """
        try:
            yield
        except let_through:
            raise
        except Exception as error:
            if part not in self._warned:
                self._warned.add(part)
                logger.warning("Left out: %s (%s: %s)", part, type(error).__name__, error)
            logger.debug("Left out: %s", part, exc_info=True)

    def get(self, part: str, make: Callable[[], Value], default: Default) -> Value | Default:
        """What `make` returns, or `default` where it raises."""
        with self(part):
            return make()
        return default

    @contextmanager
    def timed(self, clock: AbstractContextManager[None]) -> Iterator[None]:
        """As `with clock:`, where the clock may fail and the block may not."""
        with self("a clock"):
            clock.__enter__()
        try:
            yield
        finally:
            with self("a clock"):
                clock.__exit__(None, None, None)


class BookkeepingCallback(TrainerCallback):
    """A callback that training does not need: an event that raises is left out, with one warning that names `part`.

    The Trainer itself lets every error of a callback end the run, which is right for callbacks that belong to the
    mathematics: those derive from `TrainerCallback`. A `DistillationError` of `on_init_end` says before the first
    step what the user must change, and is raised.
    """

    part = "a record of the run"

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in list(vars(cls).items()):
            if name.startswith("on_"):
                setattr(cls, name, _guarded(method))

    @property
    def bookkeeping(self) -> Bookkeeping:
        """The guard of this callback."""
        own: Bookkeeping = self.__dict__.setdefault("_bookkeeping", Bookkeeping())
        return own


def _guarded(event: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(event)
    def guarded(self: BookkeepingCallback, *args: object, **kwargs: object) -> None:
        refusals = (DistillationError,) if event.__name__ == "on_init_end" else ()
        with self.bookkeeping(self.part, refusals):
            event(self, *args, **kwargs)

    return guarded
