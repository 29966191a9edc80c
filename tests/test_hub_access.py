"""Where a model may go, what is refused before the first step, and that the token goes nowhere."""

import logging
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.utils import _http
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from hf_dwt import cli, from_weak_teacher
from hf_dwt.callbacks import PushRun
from hf_dwt.errors import HubError, SetupError
from hf_dwt.publish import upload as pushing
from hf_dwt.publish.upload import Destination, prepare, push_folder
from hf_dwt.tasks import find_task
from hf_dwt.teachers.loading import load_teacher

from .hub import ME, ORG, OTHER, READ_TOKEN, TOKEN, Hub
from .models import batch, tiny
from .training import pad, ragged_examples, trainer

REPO = f"{ME}/student"
SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny("bert").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# ---- before the first step ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hub_model_id": "a/b/c"}, ["hub_model_id='a/b/c'", "no repository id"]),
        ({"hub_model_id": "me/stu dent"}, ["hub_model_id='me/stu dent'", "owner/name"]),
        ({"hub_model_id": f"{OTHER}/student"}, [f"belongs to {OTHER}", f"{ME}, {ORG}"]),
        ({"hub_model_id": f"{OTHER}/new"}, [f"belongs to {OTHER}"]),
        ({"hub_token": READ_TOKEN}, ["hub_token='<hidden>'", "may read, but not write", "settings/tokens"]),
        ({"hub_token": "hf_wrong"}, ["was refused: 401", "settings/tokens"]),
    ],
)
def test_what_cannot_be_written_is_said_before_the_first_step(
    settings: dict[str, Any], words: list[str], hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(HubError) as error:
        trainer(tiny("bert"), None, tmp_path / "out", push_to_hub=True, **settings)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not {"create", "commit"} & set(hub.requests) and list(hub.repos) == [f"{OTHER}/student"]
    assert TOKEN not in str(error.value) and READ_TOKEN not in str(error.value)


def test_no_token_and_no_network_are_said_too(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="hf auth login"):
        trainer(tiny("bert"), None, tmp_path, push_to_hub=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError) as error:  # together with what else is wrong
        trainer(tiny("bert"), "nowhere", tmp_path, push_to_hub=True, hub_token=TOKEN)
    assert [type(problem).__name__ for problem in error.value.problems] == ["HubError", "TeacherError"]
    assert hub.requests == []
    assert trainer(tiny("bert"), None, tmp_path, hub_model_id="a/b/c").args.push_to_hub is False  # then nobody asks


@pytest.mark.parametrize("what", [401, 403, 404, 429, 503, "cut"])
@pytest.mark.parametrize("kind", ["whoami", "create"])
def test_a_hub_that_is_out_of_order_does_not_keep_a_run_from_starting(
    what: int | str, kind: str, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail(what, kind, times=float("inf"))
    if what in (401, 403, 404):
        with pytest.raises(HubError, match=str(what)):
            trainer(tiny("bert"), None, tmp_path / "student", push_to_hub=True, **SAVING)
        return
    run = trainer(tiny("bert"), None, tmp_path / "student", push_to_hub=True, **SAVING)
    assert ("first push tries again" in caplog.text) == (kind == "create")
    hub.faults.clear()
    run.train()
    assert REPO in hub.repos and "model.safetensors" in hub.repos[REPO].files


# ---- where ----


@pytest.mark.parametrize("repo", ["student", f"{ORG}/student"])
def test_names_organisations_and_privacy(repo: str, hub: Hub, tmp_path: Path) -> None:
    run = trainer(tiny("bert"), None, tmp_path, push_to_hub=True, hub_model_id=repo, hub_private_repo=True, **SAVING)
    run.train()
    made = hub.repos[f"{ME}/student" if "/" not in repo else repo]
    assert made.private and "config.json" in made.files


def test_a_revision_is_made_and_written_to(hub: Hub, tmp_path: Path) -> None:
    run = trainer(tiny("bert"), None, tmp_path, push_to_hub=True, hub_model_id=REPO, hub_revision="try-1", **SAVING)
    run.train()
    run.push_to_hub()
    revisions = hub.repos[REPO].revisions
    assert "config.json" in revisions["try-1"][-1].files and revisions["main"][-1].files == {}


def test_a_pull_request_holds_all_pushes_of_a_run(hub: Hub, tmp_path: Path, saved: Path) -> None:
    prepare(Destination(REPO))
    args = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none", disable_tqdm=True, **{
        **SAVING, "max_steps": 2
    })  # fmt: skip
    pushing = PushRun(Destination(REPO, create_pr=True), every=True)
    Trainer(tiny("bert"), args, pad, ragged_examples(), callbacks=[pushing]).train()
    revisions = hub.repos[REPO].revisions
    assert set(revisions) == {"main", "refs/pr/1"} and revisions["main"][-1].files == {}
    assert len(revisions["refs/pr/1"]) == 3
    assert cli.main(["push", str(saved), f"{OTHER}/student", "--create-pr"]) == 0  # anybody may propose
    assert set(hub.repos[f"{OTHER}/student"].revisions) == {"main", "refs/pr/1"}


