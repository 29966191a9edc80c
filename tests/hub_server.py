"""The small Hub's side of HTTP: routes, faults, answers. What each request does stands in hub.py."""

import json
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/models/{_REPO}"
# kind -> (method, path); the order decides where two fit
_ROUTES = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "create": ("POST", r"/api/repos/create"),
    "card": ("POST", r"/api/validate-yaml"),
    "preupload": ("POST", rf"{_API}/preupload/(?P<rev>.+)"),
    "batch": ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch"),
    "upload": ("PUT", r"/lfs/(?P<oid>\w+)"),
    "verify": ("POST", r"/lfs/(?P<oid>\w+)/verify"),
    "commit": ("POST", rf"{_API}/commit/(?P<rev>.+)"),
    "branch": ("POST", rf"{_API}/branch/(?P<rev>.+)"),
    "tree": ("GET", rf"{_API}/tree/(?P<rev>[^/]+)(?P<under>/.*)?"),
    "paths": ("POST", rf"{_API}/paths-info/(?P<rev>.+)"),
    "info": ("GET", rf"{_API}(?:/revision/(?P<rev>.+))?"),
    "file": ("(?:GET|HEAD)", rf"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
}


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", text: str = "") -> None:
        self.status, self.code, self.text = status, code, text or code


class Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client hung up


class Handler(BaseHTTPRequestHandler):
    hub: Any
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        matches = ((k, re.fullmatch(p, url.path)) for k, (m, p) in _ROUTES.items() if re.fullmatch(m, self.command))
        kind, match = next(((k, m) for k, m in matches if m), ("unknown", None))
        with self.hub.lock:
            self.hub.requests.append(kind if match else f"{self.command} {url.path}")
            fault = self.hub.fault_of(kind)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.what in ("cut", "stall"):
            self.rfile.read(length // 2)
            if fault.what == "stall":
                threading.Event().wait(self.hub.stall_seconds)
            return self._hang_up()
        body = (
            self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self._chunks()
        )
        if fault and isinstance(fault.what, int):
            busy = "Cannot create repo: another conflicting operation is in progress"
            said = busy if (kind, fault.what) == ("create", 409) else f"injected {fault.what}"
            return self._answer(fault.what, {"error": said}, fault.headers)
        role = self.hub.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        parameters = {k: v if v is None else unquote(v) for k, v in (match.groupdict() if match else {}).items()}
        try:
            if match is None:
                raise Refusal(404)
            with self.hub.lock:
                made = getattr(self.hub, kind)(role=role, body=body, query=parse_qs(url.query), **parameters)
        except Refusal as refusal:
            return self._refuse(refusal)
        if fault:  # "lost"
            return self._hang_up()
        return self._answer(200, *(made if isinstance(made, tuple) else (made,)))

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.text.startswith("{"):
            return self._answer(refusal.status, refusal.text.encode())
        headers = {"X-Error-Code": refusal.code} if refusal.code else {}
        return self._answer(refusal.status, {"error": refusal.text}, headers)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _hang_up(self) -> None:
        # with a reset: nothing tells the client that this was the end
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, made: Any, headers: dict[str, str] | None = None) -> None:
        content = made if isinstance(made, bytes) else json.dumps(made).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
