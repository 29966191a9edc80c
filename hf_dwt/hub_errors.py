"""What went wrong at the Hub: in a line, without secrets, with what to do and whether trying again may help."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub.errors import OfflineModeIsEnabled

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_FIXES = {
    400: "Correct what it names",
    401: f"The token is not valid, or not any more: make one with write access at {TOKENS_PAGE}",
    403: f"The token may not write there: use one with write access ({TOKENS_PAGE}), or a repository of your own",
    404: "Check that the repository and the revision exist and that the token may see them",
    409: "Another change was under way: try again",
    412: "Somebody else was writing to that branch: try again",
    429: "The Hub asks for fewer requests: wait a while",
}


@dataclass(frozen=True)
class Fault:
    """What went wrong, in a line; what to do; whether trying again may help, and after how many seconds if it said."""

    text: str
    fix: str
    again: bool
    wait: float | None = None


def fault_of(error: Exception) -> Fault:
    """The fault behind an exception of huggingface_hub, without secrets."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return fault_of(error.__cause__)  # the client wraps what went wrong with a large file
    response = getattr(error, "response", None)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if response is not None:
        status = response.status_code
        where = f"{response.request.method} {response.request.url.path}"
        again = status in (408, 409, 412, 425, 429) or status >= 500
        fix = _FIXES.get(status, "The Hub is out of order: try later" if again else "See what the Hub says")
        said = one_line(response.headers.get("X-Error-Message") or _said(response))
        return Fault(f"{status} at {where}{said and f' ({said})'}", fix, again, _retry_after(response.headers))
    if isinstance(error, OfflineModeIsEnabled):
        return Fault("HF_HUB_OFFLINE forbids every request", "Unset it", again=False)
    if kinds & {"TransportError", "ConnectionError", "TimeoutError", "TimeoutException"}:
        return Fault(f"no connection ({type(error).__name__}: {one_line(error)})", "Check the network", again=True)
    if isinstance(error, OSError):
        return Fault(one_line(error), "Check the local disk", again=False)
    # hf_xet, which moves large files, knows no other kind
    return Fault(
        f"{type(error).__name__}: {one_line(error)}", "Correct what it names", isinstance(error, RuntimeError)
    )


def _retry_after(headers: Any) -> float | None:
    said = headers.get("Retry-After") or ""
    if said.isdigit():
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _said(response: Any) -> str:
    try:
        return str(response.json().get("error") or "")
    except Exception:  # not JSON, or not read to its end
        return ""


def one_line(error: Any) -> str:
    """Without line ends, and of URLs without what follows the question mark: signatures stand there."""
    text = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", " ".join(str(error).split()))
    return text if len(text) <= 200 else text[:197] + "..."
