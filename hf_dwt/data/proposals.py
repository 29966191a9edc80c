"""Teacher-guided training: text that the teacher makes where it and the student differ."""

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.data
from torch import Tensor, nn

from ..batches.seeds import kept_random_state
from ..errors import ArgumentError, DistillationError, TeacherError, arguments_as, raise_all
from ..forward.row_logits import trial_batch
from ..forward.rows import HARD, select_rows
from ..forward.sharding import is_sharded
from ..objective.chunked import chunks
from ..objective.divergences.forward_kl import forward_kl
from ..parts import Reference
from ..teachers.composed import Shown
from ..teachers.frozen import FrozenTeacher
from ..teachers.loading import load_teacher, load_teacher_tokenizer, shown_task
from ..teachers.placement.layers import is_shared
from ..teachers.vocabulary import vocabulary_size
from .changes import copy_example, is_of_examples, last_places, tensors_of, truths, with_words
from .checks import CAUSAL, MASKED, argument_problems, student_problems, teacher_problems, token_ids
from .drawing import Drawing, Proposal, continued, filled, random_spans

SLOTS = 128
"""Processes of a data loader that count their seconds apart."""


class TeacherProposals(Shown):
    """A data collator around another, which shows the student examples with words that a teacher put in.

    In a share of the examples a masked language model fills spans of 1 to 3 tokens, and a causal one writes the end
    anew; the length stays. Of several candidates the one is kept on whose rows KL(teacher || student) is largest, a
    mean over the rows that the collator makes of it: the candidates are collated with the same random numbers, so that
    they differ in the words alone. A drawn word is no truth: the rows that it labels have the soft term alone.

    The idea is that of teacher-guided training (arXiv 2208.06825): the teacher generates, and labels, what the student
    learns from, where the two differ. Its abstract alone could be read, and it is about images and classes; filling
    spans, the choice among candidates and the labels are ours.

    All that is drawn is a function of torch's random state at the call, which afterwards is that of the plain
    collator: examples that are left alone are, bit for bit, what they would be without. Under a `DistillationTrainer`
    each batch has a seed of its own, so that a resumed run sees the same text. Candidates are compared on the student
    as it was at the start of the epoch, in all processes and workers, and checkpoints keep that. Evaluations get the
    plain collator.

    Args:
        collator: from examples with `input_ids` to a batch with a row for each.
        teacher: Hub id, path or model of the student's task and tokenizer. A model is run where it is.
        share: how many of the examples are changed, from 0 to 1, each by itself; 0 is the plain collator.
        spans: how many of an example's tokens are drawn, above 0 to 1; special tokens never are. At least one is.
        temperature: that the teacher's logits are divided by.
        candidates: how many are drawn of each example.
        choose: "disagreement", or "random": the first candidate, and no other is drawn.
        labels: "teacher": rows of drawn words have the soft term alone; "words": they have both, as if what was drawn
            were true.
        tokenizer: of the data; by default the collator's.
        init_kwargs: of `from_pretrained`, for a teacher given by id or path.

    Raises:
        ArgumentError, TeacherError, VocabularyError: a value out of its range, a teacher that cannot write for this
            collator, one of another tokenizer, or a tokenizer without a mask.
    """

    references = (Reference("text that the teacher makes", "Teacher Guided Training", "2208.06825"),)

    def __init__(
        self,
        collator: Callable[[list[Any]], Any],
        teacher: str | os.PathLike[str] | nn.Module,
        share: float = 0.5,
        spans: float = 0.15,
        temperature: float = 1.0,
        candidates: int = 4,
        choose: str = "disagreement",
        labels: str = "teacher",
        tokenizer: Any = None,
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        tokenizer = getattr(collator, "tokenizer", None) if tokenizer is None else tokenizer
        given = {name: value for name, value in locals().items() if name != "self"}
        raise_all(argument_problems(given))
        self.collator = self.plain = collator
        self.teacher, self.share, self.spans, self.temperature = teacher, share, spans, temperature
        self.candidates, self.choose, self.labels = candidates, choose, labels
        self.tokenizer, self.init_kwargs = tokenizer, init_kwargs
        self._loaded = not isinstance(teacher, nn.Module)  # the model is this object's own
        task = shown_task(teacher, init_kwargs)
        if task is None or task.auto_class not in (MASKED, CAUSAL):
            shown = type(teacher).__name__ if isinstance(teacher, nn.Module) else teacher
            problem = f"is a model for {task.name}." if task else "shows no task: no model, or it cannot be found."
            raise TeacherError("teacher", shown, problem, "Give a masked or causal language model.")
        with arguments_as(lambda name: name.replace("teacher_model_", "").replace("teacher_model", "teacher")):
            model, self._task = load_teacher(teacher, task, init_kwargs), task
        raise_all(teacher_problems(model, task, collator, tokenizer, load_teacher_tokenizer(teacher, init_kwargs)))
        size = vocabulary_size(model)
        self._frozen = FrozenTeacher(model, task, size)
        known = {*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids}
        banned = tuple(sorted(set(range(size)) - known))
        pad_id = getattr(tokenizer, "pad_token_id", None)
        mask_id = tokenizer.mask_token_id if task.auto_class == MASKED else None
        self._how = Drawing(temperature, banned, mask_id, 0 if pad_id is None else pad_id)
        self._special = frozenset(tokenizer.all_special_ids)
        self._reference: FrozenTeacher | None = None
        self._epoch: int | None = None
        self._seconds = torch.zeros(SLOTS, dtype=torch.float64).share_memory_()

    # ---- a batch ----

    def __call__(self, features: list[Any]) -> Any:
        """The batch of the collator, with drawn words in some examples.

        Raises:
            DataError: examples without token ids, or a batch that has no row for each.
            ArgumentError: candidates are compared on a student, and there is none.
        """
        if not self.proposes:
            return self.plain(features)
        with kept_random_state():
            seed = int(torch.randint(2**62, ()))
        of_collator = arguments_as(lambda name: name.replace("teacher_model", "data_collator.teacher"))
        with self._clock(), of_collator:
            proposals = self._proposals(features, seed)
        count = len(proposals[0].words) if proposals else 1
        batches = []
        for number in range(count):
            with kept_random_state() if number + 1 < count else nullcontext():
                batches.append(self.plain(with_words(features, proposals, number)))
        batch = batches[0]
        if count > 1:
            with self._clock():
                chosen = self._most_different(batches, proposals)
            for proposal, best in zip(proposals, chosen, strict=True):
                copy_example(batches[best], batch, proposal.example, len(features))
        if self.hides_labels:
            batch[HARD] = truths(batch, features, proposals)
        return batch

    def _proposals(self, features: list[Any], seed: int) -> list[Proposal]:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(len(features), generator=generator) < self.share
        texts = []
        for number in torch.nonzero(drawn).flatten().tolist():
            ids = token_ids(features[number], number)
            if places := [place for place, token in enumerate(ids) if token not in self._special]:
                texts.append((number, ids, places, max(1, round(self.spans * len(places)))))
        candidates = self.candidates if self.reads_student else 1
        if self._task.auto_class == MASKED:
            masked = [(number, ids, random_spans(places, n, generator)) for number, ids, places, n in texts]
            return filled(self._frozen, masked, candidates, self._how, generator) if masked else []
        ends = [(number, ids, last_places(places, n)) for number, ids, places, n in texts]
        ends = [text for text in ends if text[2]]
        return continued(self._frozen, ends, candidates, self._how, seed) if ends else []

    @torch.no_grad()
    def _most_different(self, batches: list[Any], proposals: list[Proposal]) -> list[int]:
        """Which candidate of each example is kept."""
        if self._reference is None:
            fix = "Give the collator to DistillationTrainer, call refer_to(student, epoch=0), or choose='random'."
            raise ArgumentError("choose", self.choose, "compares candidates on a student, and there is none.", fix)
        numbers = torch.tensor([proposal.example for proposal in proposals])
        scores = [self._disagreement(batch, numbers, self._reference) for batch in batches]
        best: list[int] = torch.stack(scores).argmax(0).tolist()
        return best

    def _disagreement(self, batch: Any, numbers: Tensor, student: FrozenTeacher) -> Tensor:
        """(m,) KL(teacher || student), a mean over the rows of each of those examples."""
        device, size = next(student.model.parameters()).device, len(batch["input_ids"])
        part = {name: value[numbers].to(device) for name, value in batch.items() if is_of_examples(value, size)}
        rows = select_rows(part["labels"], self._task.shifts)
        ours, theirs = self._frozen.logits(part, rows), student.logits(part, rows)
        shared = min(ours.shape[-1], theirs.shape[-1])
        total = torch.zeros(len(numbers), device=device)
        for each in chunks(ours):
            own, other = (torch.log_softmax(logits[each][:, :shared].float(), -1) for logits in (theirs, ours))
            total.index_add_(0, rows.examples[each], forward_kl(own, other))
        return (total / rows.examples.bincount(minlength=len(numbers)).clamp(min=1)).cpu()

    # ---- what a trainer does for it: `hf_dwt.batches.proposing.ProposingCollator` ----

    @property
    def proposes(self) -> bool:
        """Whether any example is changed."""
        return self.share > 0

    @property
    def hides_labels(self) -> bool:
        """Whether rows of drawn words have no hard term."""
        return self.proposes and self.labels == "teacher"

    @property
    def reads_student(self) -> bool:
        """Whether candidates are compared on the student."""
        return self.proposes and self.choose == "disagreement"

    @property
    def runs_on_gpu(self) -> bool:
        """Whether the teacher is a model of the user's, on a GPU."""
        return not self._loaded and next(self._frozen.model.parameters()).is_cuda

    @property
    def description(self) -> str:
        """What is drawn, as run.json and cards have it."""
        what = "spans filled" if self._task.auto_class == MASKED else "ends written anew"
        text = f"{what} in {self.share:g} of the examples, {self.spans:g} of their tokens, temperature "
        text += f"{self.temperature:g}, chosen by {self.choose}"
        return text + (f" of {self.candidates}" if self.choose == "disagreement" else "")

    @property
    def seconds(self) -> float:
        """How long models took to draw and to compare since `begin`, over all processes of a data loader."""
        return float(self._seconds.sum())

    def problems(self, student: nn.Module, task: Any, tokenizer: object) -> list[DistillationError]:
        """Why this is no text for that student."""
        return student_problems(student, task, self._frozen.model, self.tokenizer, tokenizer) if self.proposes else []

    def begin(self, device: torch.device) -> None:
        """Count seconds anew, and run the teacher on that device if it was loaded here.

        Raises:
            TeacherError: processes hold parts of the teacher.
        """
        if is_shared(self._frozen.model):
            problem = "is held in parts by all processes, which would have to draw words together."
            name = type(self._frozen.model).__name__
            raise TeacherError("data_collator.teacher", name, problem, "Give the collator an id or a path.")
        self._seconds.zero_()
        self._epoch = None
        if self._loaded:
            self._frozen.model.to(device)
        if self.proposes:
            self._warm(self._frozen)

    def refer_to(self, student: nn.Module, epoch: int) -> None:
        """Compare candidates on the student as it is now, unless that was done for this epoch already.

        Raises:
            ArgumentError: no process holds the whole student.
        """
        if not self.reads_student or epoch == self._epoch:
            return
        if is_sharded(student):
            problem = "compares candidates on a copy of the student, of which each process holds a part."
            raise ArgumentError("data_collator.choose", self.choose, problem, "Use choose='random', or DDP.")
        self._fill(student, tensors_of(student))
        self._epoch = epoch

    def state(self) -> dict[str, Any]:
        """The student that candidates are compared on, and its epoch; empty without one."""
        if self._reference is None or self._epoch is None:
            return {}
        return {"epoch": self._epoch, "student": tensors_of(self._reference.model)}

    def load(self, state: Mapping[str, Any], student: nn.Module) -> None:
        """Go on from a `state`; `student` is a model of its class and sizes."""
        self._fill(student, state["student"])
        self._epoch = state["epoch"]

    def _fill(self, student: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Give the student's copy those values, in place: workers of a data loader read the same memory."""
        held = {} if self._reference is None else tensors_of(self._reference.model)
        if {n: v.shape for n, v in held.items()} != {n: v.shape for n, v in values.items()}:
            self._reference = self._copy(student)
            held = tensors_of(self._reference.model)
        with torch.no_grad():
            for name, value in values.items():
                held[name].copy_(value)
        if self._reference is not None and self._reference.row_logits.gathers is None:
            self._warm(self._reference)

    def _copy(self, student: nn.Module) -> FrozenTeacher:
        model = copy.deepcopy(student).eval().requires_grad_(False)
        if vars(model).pop("_original_forward", None) is not None:  # mixed precision calls the forward of the original
            del model.forward
        model = model.to(next(self._frozen.model.parameters()).device)
        return FrozenTeacher(model.share_memory(), self._task, vocabulary_size(model))

    def _warm(self, frozen: FrozenTeacher) -> None:
        """Find out how a model yields logits at rows, here rather than in each worker."""
        with kept_random_state(), torch.no_grad():
            inputs, rows = trial_batch(frozen.model)
            frozen.logits(inputs, rows)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        began, worker = time.perf_counter(), torch.utils.data.get_worker_info()
        try:
            yield
        finally:
            self._seconds[0 if worker is None else 1 + worker.id % (SLOTS - 1)] += time.perf_counter() - began
