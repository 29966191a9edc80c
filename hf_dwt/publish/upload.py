"""Putting a saved model on the Hub: one commit that holds all of it, or none, and what to do if the Hub refuses."""

import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import DistillationError, HubError
from ..hub_errors import TOKENS_PAGE, Request, Response, failure_of, response_of
from ..signatures import checks_arguments
from .model_files import WEIGHTS, files_to_push, require_whole

Result = TypeVar("Result")

STALL_SECONDS = 120.0
"""A request without a byte for this long counts as lost."""
WAITS = (1.0, 4.0, 16.0)
"""Seconds before the second try and those after it, where the Hub names none."""
LONGEST_WAIT = 120.0
"""The most seconds that a Retry-After is obeyed for."""

_LIBRARY = "hf_dwt"
_HOOKS = threading.Lock()


@checks_arguments
@dataclass(frozen=True)
class Destination:
    """Where a model goes.

    repo_id: "name" or "owner/name".
    revision: branch, which is made if there is none; None for main.
    private: of a repository that has yet to be made; None leaves it to the owner's default.
    create_pr: open a pull request instead of writing to the branch.
    token: None for the one that `hf auth login` stored or HF_TOKEN holds.
    """

    repo_id: str
    revision: str | None = None
    private: bool | None = None
    create_pr: bool = False
    token: str | None = field(default=None, repr=False)

    def command(self, folder: str | Path) -> str:
        """The command that pushes `folder` here, without the token."""
        words = ["hf-dwt", "push", str(folder), self.repo_id]
        words += ["--revision", self.revision] if self.revision else []
        words += (["--private"] if self.private else []) + (["--create-pr"] if self.create_pr else [])
        return shlex.join(words)


def push_folder(folder: str | Path, to: Destination, message: str) -> CommitInfo:
    """Commit a saved model, whole; the repository and the branch are made where they do not exist.

    Doing it again is harmless: what the Hub has already is not sent again.

    Args:
        folder: with weights and config, or an adapter with its config; see `files_to_push` for what else is pushed.
        to: where.
        message: of the commit.

    Raises:
        HubError: the folder holds no whole model, or the Hub refused after every try that could help.
    """
    return push_files(files_to_push(Path(folder)), to, message, folder)


def push_files(
    files: dict[str, Path], to: Destination, message: str, folder: str | Path, prepare: bool = True
) -> CommitInfo:
    """As `push_folder`, of files by their path in the repository; `folder` is what the errors name."""
    require_whole(files, folder)

    def commit() -> CommitInfo:
        with _client(to.token) as api:
            repo_id = _prepare(api, to) if prepare else to.repo_id
            return _commit(api, repo_id, files, to, message)

    return _with_retries(commit, to, folder)


def prepare(to: Destination, folder: str | Path | None = None) -> str:
    """Make the repository and the branch where they do not exist; the repository's full id.

    Args:
        to: what to make.
        folder: what is to be pushed, for the errors.

    Raises:
        HubError: the Hub refused.
    """

    def make() -> str:
        with _client(to.token) as api:
            return _prepare(api, to)

    return _with_retries(make, to, folder)


# ---- what can be known before ----