def test_a_lost_answer_does_not_open_a_second_pull_request(hub: Hub, saved: Path) -> None:
    prepare(Destination(REPO))
    hub.fail("lost", "commit")
    with pytest.raises(HubError, match="no connection"):
        push_folder(saved, Destination(REPO, create_pr=True), "a proposal")
    assert set(hub.repos[REPO].revisions) == {"main", "refs/pr/1"}


# ---- what ----


def test_half_a_model_is_not_pushed(hub: Hub, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / "config.json").rename(saved / "config.old")
    assert cli.main(["push", str(saved), REPO]) == 1
    assert "config.json is missing" in capsys.readouterr().err and hub.requests == []
    (saved / "config.old").rename(saved / "config.json")
    assert cli.main(["push", str(saved), REPO]) == 0 and cli.main(["push", str(saved), REPO]) == 0
    assert len(hub.repos[REPO].revisions["main"]) == 2  # the second push found nothing to do


def test_weights_of_another_push_do_not_stay(hub: Hub, saved: Path, tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "sharded", max_shard_size=20_000)
    shards = {path.name for path in (tmp_path / "sharded").glob("model-*")}
    push_folder(tmp_path / "sharded", Destination(REPO), "in parts")
    assert len(shards) > 1 and shards <= set(hub.repos[REPO].files)
    (tmp_path / "sharded" / min(shards)).rename(tmp_path / "elsewhere")
    with pytest.raises(HubError, match=f"{min(shards)} is missing"):
        push_folder(tmp_path / "sharded", Destination(REPO), "in parts")
    push_folder(saved, Destination(REPO), "in one")
    assert not shards & set(hub.repos[REPO].files) and "model.safetensors" in hub.repos[REPO].files


@pytest.mark.filterwarnings("ignore:Could not find a config file in org/base")  # peft asks the small Hub for it
def test_an_adapter_goes_with_its_base_model(hub: Hub, tmp_path: Path) -> None:
    base = tiny("llama")
    base.config._name_or_path = base.name_or_path = "org/base"
    student = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    run = trainer(student, tiny("llama", seed=1), tmp_path / "out", push_to_hub=True, hub_model_id=REPO, **SAVING)
    run.train()
    run.push_to_hub()
    files = hub.repos[REPO].files
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(files)
    assert not {"model.safetensors", "config.json"} & set(files)
    card = files["README.md"].decode()
    assert "base_model:\n- org/base\n" in card and "library_name: peft" in card and "LoRA adapter" in card
    assert "loads with transformers and peft" in card


