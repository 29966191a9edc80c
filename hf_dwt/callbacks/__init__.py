"""What is recorded, drawn and pushed while training: callbacks for any Trainer, composed by default in ours."""

from .draw import DrawRun
from .push import PushRun
from .record import RecordRun

__all__ = ["DrawRun", "PushRun", "RecordRun"]
