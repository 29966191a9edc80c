"""What a run leaves on the Hub, whatever happens on the way: huggingface_hub's real client against a small Hub."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import _http
from transformers import TrainerCallback

from hf_dwt import DistillationTrainer, cli, from_weak_teacher
from hf_dwt.errors import HubError
from hf_dwt.publish import upload as pushing
from hf_dwt.publish.card import write_card
from hf_dwt.publish.push import Pusher
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.publish.upload import Destination, push_folder

from .hub import ME, TOKEN, Hub
from .models import tiny
from .training import ragged_examples, trainer

REPO = f"{ME}/student"
# The requests of one push into a repository that has to be made, in their order.
PUSH = ["create", "tree", "card", "preupload", "batch", "upload", "verify", "commit"]


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("teacher") / "weak"
    tiny("bert", seed=1).save_pretrained(place)
    return str(place)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model with a card that knows nothing."""
    tiny("bert").save_pretrained(tmp_path / "saved")
    write_card(RunRecord(), tmp_path / "saved")
    return tmp_path / "saved"


def run_of(out: Path, teacher: Any = None, student: Any = None, **settings: Any) -> DistillationTrainer:
    """A run of four steps that saves and pushes after the second and the fourth."""
    ours = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "push_to_hub": True, "hub_model_id": REPO}
    more = {"eval_dataset": ragged_examples(8)}
    return trainer(student or tiny("bert"), teacher, out, more=more, **{**ours, **settings})


def assert_whole(files: dict[str, bytes], folder: Path) -> None:
    """The Hub holds the model of the folder, byte for byte, with its config and its card."""
    for name in ("model.safetensors", "config.json"):
        assert files[name] == (folder / name).read_bytes(), name
    assert "README.md" in files


def every_commit_is_whole(hub: Hub) -> bool:
    lines = [line for repo in hub.repos.values() for line in repo.revisions.values()]
    commits = [commit for line in lines for commit in line if commit.files]
    return all({"model.safetensors", "config.json"} <= set(commit.files) for commit in commits)


# ---- pushes while training ----