def test_an_adapter_of_the_hub_is_loaded_with_its_base(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As teacher and for growth, by ids alone; once both are cached, from the cache."""
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    base = f"{ME}/base"
    tiny("llama").save_pretrained(tmp_path / "base")
    model = get_peft_model(tiny("llama"), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_alpha=32))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    for name, repo in (("base", base), ("adapter", REPO)):
        HfApi().create_repo(repo)
        HfApi().upload_folder(repo_id=repo, folder_path=tmp_path / name, ignore_patterns="README.md")
    inputs = batch(tiny("llama"))
    for kind in (None, "file"):
        if kind:
            hub.fail(503, kind, times=math.inf)
        teacher = load_teacher(REPO, find_task(tiny("llama")), {"local_files_only": True} if kind else None)
        student = from_weak_teacher(REPO, hidden_size=32, init="clone", **({"local_files_only": True} if kind else {}))
        with torch.no_grad():
            wanted = model.eval()(**inputs).logits
            assert torch.equal(teacher.eval()(**inputs).logits, wanted)
            assert torch.allclose(student(**inputs).logits, wanted, atol=2e-4)
            assert not torch.allclose(wanted, tiny("llama")(**inputs).logits, atol=1e-2)
        assert (student.growth_report.teacher, student.growth_report.base_model) == (REPO, base)


@contextmanager
def disk_with(space: int) -> Iterator[None]:
    """No file can grow beyond `space` bytes: the same errors, at the same calls, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_save_before_it(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tiny("bert"), None, tmp_path / "out", push_to_hub=True, hub_model_id=REPO, **SAVING)
    run.train()
    run.push_to_hub()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    with disk_with(3000), pytest.raises(Exception, match="File too large"):
        run.save_model()
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after == before and not (tmp_path / "out" / "_hf_dwt_saving").exists()
    caplog.clear()
    with disk_with(100):  # room for links, not for a card
        job = run._pusher.push(tmp_path / "out", "again", "step 1", finish=run._write_card)
    assert isinstance(job.exception(), OSError)
    assert "Push of step 1 failed" in caplog.text and f"hf-dwt push {tmp_path / 'out'} {REPO}" in caplog.text


# ---- the session, which the process shares ----


def state_of(session: Any) -> tuple[Any, ...]:
    return session, session.timeout, {kind: list(hooks) for kind, hooks in session.event_hooks.items()}


@pytest.mark.parametrize("fault", [None, 503, 401])
def test_a_push_leaves_the_session_of_the_process_as_it_was(
    fault: int | None, hub: Hub, saved: Path, tmp_path: Path
) -> None:
    factory, before = _http._GLOBAL_CLIENT_FACTORY, state_of(get_session())
    if fault is not None:
        hub.fail(fault, "commit", times=1 if fault == 503 else float("inf"))
    run = trainer(tiny("bert"), None, tmp_path / "out", push_to_hub=True, hub_model_id=REPO, **SAVING)
    run.train()  # pushes in a thread of its own
    assert ("commit" in hub.requests) and state_of(get_session()) == before
    assert _http._GLOBAL_CLIENT_FACTORY is factory


def test_requests_of_others_are_not_bounded_while_a_push_goes_on(hub: Hub) -> None:
    seen: dict[str, Any] = {}
    session: Any = get_session()

    def note(response: Any) -> None:
        timeout = response.request.extensions["timeout"]["read"]
        seen[response.request.url.path] = (timeout, response.headers.get("Retry-After"))

    hub.fail(429, "whoami", Retry_After="9999")
    hub.fail(503, "create", Retry_After="9999")
    with pushing._client(TOKEN) as api:
        session.event_hooks["response"].append(note)
        session.get(f"{hub.url}/api/whoami-v2")  # as another library of this process sends it
        with pytest.raises(Exception, match="503"):
            api.create_repo(REPO)
    assert seen["/api/whoami-v2"] == (None, "9999")
    assert seen["/api/repos/create"] == (pushing.STALL_SECONDS, str(int(pushing.LONGEST_WAIT)))
    assert note in session.event_hooks["response"]  # what others add in the meantime stays


# ---- the token ----


@pytest.mark.parametrize("plain", [False, True])
def test_the_token_is_nowhere(
    plain: bool, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from hf_dwt import DistillationTrainer

    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("HF_TOKEN")
    common = {**SAVING, "push_to_hub": True, "hub_model_id": REPO, "hub_token": TOKEN, "hub_strategy": "checkpoint"}
    if plain:
        args: Any = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none", **common)
        run = DistillationTrainer(tiny("bert"), args, pad, ragged_examples(), teacher_model=tiny("bert", seed=1))
    else:
        more = {"teacher_model_init_kwargs": {"token": TOKEN}}
        tiny("bert", seed=1).save_pretrained(tmp_path / "weak")
        run = trainer(tiny("bert"), str(tmp_path / "weak"), tmp_path / "out", **common, **more)
    hub.fail(503, "commit")
    run.train()
    run.push_to_hub()
    hub.fail(401, "commit", times=float("inf"))
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    with pytest.raises(HubError, match="401 at POST") as error:
        run.push_to_hub(commit_message="refused")
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    told = "".join(capfd.readouterr()) + caplog.text + str(error.value)
    secret = TOKEN.encode()
    assert "training_args.bin" in hub.repos[REPO].files and b"output_dir" in written
    assert secret not in written and secret not in hub.every_byte() and TOKEN not in told
    assert run.args.hub_token == TOKEN  # what would have been written
