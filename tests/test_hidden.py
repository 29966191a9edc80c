"""A run with a term on hidden states: beside a dense computation, at its ends, and refused where it cannot be."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, DataCollatorWithFlattening

from hf_dwt import DistillationTrainer, from_weak_teacher
from hf_dwt.errors import DistillationError, raise_all
from hf_dwt.forward.rows import select_rows
from hf_dwt.objective.hidden import HIDDEN_TERMS
from hf_dwt.objective.hidden.record import HiddenTerm
from hf_dwt.publish.card import model_card
from hf_dwt.publish.run_record import RunRecord
from hf_dwt.teachers import CorrectedTeacher, SeveralTeachers
from hf_dwt.training.learning import FILE
from hf_dwt.training.setup.hidden_plan import scaling_problems

from .models import LABELS, tiny
from .training import CHECKPOINTING, history, pad, ragged_examples, sequence_examples, trainer

PAIRS = {1: "last", "last": 1, 3: 2}
"""The student has three layers, the teacher two."""


def squares(student: Tensor, supervisor: Tensor, examples: Tensor) -> Tensor:
    return (student - supervisor).square().mean(-1)


def models(name: str, width: int = 32) -> tuple[Any, Any]:
    depth = {"t5": "num_decoder_layers", "bart": "decoder_layers"}.get(name, "num_hidden_layers")
    sizes = {"d_model": width} if name in ("t5", "bart") else {"hidden_size": width}
    return tiny(name, **sizes, **{depth: 3}), tiny(name, seed=1)


def states(model: Any, batch: dict[str, Tensor]) -> dict[Any, Tensor]:
    """Every layer's output (B, L, H), by transformers' own option; the last layer's without the norm behind it."""
    inputs = {name: value for name, value in batch.items() if name != "labels" or model.config.is_encoder_decoder}
    kind = "decoder_hidden_states" if model.config.is_encoder_decoder else "hidden_states"
    found = model(**inputs, output_hidden_states=True)[kind]
    body = model.get_decoder() if model.config.is_encoder_decoder else model.base_model
    norm = next((n for n in ("norm", "final_norm", "final_layer_norm") if hasattr(body, n)), None)
    layers = dict(enumerate(found))
    layers["last"] = found[-1]
    if norm is not None:
        own = getattr(body, norm)
        setattr(body, norm, nn.Identity())
        layers[len(found) - 1] = model(**inputs, output_hidden_states=True)[kind][-1]
        setattr(body, norm, own)
    return layers


def dense(run: DistillationTrainer, student: Any, teacher: Any, batch: dict[str, Tensor], pairs: Any) -> Tensor:
    """The mean of the hidden term over rows and pairs, from all hidden states."""
    rows = select_rows(batch["labels"], shifts=run.task.shifts)
    term = run.options.hidden()
    assert term is not None
    own = states(student, batch)
    with torch.no_grad():
        theirs = states(teacher, batch) if term.needs_teacher else {k: v.detach() for k, v in own.items()}
    losses = []
    for one, other in pairs.items():
        hidden = rows.take(own[one])
        if f"{one}_{other}" in run.hidden.projectors:
            hidden = F.linear(hidden, run.hidden.projectors[f"{one}_{other}"].weight)  # type: ignore[arg-type]
        losses.append(term(hidden, rows.take(theirs[other]), rows.examples).mean())
    return torch.stack(losses).mean()


def batch_of(run: DistillationTrainer) -> dict[str, Tensor]:
    batch = pad(ragged_examples(8))
    return dict(run._labelled(batch)) if run.model.config.is_encoder_decoder else batch


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CASES = [
    ("bert", "masked_features", {}),
    ("modernbert", "masked_features", {"hidden_term_kwargs": {"pool": True}}),
    ("llama", "masked_features", {}),
    ("bert", "late_to_early", {"loss_kernel": "plain"}),
    ("llama", "late_to_early", {}),
    ("modernbert", "relations", {}),
    ("llama", "relations", {}),
    ("t5", "masked_features", {}),
    ("bart", "relations", {}),
    ("bert", "self_features", {}),
    ("llama", "self_features", {}),
]


