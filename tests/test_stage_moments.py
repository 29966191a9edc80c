"""Adam's moments go from stage to stage, mapped as the parameters were grown; new layers start anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_dwt.errors import ArgumentError, DistillationError, GrowthError
from hf_dwt.stages import Stage, plan_stages

from .models import tiny
from .training import arguments, pad, ragged_examples

WIDE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "init": "clone", "symmetry": 0.0}


class Watch(TrainerCallback):
    """Keeps what Adam knows before each step, by stage, step and parameter."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], dict[str, dict[str, torch.Tensor]]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep(args, state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep(args, state, **kwargs)

    def _keep(self, args: Any, state: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
        found = {
            name: {key: value.clone() for key, value in optimizer.state.get(p, {}).items()}
            for name, p in model.named_parameters()
        }
        self.seen[Path(args.output_dir).name, state.global_step] = found


def planned(out: Path, *later: Stage, callbacks: Any = None, **settings: Any) -> Any:
    stages = [Stage(name="weak", steps=3), *later]
    given: dict[str, Any] = {"train_dataset": ragged_examples(), "data_collator": pad, "callbacks": callbacks}
    return plan_stages(stages, tiny("bert", seed=2), args=arguments(out, **settings), **given)


def test_they_are_mapped_and_go_on(tmp_path: Path) -> None:
    """First the weights alone change hands; then the model grows, and again goes on from a checkpoint."""
    watch = Watch()
    stages = (
        Stage(name="same", steps=2, optimizer="grown"),
        Stage(name="wide", steps=2, grow=WIDE, optimizer="grown"),
    )
    planned(tmp_path, *stages, callbacks=[watch]).run()
    before, same = watch.seen["1-weak", 3], watch.seen["2-same", 0]
    assert before.keys() == same.keys() and len(before) > 30
    for name, moments in before.items():
        assert moments.keys() == same[name].keys()
        assert all(torch.equal(value, same[name][key]) for key, value in moments.items())
    old, new = watch.seen["2-same", 2], watch.seen["3-wide", 0]
    layer = "bert.encoder.layer.0.intermediate.dense.weight"
    for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):  # (64, 32) of (32, 16): a copy of each output, by hand
        assert torch.equal(new[layer][key], old[layer][key].tile(2, 2) / 2**power) and old[layer][key].any()
    assert new[layer]["step"] == old[layer]["step"] == 5  # the correction of the bias goes on
    head = "cls.predictions.bias"
    assert torch.equal(new[head]["exp_avg"], old[head]["exp_avg"])
    assert not new["bert.encoder.layer.2.attention.self.query.weight"]  # a new layer
    assert watch.seen["3-wide", 1]["bert.encoder.layer.2.output.dense.weight"]["step"] == 1


def test_a_checkpoint_has_its_own(tmp_path: Path) -> None:
    """A stage that goes on behind its first step does not get those of the stage before again."""

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if "wide" in args.output_dir and state.global_step == 2:
                raise KeyboardInterrupt

    stage = Stage(name="wide", steps=3, grow=WIDE, optimizer="grown")
    saves: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    whole = planned(tmp_path / "whole", stage, **saves).run().state_dict()
    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path / "broken", stage, callbacks=[Stop()], **saves).run()
    resumed = planned(tmp_path / "broken", stage, **saves).run().state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    fresh = planned(tmp_path / "fresh", Stage(name="wide", steps=3, grow=WIDE), **saves).run().state_dict()
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "settings", "error", "words"),
    [
        ({"grow": {"hidden_size": 32}}, {}, GrowthError, r"stages\[1\].grow\['init'\]='remap': leaves open"),
        ({"grow": {**WIDE, "vocab_size": 70}}, {}, GrowthError, "vocab_size.*adds rows of tokens"),
        ({"optim": "sgd"}, {}, ArgumentError, r"stages\[1\].optim='sgd': keeps no moments"),
    ],
)
def test_what_does_not_say_what_becomes_of_them(
    change: Any, settings: Any, error: type[DistillationError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        planned(tmp_path, Stage(**{"steps": 1, "grow": WIDE, "optimizer": "grown", **change}), **settings)


def test_the_first_stage_has_none_before_it_and_a_finished_one_may_have_kept_none(tmp_path: Path) -> None:
    data: dict[str, Any] = {"train_dataset": ragged_examples(), "data_collator": pad}
    with pytest.raises(ArgumentError, match="has no stage before it"):
        plan_stages([Stage(steps=1, optimizer="grown")], tiny("bert"), args=arguments(tmp_path), **data)
    planned(tmp_path).run()
    with pytest.raises(ArgumentError, match="needs _moments.safetensors in '1-weak'"):
        planned(tmp_path, Stage(steps=1, optimizer="grown"))
