"""The teacher's cache in a run: the part of the trainer that opens it, and makes what it lacks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..batches.seeds import kept_random_state
from ..errors import CacheError, raise_all
from ..forward.calls import Batch
from ..forward.rows import Rows
from ..objective import Weights
from ..teachers import Teacher
from ..teachers.cache.build import CacheBuilder
from ..teachers.cache.request import CacheSettings, Surroundings, cache_problems, epochs_with_teacher, folder_problems
from ..teachers.composed import TeacherSource
from ..teachers.frozen import FrozenTeacher
from .loaders import Loaders
from .setup.sources import Loaded, OneTeacher, put_together


class UseCache(TrainerCallback):
    """Has the teacher's cache opened whenever training starts.

    Args:
        use: called with the data loader of training and the steps that are left.
    """

    def __init__(self, use: Callable[[DataLoader[Any], range], None]) -> None:
        self._use = use

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._use(kwargs["train_dataloader"], range(state.global_step, state.max_steps))


class Caching(Loaders):
    """The part of `DistillationTrainer` that opens the teacher's cache."""

    cached_teacher: Teacher | None = None  # in training in place of the teacher
    teacher_source: TeacherSource | None
    frozen_teachers: dict[str, FrozenTeacher]
    _loaded_teacher: Loaded | None

    def begin(self) -> None:
        """What each start of the loop does; see `DistillationTrainer`."""

    def _weights(self, step: int) -> Weights:
        """The weights at a step; see `DistillationTrainer`."""
        raise NotImplementedError

    def _set_up_cache(self) -> None:
        if self.teacher is not None and self.options.teacher_cache:
            self.add_callback(UseCache(self._use_cache))

    def build_teacher_cache(self) -> Path:
        """Make what the cache `teacher_cache` lacks for this run, without training; `train` then reads it.

        Call it in every process of a distributed run: each makes its share. The random numbers of training stay as
        they are.

        Returns:
            The folder of the cache.

        Raises:
            CacheError: no folder or no model is given, data or collator cannot be cached, the folder has a cache of
                something else or a broken one, or the disk has no room.
            DistillationError: all else that is known before the first step of `train`.
        """
        folder = self.options.teacher_cache
        raise_all(folder_problems(folder))
        if self.teacher is None:
            fix = "Give teacher_model, or train without teacher_cache."
            raise CacheError("teacher_model", None, "has no targets that could be cached.", fix)
        self.begin()
        loader = self.get_train_dataloader()
        self.state.max_steps = self.set_initial_training_values(self.args, loader)[-1]
        self._use_cache(loader, range(self.state.max_steps))
        self.cached_teacher = None  # `train` opens it
        return Path(str(folder))

    def _use_cache(self, loader: DataLoader[Any], steps: range) -> None:
        """Have those steps read the teacher's targets from the cache, which is completed first."""
        self.cached_teacher = None
        raise_all(cache_problems(self.teacher_source, self.options.teacher_cache))
        if self.options.soft_weight == 0 or self._loaded_teacher is None:
            return

        def cached(name: str, _: OneTeacher) -> Teacher:
            builder = self._cache_builder(loader, name)
            per_epoch = max(1, math.ceil(len(loader) / self.args.gradient_accumulation_steps))
            repeat = self.options.teacher_cache_epochs if builder.draws else 1
            epochs = epochs_with_teacher(steps, per_epoch, repeat, lambda step: self._weights(step).soft)
            return builder.ready(epochs) if epochs else self.frozen_teachers[name]

        with kept_random_state():  # training is the same whether the cache was there or had to be made
            self.cached_teacher = put_together(self._loaded_teacher, cached)

    def _cache_builder(self, loader: DataLoader[Any], name: str) -> CacheBuilder:
        """Of the teacher of that name, which is that of a folder of its own where there are several."""
        args, options = self.args, self.options
        assert self.seeded_collator is not None  # that of the loader

        def batch_of(examples: list[object]) -> tuple[Batch, Rows]:
            batch = self._labelled(self._prepare_inputs(loader.collate_fn(examples)))
            return batch, self._rows(batch)

        settings = CacheSettings(
            Path(str(options.teacher_cache), name),
            options.teacher_cache_form,
            options.teacher_cache_k,
            options.temperature,
        )
        run = Surroundings(
            vocabulary=self.task.vocabulary,
            precision=self.accelerator.mixed_precision,
            device=args.device,
            batch_size=max(args.per_device_train_batch_size, args.per_device_eval_batch_size),
            rank=args.process_index,
            processes=args.world_size,
            wait=self.accelerator.wait_for_everyone,
            any_process=lambda one: bool(self.accelerator.reduce(torch.tensor(int(one), device=args.device))),
            quiet=args.disable_tqdm or not self.is_world_process_zero(),
        )
        return CacheBuilder(self.frozen_teachers[name], loader.dataset, self.seeded_collator, batch_of, settings, run)
