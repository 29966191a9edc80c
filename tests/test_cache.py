"""A cached teacher says what the live one says, for the example that is asked about, or nothing at all."""

import functools
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from hf_dwt import DistillationTrainer
from hf_dwt.batches.seeds import SeededCollator
from hf_dwt.errors import ArgumentError, CacheError
from hf_dwt.teachers.cache import build as cache_build
from hf_dwt.teachers.cache import store as cache_store
from hf_dwt.teachers.cache.read import MANIFEST

from .models import VOCAB, randomise, tiny
from .training import Example, history, pad, ragged_examples, sequence_examples, trainer

FIGURES = ("loss", "grad_norm", "soft_loss", "agreement")


def masked(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Draws masks from the global generator, for the padded batch as a whole."""
    batch = pad([{**example, "labels": example["input_ids"]} for example in examples])
    drawn = torch.rand(batch["input_ids"].shape) < 0.5
    batch["labels"] = batch["labels"].masked_fill(~drawn, -100)
    batch["input_ids"] = batch["input_ids"].masked_fill(drawn & (batch["attention_mask"] > 0), 4)
    return batch


def run_of(out: Path, cache: Path | None, name: str = "bert", **settings: Any) -> DistillationTrainer:
    """Seven shuffled steps, an epoch and a half of them, at a constant soft weight."""
    more = {"data_collator": settings.pop("collator", pad), **settings.pop("more", {})}
    defaults = {"max_steps": 7, "train_sampling_strategy": "random", "soft_weight_schedule": "constant"}
    models = settings.pop("models", None) or (tiny(name), tiny(name, seed=1))
    place = {"teacher_cache": str(cache)} if cache else {}
    return trainer(*models, out, more=more, **{**defaults, **place, **settings})


def trained(*args: Any, **settings: Any) -> DistillationTrainer:
    run = run_of(*args, **settings)
    run.train()
    return run


@functools.cache
def living(name: str) -> DistillationTrainer:
    """A run with the living teacher, which leaves nothing on the disk."""
    with tempfile.TemporaryDirectory() as out:
        return trained(Path(out), None, name)


def close(one: DistillationTrainer, other: DistillationTrainer, tolerance: float) -> bool:
    a, b = (np.array(history(run, *FIGURES)) for run in (one, other))
    assert a.shape == b.shape and len(a) and a[:, :3].min() > 1e-3
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance))


def weights(run: DistillationTrainer) -> torch.Tensor:
    assert isinstance(run.model, torch.nn.Module)
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


# ---- exactness ----


@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "qwen3", "t5", "bart"])
def test_training_is_that_of_the_live_teacher(name: str, tmp_path: Path) -> None:
    first = trained(tmp_path, tmp_path / "cache", name)
    assert close(first, living(name), 2e-3)
    again = run_of(tmp_path, tmp_path / "cache", name)
    asked: list[int] = []
    targets = again.teacher.targets  # type: ignore[union-attr]
    again.teacher.targets = lambda *a: (asked.append(1), targets(*a))[1]  # type: ignore
    again.train()
    assert torch.equal(weights(again), weights(first)) and len(asked) == 1  # the sample that shows the teacher's head


def test_a_classification_keeps_its_logits(tmp_path: Path) -> None:
    examples = ragged_examples(40, classes=3)
    settings: dict[str, Any] = {"name": "bert-token-classification", "train_dataset": examples}
    live, cached = (trained(tmp_path, cache, **settings) for cache in (None, tmp_path / "cache"))
    assert close(cached, live, 1e-6)


def test_a_sequence_classification_has_one_row_an_example(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    def classifier(seed: int) -> Any:
        torch.manual_seed(seed)
        return randomise(AutoModelForSequenceClassification.from_config(tiny("bert", num_labels=3).config), seed, 0.5)

    runs = [
        trained(tmp_path, cache, models=(classifier(0), classifier(1)), train_dataset=sequence_examples(classes=3))
        for cache in (None, tmp_path / "cache")
    ]
    # dropout of the classifier is the only thing drawn, the same in both; batches of other sizes may round otherwise
    assert close(runs[1], runs[0], 1e-5)


def test_a_perturbed_cache_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cache_store.Shard.read
    nudge = {"hidden": np.float16(0.25), "exponent": np.int8(0)}
    monkeypatch.setattr(cache_store.Shard, "read", lambda self, n: {k: v + nudge[k] for k, v in read(self, n).items()})
    assert not close(trained(tmp_path, tmp_path / "cache"), living("bert"), 2e-3)


def test_a_lookup_by_step_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored in the order of one epoch is not what a shuffled epoch asks for."""
    trained(tmp_path, tmp_path / "cache")
    asked: list[int] = []

    def by_step(self: cache_store.Store, key: bytes) -> Any:
        rows = self.shards[0].rows
        wanted = len(self.get_true(key)["hidden"])  # type: ignore[attr-defined]
        like = [number for number in range(len(rows)) if rows[number] == wanted]
        asked.append(0)
        return self.shards[0].read(like[len(asked) % len(like)])

    monkeypatch.setattr(cache_store.Store, "get_true", cache_store.Store.get, raising=False)
    monkeypatch.setattr(cache_store.Store, "get", by_step)
    assert not close(trained(tmp_path, tmp_path / "cache"), living("bert"), 2e-3)


def _by_example(init: Any) -> Any:
    return lambda self, *args, **named: init(self, *args, **{**named, "by_example": True})


def test_other_batches_shuffles_and_accumulation_find_the_same_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The live runs draw the masks of single examples, too, so that they see the same ones.
    cache = tmp_path / "cache"
    trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2, max_steps=10)
    files = sorted(path.name for path in cache.iterdir())
    for settings in (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 5},
        {"data_seed": 42, "seed": 7},
        {"train_dataset": ragged_examples()[::-1]},
        {"dataloader_num_workers": 1},
    ):
        base = {"data_seed": 42, "max_steps": 10, **settings}
        run = trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2, **base)
        with monkeypatch.context() as patch:
            patch.setattr(SeededCollator, "__init__", _by_example(SeededCollator.__init__))
            live = trained(tmp_path, None, collator=masked, **{**base, "max_steps": 1})
        assert np.allclose(history(run, *FIGURES)[0], history(live, *FIGURES)[0], rtol=2e-3, atol=2e-3)
    assert sorted(path.name for path in cache.iterdir()) == files


