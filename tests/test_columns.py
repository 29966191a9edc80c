"""A teacher that ran elsewhere teaches what the same model teaches that is run."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import DataCollatorWithFlattening, PreTrainedModel

from hf_dwt import DistillationTrainer
from hf_dwt.batches.columns import ColumnCollator
from hf_dwt.errors import ArgumentError, CacheError, DataError, DistillationError, TeacherError
from hf_dwt.forward.rows import select_rows
from hf_dwt.objective import Targets
from hf_dwt.objective.sparse import TopK
from hf_dwt.teachers import ColumnTeacher, SeveralTeachers

from .models import VOCAB, randomise, tiny
from .processes import run_in_two_processes
from .training import history, pad, ragged_examples, trainer

IDS, LOGPROBS = "teacher_ids", "teacher_logprobs"
FIGURES = ("loss", "grad_norm", "soft_loss", "agreement")


def teacher_of(name: str) -> PreTrainedModel:
    return randomise(tiny(name, seed=1), seed=5, scale=0.3)


@torch.no_grad()
def log_probs(model: PreTrainedModel, example: dict[str, Any]) -> torch.Tensor:
    """(L, V) of each position, of an example by itself."""
    logits: torch.Tensor = model(input_ids=torch.tensor([example["input_ids"]])).logits[0]
    return F.log_softmax(logits.double(), -1).float()


def with_columns(
    name: str,
    examples: list[dict[str, Any]],
    k: Callable[[int], int],
    aligned: str = "label",
) -> list[dict[str, Any]]:
    """Examples with the k(i) most likely classes of the i-th token, in no order; k = 0 is None."""
    model, ahead = teacher_of(name), aligned == "label" and name != "bert"
    found = []
    for example in examples:
        entries: list[Any] = []
        for number, row in enumerate(log_probs(model, example)):
            top = row.topk(k(number))
            places = torch.randperm(len(top.indices), generator=torch.Generator().manual_seed(number))
            entries.append((top.indices[places].tolist(), top.values[places].tolist()) if k(number) else (None, None))
        entries = [(None, None), *entries[:-1]] if ahead else entries
        found.append({**example, IDS: [ids for ids, _ in entries], LOGPROBS: [values for _, values in entries]})
    return found


def pad_left(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """As `pad`, on the other side; the first token has no label there, which padding would have to predict."""
    examples = [{**example, "labels": [-100, *example["labels"][1:]]} for example in examples]
    turned = pad([{name: value[::-1] for name, value in example.items()} for example in examples])
    return {name: value.flip(1) for name, value in turned.items()}


def run_of(out: Path, name: str, teacher: Any, examples: list[dict[str, Any]], **settings: Any) -> DistillationTrainer:
    more = {"data_collator": settings.pop("collator", pad), **settings.pop("more", {})}
    # Without an optimizer that divides by a gradient's size weights differ by no more than their gradients.
    defaults = {"soft_weight_schedule": "constant", "hard_weight": 0.5, "optim": "sgd", "learning_rate": 0.2}
    return trainer(tiny(name), teacher, out, train_dataset=examples, more=more, **{**defaults, **settings})


def trained(*args: Any, **settings: Any) -> DistillationTrainer:
    run = run_of(*args, **settings)
    run.train()
    return run


def figures(run: DistillationTrainer) -> np.ndarray:
    found = np.array(history(run, *FIGURES))
    assert len(found) >= 5 and found[:, :3].min() > 1e-3
    return found


def weights(run: DistillationTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


# ---- exactness ----


@pytest.mark.parametrize("aligned", ["label", "position"])
@pytest.mark.parametrize(("name", "collator"), [("gpt2", pad), ("qwen3", pad_left), ("bert", pad)])
def test_all_classes_teach_what_the_model_teaches(name: str, collator: Any, aligned: str, tmp_path: Path) -> None:
    examples = ragged_examples()
    columns = with_columns(name, examples, lambda _: VOCAB, aligned)
    settings: dict[str, Any] = {"collator": collator}
    live = trained(tmp_path, name, teacher_of(name), examples, **settings)
    read = trained(tmp_path, name, ColumnTeacher(aligned=aligned), columns, **settings)
    assert np.allclose(figures(read), figures(live), rtol=2e-6, atol=1e-6)
    assert torch.allclose(weights(read), weights(live), atol=1e-6)
    margins = np.array(history(read, "teacher_margin")), np.array(history(live, "teacher_margin"))
    assert np.allclose(*margins, atol=2e-6) and abs(margins[0]).min() > 1e-2


def ragged(token: int) -> int:
    """From no class to six."""
    return token * 5 % 7


def terms_by_hand(student: torch.Tensor, teacher: torch.Tensor, k: int, label: int) -> tuple[torch.Tensor, float]:
    """KL of the partition into the k most likely classes and the rest, and the margin on it, from (V,) logarithms."""
    q, p = student.double().exp(), teacher.double().exp()
    ids = teacher.topk(k).indices.tolist()
    others = [i for i in range(VOCAB) if i not in ids]
    if not k:
        return q.sum() * 0.0, 0.0
    soft = sum(p[i] * (p[i] / q[i]).log() for i in ids) + p[others].sum() * (p[others].sum() / q[others].sum()).log()
    ahead = (p[label] / q[label]) if label in ids else p[others].sum() / q[others].sum()
    return soft, float(ahead.detach().log())


@pytest.mark.parametrize("kernel", ["auto", "plain"])
@pytest.mark.parametrize("collator", [pad, pad_left])
def test_a_few_classes_teach_the_divergence_of_them_and_the_rest(kernel: str, collator: Any, tmp_path: Path) -> None:
    """Token by token, with the gradient, where entries differ in length and some are missing."""
    examples = ragged_examples(6, share=0.9)
    run = run_of(tmp_path, "qwen3", ColumnTeacher(), with_columns("qwen3", examples, ragged), collator=collator)
    run.options.loss_kernel, run.options.hard_weight = kernel, 0.0
    model, teacher = run.model.train(), teacher_of("qwen3")
    batch = next(iter(run.get_train_dataloader()))
    run.compute_loss(model, batch).backward()
    own = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    found = run._meter.drain(1, run._weights, run.accelerator)
    model.zero_grad()
    soft, margin, known, count, absent = torch.zeros(()), 0.0, 0, 0, 0
    for example in examples:
        student = F.log_softmax(model(input_ids=torch.tensor([example["input_ids"]])).logits[0], -1)
        for place, (mine, theirs) in enumerate(zip(student, log_probs(teacher, example), strict=True)):
            label = example["labels"][place + 1] if place + 1 < len(student) else -100
            if label != -100:
                value, ahead = terms_by_hand(mine, theirs, ragged(place), label)
                soft, margin, count = soft + value, margin + ahead, count + 1
                absent += ragged(place) == 0
                known += label in theirs.topk(ragged(place)).indices.tolist()
    (soft / count).backward()
    mean = float(soft.detach() / count)
    assert found["soft_loss"] == pytest.approx(mean, rel=1e-5) and mean > 0.01
    assert found["teacher_margin"] == pytest.approx(margin / count, rel=1e-5) and abs(margin / count) > 0.01
    assert known > 0 and absent > 0 and count - known - absent > 3
    wanted = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(own) == len(wanted) and max(g.abs().max() for g in own) > 1e-2
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(own, wanted, strict=True))


def test_the_split_of_a_step_changes_nothing(tmp_path: Path) -> None:
    columns = with_columns("gpt2", ragged_examples(), ragged)
    whole = trained(tmp_path, "gpt2", ColumnTeacher(), columns)
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    split = trained(tmp_path, "gpt2", ColumnTeacher(), columns, **sizes)
    assert np.allclose(figures(split), figures(whole), rtol=1e-5)
    assert torch.allclose(weights(split), weights(whole), atol=1e-5)


def test_a_resumed_run_is_the_whole_one(tmp_path: Path) -> None:
    columns = with_columns("gpt2", ragged_examples(), ragged)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "train_sampling_strategy": "random"}
    settings |= {"soft_weight_schedule": "auto", "optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 8}
    whole = trained(tmp_path / "whole", "gpt2", ColumnTeacher(), columns, **settings)
    again = run_of(tmp_path / "again", "gpt2", ColumnTeacher(), columns, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(weights(again), weights(whole))
    assert history(again, "loss", "grad_norm") == history(whole, "loss", "grad_norm")
    assert len(history(whole, "loss")) == 8 and "teacher_margin" in whole.state.log_history[0]


@pytest.mark.parametrize("correction", ["revise", "gate"])
def test_corrections_are_those_of_the_model(correction: str, tmp_path: Path) -> None:
    examples = ragged_examples()
    columns = with_columns("gpt2", examples, lambda _: VOCAB)
    settings: dict[str, Any] = {"teacher_correction": correction}
    live = trained(tmp_path, "gpt2", teacher_of("gpt2"), examples, **settings)
    read = trained(tmp_path, "gpt2", ColumnTeacher(), columns, **settings)
    assert np.allclose(figures(read), figures(live), rtol=1e-5)
    plain = trained(tmp_path, "gpt2", ColumnTeacher(), columns)
    assert not np.allclose(figures(read), figures(plain), rtol=1e-2)


def test_a_correction_does_not_trust_a_label_that_is_not_among_the_ids() -> None:
    """`gate` compares the rest of both models, `revise` takes the label to have no probability."""
    from hf_dwt.objective.corrections import get_correction

    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    values = torch.tensor([[0.6, 0.1]]).log()
    teacher = TopK(torch.tensor([[0, 1]]), 4, torch.tensor([-torch.inf]), values, torch.tensor([0.3]))
    label = torch.tensor([3])
    gated = get_correction("gate")(logits, teacher, label, 0.0)  # type: ignore[misc]
    rest = logits.softmax(-1)[0, 2:].sum()
    assert gated.row_weight is not None and gated.row_weight.item() == pytest.approx(0.3 / (0.3 + rest.item()))
    revised = get_correction("revise", {"eta": 0.8})(logits, teacher, label, 0.0)  # type: ignore[misc]
    assert revised.share is not None and revised.share.item() == pytest.approx(1 - 0.8 / (0.6 - 0.0 + 1.0))


def test_auto_is_not_misled_by_what_is_not_known(tmp_path: Path) -> None:
    """All that the teacher has to say is wrong, and its bound for the label is far above what the student gives it."""
    columns = []
    for example in ragged_examples():
        wrong = [[4] for _ in example["input_ids"]]  # no label is below 5
        values = [[float(np.log(0.3))] for _ in wrong]
        labels = [label if label == -100 else 5 + label % 50 for label in example["labels"]]
        columns.append({**example, "labels": labels, IDS: wrong, LOGPROBS: values})
    run = trained(tmp_path, "gpt2", ColumnTeacher(), columns, soft_weight_schedule="auto", hard_weight=1.0)
    margins = [entry.get("teacher_margin") for entry in run.state.log_history if "grad_norm" in entry]
    assert -1.0 < margins[0] < -0.1 and np.log(0.7) + np.log(VOCAB) > 3
    assert margins[1:] == [None] * 4  # the teacher is not asked again


# ---- evaluation ----


def test_an_evaluation_of_all_classes_is_that_of_the_model(tmp_path: Path) -> None:
    examples = ragged_examples()
    columns = with_columns("gpt2", examples, lambda _: VOCAB)
    live = run_of(tmp_path, "gpt2", teacher_of("gpt2"), examples, more={"eval_dataset": examples}).evaluate()
    read = run_of(tmp_path, "gpt2", ColumnTeacher(), examples, more={"eval_dataset": columns}).evaluate()
    names = [name for name in live if "teacher" in name or "loss" in name]
    assert len(names) == 5 and all(read[name] == pytest.approx(live[name], rel=1e-5) for name in names)


@pytest.mark.parametrize("every_label", [True, False])
def test_an_evaluation_counts_what_is_known(every_label: bool, tmp_path: Path) -> None:
    """The rows with an entry; the teacher's loss where that of all their labels is known."""
    examples, model = ragged_examples(), teacher_of("gpt2")
    columns = with_columns("gpt2", examples, ragged)
    losses, right, soft = list[float](), list[bool](), list[float]()
    student = tiny("gpt2")
    for example, entries in zip(examples, columns, strict=True):
        rows = zip(log_probs(student, example), log_probs(model, example), strict=True)
        for place, (own, row) in enumerate(list(rows)[:-1]):
            if example["labels"][place + 1] != -100 and place % 3 == 0:
                example["labels"][place + 1] = int(row.argmax())  # the teacher is right now and then
            label, ids = example["labels"][place + 1], entries[IDS][place + 1]
            if label != -100 and ids:
                if every_label and label not in ids:
                    ids.append(label)
                    entries[LOGPROBS][place + 1].append(float(row[label]))
                losses.append(-float(row[label]))
                right.append(max(ids, key=lambda one: row[one]) == label)
                p, q = (each[ids].double().exp() for each in (row, own))
                r, s = 1 - p.sum(), 1 - q.sum()
                soft.append(float((p * (p / q).log()).sum() + r * (r / s).log()))
    evaluated = {"columns": columns, "none": examples}
    found = run_of(tmp_path, "gpt2", ColumnTeacher(), examples, more={"eval_dataset": evaluated}).evaluate()
    assert found["eval_columns_soft_loss"] == pytest.approx(np.mean(soft), rel=1e-4) and len(soft) > 30
    assert found["eval_columns_teacher_accuracy"] == pytest.approx(np.mean(right)) and any(right)
    if every_label:
        assert found["eval_columns_teacher_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert ("eval_columns_teacher_loss" in found) == every_label
    assert found["eval_none_loss"] == found["eval_columns_loss"]
    assert not [name for name in found if name.startswith("eval_none") and ("teacher" in name or "soft" in name)]


# ---- the data ----


@pytest.mark.parametrize("workers", [0, 1])
def test_collators_that_do_not_know_the_columns(workers: int, tmp_path: Path) -> None:
    """A data set of `datasets`, whose unused columns are dropped, and a collator that pads with a tokenizer."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained("examples/data/weak_teacher")
    examples = [{"input_ids": example["input_ids"]} for example in ragged_examples()]
    labelled = [{**example, "labels": example["input_ids"]} for example in examples]
    columns = with_columns("gpt2", examples, lambda token: 1 + token % 5)
    dataset = datasets.Dataset.from_list([{**example, "text": "not read"} for example in columns])
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    settings: dict[str, Any] = {"collator": collator, "dataloader_num_workers": workers}
    found = trained(tmp_path, "gpt2", ColumnTeacher(), dataset, **settings)  # type: ignore[arg-type]
    both = [{**one, IDS: two[IDS], LOGPROBS: two[LOGPROBS]} for one, two in zip(labelled, columns, strict=True)]
    assert np.allclose(figures(found), figures(trained(tmp_path, "gpt2", ColumnTeacher(), both)), rtol=1e-5)


def laid(features: list[dict[str, Any]], collator: Any = pad, **named: Any) -> Any:
    teacher = ColumnTeacher(**named).of_student(VOCAB, shifts=True)
    return teacher, teacher.collating(collator)(features)


def targets_of(features: list[dict[str, Any]], **named: Any) -> Targets:
    teacher, batch = laid(features, **named)
    found: Targets = teacher.targets(batch, select_rows(batch["labels"], shifts=True))
    return found


ENTRY = {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}


def test_columns_of_axolotl() -> None:
    """Padding of -1e9 and a mask, ids of padding that occur twice, arrays in place of lists."""
    mask = [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    values = np.log(np.array([[0.2, 0.7, 0.9], [0.5, 0.1, 0.1], [0.1, 0.1, 0.1]]))
    values[1, 1:] = -1e9
    feature = {**ENTRY, "i": np.array([[6, 9, 6], [7, 0, 0], [0, 1, 2]]), "l": torch.tensor(values), "m": mask}
    found = targets_of([feature], ids="i", logprobs="l", mask="m", aligned="position")
    sparse = found.logits
    assert isinstance(sparse, TopK) and found.row_weight is not None
    assert sparse.likeliest.tolist() == [9, 7] and found.row_weight.tolist() == [1, 1]
    assert torch.allclose(sparse.rest, torch.tensor([0.1, 0.5]), atol=1e-6)
    assert torch.allclose(sparse.truth.exp(), torch.tensor([0.2, 0.5]))


class Score(NamedTuple):
    """As vLLM's `Logprob`."""

    logprob: float


def test_the_lines_of_the_page_make_columns_of_what_vllm_returns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its `prompt_logprobs`: None, then dicts of the token itself, which comes first, and of the 50 most likely."""
    model = teacher_of("gpt2")

    def generate(prompts: list[dict[str, list[int]]], asked: dict[str, int]) -> list[SimpleNamespace]:
        answers = []
        for prompt in prompts:
            tokens, entries = prompt["prompt_token_ids"], list[Any]([None])
            for token, row in zip(tokens[1:], log_probs(model, {"input_ids": tokens}), strict=False):
                chosen = [token, *row.topk(asked["prompt_logprobs"]).indices.tolist()]
                entries.append({one: Score(float(row[one])) for one in chosen})
            answers.append(SimpleNamespace(prompt_logprobs=entries))
        return answers

    vllm = SimpleNamespace(
        LLM=lambda *_, **__: SimpleNamespace(generate=generate), SamplingParams=dict, TokensPrompt=dict
    )
    monkeypatch.setitem(sys.modules, "vllm", vllm)  # type: ignore[arg-type]
    page = (Path(__file__).parents[1] / "docs" / "teachers.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "vllm" in block)
    examples = [{**one, "labels": one["input_ids"]} for one in ragged_examples(9)]
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_list(examples).save_to_disk("data")
    exec(code, {})
    found = list(datasets.load_from_disk("data-with-teacher"))
    assert found[0][IDS][0] == [] and {len(entry) for entry in found[0][IDS][1:]} <= {50, 51}
    read = targets_of(found)
    whole = targets_of(with_columns("gpt2", examples, lambda _: VOCAB))
    assert isinstance(read.logits, TopK) and isinstance(whole.logits, TopK)
    assert torch.allclose(read.logits.truth, whole.logits.truth, atol=1e-5)
    assert torch.equal(read.logits.likeliest, whole.logits.likeliest) and len(read.logits.truth) > 20


@pytest.mark.parametrize("meant", ["label", "position"])
def test_columns_that_fit_the_other_alignment_are_a_warning(meant: str, caplog: pytest.LogCaptureFixture) -> None:
    examples = [{**one, "labels": one["input_ids"]} for one in ragged_examples(9)]
    shift = [None] if meant == "label" else []
    columns = [
        {**one, IDS: [*shift, *([t] for t in one["input_ids"][1:]), *([] if shift else [None])]} for one in examples
    ]
    columns = [{**one, LOGPROBS: [entry and [-0.5] for entry in one[IDS]]} for one in columns]
    targets_of(columns, aligned=meant)
    targets_of(with_columns("gpt2", examples, lambda _: VOCAB, meant), aligned=meant)  # which fits either
    assert not caplog.records
    targets_of(columns, aligned="position" if meant == "label" else "label")
    assert f"100 % with aligned='{meant}'" in caplog.text


def test_probabilities_of_half_precision_are_made_to_sum_to_one() -> None:
    values = torch.tensor([0.9, 0.11]).log().tolist()
    found = targets_of([{**ENTRY, IDS: [None, [1, 2], [6, 7]], LOGPROBS: [None, values, [-0.1, -3.0]]}]).logits
    assert isinstance(found, TopK) and torch.allclose(found.log_probs[0].exp().sum(), torch.tensor(1.0))
    assert found.rest[0].item() == pytest.approx(0.0, abs=1e-6) and found.rest[1] > 0.04


FAULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "twice": ({IDS: [None, [1, 1], [2]]}, [f"{IDS}[1]", "example 0", "twice"]),
    "beyond": ({IDS: [None, [1, VOCAB], [2]]}, [f"{IDS}[1]", "example 0", f"none of the student's {VOCAB} classes"]),
    "below": ({IDS: [None, [1, -1], [2]]}, [f"{IDS}[1]", "none of the student's"]),
    "logits": ({LOGPROBS: [None, [0.4, -1.0], [-1.0]]}, [f"{LOGPROBS}[1]", "sum to more than 1"]),
    "nan": ({LOGPROBS: [None, [-1.0, -2.0], [float("nan")]]}, [f"{LOGPROBS}[2]", "NaN"]),
    "counts": ({LOGPROBS: [None, [-1.0], [-1.0]]}, [f"{LOGPROBS}[1]", f"1 numbers where {IDS} has 2"]),
    "short": ({IDS: [[1, 2], [2]]}, [IDS, "2 entries for the 3 tokens of example 0"]),
    "no lists": ({IDS: [1, 2, 3]}, [IDS, "example 0", "no list of lists"]),
    "words": ({LOGPROBS: [None, ["a", "b"], ["c"]]}, [LOGPROBS, "no list of lists"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_entry_is_named(fault: str) -> None:
    change, words = FAULTS[fault]
    whole: dict[str, Any] = {**ENTRY, IDS: [None, [1, 2], [2]], LOGPROBS: [None, [-1.0, -2.0], [-1.0]]}
    assert laid([whole])
    with pytest.raises(DataError) as caught:
        laid([{**whole, **change}])
    assert all(word in str(caught.value) for word in [*words, "5, 6, 7" if "example" in words else ""])
    with pytest.raises(DataError, match="example 1 "):
        laid([whole, {**whole, **change}])


def test_the_error_of_a_worker_is_of_its_kind(tmp_path: Path) -> None:
    columns = with_columns("gpt2", ragged_examples(), ragged)
    columns[3][IDS][2], columns[3][LOGPROBS][2] = [1, 1], [-1.0, -2.0]
    with pytest.raises(DataError, match="teacher_ids.2.*of example 3 of a batch"):
        trained(tmp_path, "gpt2", ColumnTeacher(), columns, dataloader_num_workers=1)


def cut(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return pad([{name: value[:2] for name, value in example.items()} for example in examples])


def without_mask(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in pad(examples).items() if name != "attention_mask"}


@pytest.mark.parametrize("collator", [cut, without_mask, DataCollatorWithFlattening()])
def test_collators_whose_rows_are_no_examples_are_refused(collator: Any) -> None:
    whole: dict[str, Any] = {**ENTRY, IDS: [None, [1, 2], [2]], LOGPROBS: [None, [-1.0, -2.0], [-1.0]]}
    longer = {name: [*value, value[-1]] for name, value in whole.items()}
    with pytest.raises(DataError, match="data_collator"):
        laid([whole, longer], collator)


def test_an_example_without_columns_is_named() -> None:
    whole: dict[str, Any] = {**ENTRY, IDS: [None, [1, 2], [2]], LOGPROBS: [None, [-1.0, -2.0], [-1.0]]}
    with pytest.raises(DataError, match=f"{IDS}=None: is no column of example 1 of a batch"):
        laid([whole, ENTRY])
    none = targets_of([whole, {**ENTRY, IDS: None, LOGPROBS: None}])
    assert none.row_weight is not None and none.row_weight.tolist() == [1, 1, 0, 0]


def test_a_batch_is_what_the_collator_makes_of_the_other_columns() -> None:
    whole: dict[str, Any] = {**ENTRY, IDS: [None, [1, 2], [2]], LOGPROBS: [None, [-1.0, -2.0], [-1.0]]}
    _, batch = laid([whole])
    assert {name: value for name, value in batch.items() if name not in (IDS, LOGPROBS)}.keys() == pad([ENTRY]).keys()
    assert not any(value.is_floating_point() for value in batch.values())  # which DeepSpeed has cast to half
    assert isinstance(ColumnTeacher().collating(pad), ColumnCollator) and set(whole) == {*ENTRY, IDS, LOGPROBS}


# ---- what a run refuses ----


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return (student.exp() * (student - teacher)).sum(-1)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"temperature": 2.0}, ArgumentError, "temperature=2.0: cannot be applied to a ColumnTeacher"),
        ({"soft_term": reverse_kl}, ArgumentError, "cannot be computed from the few classes"),
        ({"teacher_correction": "refine"}, ArgumentError, "teacher_correction='refine': cannot be computed"),
        ({"teacher_cache": "cache"}, CacheError, "cannot keep the targets of a ColumnTeacher"),
        ({"teacher_placement": "offload"}, TeacherError, "has no meaning for a ColumnTeacher"),
    ],
)
def test_what_a_few_classes_do_not_allow_is_refused(
    settings: dict[str, Any], error: type[DistillationError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        run_of(tmp_path, "gpt2", ColumnTeacher(), ragged_examples(4), **settings)
    assert words in str(caught.value)


def test_a_mixture_and_other_tasks_are_refused(tmp_path: Path) -> None:
    several = SeveralTeachers({"a": ColumnTeacher(), "b": teacher_of("gpt2")})
    with pytest.raises(TeacherError, match="teacher_model.'a'.*cannot be a part of another teacher"):
        run_of(tmp_path, "gpt2", several, ragged_examples(4))
    with pytest.raises(TeacherError, match="text2text-generation"):
        run_of(tmp_path, "t5", ColumnTeacher(), ragged_examples(4))


def test_names_are_checked() -> None:
    with pytest.raises(TeacherError, match="Did you mean 'label'"):
        ColumnTeacher(aligned="labels")
    with pytest.raises(TeacherError, match="names a column twice"):
        ColumnTeacher("a", "a")
    with pytest.raises(TeacherError, match="logprobs='labels': is read by the student"):
        ColumnTeacher(logprobs="labels")
    with pytest.raises(TeacherError, match="ids=''"):
        ColumnTeacher("")


def test_training_data_without_columns_is_refused_at_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{IDS}=None: is no column of the training data"):
        trained(tmp_path, "gpt2", ColumnTeacher(), ragged_examples())


def test_the_record_names_the_model_that_made_the_columns(tmp_path: Path) -> None:
    from hf_dwt.training.record import teacher_section

    named = ColumnTeacher(name="Qwen/Qwen3-32B")
    run = run_of(tmp_path, "gpt2", named, ragged_examples(4))
    section = teacher_section(run.teacher_source, {}, None, {})
    assert (section["name"], section["hub_id"], section["parameters"]) == ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B", 0)
    assert teacher_section(ColumnTeacher(), {}, None, {})["name"] == "ColumnTeacher"


def in_two_processes(out: str, columns: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    run = run_of(Path(out), "gpt2", ColumnTeacher(), columns, per_device_train_batch_size=4, ddp_backend="gloo")
    run.train()
    return history(run, *FIGURES)


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    columns = with_columns("gpt2", ragged_examples(), ragged)
    one = trained(tmp_path, "gpt2", ColumnTeacher(), columns)
    two = np.array(run_in_two_processes(in_two_processes, str(tmp_path), columns))
    assert np.allclose(two, figures(one), rtol=1e-5)
