"""What failed at the Hub: in one line, without secrets, with what to do and whether trying again may help."""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from huggingface_hub.errors import OfflineModeIsEnabled

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_FIXES = {
    400: "Correct what it names",
    401: f"The token is not valid, or not any more: make one with write access at {TOKENS_PAGE}",
    403: f"The token may not write there: use one with write access ({TOKENS_PAGE}), or a repository of your own",
    404: "Check that the repository and the revision exist and that the token may see them",
    409: "Another change was under way: try again",
    412: "Another client was writing to that branch: try again",
    429: "The Hub asks for fewer requests: wait a while",
}
# The client library of huggingface_hub has had several names (requests, httpx, httpx2); those of its errors stayed.
_CONNECTION_ERRORS = {"TransportError", "ConnectionError", "TimeoutError", "TimeoutException"}


class URL(Protocol):
    """What is read of an address."""

    @property
    def path(self) -> str: ...


class Request(Protocol):
    """What is read and changed of a request, whichever client library sends it."""

    method: str
    headers: MutableMapping[str, str]
    extensions: MutableMapping[str, Any]

    @property
    def url(self) -> URL: ...


class Response(Protocol):
    """What is read and changed of an answer, whichever client library received it."""

    status_code: int
    headers: MutableMapping[str, str]

    @property
    def request(self) -> Request: ...

    def json(self) -> object: ...


@dataclass(frozen=True)
class HubFailure:
    """Why a request failed.

    text: what failed, in one line without a full stop.
    fix: what to do about it, likewise.
    transient: whether the same request may succeed later.
    retry_after: seconds to wait before it, where the Hub names them.
    """

    text: str
    fix: str
    transient: bool
    retry_after: float | None = None


def response_of(error: Exception) -> Response | None:
    """The Hub's answer that an exception of huggingface_hub carries; None where there was none."""
    response: Response | None = getattr(error, "response", None)
    return response


def failure_of(error: Exception) -> HubFailure:
    """The failure behind an exception of huggingface_hub, without secrets."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return failure_of(error.__cause__)  # huggingface_hub wraps what failed while it sent a large file
    if (response := response_of(error)) is not None:
        return _failure_of_answer(response)
    if isinstance(error, OfflineModeIsEnabled):
        return HubFailure("HF_HUB_OFFLINE forbids every request", "Unset it", transient=False)
    kind = type(error).__name__
    if _CONNECTION_ERRORS & {base.__name__ for base in type(error).__mro__}:
        return HubFailure(f"no connection ({kind}: {one_line(error)})", "Check the network", transient=True)
    if isinstance(error, OSError):
        return HubFailure(one_line(error), "Check the local disk", transient=False)
    transient = isinstance(error, RuntimeError)  # hf_xet, which moves large files, raises nothing else
    return HubFailure(f"{kind}: {one_line(error)}", "Correct what it names", transient)


def _failure_of_answer(response: Response) -> HubFailure:
    status, request = response.status_code, response.request
    transient = status in (408, 409, 412, 425, 429) or status >= 500
    fix = _FIXES.get(status, "The Hub is out of order: try later" if transient else "See what the Hub answers")
    message = one_line(response.headers.get("X-Error-Message") or _error_in_body(response))
    text = f"{status} at {request.method} {request.url.path}{message and f' ({message})'}"
    return HubFailure(text, fix, transient, _retry_after(response.headers.get("Retry-After", "")))


def _retry_after(header: str) -> float | None:
    """Seconds until the moment that a Retry-After header names, as seconds or as a date."""
    if header.isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _error_in_body(response: Response) -> str:
    try:
        body = response.json()
    except Exception:  # not JSON, or not read to its end
        return ""
    return str(body.get("error") or "") if isinstance(body, Mapping) else ""


def one_line(message: object) -> str:
    """Without line ends, and of URLs without what follows the question mark, where signatures stand."""
    text = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", " ".join(str(message).split()))
    return text if len(text) <= 200 else text[:197] + "..."