def test_masks_repeat_after_teacher_cache_epochs(tmp_path: Path) -> None:
    run = run_of(tmp_path, tmp_path / "cache", collator=masked, teacher_cache_epochs=2)
    drawn = []
    for epoch in range(4):
        run.state.epoch = float(epoch)
        run.train_dataset = ragged_examples(8)
        run.args.train_sampling_strategy = "sequential"
        drawn.append(torch.cat([batch["labels"].flatten() for batch in run.get_train_dataloader()]))
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3]) and not torch.equal(drawn[0], drawn[1])


# ---- sparse forms ----


@pytest.mark.parametrize("form", ["top_k", "sampled"])
def test_sparse_forms_train_without_the_teacher(form: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"teacher_cache_form": form, "teacher_cache_k": 12, "temperature": 2.0}
    first = trained(tmp_path, tmp_path / "cache", **settings)
    live = trained(tmp_path, None, temperature=2.0)
    assert not close(first, live, 1e-4)
    mean = [np.mean([row[2] for row in history(run, *FIGURES)]) for run in (first, live)]
    if form == "top_k":  # a lower bound
        assert 0 < mean[0] < mean[1]
    else:
        assert mean[0] == pytest.approx(mean[1], rel=0.35)
    agreement = [next(row[3] for row in history(run, *FIGURES)) for run in (first, live)]
    assert agreement[0] == agreement[1]
    again = trained(tmp_path, tmp_path / "cache", **settings)
    assert torch.equal(weights(first), weights(again))


def test_top_k_of_all_classes_is_exact(tmp_path: Path) -> None:
    every = trained(tmp_path, tmp_path / "cache", teacher_cache_form="top_k", teacher_cache_k=VOCAB)
    assert close(every, living("bert"), 2e-3)


def test_auto_takes_the_smaller(tmp_path: Path) -> None:
    for k, form in ((5, "sampled"), (50, "hidden")):  # 2 x 16 + 1 bytes against 2 (k + 1) + 8
        run = trained(tmp_path, tmp_path / form, teacher_cache_form="auto", teacher_cache_k=k)
        assert f'"form": "{form}"' in (tmp_path / form / MANIFEST).read_text()
        assert run.cached_teacher is not None


def test_hidden_takes_no_more_than_promised(tmp_path: Path) -> None:
    models = tiny("bert"), tiny("bert", seed=1, hidden_size=64)
    examples = ragged_examples(400, share=1.0)
    run: Any = trained(tmp_path, tmp_path / "cache", models=models, train_dataset=examples, max_steps=2)
    size = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert size / run.cached_teacher.store.rows <= 2 * 64 + 8
    assert run.cached_teacher.store.rows > 1000


