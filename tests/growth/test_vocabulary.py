"""More tokens and more positions: old rows keep their meaning, new ones hold what was asked for."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from hf_dwt import from_weak_teacher
from hf_dwt.errors import GrowthError, GrowthNotPreservedError
from hf_dwt.growth import NEW_ROWS, plan_growth
from hf_dwt.growth.config.sizes import size
from tests.growth.test_exact import PRE_NORM, TWELVE, teacher_of
from tests.models import BUILDERS, tiny

TEXT = [name for name, task in TWELVE.items() if not task.startswith("image")]
POSITIONED = [name for name in TEXT if name != "t5"]
OLD, NEW = 64, 75
EXACT = [*((name, "clone") for name in TEXT), *((name, "pad") for name in TEXT[::2]), ("bert", "auto"), ("t5", "auto")]


@torch.no_grad()
def logits(model: PreTrainedModel, length: int = 12) -> torch.Tensor:
    """On old tokens alone."""
    ids = torch.randint(4, OLD, (2, length), generator=torch.Generator().manual_seed(1))
    extra = {"decoder_input_ids": ids[:, :5]} if model.config.is_encoder_decoder else {}
    return model.eval()(input_ids=ids, **extra).logits


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours[..., :OLD] - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()


@pytest.mark.parametrize(("name", "init"), EXACT)
def test_old_tokens_keep_their_logits(name: str, init: str) -> None:
    teacher = teacher_of(name)
    student = from_weak_teacher(teacher, vocab_size=NEW, init=init)
    report = student.growth_report
    assert size(student.config, "vocab_size") == NEW and logits(student).shape[-1] == NEW
    assert apart(logits(student), logits(teacher)) < 2e-5 and report.preserved
    assert report.sizes["vocab_size"] == (OLD, NEW)
    # New rows are new: no copies of old ones, and none of them counts as the teacher's.
    table, old = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    assert torch.cdist(table[OLD:], old).min() > 1e-3
    assert report.copied == teacher.num_parameters() and report.fresh == student.num_parameters() - report.copied
    head = student.get_output_embeddings()
    assert (head.weight is table) is (teacher.get_output_embeddings().weight is teacher.get_input_embeddings().weight)


@pytest.mark.parametrize("name", POSITIONED)
def test_tokens_and_positions_width_and_depth_in_one_call(name: str) -> None:
    teacher = teacher_of(name)
    more = {"vocab_size": NEW, "max_position_embeddings": 80, "hidden_size": 64, "symmetry": 0.5}
    if name != "deberta-v2":  # its layers cannot be made identities
        more["num_hidden_layers"] = 3
    for init in ("clone", "pad") if name in PRE_NORM else ("clone",):
        student = from_weak_teacher(teacher, init=init, **more)
        # At all the old positions (an offset takes a few of them).
        assert apart(logits(student, 60), logits(teacher, 60)) < 2e-5
        assert torch.isfinite(logits(student, 76)).all()
    remapped = from_weak_teacher(teacher, **more)
    corner = remapped.get_input_embeddings().weight[:OLD, :32]
    assert torch.equal(corner, teacher.get_input_embeddings().weight)
    assert remapped.growth_report.sizes["vocab_size"] == (OLD, NEW)


def test_learned_positions_are_appended() -> None:
    teacher = tiny("bert")
    student = from_weak_teacher(teacher, max_position_embeddings=50)
    table, old = (m.bert.embeddings.position_embeddings.weight for m in (student, teacher))
    assert table.shape == (50, 16) and torch.equal(table[:40], old)
    assert 0 < table[40:].std() < 0.05  # its own initialisation, not the teacher's perturbed one
    assert student.growth_report.parameters["bert.embeddings.position_embeddings.weight"].fresh == 160
    assert apart(logits(student, 40), logits(teacher, 40)) == 0


def test_positions_of_rope_are_a_number_in_the_config() -> None:
    student = from_weak_teacher(tiny("llama"), max_position_embeddings=80)
    report = student.growth_report
    assert student.config.max_position_embeddings == 80
    assert report.fresh == 0 and report.sizes == {"max_position_embeddings": (40, 80)}


def test_rows_that_would_change_their_meaning_are_refused() -> None:
    """Relative positions counted from the middle of their table."""
    config = copy.deepcopy(teacher_of("deberta-v2").config)
    config.relative_attention, config.pos_att_type, config.max_relative_positions = True, ["p2c", "c2p"], -1
    torch.manual_seed(0)
    teacher = type(teacher_of("deberta-v2"))(config)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    with pytest.raises(GrowthNotPreservedError, match=r"max_position_embeddings=80: Old rows would come to mean"):
        from_weak_teacher(teacher, max_position_embeddings=80)


def test_new_rows_hold_what_was_asked_for() -> None:
    teacher = tiny("llama")
    old = teacher.lm_head.weight.detach()
    grown = {rule: from_weak_teacher(teacher, vocab_size=64 + 400, new_rows=rule).lm_head.weight for rule in NEW_ROWS}
    assert torch.allclose(grown["mean"][64:], old.mean(0).expand(400, -1), atol=1e-6)
    assert abs(grown["init"][64:].std().item() - 0.02) < 2e-3
    drawn = grown["normal"][64:]
    assert torch.allclose(drawn.mean(0), old.mean(0), atol=4 * old.std().item() / 400**0.5)
    # The covariance too, to within what 400 draws allow; a diagonal one would be off by more.
    error = (torch.cov(drawn.T) - torch.cov(old.T)).norm() / torch.cov(old.T).norm()
    diagonal = (torch.diag(torch.cov(old.T).diag()) - torch.cov(old.T)).norm() / torch.cov(old.T).norm()
    assert error < 0.3 and error < diagonal
    twos = from_weak_teacher(teacher, vocab_size=70, new_rows=lambda own, old: torch.full_like(own, 2.0))
    assert (twos.model.embed_tokens.weight[64:] == 2).all() and not (twos.lm_head.weight[:64] == 2).any()


@pytest.mark.parametrize("name", ["bert", "bart", "gpt2", "t5"])
def test_biases_and_buffers_of_a_head_grow_too(name: str) -> None:
    teacher = tiny(name)
    student = from_weak_teacher(teacher, vocab_size=NEW, new_rows="mean")
    theirs = teacher.state_dict()
    for key, tensor in student.state_dict().items():
        assert tensor.shape == theirs[key].shape or NEW in tensor.shape
        assert torch.equal(tensor[tuple(map(slice, theirs[key].shape))], theirs[key])
    assert apart(logits(student), logits(teacher)) == 0


def test_padding_to_a_multiple() -> None:
    for tokens, rows in ((None, 64), (65, 80), (80, 80)):
        student = from_weak_teacher(tiny("bert"), vocab_size=tokens, pad_vocab_to_multiple_of=16, init="random")
        assert student.config.vocab_size == rows == student.cls.predictions.bias.shape[0]
    with pytest.raises(GrowthError, match=r"pad_vocab_to_multiple_of=0: A size is a positive integer"):
        from_weak_teacher(tiny("bert"), pad_vocab_to_multiple_of=0)
    with pytest.raises(GrowthError, match=r"pad_vocab_to_multiple_of=8: ViTConfig stores no vocab_size"):
        from_weak_teacher(tiny("vit"), pad_vocab_to_multiple_of=8)


def test_a_tokenizer_with_added_tokens(tmp_path: Path) -> None:
    """The ids that a tokenizer gives to added tokens are the new rows, in its order."""
    tokenizer = AutoTokenizer.from_pretrained("examples/data/weak_teacher")
    known = len(tokenizer)
    assert tokenizer.add_tokens(["<one>", "<two>"]) == 2
    student = from_weak_teacher("examples/data/weak_teacher", vocab_size=len(tokenizer), init="clone", hidden_size=128)
    ids = tokenizer("<one> <two>", add_special_tokens=False)["input_ids"]
    assert ids == [known, known + 1]
    assert student.get_input_embeddings().num_embeddings == known + 2
    assert student.growth_report.preserved
    student.save_pretrained(tmp_path)
    again, info = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert torch.equal(again(torch.tensor([ids])).logits, student(torch.tensor([ids])).logits)


def test_sizes_of_tables_that_cannot_be() -> None:
    with pytest.raises(GrowthError, match=r"vocab_size=60: .*smaller.*A tokenizer of fewer tokens fits"):
        from_weak_teacher(tiny("bert"), vocab_size=60)
    with pytest.raises(GrowthError, match=r"max_position_embeddings=8: .*smaller than the teacher's 40"):
        from_weak_teacher(tiny("gpt2"), max_position_embeddings=8)
    with pytest.raises(GrowthError, match=r"max_position_embeddings=80: T5Config stores no such size"):
        from_weak_teacher(tiny("t5"), max_position_embeddings=80)
    with pytest.raises(GrowthError, match=r"new_rows='meen': is unknown. Did you mean 'mean'\?"):
        from_weak_teacher(tiny("bert"), vocab_size=70, new_rows="meen")


def test_overrides_grow_tables_as_the_arguments_do() -> None:
    said = {"vocab_size": NEW, "max_position_embeddings": 50}
    by_name = from_weak_teacher(tiny("bert"), **said, init="clone").state_dict()
    by_override = from_weak_teacher(tiny("bert"), config_overrides=said, init="clone").state_dict()
    assert all(torch.equal(tensor, by_override[key]) for key, tensor in by_name.items())


def test_no_weight_is_read_for_a_random_student_or_a_plan(tmp_path: Path) -> None:
    teacher = tiny("llama", architectures=["LlamaForCausalLM"])
    teacher.config.save_pretrained(tmp_path)
    assert from_weak_teacher(tmp_path, vocab_size=NEW, init="random").config.vocab_size == NEW
    assert "lm_head" in str(plan_growth(tmp_path, hidden_size=32, vocab_size=NEW, init="clone"))


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - {"vit"}))
def test_the_teacher_is_not_changed(name: str) -> None:
    teacher = tiny(name)
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    from_weak_teacher(teacher, vocab_size=NEW, new_rows="normal")
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())
    assert teacher.config.vocab_size == OLD