@pytest.mark.parametrize(("name", "term", "more"), CASES)
def test_it_is_the_dense_computation_with_its_gradient(
    name: str, term: str, more: dict[str, Any], tmp_path: Path
) -> None:
    """The chunked loss and the last layer at the rows stay active, and nothing flows into what supervises."""
    student, teacher = models(name)
    pairs: Any = {1: "last", 2: "last"} if term == "self_features" else PAIRS
    settings = {"hard_weight": 0.0, "soft_weight": 0.0, "hidden_weight": 0.7, "hidden_layers": pairs, **more}
    run = trainer(student, teacher, tmp_path, hidden_term=term, **settings)
    batch = batch_of(run)
    expected = 0.7 * dense(run, student, teacher, batch, pairs)
    expected.backward()
    wanted = gradients(student), gradients(run.hidden.projectors)
    assert len(wanted[1]) == (len(pairs) if term in ("masked_features", "late_to_early") else 0)
    student.zero_grad()
    run.hidden.projectors.zero_grad()
    student.train()
    run.compute_loss(student, batch).backward()  # the trials of the first batch leave no gradient of it
    student.zero_grad()
    run.hidden.projectors.zero_grad()
    loss = run.compute_loss(student, batch)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected.detach())
    found = gradients(student)
    for parameter, gradient in wanted[0].items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)
    assert all(not gradient.any() for parameter, gradient in found.items() if parameter not in wanted[0])
    torch.testing.assert_close(gradients(run.hidden.projectors), wanted[1], rtol=1e-4, atol=1e-6)
    assert not gradients(teacher) and any(g.abs().max() > 1e-4 for g in wanted[0].values())
    kernel = more.get("loss_kernel", "auto")
    bare = trainer(copy.deepcopy(student), None, tmp_path, loss_kernel=kernel)
    bare.compute_loss(bare.model, batch)
    rows, plain = run._student, bare._student
    assert rows is not None and plain is not None and rows.defers == plain.defers == (kernel == "auto")
    names = [[n for n, m in r.model.named_modules() if m in (r.last_modules or ())] for r in (rows, plain)]
    assert names[0] == names[1] and names[0]