def test_values_beyond_fp16_keep_their_digits(tmp_path: Path) -> None:
    teacher = tiny("gpt2", seed=1)
    with torch.no_grad():
        teacher.transformer.ln_f.weight.mul_(3e5)  # type: ignore[union-attr,operator]
        teacher.lm_head.weight.copy_(tiny("gpt2", seed=1).lm_head.weight / 3e5)  # type: ignore[union-attr,operator]
    import copy

    live, cached = (
        trained(tmp_path, cache, models=(tiny("gpt2"), copy.deepcopy(teacher))) for cache in (None, tmp_path / "cache")
    )
    assert close(cached, live, 2e-3)
    assert cached.cached_teacher.store.shards[0].columns["exponent"][:].max() > 0  # type: ignore[union-attr]


# ---- made without training ----


class Drawing(list[Example]):
    """Examples that cost a random number each, as those of a data set that augments may."""

    def __getitem__(self, index: Any) -> Any:
        torch.rand(())
        return super().__getitem__(index)


@pytest.mark.parametrize("by", ["method", "flag"])
def test_a_cache_made_beforehand_changes_nothing_of_training(by: str, tmp_path: Path) -> None:
    examples = Drawing(ragged_examples())
    settings: dict[str, Any] = {"collator": masked, "teacher_cache_epochs": 2, "train_dataset": examples}
    whole = trained(tmp_path, tmp_path / "whole", **settings)
    if by == "method":
        run = run_of(tmp_path, tmp_path / "cache", **settings)
        before = torch.get_rng_state()
        assert run.build_teacher_cache() == tmp_path / "cache"
        assert torch.equal(torch.get_rng_state(), before)
    else:
        out = tmp_path / "out"
        only = run_of(
            out, tmp_path / "cache", teacher_cache_only=True, push_to_hub=True, eval_on_start=True, **settings
        )
        with pytest.raises(SystemExit) as end:
            only.train()
        assert end.value.code == 0 and not list(out.iterdir()) and only.state.global_step == 0
        run = run_of(tmp_path, tmp_path / "cache", **settings)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    run.train()
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == stamps
    assert torch.equal(weights(run), weights(whole))


def test_what_has_no_cache_cannot_make_one(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="teacher_cache=None: names no folder"):
        run_of(tmp_path, None).build_teacher_cache()
    with pytest.raises(CacheError, match="teacher_model=None: has no targets"):
        run_of(tmp_path, tmp_path / "cache", models=(tiny("bert"), None)).build_teacher_cache()


# ---- refused ----


