"""What teachers in the plural cost: `python -m benchmarks.teachers`, beside a step of the stock Trainer without one.

Several teachers are copies of one, so that k of them have k times its operations; contenders take turns.
"""

import copy
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from torch import nn
from transformers import Trainer

from .beside import Beside, trainer
from .contenders import CONTENDERS, Contender


def _several(count: int) -> Any:
    def build(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **more: Any) -> Trainer:
        from hf_dwt.teachers.several import SeveralTeachers

        return trainer(student, SeveralTeachers([copy.deepcopy(teacher) for _ in range(count)]), args, **more)

    return build


def _online(student: nn.Module, teacher: nn.Module, args: dict[str, Any], **more: Any) -> Trainer:
    from peft import LoraConfig

    from hf_dwt.teachers.online import OnlineTeacher

    config = LoraConfig(r=8, target_modules="all-linear")
    return trainer(student, OnlineTeacher(teacher, config, learning_rate=1e-3), args, **more)


def _corrected(name: str) -> Any:
    def build(*args: Any, **more: Any) -> Trainer:
        return trainer(*args, options={"teacher_correction": name}, **more)

    return build


# name -> as in CONTENDERS
TEACHERS: dict[str, Contender] = {
    "stock": CONTENDERS["stock"],
    "alone": CONTENDERS["alone"],
    "ours": ("one teacher", trainer, "hf_dwt", True),
    "two": ("two teachers, by cross-entropy", _several(2), "hf_dwt", True),
    "three": ("three teachers, by cross-entropy", _several(3), "hf_dwt", True),
    "online": ("an online teacher, LoRA of rank 8", _online, "hf_dwt", True),
    "revise": ('one teacher, `teacher_correction="revise"`', _corrected("revise"), "hf_dwt", True),
    "refine": ('one teacher, `teacher_correction="refine"`', _corrected("refine"), "hf_dwt", True),
}


if __name__ == "__main__":
    Beside("teachers", TEACHERS, "stock", "stock's").main(__doc__)
