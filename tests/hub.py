"""A small Hub on the loopback address, for huggingface_hub's real client: whole commits, LFS, and faults on demand.

It keeps everything in memory, speaks what a push and a load by `from_pretrained` ask for, and checks what the real Hub
checks: who may write where, and the metadata of a card. `Hub.requests` lists the kinds of request in their order;
`Hub.fail` makes chosen ones fail.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from .hub_server import Handler, Refusal, Server

TOKEN = "hf_" + "W" * 34
READ_TOKEN = "hf_" + "R" * 34
ME, ORG, OTHER = "me", "my-org", "somebody-else"


@dataclass
class Commit:
    """One commit: its id, its message and every file that the repository then holds."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """Branches and pull requests by revision, each a list of commits; whether it is private."""

    private: bool = False
    revisions: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [Commit("0" * 40, "initial", {})]})

    @property
    def files(self) -> dict[str, bytes]:
        return self.revisions["main"][-1].files


@dataclass
class Fault:
    """Requests number `first` to `last` of a kind (None: of all kinds) fail: a status, "cut", "lost" or "stall".

    "cut" closes the connection in the middle of the body, "lost" after the request was carried out.
    """

    what: int | str
    kind: str | None
    first: int
    last: float
    headers: dict[str, str]
    seen: int = 0


class Hub:
    """The store, and the server as long as `serving`."""

    users = {TOKEN: "write", READ_TOKEN: "read"}  # noqa: RUF012 (a constant)

    def __init__(self) -> None:
        self.url, self.stall_seconds = "", 5.0
        self.reset()

    def reset(self) -> None:
        """Forget every repository, object, request and fault."""
        self.repos: dict[str, Repo] = {f"{OTHER}/student": Repo()}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def fail(self, what: int | str, kind: str | None = None, first: int = 1, times: float = 1, **headers: str) -> None:
        """Let `times` requests of a kind fail, from the `first` on; see `Fault`."""
        self.faults.append(Fault(what, kind, first, first + times - 1, headers))

    def fault_of(self, kind: str) -> Fault | None:
        for fault in self.faults:
            if fault.kind in (None, kind):
                fault.seen += 1
                if fault.first <= fault.seen <= fault.last:
                    return fault
        return None

    def every_byte(self) -> bytes:
        """All that was ever stored: files of every commit, messages, objects."""
        commits = [c for repo in self.repos.values() for line in repo.revisions.values() for c in line]
        texts = [c.message.encode() + b"".join(p.encode() + b for p, b in c.files.items()) for c in commits]
        return b"".join(texts) + b"".join(self.objects.values())

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        handler = type("HandlerOfThis", (Handler,), {"hub": self})
        with Server(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            yield self
            server.shutdown()

    # ---- what each request does: (token's role, parameters, body) -> answer ----

    def whoami(self, role: str | None, **_: Any) -> dict[str, Any]:
        if role is None:
            raise Refusal(401, text="Invalid credentials")
        orgs = [{"type": "org", "name": ORG, "fullname": ORG, "roleInOrg": "write"}]
        access = {"accessToken": {"displayName": "test", "role": role}}
        return {"type": "user", "name": ME, "fullname": ME, "email": "", "orgs": orgs, "auth": access}

    def create(self, role: str | None, body: bytes, **_: Any) -> dict[str, Any]:
        said = json.loads(body)
        name = f"{said.get('organization') or ME}/{said['name']}"
        self._may_write(role, name)
        if name in self.repos:
            there = {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            raise Refusal(409, text=json.dumps(there))
        self.repos[name] = Repo(private=said.get("visibility") == "private")
        return {"url": f"{self.url}/{name}", "name": name, "id": name}

    def card(self, body: bytes, **_: Any) -> dict[str, Any]:
        errors = card_errors(json.loads(body)["content"])
        if errors:
            raise Refusal(400, text=json.dumps({"errors": [{"message": e} for e in errors], "warnings": []}))
        return {"errors": [], "warnings": []}

    def preupload(self, role: str | None, repo: str, rev: str, body: bytes, query: Any, **_: Any) -> dict[str, Any]:
        files = self._files(role, repo, rev)
        if "create_pr" not in query:
            self._may_write(role, repo)

        def answer(path: str) -> dict[str, Any]:
            large = path.endswith((".safetensors", ".bin", ".pt"))
            known = {"oid": blob_oid(files[path], large)} if path in files else {}
            return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}

        return {"files": [answer(entry["path"]) for entry in json.loads(body)["files"]]}

    def batch(self, body: bytes, **_: Any) -> dict[str, Any]:
        def action(entry: dict[str, Any]) -> dict[str, Any]:
            href = f"{self.url}/lfs/{entry['oid']}"
            doing = {"upload": {"href": f"{href}?X-Amz-Signature=s3cret"}, "verify": {"href": f"{href}/verify"}}
            return entry if entry["oid"] in self.objects else {**entry, "actions": doing}

        return {"transfer": "basic", "objects": [action(entry) for entry in json.loads(body)["objects"]]}

    def upload(self, oid: str, body: bytes, **_: Any) -> dict[str, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, text="the content is not what its oid says")
        self.objects[oid] = body
        return {}

    def verify(self, oid: str, **_: Any) -> dict[str, Any]:
        if oid not in self.objects:
            raise Refusal(404)
        return {}

    def commit(self, role: str | None, repo: str, rev: str, body: bytes, query: Any, **_: Any) -> dict[str, Any]:
        lines = [json.loads(line) for line in body.splitlines()]
        files, history = dict(self._files(role, repo, rev)), self.repos[repo].revisions[rev]
        header = lines[0]["value"]
        if "create_pr" not in query:
            self._may_write(role, repo)
        if header.get("parentCommit") not in (None, history[-1].oid):
            raise Refusal(412, text="the branch has moved")
        for key, value in ((line["key"], line["value"]) for line in lines[1:]):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            else:
                del files[value["path"]]
        commit = Commit(hashlib.sha1(body + history[-1].oid.encode()).hexdigest(), header["summary"], files)
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{self.url}/{repo}/commit/{commit.oid}"}
        if "create_pr" in query:
            number = 1 + sum(name.startswith("refs/pr/") for name in self.repos[repo].revisions)
            self.repos[repo].revisions[f"refs/pr/{number}"] = [*history, commit]
            return {**answer, "pullRequestUrl": f"{self.url}/{repo}/discussions/{number}"}
        history.append(commit)
        return answer

    def branch(self, role: str | None, repo: str, rev: str, **_: Any) -> dict[str, Any]:
        self._may_write(role, repo)
        if rev in self.repos[repo].revisions:
            raise Refusal(409, text="Reference already exists")
        self.repos[repo].revisions[rev] = list(self.repos[repo].revisions["main"])
        return {}

    def tree(self, role: str | None, repo: str, rev: str, under: str | None, **_: Any) -> list[dict[str, Any]]:
        files, prefix = self._files(role, repo, rev), unquote(under or "").strip("/")
        found = [path for path in files if path.startswith(prefix)]
        if prefix and not found:
            raise Refusal(404, "EntryNotFound")
        return [{"type": "file", "path": p, "size": len(files[p]), "oid": blob_oid(files[p], False)} for p in found]

    def paths(self, role: str | None, repo: str, rev: str, body: bytes, **_: Any) -> list[dict[str, Any]]:
        said = body.decode()
        wanted = json.loads(said)["paths"] if said.startswith("{") else parse_qs(said).get("paths", [])
        return [entry for entry in self.tree(role, repo, rev, None) if entry["path"] in wanted]

    def info(self, role: str | None, repo: str, rev: str | None, **_: Any) -> dict[str, Any]:
        names = [{"rfilename": path} for path in self._files(role, repo, rev or "main")]
        known, oid = self.repos[repo], self._commit(repo, rev or "main").oid
        return {"id": repo, "modelId": repo, "sha": oid, "private": known.private, "siblings": names, "tags": []}

    def file(self, role: str | None, repo: str, rev: str, path: str, **_: Any) -> tuple[bytes, dict[str, str]]:
        files = self._files(role, repo, rev)
        if unquote(path) not in files:
            raise Refusal(404, "EntryNotFound")
        content = files[unquote(path)]
        return content, {"X-Repo-Commit": self._commit(repo, rev).oid, "ETag": f'"{blob_oid(content, False)}"'}

    def _commit(self, repo: str, rev: str) -> Commit:
        lines = self.repos[repo].revisions
        found = [lines[rev][-1]] if rev in lines else [c for line in lines.values() for c in line if c.oid == rev]
        if not found:
            raise Refusal(404, "RevisionNotFound")
        return found[0]

    def _files(self, role: str | None, repo: str, rev: str) -> dict[str, bytes]:
        if repo not in self.repos or (self.repos[repo].private and role is None):
            raise Refusal(404, "RepoNotFound")
        return self._commit(repo, rev).files

    @staticmethod
    def _may_write(role: str | None, repo: str) -> None:
        if role != "write" or repo.split("/")[0] not in (ME, ORG):
            raise Refusal(401 if role is None else 403, text="You don't have the rights")


def blob_oid(content: bytes, large: bool) -> str:
    """As the Hub names a file: sha256 of a large one, git's blob id of another."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def card_errors(text: str) -> list[str]:
    """What the Hub says against the metadata of a card."""
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not head:
        return []
    try:
        data = yaml.safe_load(head[1])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    named = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
    errors = []
    for key in ("base_model", "datasets", "tags", "license", "language", "pipeline_tag", "library_name"):
        if key in data:
            values = data[key] if isinstance(data[key], list) else [data[key]]
            ids = key in ("base_model", "datasets")
            if not all(isinstance(v, str) and v and (not ids or named.fullmatch(v)) for v in values):
                errors.append(f'"{key}" is not valid: {data[key]!r}')
    for entry in data.get("model-index", []):
        for result in entry["results"]:
            parts = entry["name"], result["task"]["type"], result["dataset"]["name"], result["dataset"]["type"]
            if not all(isinstance(part, str) and part for part in parts):
                errors.append(f'"model-index" needs strings: {parts!r}')
            if not all(isinstance(m["type"], str) and isinstance(m["value"], int | float) for m in result["metrics"]):
                errors.append('"model-index" needs a type and a number for each metric')
    return errors