def built(tmp_path: Path, **settings: Any) -> Path:
    """A cache of two epochs of masks, made without training."""
    run = run_of(tmp_path, tmp_path / "cache", collator=masked, teacher_cache_epochs=2, **settings)
    run.build_teacher_cache()
    assert run.state.global_step == 0
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": (tiny("bert"), tiny("bert", seed=2))}, ["another teacher", "teacher:"]),
        ({"train_dataset": ragged_examples(41)}, ["other training data"]),
        ({"collator": lambda examples: masked(examples[:1] and examples) | {"labels": pad(examples)["input_ids"]}},
         ["another data collator"]),
        ({"seed": 3}, ["another seed", "seed: 42 there, 3 here"]),
        ({"teacher_cache_form": "top_k"}, ["another teacher_cache_form", "hidden there, top_k here"]),
        ({"models": (tiny("bert"), tiny("bert", seed=2)), "seed": 3}, ["another teacher", "and another seed"]),
    ],
)  # fmt: skip
def test_a_cache_of_something_else_is_refused_by_what_differs(
    settings: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    cache = built(tmp_path)
    run = run_of(tmp_path, cache, **{"collator": masked, "teacher_cache_epochs": 2, **settings})
    with pytest.raises(CacheError) as error:
        run.train()
    assert all(word in str(error.value) for word in [*words, "Train with", str(cache)]), str(error.value)
    assert run.state.global_step == 0


@pytest.mark.parametrize("settings", [{"temperature": 2.0}, {"teacher_cache_k": 6}])
def test_a_sparse_cache_belongs_to_its_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    sparse: dict[str, Any] = {"teacher_cache_form": "sampled", "teacher_cache_k": 5}
    built(tmp_path, **sparse)
    with pytest.raises(CacheError, match="|".join(settings).replace("teacher_cache_", "")):
        trained(tmp_path, tmp_path / "cache", collator=masked, teacher_cache_epochs=2, **{**sparse, **settings})


def test_what_does_not_matter_does_not_matter(tmp_path: Path) -> None:
    cache = built(tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    teacher = tiny("bert", seed=1)
    teacher.config._name_or_path, teacher.config.transformers_version = "elsewhere", "9.9"
    student = tiny("bert", num_hidden_layers=3, seed=5)
    settings = {"temperature": 3.0, "learning_rate": 1e-2, "teacher_cache_k": 7, "max_steps": 3}
    run = trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2, models=(student, teacher), **settings)
    assert run.cached_teacher is not None
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == stamps


def test_a_stream_cannot_be_cached(tmp_path: Path) -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            yield from ragged_examples(8)

    with pytest.raises(CacheError, match="is a stream"):
        trained(tmp_path, tmp_path / "cache", train_dataset=Stream())


def test_a_collator_with_a_generator_of_its_own_cannot_be_cached(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def own(examples: list[Example]) -> dict[str, torch.Tensor]:
        batch = pad(examples)
        drawn = torch.rand(batch["input_ids"].shape, generator=generator) < 0.5
        ids = batch["input_ids"]
        return {**batch, "input_ids": ids.masked_fill(drawn, 4), "labels": ids.masked_fill(~drawn, -100)}

    with pytest.raises(CacheError, match="data_collator.*generator of its own"):
        trained(tmp_path, tmp_path / "cache", collator=own)


def test_padding_that_cannot_be_told_from_content_is_refused(tmp_path: Path) -> None:
    def maskless(examples: list[Example]) -> dict[str, torch.Tensor]:
        return {name: value for name, value in pad(examples).items() if name != "attention_mask"}

    with pytest.raises(CacheError, match="beside others than alone.*attention_mask"):
        trained(tmp_path, tmp_path / "cache", collator=maskless)


def test_a_full_disk_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_build.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    run = run_of(tmp_path, tmp_path / "cache")
    with pytest.raises(CacheError, match="room for 1e-06 GB.*sampled"):
        run.train()
    assert run.state.global_step == 0


def test_a_teacher_of_ones_own_cannot_be_fingerprinted(tmp_path: Path) -> None:
    class Silent:
        columns: frozenset[str] = frozenset()

        def targets(self, batch: Any, rows: Any) -> Any:
            raise AssertionError

    with pytest.raises(CacheError, match="Silent"):
        trained(tmp_path, tmp_path / "cache", models=(tiny("bert"), Silent()))


# ---- broken files ----


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", ["truncated", "header", "payload", "mixed"])
def test_a_broken_shard_is_named(harm: str, tmp_path: Path) -> None:
    cache = built(tmp_path)
    (shard,) = cache.glob("*.safetensors")
    if harm == "truncated":
        truncate(shard)
    elif harm == "header":
        shard.write_bytes(shard.read_bytes()[:20])
    elif harm == "payload":
        start = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
        for place in range(start, shard.stat().st_size, 64):
            flip(shard, place)
    else:
        (tmp_path / "other").mkdir()
        foreign = built(tmp_path / "other", seed=3)
        shutil.copy(next(foreign.glob("*.safetensors")), cache)
        shard = cache / next(foreign.glob("*.safetensors")).name
    with pytest.raises(CacheError) as error:
        trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2)
    assert shard.name in str(error.value), str(error.value)
    assert (
        "another cache" if harm == "mixed" else "truncated" if harm in ("truncated", "header") else "corrupted"
    ) in str(error.value)


def test_one_flipped_bit_of_a_value_is_found_when_it_is_read(tmp_path: Path) -> None:
    cache = built(tmp_path)
    (path,) = cache.glob("*.safetensors")
    offset = path.read_bytes()
    header = __import__("json").loads(offset[8 : 8 + int.from_bytes(offset[:8], "little")])
    flip(path, 8 + int.from_bytes(offset[:8], "little") + header["hidden"]["data_offsets"][0] + 1)
    with pytest.raises(CacheError, match=f"{path.name}.*corrupted: an entry"):
        trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2)
    path.unlink()  # the fix that is named
    assert trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2).state.global_step == 7