@pytest.mark.parametrize("term", HIDDEN_TERMS)
def test_no_gradient_comes_off_the_labelled_rows(term: str, tmp_path: Path) -> None:
    student, teacher = models("bert")
    settings = {"hard_weight": 0.0, "soft_weight": 0.0, "hidden_layers": {1: 2}}
    run = trainer(student, teacher, tmp_path, hidden_term=term, **settings)
    kept: list[Tensor] = []
    batch = pad(ragged_examples(8))
    run.compute_loss(student.train(), batch)
    student.bert.encoder.layer[0].register_forward_hook(
        lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    loss = run.compute_loss(student, batch)
    (gradient,) = torch.autograd.grad(loss, kept[-1:])
    labelled = batch["labels"] != -100
    assert not gradient[~labelled].any() and gradient[labelled].any()


def trained(student: Any, teacher: Any, out: Path, **settings: Any) -> DistillationTrainer:
    run = trainer(student, teacher, out, **{"soft_weight_schedule": "constant", **settings})
    run.train()
    return run


def equal(one: nn.Module, other: nn.Module) -> bool:
    there = other.state_dict()
    return all(torch.equal(value, there[name]) for name, value in one.state_dict().items())


def test_at_weight_0_the_run_is_the_one_without(tmp_path: Path) -> None:
    student, teacher = models("bert")
    plain = trained(copy.deepcopy(student), teacher, tmp_path)
    term = {"hidden_term": "masked_features"}
    still = trained(copy.deepcopy(student), teacher, tmp_path, **term, hidden_weight=0.0)
    moved = trained(copy.deepcopy(student), teacher, tmp_path, **term)
    assert history(still, "loss", "grad_norm") == history(plain, "loss", "grad_norm") and equal(
        still.model, plain.model
    )
    assert len(still.hidden.projectors) == 2 and "hidden_loss" not in still.state.log_history[0]
    assert history(moved, "hard_loss")[0] == history(plain, "hard_loss")[0] and not equal(moved.model, plain.model)
    record = still._run_record().objective
    assert "hidden_term" not in record and record["references"] == plain._run_record().objective["references"]


def first_loss(student: Any, teacher: Any, out: Path, collate: Any = pad, **settings: Any) -> float:
    """The mean of the term over the rows of one batch."""
    run = trainer(student, teacher, out, **settings)
    batch = collate(ragged_examples(8))
    rows, weights = run._rows(batch), run._weights(0)

    def reduce(logits: Any, _outputs: Any) -> dict[str, Tensor]:
        return run.hidden.added(run._terms(logits, rows, targets, weights, None), 1.0)

    targets = run._targets(batch, rows, weights)
    with run.hidden.watching_student(run._row_logits(student), weights.hidden):
        _, terms = run._run_student(student.train(), batch, rows, reduce, False)
    return terms["hidden_loss"].item() / len(rows.labels)


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_it_is_0_for_an_exact_clone_and_not_for_a_random_start(name: str, tmp_path: Path) -> None:
    teacher = tiny(name, seed=1)
    clone = from_weak_teacher(teacher, hidden_size=32, num_hidden_layers=4, init="clone")
    random = tiny(name, hidden_size=32, num_hidden_layers=4, seed=2)
    settings: dict[str, dict[str, Any]] = {
        "masked_features": {},
        "late_to_early": {"hidden_layers": {"last": "last"}},
        "relations": {},
        **({} if name == "bert" else {"self_features": {"hidden_layers": {3: 4}}}),  # norms stand between its layers
    }
    for term, more in settings.items():
        rounding = 1e-7 if term == "relations" else 1e-10
        assert abs(first_loss(clone, teacher, tmp_path, hidden_term=term, **more)) < rounding, term
        assert first_loss(random, teacher, tmp_path, hidden_term=term, **more) > 1e-4, term


def test_examples_of_one_row_are_told_apart(tmp_path: Path) -> None:
    """Of a collator that lays them one behind the other."""
    found = [
        first_loss(*models("llama"), tmp_path, collate, hidden_term="relations", hidden_layers={2: 2})
        for collate in (pad, DataCollatorWithFlattening())
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[0] > 1e-4


def test_a_student_that_is_loaded_has_its_report_beside_it(tmp_path: Path) -> None:
    teacher = tiny("bert", seed=1)
    grown = from_weak_teacher(teacher, hidden_size=32, num_hidden_layers=4, depth="interleave", init="clone")
    trainer(grown, teacher, tmp_path / "run").save_model(str(tmp_path / "student"))
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    runs = [trainer(one, teacher, tmp_path, hidden_term="masked_features") for one in (grown, loaded)]
    assert runs[0].hidden.layers == runs[1].hidden.layers == ((2, 1), (4, 2))
    means = runs[1].hidden.projectors["2_1"].weight
    assert torch.equal(means, torch.eye(16).repeat(1, 2) / 2) and equal(*(run.hidden.projectors for run in runs))


def test_the_weight_follows_its_schedule_and_the_teacher_runs_as_long_as_it_is_asked(tmp_path: Path) -> None:
    student, teacher = models("bert")
    calls: list[int] = []
    teacher.register_forward_hook(lambda *_: calls.append(run.state.global_step))
    settings = {"soft_weight": 0.0, "hidden_term": "late_to_early", "hidden_weight": 0.5, "max_steps": 10}
    schedule = {"hidden_weight_schedule": "knowledge_inheritance", "hidden_weight_schedule_kwargs": '{"until": 0.4}'}
    run = trainer(student, teacher, tmp_path, **settings, **schedule, logging_steps=3)
    run.train()
    logs = [entry for entry in run.state.log_history if "grad_norm" in entry]
    assert [log.get("hidden_weight") for log in logs] == [pytest.approx(0.375), pytest.approx(0.125 / 3), None]
    assert logs[1]["hidden_loss"] > 0.5 * logs[0]["hidden_loss"] > 0.1  # of the steps that have it
    assert set(calls) == {0, 1, 2, 3} and "soft_loss" not in logs[0]


SAVES: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "lr_scheduler_type": "linear"}


def test_it_resumes_bit_for_bit_and_saves_no_projector(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"hidden_term": "masked_features", "hidden_weight": 10.0, **SAVES}
    student, teacher = models("bert")
    whole = trained(copy.deepcopy(student), teacher, tmp_path / "whole", **settings)
    begun = whole.hidden.plan.projectors(whole.args.seed)  # type: ignore[union-attr]
    assert not equal(whole.hidden.projectors, begun)  # it learns
    run = trainer(copy.deepcopy(student), teacher, tmp_path / "resumed", soft_weight_schedule="constant", **settings)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    run.train(resume_from_checkpoint=str(checkpoint))
    assert equal(run.model, whole.model) and equal(run.hidden.projectors, whole.hidden.projectors)
    assert history(run, "loss", "hidden_loss") == history(whole, "loss", "hidden_loss")
    kept = torch.load(checkpoint / FILE, weights_only=True)["state"]
    assert set(kept) == {"hidden_projector.2_1.weight", "hidden_projector.3_2.weight"}
    whole.save_model(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").rglob("*learning*")) and set(whole.model.state_dict()) == set(
        student.state_dict()
    )
    optimized = {id(p) for group in whole.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in whole.hidden.projectors.parameters()}


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_layers_that_are_run_again_give_the_same_gradient(name: str, tmp_path: Path) -> None:
    batch, found = pad(ragged_examples(8)), []
    for checkpointed in (False, True):
        student, teacher = models(name)
        run = trainer(
            student, teacher, tmp_path, hidden_term="masked_features", hidden_layers=PAIRS, hidden_weight=9.0
        )
        if checkpointed:
            getattr(student, f"{CHECKPOINTING}_checkpointing_enable")()
        run.compute_loss(student.train(), batch).backward()
        found.append(gradients(student) | gradients(run.hidden.projectors))
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_of_a_whole_text_all_positions_but_padding_count_as_its_label(tmp_path: Path) -> None:
    sizes = {"num_labels": LABELS, "classifier_dropout": 0.0}
    from transformers import BertForSequenceClassification

    student, teacher = (
        BertForSequenceClassification(tiny("bert", **s, **sizes).config) for s in ({"hidden_size": 32}, {})
    )
    settings = {"hard_weight": 0.0, "soft_weight": 0.0, "hidden_layers": {2: 1}, "hidden_weight": 1.0}
    data = sequence_examples(8, classes=LABELS)
    run = trainer(student, teacher, tmp_path, hidden_term="late_to_early", train_dataset=data, **settings)
    batch = pad(data)
    loss = run.compute_loss(student.train(), batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own = run.hidden.projectors["2_1"](student(**inputs, output_hidden_states=True).hidden_states[2])
    theirs = teacher.eval()(**inputs, output_hidden_states=True).hidden_states[1]
    mask = batch["attention_mask"]
    each = ((1 - F.cosine_similarity(own, theirs, dim=-1)) * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(loss, each.mean())


def by_two(student: Tensor, supervisor: Tensor, examples: Tensor, *, times: float = 1.0) -> Tensor:
    return times * (student - supervisor).abs().mean(-1)


def test_run_and_card_name_the_term_its_layers_and_its_source(tmp_path: Path) -> None:
    student, teacher = models("bert")
    run = trained(student, teacher, tmp_path, hidden_term="late_to_early", hidden_layers=[1, -1], max_steps=1)
    record = json.loads(json.dumps(run._run_record().objective))
    assert record["hidden_term"] == "late_to_early" and record["hidden_weight"] == 0.1
    assert record["hidden_layers"] == [[1, "last"], [3, "last"]]
    text = str(model_card(run._run_record()))
    assert "0.1 x `late_to_early` of hidden states, the student's layers 1 by last, 3 by last" in text
    assert "Late-to-Early Training ([arXiv:2602.05393]" in text
    own = trained(tiny("bert"), None, tmp_path, hidden_term="self_features", max_steps=1)
    assert "Tf-FD" in str(model_card(own._run_record()))
    mine = trained(tiny("bert"), teacher, tmp_path, hidden_term=by_two, hidden_term_kwargs={"times": 2.0}, max_steps=1)
    assert mine._run_record().objective["hidden_term"].endswith("test_hidden.by_two")
    assert isinstance(RunRecord.load(_saved(mine, tmp_path)).objective["hidden_layers"], list)


def _saved(run: DistillationTrainer, folder: Path) -> Path:
    run.save_model(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize(
    ("settings", "teacher", "words"),
    [
        (
            {"hidden_term": "masked_feature"},
            "bert",
            "hidden_term='masked_feature': is unknown. Did you mean 'masked_f",
        ),
        ({"hidden_weight": 0.3}, "bert", "hidden_weight=0.3: has no effect without hidden_term"),
        ({"hidden_layers": [1]}, "bert", "hidden_layers=.*has no effect without hidden_term"),
        ({"hidden_weight_schedule": "cosine"}, "bert", "hidden_weight_schedule='cosine': has no effect without"),
        ({"hidden_term_kwargs": {"pool": True}}, "bert", "hidden_term_kwargs=.*have no term to go to"),
        ({"hidden_term": "relations", "hidden_weight": -1.0}, "bert", "hidden_weight=-1.0: is not a weight"),
        ({"hidden_term": "relations", "hidden_term_kwargs": {"pool": True}}, "bert", "takes: none"),
        (
            {"hidden_term": "masked_features", "hidden_term_kwargs": {"pool": "no"}},
            "bert",
            r"hidden_term_kwargs\['pool'\]='no': is neither True nor False",
        ),
        ({"hidden_term": lambda a, b, c: a.sum()}, "bert", r"returned a Tensor of shape \(\) for 3 rows"),
        ({"hidden_term": lambda a, b, c: a[9]}, "bert", r"raised IndexError.* for 3 rows of 16 channels"),
        (
            {"hidden_term": HiddenTerm("mine", "mine", squares, weight=0.1, same_width=False)},
            "bert",
            r"hidden_term='mine': raised RuntimeError.* for 3 rows of 32 and 16 channels.*With same_width=True",
        ),
        (
            {"hidden_term": "relations", "hidden_weight_schedule": "auto"},
            "bert",
            "hidden_weight_schedule='auto': is unknown",
        ),
        (
            {"hidden_term": "relations", "hidden_layers": {9: 1, 1: 7}},
            "bert",
            "(?s)names layer 9 of the student, which has 3.*names layer 7 of the teacher, which has 2",
        ),
        (
            {"hidden_term": "self_features", "hidden_layers": [4]},
            None,
            "names layer 4 of the student, which has 3",
        ),
        ({"hidden_term": "self_features", "hidden_layers": {2: 2}}, None, "layer 2 of the student supervise itself"),
        ({"hidden_term": "relations"}, None, "hidden_term='relations': compares with a teacher, and there is none"),
        ({"hidden_term": "relations", "teacher_cache": "cache"}, "bert", "which no cache keeps"),
        ({"hidden_term": "relations"}, "several", "one frozen model, and teacher_model is a SeveralTeachers"),
        ({"hidden_term": "relations"}, "object", "one frozen model, and teacher_model is a Knowing"),
        ({"hidden_term": "relations", "torch_compile": True}, "bert", "a compiled model does not run"),
    ],
)
def test_what_it_cannot_be_had_with_is_named_before_the_first_step(
    settings: dict[str, Any], teacher: Any, words: str, tmp_path: Path
) -> None:
    from .invariants.layouts import Knowing

    student, weak = models("bert")
    given = {"bert": weak, "object": Knowing(), None: None}.get(teacher)
    given = SeveralTeachers([weak, copy.deepcopy(weak)]) if teacher == "several" else given
    with pytest.raises(DistillationError, match=words):
        trainer(student, given, tmp_path, **settings)


def test_a_function_of_your_own_may_be_of_one_width(tmp_path: Path) -> None:
    """That of the teacher, as its rows have; and of both widths, by a record."""
    student, teacher = models("bert")
    own, other = torch.randn(16, 4), torch.randn(32, 16)
    of_one = trainer(student, teacher, tmp_path, hidden_term=lambda s, t, _: squares(s @ own, t @ own, _))
    term = HiddenTerm("mine", "mine", lambda s, t, _: squares(s @ other, t, _), weight=0.1, same_width=False)
    of_two = trainer(student, teacher, tmp_path, hidden_term=term)
    assert of_one.hidden.plan.projects and not of_two.hidden.plan.projects
    for run in (of_one, of_two):
        assert run.compute_loss(student.train(), pad(ragged_examples(8))).isfinite()


def test_a_layer_without_a_vector_for_each_position_is_named(tmp_path: Path) -> None:
    """As one that lays the examples of a batch one behind the other; and one that is left out at random."""
    student, teacher = models("bert")
    run = trainer(student, teacher, tmp_path, hidden_term="masked_features", hidden_layers={1: 2})
    student.bert.encoder.layer[0].register_forward_hook(lambda _, __, output: output.flatten(0, 1))
    with pytest.raises(
        DistillationError, match=r"hidden_layers=1: puts out \(72, 32\), and not a vector for each of 8 x 9"
    ):
        run.compute_loss(student.train(), pad(ragged_examples(8)))
    dropping = tiny("bart", decoder_layerdrop=0.1)
    with pytest.raises(DistillationError, match="model.config.decoder_layerdrop=0.1: leaves out layers at random"):
        trainer(dropping, tiny("bart", seed=1), tmp_path, hidden_term="relations")


def test_a_projector_is_refused_where_an_engine_scales_gradients(tmp_path: Path) -> None:
    plans = [
        trainer(*models("bert"), tmp_path, hidden_term=term).hidden.plan for term in ("late_to_early", "relations")
    ]
    with pytest.raises(DistillationError, match="fp16=True: has DeepSpeed multiply gradients.*hidden_term='late_to_e"):
        raise_all(scaling_problems(plans[0], True, "fp16"))
    assert not scaling_problems(plans[0], True, "bf16") and not scaling_problems(plans[0], False, "fp16")
    assert not scaling_problems(plans[1], True, "fp16") and not scaling_problems(None, True, "fp16")


def test_a_single_teacher_with_a_correction_has_hidden_states_too(tmp_path: Path) -> None:
    student, teacher = models("bert")
    settings: dict[str, Any] = {"hidden_term": "relations", "max_steps": 2}
    runs = [
        trained(copy.deepcopy(student), CorrectedTeacher(teacher, "revise"), tmp_path, **settings),
        trained(copy.deepcopy(student), teacher, tmp_path, teacher_correction="revise", **settings),
    ]
    one, other = (history(run, "loss", "hidden_loss") for run in runs)
    assert one == other and one[0][1] > 0
