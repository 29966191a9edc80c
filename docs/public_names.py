"""A hook of mkdocs: each public name has a place on the page of the Python interface, which is so if it is documented.

mkdocstrings leaves out what has no docstring, so a name without one is missing there as well.
"""

import logging
import re
from importlib import import_module
from pathlib import Path

PAGE = "api.md"
log = logging.getLogger("mkdocs.hooks.public_names")  # a warning of it ends a strict build


def public_names(page: str) -> list[str]:
    """What the modules that the page has offer: their `__all__`, read from the modules themselves."""
    modules = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    return [f"{module}.{name}" for module in modules for name in import_module(module).__all__]


def on_post_build(config: dict[str, str]) -> None:
    page = Path(config["docs_dir"], PAGE).read_text(encoding="utf-8")
    html = Path(config["site_dir"], PAGE).with_suffix(".html").read_text(encoding="utf-8")
    for name in public_names(page):
        if f'id="{name}"' not in html and not name.endswith(".__version__"):
            log.warning(f"{PAGE} has no {name}: it has no docstring, or the page does not show it")
