"""Whether the Hub can be asked for an id that is not in the local cache: one request, where loading would retry."""

import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .hub_errors import fault_of

CONFIG = "config.json"
HOW = "Check the spelling of the id or path, and the network; offline, only what was downloaded before is found."


def no_connection(source: Any, loading: Mapping[str, Any]) -> str | None:
    """What is wrong with an id that is neither cached nor can be asked for; None where loading may try.

    Args:
        source: Hub id, path or anything else that a teacher may be.
        loading: arguments of `from_pretrained`.
    """
    if not isinstance(source, str | os.PathLike) or os.path.exists(source):
        return None
    if constants.HF_HUB_OFFLINE or loading.get("local_files_only"):
        return None  # the client answers at once
    name, revision = os.fspath(source), loading.get("revision")
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    place: dict[str, Any] = {"repo_id": name, "filename": CONFIG, "revision": revision}
    if isinstance(try_to_load_from_cache(**place, cache_dir=loading.get("cache_dir")), str):
        return None
    try:  # the answer does not matter: loading says what it means
        get_session().head(hf_hub_url(**place), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        fault = fault_of(error)
        return f"is neither here nor in the local cache, and there is {fault.text}." if fault.again else None
    return None
