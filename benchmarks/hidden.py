"""What a term on hidden states costs: `python -m benchmarks.hidden`, beside a step with the teacher and without it."""

import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads are slower on small models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from transformers import Trainer

from .beside import Beside, trainer
from .contenders import Contender


def _term(name: str, **more: Any) -> Any:
    def build(*args: Any, **keywords: Any) -> Trainer:
        return trainer(*args, options={"hidden_term": name, **more}, **keywords)

    return build


# name -> as in CONTENDERS
TERMS: dict[str, Contender] = {
    "ours": ("one teacher, no hidden term", trainer, "hf_dwt", True),
    "masked_features": ("`masked_features`, every layer of the teacher", _term("masked_features"), "hf_dwt", True),
    "pooled": (
        "`masked_features`, pooled, the last layers",
        _term("masked_features", hidden_term_kwargs={"pool": True}, hidden_layers={"last": "last"}),
        "hf_dwt",
        True,
    ),
    "late_to_early": ("`late_to_early`", _term("late_to_early"), "hf_dwt", True),
    "relations": ("`relations`, every layer of the teacher", _term("relations"), "hf_dwt", True),
    "self_features": ("`self_features`", _term("self_features"), "hf_dwt", True),
}

if __name__ == "__main__":
    Beside("hidden", TERMS, "ours", "one without a hidden term").main(__doc__)
