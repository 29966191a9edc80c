"""Whether the Hub answers for an id that is not in the local cache: one request, where loading would retry."""

import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .hub_errors import failure_of

CONFIGS = ("config.json", "adapter_config.json")  # of a model, and of an adapter
HOW = "Check the spelling of the id or path, and the network; offline, only what was downloaded before is found."


def no_connection(source: object, loading: Mapping[str, Any]) -> str | None:
    """What is wrong with an id that is not cached and that the Hub does not answer for; None where loading may try.

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
    cached = (try_to_load_from_cache(name, file, loading.get("cache_dir"), revision) for file in CONFIGS)
    if any(isinstance(path, str) for path in cached):
        return None
    try:  # the answer does not matter: loading reports what it means
        url = hf_hub_url(name, CONFIGS[0], revision=revision)
        get_session().head(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        failure = failure_of(error)
        return f"is neither here nor in the local cache, and there is {failure.text}." if failure.transient else None
    return None