def test_a_killed_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path, tmp_path / "whole", collator=masked, teacher_cache_epochs=2)
    monkeypatch.setattr(cache_build, "SHARD_BYTES", 1000)
    cache, write, written = tmp_path / "cache", cache_build.write_shard, [0]

    def kill(folder: Path, *args: Any) -> Path:
        written[0] += 1
        if written[0] == 4:
            (folder / ".half.safetensors.1.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(folder, *args)

    child = os.fork()
    if child == 0:
        try:
            cache_build.write_shard = kill  # type: ignore[assignment]
            trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    left = {path.name: path.stat().st_mtime_ns for path in cache.glob("[!.]*.safetensors")}
    assert len(left) == 3
    run: Any = trained(tmp_path, cache, collator=masked, teacher_cache_epochs=2)
    now = {path.name: path.stat().st_mtime_ns for path in cache.glob("[!.]*.safetensors")}
    assert left.items() < now.items()
    assert torch.equal(weights(run), weights(whole))
    store = run.cached_teacher.store
    assert len(store) == sum(len(shard.keys) for shard in store.shards)  # nothing was stored twice


def test_a_resumed_run_finds_its_entries(tmp_path: Path) -> None:
    saving: dict[str, Any] = {"collator": masked, "teacher_cache_epochs": 2, "save_strategy": "steps", "save_steps": 4}
    whole = trained(tmp_path / "whole", tmp_path / "cache", **saving)
    resumed = run_of(tmp_path / "resumed", tmp_path / "cache", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(weights(resumed), weights(whole))


def test_the_epochs_that_a_longer_run_lacks_are_added(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"collator": masked, "teacher_cache_epochs": 5}
    short: Any = trained(tmp_path, tmp_path / "cache", max_steps=5, **settings)
    entries = len(short.cached_teacher.store)
    longer: Any = trained(tmp_path, tmp_path / "cache", max_steps=12, **settings)
    assert entries < 41 and len(longer.cached_teacher.store) > 2.5 * entries
    faded: Any = trained(
        tmp_path, tmp_path / "faded", max_steps=50, soft_weight_schedule="knowledge_inheritance", **settings
    )
    assert len(faded.cached_teacher.store) == len(longer.cached_teacher.store)  # 30 % of ten epochs


# ---- collating by example ----


@pytest.mark.parametrize("words", [False, True])
def test_stock_collators_draw_for_each_example(words: bool) -> None:

    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "examples" / "data" / "weak_teacher")
    options: dict[str, Any] = (
        {"whole_word_mask": True, "mask_replace_prob": 1, "random_replace_prob": 0} if words else {}
    )
    stock = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, pad_to_multiple_of=8, **options)
    texts = ["we must help the american people.", "i ask the congress to pass this bill, and to do so now " * 3, "war"]
    keep = {"return_offsets_mapping": True, "return_special_tokens_mask": True} if words else {}
    keep |= {"padding": "max_length", "max_length": 64} if words else {}  # stock pads no offsets
    features = [dict(tokenizer(text, **keep)) for text in texts]
    collate = SeededCollator(stock, 0, lambda: 0, by_example=True)
    together, turned = collate([*features]), collate(features[::-1])
    for number, feature in enumerate(features):
        alone = collate([feature])
        size = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(together[name][number, :size], alone[name][0])
            assert torch.equal(turned[name][2 - number, :size], alone[name][0])
    assert (together["labels"] != -100).sum() > 3 and collate.by_example
    other = SeededCollator(stock, 0, lambda: 1, by_example=True)
    other(features)
    assert not torch.equal(other(features)["labels"], together["labels"])


def test_left_padding_is_kept() -> None:

    def left(examples: list[Example]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        gaps = [longest - len(example["input_ids"]) for example in examples]
        ids = torch.tensor([[0] * gap + e["input_ids"] for gap, e in zip(gaps, examples, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])
        labels = ids.masked_fill(torch.rand(ids.shape) < 0.5, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    examples = ragged_examples(6)
    collate = SeededCollator(left, 0, lambda: 0, by_example=True)
    batch = collate(examples)
    for number, example in enumerate(examples):
        own = collate([example])["labels"][0]
        assert torch.equal(batch["labels"][number, -len(own) :], own)
        assert (batch["labels"][number, : -len(own)] == -100).all()
        assert torch.equal(batch["input_ids"][number, -len(own) :], torch.tensor(example["input_ids"]))


def test_a_collator_that_packs_is_drawn_for_as_a_whole(tmp_path: Path) -> None:
    def packed(examples: list[Example]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([token for example in examples for token in example["input_ids"]])[None]
        drawn = torch.rand(ids.shape) < 0.5
        return {"input_ids": ids.masked_fill(drawn, 4), "labels": ids.masked_fill(~drawn, -100)}

    settings: dict[str, Any] = {"collator": packed, "max_steps": 3, "per_device_train_batch_size": 3}
    assert torch.equal(*(weights(trained(tmp_path, None, **settings)) for _ in range(2)))
    with pytest.raises(CacheError, match="draws for a batch as a whole"):
        trained(tmp_path, tmp_path / "cache", **settings)


def test_arguments_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="teacher_cache_form"):
        run_of(tmp_path, tmp_path / "cache", teacher_cache_form="all")