def access_problems(
    repo_id: str, token: str | None, repo_argument: str = "hub_model_id", token_argument: str = "hub_token"
) -> list[DistillationError]:
    """Why a push would be refused, as far as can be known without a push.

    One request, after what needs none. A Hub that cannot be reached now is no problem yet: pushes try again.

    Args:
        repo_id: where the push would go.
        token: None for the stored one.
        repo_argument: under which name the user gave the repository, for the errors.
        token_argument: under which name the user would give a token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        fix = "Write owner/name, in letters, digits, '-', '_' and '.'."
        return [HubError(repo_argument, repo_id, "is no repository id.", fix)]
    token = token or get_token()
    if token is None:
        fix = f"Run `hf auth login`, or set HF_TOKEN to one with write access ({TOKENS_PAGE})."
        return [HubError(token_argument, None, "No token is given or stored, and a push needs one.", fix)]
    if constants.HF_HUB_OFFLINE:
        problem = "forbids every request to the Hub, and a push needs some."
        return [HubError("HF_HUB_OFFLINE", 1, problem, "Unset it, or push later with `hf-dwt push`.")]
    try:
        with _client(token) as api:
            user = api.whoami()
    except Exception as error:
        failure = failure_of(error)
        if failure.transient:
            return []
        return [HubError(token_argument, "<hidden>", f"was refused: {failure.text}.", f"{failure.fix}.")]
    return _rights_problems(repo_id, user, repo_argument, token_argument)


def _rights_problems(
    repo_id: str, user: dict[str, Any], repo_argument: str, token_argument: str
) -> list[DistillationError]:
    """What the answer of `whoami` forbids."""
    access = user.get("auth", {}).get("accessToken") or {}
    scopes = (access.get("fineGrained") or {}).get("scoped")
    rights = [right for scope in scopes or [] for right in scope.get("permissions", [])]
    if access.get("role") == "read" or (scopes is not None and "repo.write" not in rights):
        problem = f"This token of {user['name']} may read, but not write."
        return [HubError(token_argument, "<hidden>", problem, f"Make one with write access at {TOKENS_PAGE}.")]
    writable = [user["name"], *(o["name"] for o in user.get("orgs", []) if o.get("roleInOrg") != "read")]
    owner = repo_id.split("/")[0] if "/" in repo_id else user["name"]
    if owner not in writable:
        problem = f"belongs to {owner}, and {user['name']} may not write there."
        return [HubError(repo_argument, repo_id, problem, f"Write it under one of: {', '.join(writable)}.")]
    return []


# ---- failures ----


def _with_retries(action: Callable[[], Result], to: Destination, folder: str | Path | None) -> Result:
    for wait in (*WAITS, None):
        try:
            return action()
        except HubError:
            raise
        except Exception as error:
            failure = failure_of(error)
            # A pull request whose answer was lost may be open: a second try would open a second one.
            again = failure.transient and not (to.create_pr and response_of(error) is None)
            if wait is None or not again:
                how = f"Then run: {to.command(folder)}" if folder else "Then start again."
                problem = f"was not written: {failure.text}."
                refused = HubError("repository", to.repo_id, problem, f"{failure.fix}. {how}")
                refused.transient = failure.transient
                raise refused from error
            time.sleep(min(LONGEST_WAIT, wait if failure.retry_after is None else failure.retry_after))
    raise AssertionError("the last try returns or raises")


# ---- requests ----


@contextmanager
def _client(token: str | None) -> Iterator[HfApi]:
    """A client whose requests wait within bounds: huggingface_hub's own would wait for ever for a server that stalls.

    It sends through the session of the process, since `HfApi` takes no other. The hooks that bound its waits pass
    everybody else's requests by, and are gone afterwards.
    """
    session: Any = get_session()
    hooks = {"request": partial(_bound_stall), "response": partial(_bound_retry_after)}
    with _HOOKS:
        session.event_hooks = {kind: [*session.event_hooks[kind], hook] for kind, hook in hooks.items()}
    try:
        yield HfApi(token=token, library_name=_LIBRARY)
    finally:
        with _HOOKS:
            old = session.event_hooks
            session.event_hooks = {kind: [h for h in old[kind] if h is not hook] for kind, hook in hooks.items()}


def _is_ours(request: Request) -> bool:
    # A PUT, which writes a large file into the Hub's storage, has no user agent of ours.
    return _LIBRARY in request.headers.get("user-agent", "") or request.method == "PUT"


def _bound_stall(request: Request) -> None:
    timeout = request.extensions.get("timeout", {})
    if _is_ours(request) and timeout.get("read") is None:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), STALL_SECONDS)


def _bound_retry_after(response: Response) -> None:
    """huggingface_hub obeys a Retry-After of hours."""
    if _is_ours(response.request) and response.headers.get("Retry-After", "").isdigit():
        bounded = min(int(response.headers["Retry-After"]), int(LONGEST_WAIT))
        response.headers["Retry-After"] = str(bounded)


def _prepare(api: HfApi, to: Destination) -> str:
    full_id = api.create_repo(to.repo_id, private=to.private, exist_ok=True).repo_id
    if to.revision and not to.revision.startswith("refs/"):
        api.create_branch(full_id, branch=to.revision, exist_ok=True)
    return full_id


def _commit(api: HfApi, repo_id: str, files: dict[str, Path], to: Destination, message: str) -> CommitInfo:
    """One commit. `HfApi.upload_folder` may make several where hf_xet is installed: weights first, config later."""
    there = api.list_repo_files(repo_id, revision=to.revision)
    # Shards of an earlier model, or the single file that would be read before new shards; weights in another format,
    # or an adapter, may be somebody's own.
    kinds = {match.groups() for name in files if (match := WEIGHTS.fullmatch(name))}
    stale = [
        name for name in there if name not in files and (match := WEIGHTS.fullmatch(name)) and match.groups() in kinds
    ]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(name) for name in stale]
    operations += [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    return api.create_commit(repo_id, operations, commit_message=message, revision=to.revision, create_pr=to.create_pr)
