"""The model inside whatever wraps it, with its own class."""

import warnings
from pathlib import Path

import pytest
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from hf_dwt.publish.describe import describe_model
from hf_dwt.tasks import model_class, plain_model

from .models import tiny
from .processes import run_in_processes

pytestmark = pytest.mark.engines

WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "FSDP 1": lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
    "compiled": torch.compile,
    "DDP, compiled": lambda model: torch.compile(DistributedDataParallel(model)),
    "compiled, in DDP": lambda model: DistributedDataParallel(torch.compile(model)),  # type: ignore[arg-type]
}


def seen_through() -> dict[str, tuple[bool, bool, object]]:
    torch.distributed.init_process_group("gloo")
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, wrap in WRAPPERS.items():
            model = tiny("gpt2")
            wrapped = wrap(model)
            unwrapped = extract_model_from_parallel(wrapped, keep_torch_compile=False)
            extracted = extract_model_from_parallel(unwrapped, keep_torch_compile=False)
            found[name] = plain_model(wrapped) is extracted, plain_model(wrapped) is model, describe_model(wrapped)
        model = tiny("gpt2")
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        renamed = type(model).__name__ == "FSDPGPT2LMHeadModel" and model_class(model).__name__ == "GPT2LMHeadModel"
        found["FSDP 2"] = renamed, plain_model(model) is model, describe_model(model)
    torch.distributed.destroy_process_group()
    return found


def test_every_wrapper_is_seen_through() -> None:
    """As accelerate does, called until nothing is left to take off."""
    (found,) = run_in_processes(1, {}, seen_through)
    described = describe_model(tiny("gpt2"))
    assert len(found) == 7
    for name, (like_accelerate, is_the_model, description) in found.items():
        expected = {key: value for key, value in described.items() if name != "FSDP 1" or key != "parameters"}
        assert like_accelerate and is_the_model and description == expected, name


def test_no_class_is_read_off_a_model_that_an_engine_may_have_renamed() -> None:
    sources = (Path(__file__).parents[1] / "hf_dwt").rglob("*.py")
    found = {path.name for path in sources if "type(plain_model(" in path.read_text(encoding="utf-8")}
    assert found == {"tasks.py"}