def test_every_save_is_one_whole_commit(
    hub: Hub, weak: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, student = tmp_path / "out", from_weak_teacher(weak, hidden_size=32)
    run = run_of(out, weak, student, hub_always_push=True, save_total_limit=1)
    run.train()
    commits = hub.repos[REPO].revisions["main"][1:]
    assert [commit.message for commit in commits] == [f"Training in progress, step {step}" for step in (2, 4)]
    assert commits[0].files["model.safetensors"] != commits[1].files["model.safetensors"]
    assert_whole(commits[1].files, out / "checkpoint-4")
    assert "On the Hub: step 4" in capsys.readouterr().out
    record = json.loads(commits[1].files["run.json"])
    assert record["training"]["steps"] == 4 and record["growth"]["init"] == "remap"
    assert json.loads(commits[1].files["growth.json"])["teacher"] == "weak"
    assert not {"optimizer.pt", "trainer_state.json", "rng_state.pth"} & set(commits[1].files)
    assert not (out / "_hf_dwt_push").exists() or not any((out / "_hf_dwt_push").iterdir())
    metrics = run.evaluate()
    commit = run.push_to_hub(license="apache-2.0", tags="mine")
    card = hub.repos[REPO].files["README.md"].decode()
    assert commit.oid == hub.repos[REPO].revisions["main"][-1].oid
    assert f'from_pretrained("{REPO}")' in card and f"{metrics['eval_loss']:.4g}" in card and "- mine" in card


@pytest.mark.parametrize(
    ("strategy", "place"), [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-4")]
)
def test_a_checkpoint_may_go_along_with_the_state_of_the_training(
    strategy: str, place: str, hub: Hub, tmp_path: Path
) -> None:
    run_of(tmp_path / "out", hub_strategy=strategy, hub_always_push=True).train()
    files = hub.repos[REPO].files
    assert {f"{place}/optimizer.pt", f"{place}/trainer_state.json", "model.safetensors"} <= set(files)
    assert files[f"{place}/optimizer.pt"] == (tmp_path / "out/checkpoint-4/optimizer.pt").read_bytes()
    assert ("checkpoint-2/optimizer.pt" in files) == (strategy == "all_checkpoints")


def test_training_does_not_wait_and_what_is_overtaken_is_told(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.stall_seconds = 1.5
    hub.fail("stall", "commit")  # the first push hangs while the run saves twice more
    run_of(tmp_path / "out", max_steps=6).train()
    assert "step 4 is not pushed on its own: step 6 was ready" in caplog.text
    assert hub.repos[REPO].revisions["main"][-1].message == "Training in progress, step 6"
    assert every_commit_is_whole(hub)


def test_what_waits_its_turn_is_not_changed_by_the_next_save(hub: Hub, tmp_path: Path) -> None:
    hub.stall_seconds = 0.4
    hub.fail("stall", "commit")
    run, out = run_of(tmp_path / "out", hub_strategy="end"), tmp_path / "out"
    run.save_model(_internal_call=True)
    before = (out / "model.safetensors").read_bytes()
    job = run._pusher.push(out, "the first", "step 0", finish=run._write_card)
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    run.save_model(_internal_call=True)
    assert not job.done() and (out / "model.safetensors").read_bytes() != before
    job.result()
    assert hub.repos[REPO].files["model.safetensors"] == before


def test_strategy_end_leaves_the_pushing_to_the_user(hub: Hub, tmp_path: Path) -> None:
    run = run_of(tmp_path / "out", hub_strategy="end")
    run.train()
    assert len(hub.repos[REPO].revisions["main"]) == 1
    run.save_model()
    assert hub.repos[REPO].revisions["main"][-1].message == "Model save"
    assert_whole(hub.repos[REPO].files, tmp_path / "out")


# ---- faults ----

# One of each kind: 409 is met as 412 is, 500 as 503, 403 as 401.
TRANSIENT = [412, 429, 503, "cut", "lost", "stall"]
FINAL = [401, 404]


@pytest.mark.parametrize("what", TRANSIENT)
def test_a_fault_that_passes_is_waited_out_wherever_it_strikes(
    what: int | str, hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stall_seconds = 0.3
    monkeypatch.setattr(pushing, "STALL_SECONDS", 0.1)
    for kind in PUSH:
        hub.reset()
        hub.fail(what, kind, **({"Retry_After": "0"} if what == 429 else {}))
        push_folder(saved, Destination(REPO), "a push")
        assert hub.faults[0].seen > 0, kind  # it did strike
        assert hub.repos[REPO].files["model.safetensors"] == (saved / "model.safetensors").read_bytes()
        assert every_commit_is_whole(hub) and len(hub.repos[REPO].revisions["main"]) == 2, kind


def test_a_server_that_says_nothing_is_not_waited_for(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "STALL_SECONDS", 0.2)
    hub.stall_seconds = 20.0
    hub.fail("stall", "commit")
    began = time.monotonic()
    push_folder(saved, Destination(REPO), "a push")
    assert time.monotonic() - began < 10 and hub.repos[REPO].files


class FaultAtEachSave(TrainerCallback):
    """At each save another request of the push fails for good; then the fault goes, and the command finishes."""

    def __init__(self, hub: Hub, what: int | str, log: pytest.LogCaptureFixture) -> None:
        self.hub, self.what, self.log, self.struck = hub, what, log, list[str]()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.hub.fail(self.what, PUSH[1:][state.global_step], times=float("inf"))
        self.hub.objects.clear()
        self.before = len(self.hub.repos[REPO].revisions["main"])
        self.log.clear()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder, kind = Path(args.output_dir) / f"checkpoint-{state.global_step}", PUSH[1:][state.global_step - 1]
        self.pusher.wait()
        lines = [record.getMessage() for record in self.log.records if record.name.startswith("hf_dwt")]
        # What was done although its answer was lost is found done by the next try.
        if len(self.hub.repos[REPO].revisions["main"]) == self.before:
            assert len(lines) == 1, (kind, lines)
            assert f"step {state.global_step} failed" in lines[0] and f"hf-dwt push {folder} {REPO}" in lines[0]
            assert (str(self.what) if isinstance(self.what, int) else "no connection") in lines[0]
            assert "Signature" not in lines[0]
            self.struck.append(kind)
        else:
            assert not lines and every_commit_is_whole(self.hub)
        self.hub.faults.clear()
        assert cli.main(["push", str(folder), REPO]) == 0
        assert_whole(self.hub.repos[REPO].files, folder)


@pytest.mark.parametrize("what", [*FINAL, *TRANSIENT])
def test_a_fault_that_stays_costs_a_line_and_nothing_else(
    what: int | str, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "STALL_SECONDS", 0.1)
    for function in (_http.http_backoff, _http._http_backoff_base):
        monkeypatch.setitem(function.__kwdefaults__, "max_retries", 1)
    hub.stall_seconds = 0.2
    steps, out, faults = len(PUSH) - 1, tmp_path / "out", FaultAtEachSave(hub, what, caplog)
    run = run_of(out, max_steps=steps, save_steps=1)
    faults.pusher = run._pusher
    run.add_callback(faults)
    run.train()
    assert run.state.global_step == steps and every_commit_is_whole(hub)
    assert {"tree", "card", "preupload", "batch"} <= set(faults.struck)
    assert what in ("lost", "cut") or "commit" in faults.struck
    run.save_model(_internal_call=True)
    again = tiny("bert").from_pretrained(out)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), run.model.parameters(), strict=True))


def test_retry_after_is_obeyed_within_bounds(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(pushing.time, "sleep", waits.append)  # nobody waits two minutes for a test
    hub.fail(429, "commit", Retry_After="7")
    hub.fail(503, "commit", Retry_After="9999")
    hub.fail(429, "preupload", Retry_After="9999")  # the client itself tries this one again, a second later than told
    push_folder(saved, Destination(REPO), "a push")
    assert waits == [pushing.LONGEST_WAIT + 1, 7.0, pushing.LONGEST_WAIT]


def test_a_process_that_ends_before_its_push_says_so(
    hub: Hub, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_hf_dwt_push" / "1-0").mkdir(parents=True)  # of a process that was killed
    pusher = Pusher(Destination(REPO), tmp_path)
    assert not (tmp_path / "_hf_dwt_push" / "1-0").exists()
    hub.stall_seconds = 0.5
    hub.fail("stall")
    job = pusher.push(saved, "a push", "step 1")
    while not hub.requests:  # its copy is listed, and read after the stall
        time.sleep(0.01)
    pusher._say_unfinished()
    assert f"step 1 was not pushed to its end. To finish: hf-dwt push {saved} {REPO}" in caplog.text
    with pytest.raises(HubError):  # its copy went with the process
        job.result()
    caplog.clear()
    pusher.push(saved, "a push", "step 1").result()
    pusher._say_unfinished()
    assert caplog.text == ""


ENDS = """
import sys
from hf_dwt.publish.push import Pusher
from hf_dwt.publish.upload import Destination
Pusher(Destination(sys.argv[2]), sys.argv[1]).push(sys.argv[1], "a push", "step 1")
raise KeyboardInterrupt
"""


def test_a_process_that_is_interrupted_pushes_what_it_has_begun(hub: Hub, saved: Path) -> None:
    hub.stall_seconds = 0.5
    hub.fail("stall", "commit")
    ours = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    argv = [sys.executable, "-c", ENDS, str(saved), REPO]
    done = subprocess.run(argv, env={**os.environ, **ours}, capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in done.stderr
    assert_whole(hub.repos[REPO].files, saved)
    assert not list((saved / "_hf_dwt_push").iterdir())
