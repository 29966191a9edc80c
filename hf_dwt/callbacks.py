"""What is recorded, drawn and pushed while training: callbacks for any Trainer, composed by default in ours."""

from .publish.plot import DrawRun
from .publish.push import PushRun
from .publish.recorder import RecordRun

__all__ = ["DrawRun", "PushRun", "RecordRun"]
