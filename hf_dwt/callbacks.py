"""What is recorded, drawn, printed and pushed while training: callbacks for any Trainer, part of ours by default."""

from .publish.plot import DrawRun
from .publish.push import PushRun
from .publish.recorder import RecordRun
from .publish.summary import SummarizeRun

__all__ = ["DrawRun", "PushRun", "RecordRun", "SummarizeRun"]
