"""A teacher whose targets were stored once; they are found by a digest of what it would read."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import CacheError
from ...forward.calls import Batch
from ...forward.rows import Rows
from ...objective import Targets
from .formats import Codec, format_names
from .keys import example_keys
from .store import Store, remove_leftovers, shard_files, to_tensor, write_flushed

logger = logging.getLogger(__name__)

MANIFEST = "cache.json"
# what a cache was made of -> the words of the error where a run has another, and what to do
_DIFFERENCES = {
    "teacher": ("another teacher (its weights or config)", "the teacher that it was made with"),
    "data": ("other training data", "the data that it was made with"),
    "collator": ("another data collator or tokenizer, so that other inputs reach the teacher", "the same collator"),
    "seed": ("another seed of the masks (data_seed, or else seed)", "the same seed"),
    "form": ("another teacher_cache_form", "the same form, or 'auto'"),
    "dtype": ("another precision", "the same form"),
    "precision": ("another mixed precision, in which the teacher runs", "the same bf16 and fp16"),
    "k": ("another teacher_cache_k", "the same k"),
    "classes": ("another vocabulary shared by student and teacher", "a student of the same vocabulary"),
    "temperature": (
        "another temperature, at which it was stored",
        f"the same temperature, or the form {' or '.join(map(repr, format_names(every_divergence=True)))}",
    ),
}


class CachedTeacher:
    """Targets from a cache; the model that made them is not run.

    Args:
        store: the entries.
        codec: makes targets of what they hold.
        columns: names of the batch's entries that the teacher reads.
        device: where the targets go.
    """

    def __init__(self, store: Store, codec: Codec, columns: frozenset[str], device: torch.device) -> None:
        self.store, self.codec, self.columns, self._device = store, codec, columns, device

    @torch.no_grad()
    def targets(self, batch: Batch, rows: Rows) -> Targets:
        """The stored targets of n rows; see `Targets`.

        Raises:
            CacheError: the cache has no entry of an example, or a broken one.
        """
        found = []
        for key, _ in example_keys(batch, self.columns, rows):
            values = self.store.get(key)
            if values is None:
                raise CacheError(
                    "teacher_cache",
                    key.hex(),
                    "is no entry of the cache: an example is not what it was when it was cached.",
                    "A data set and collator must give the same example the same content each time.",
                )
            found.append(values)
        found = found or [self.store.empty()]
        return self.codec.decode({name: to_tensor([v[name] for v in found], self._device) for name in found[0]})


class Folder:
    """The folder of a cache: what it was made of, and which epochs of masks are in it.

    Args:
        path: the folder; made where there is none.
        made_of: fingerprints and settings, by the names of `_DIFFERENCES`.
    """

    def __init__(self, path: Path, made_of: Mapping[str, object]) -> None:
        self.path, self.made_of = path, made_of

    @property
    def fingerprint(self) -> str:
        """In the header of each shard."""
        return json.dumps(self.made_of, sort_keys=True)

    def check(self) -> None:
        """Raise a CacheError that names what differs if the folder has a cache of something else."""
        found = self._manifest().get("made_of")
        if found is None:
            if next(shard_files(self.path), None) is not None:
                raise CacheError(
                    "teacher_cache",
                    str(self.path),
                    f"has shards but no {MANIFEST}.",
                    "Give another folder, or empty it.",
                )
            return
        names = [name for name in _DIFFERENCES if found.get(name) != self.made_of.get(name)]
        if "form" in names:
            names = [name for name in names if name in ("teacher", "data", "collator", "seed", "form")]
        if names:
            differences = [_DIFFERENCES.get(name, (name, ""))[0] for name in names]
            shown = ", ".join(f"{name}: {found.get(name)} there, {self.made_of.get(name)} here" for name in names)
            wanted = _DIFFERENCES.get(names[0], ("", "the same"))[1]
            raise CacheError(
                "teacher_cache",
                str(self.path),
                f"was made for {' and '.join(differences)} ({shown}).",
                f"Train with {wanted}, or give another folder.",
            )

    def begin(self) -> None:
        """Write what the cache is made of before its first shard."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        self._write(self.epochs)

    def complete(self, epochs: set[int]) -> None:
        """Write that those epochs of masks are in the cache, as a whole."""
        self._write(self.epochs | epochs)

    @property
    def epochs(self) -> set[int]:
        """Epochs of masks that the cache has every example of; none if a shard is gone."""
        manifest = self._manifest()
        gone = set(manifest.get("shards", ())) - {path.name for path in shard_files(self.path)}
        if gone:
            logger.warning("%s lacks %s: what is missing is made again.", self.path, ", ".join(sorted(gone)))
            return set()
        return set(manifest.get("epochs", ()))

    @property
    def form(self) -> str | None:
        """The name of the form that is there."""
        form: str | None = self._manifest().get("made_of", {}).get("form")
        return form

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CacheError(
                "teacher_cache", str(self.path / MANIFEST), f"cannot be read ({error}).", "Remove the folder."
            ) from error
        return manifest

    def _write(self, epochs: set[int]) -> None:
        shards = [path.name for path in shard_files(self.path)]
        content = {"version": 1, "made_of": self.made_of, "epochs": sorted(epochs), "shards": shards}
        write_flushed(self.path / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())
