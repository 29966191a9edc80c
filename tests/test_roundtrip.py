"""From the example over the Hub to somebody who has never heard of hf_dwt, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .hub import ME, TOKEN, Hub

pytestmark = pytest.mark.examples

ROOT = Path(__file__).parents[1]
REPO = f"{ME}/student"

# The weights as they were saved, beside those that came over the Hub.
SOMEBODY = f"""
import json, sys
sys.modules["hf_dwt"] = None  # importing it fails, as where it is not installed
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

try:
    import hf_dwt
except ImportError:
    absent = True
model, tokenizer = AutoModelForMaskedLM.from_pretrained("{REPO}"), AutoTokenizer.from_pretrained("{REPO}")
saved, came = load_file(sys.argv[1] + "/model.safetensors"), model.state_dict()
guesses = pipeline("fill-mask", model="{REPO}", top_k=2)(f"we must help the {{tokenizer.mask_token}}.")
print(json.dumps({{
    "absent": absent, "class": type(model).__name__, "module": type(model).__module__, "guesses": len(guesses),
    "equal": all(torch.equal(came[name], value) for name, value in saved.items()), "tensors": len(saved),
    "other": bool(torch.equal(next(model.parameters()), torch.zeros_like(next(model.parameters())))),
    "words": len(tokenizer),
}}))
"""


@pytest.fixture
def elsewhere(hub_server: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that knows the small Hub alone."""
    hub_server.reset()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    ours = {"HF_ENDPOINT": hub_server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
    return {**kept, **ours, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}


def ran(argv: list[str], env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run([sys.executable, *argv], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


def test_the_example_pushes_what_stock_classes_load(
    hub_server: Hub, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    lines = (ROOT / "examples" / "data" / "train.txt").read_text(encoding="utf-8").splitlines()[:120]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "train_file": "text.txt", "output_dir": "student"}
    argv = [str(ROOT / "examples" / "run_mlm_dwt.py"), "--push_to_hub", "--hub_always_push"]
    argv += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    said = ran(argv, {**elsewhere, "PYTHONPATH": str(ROOT)}, tmp_path)
    commits = hub_server.repos[REPO].revisions["main"][1:]
    assert "On the Hub: step 4" in said and commits[-1].oid in said
    assert [commit.message for commit in commits][:2] == [f"Training in progress, step {step}" for step in (2, 4)]
    needed = {"model.safetensors", "config.json", "tokenizer.json", "README.md", "run.json", "growth.json"}
    assert all(needed <= set(commit.files) for commit in commits)
    card = commits[-1].files["README.md"].decode()
    assert "`weak_teacher`" in card and "init='remap'" in card and str(ROOT) not in card and str(tmp_path) not in card
    assert {"curves.png", "results.json"} <= set(commits[-1].files)

    got = json.loads(ran(["-c", SOMEBODY, str(tmp_path / "student")], elsewhere, tmp_path).splitlines()[-1])
    assert got["absent"] and got["equal"] and got["tensors"] > 10 and not got["other"]
    assert (got["class"], got["guesses"], got["words"]) == ("ModernBertForMaskedLM", 2, 512)
    assert got["module"].startswith("transformers.models.")

    files = [path for path in tmp_path.rglob("*") if path.is_file() and "home" not in path.parts]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert TOKEN.encode() not in hub_server.every_byte() and len(files) > 10
