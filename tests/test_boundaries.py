"""Boundaries: what may import what, which names are public and private, and that every test can fail."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from transformers import Trainer

import hf_dwt

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_dwt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# package or module of hf_dwt -> those that it may import from, from the bottom up
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "engines": set(),
    "lazy": set(),
    "kinds": {"errors"},
    "parts": {"errors", "kinds"},
    "flags": {"parts"},
    "hub_errors": set(),
    "hub_access": {"hub_errors"},
    "adapters": set(),
    "modes": set(),
    "precision": set(),
    "schedules": {"errors", "kinds", "parts"},
    "signatures": {"errors"},
    "argument_types": {"errors", "kinds"},
    "tasks": {"errors"},
    "tokenization": set(),
    "adapting": {"errors", "tasks"},
    "objective": {"errors", "kinds", "parts"},
    "metrics": {"objective"},
    "batches": {"errors", "tasks"},
    "forward": {"batches", "errors", "modes", "objective", "precision", "tasks"},
    "teachers": {
        "adapters",
        "adapting",
        "batches",
        "engines",
        "errors",
        "forward",
        "hub_access",
        "kinds",
        "modes",
        "objective",
        "parts",
        "tasks",
        "tokenization",
    },
    "option_checks": {"errors", "kinds", "objective", "teachers"},
    "arguments": {"argument_types", "errors", "objective", "option_checks", "parts", "schedules", "teachers"},
    "growth": {
        "adapters",
        "engines",
        "errors",
        "hub_access",
        "kinds",
        "lazy",
        "modes",
        "parts",
        "precision",
        "signatures",
        "tokenization",
    },
    "assess": {
        "batches",
        "engines",
        "errors",
        "forward",
        "growth",
        "hub_access",
        "kinds",
        "modes",
        "objective",
        "tasks",
        "teachers",
    },
    "data": {
        "batches",
        "errors",
        "forward",
        "kinds",
        "lazy",
        "modes",
        "objective",
        "parts",
        "signatures",
        "tasks",
        "teachers",
    },
    "tuning": {"adapters", "adapting", "errors", "growth", "kinds", "lazy", "modes", "parts", "signatures", "tasks"},
    "publish": {"errors", "hub_errors", "parts", "signatures", "tasks"},
    "callbacks": {"publish"},
    "training": {
        "adapters",
        "adapting",
        "argument_types",
        "arguments",
        "assess",
        "callbacks",
        "batches",
        "errors",
        "forward",
        "hub_access",
        "metrics",
        "objective",
        "option_checks",
        "parts",
        "publish",
        "schedules",
        "tasks",
        "teachers",
    },
    "stages": {
        "argument_types",
        "arguments",
        "errors",
        "growth",
        "kinds",
        "lazy",
        "objective",
        "publish",
        "signatures",
        "tasks",
        "teachers",
        "training",
    },
    "attribution": {
        "batches",
        "errors",
        "forward",
        "kinds",
        "lazy",
        "modes",
        "objective",
        "tasks",
        "teachers",
        "training",
    },
    "programs": {"arguments", "errors", "growth", "lazy", "parts", "teachers", "training"},
    "commands": {"errors", "programs", "stages", "teachers"},
    "cli": {"assess", "commands", "errors", "flags", "growth", "publish", "teachers"},
}
# The same within growth; what lies beside these packages is below them or above, file by file.
WITHIN_GROWTH: dict[str, set[str]] = {
    "config": set(),
    "proxy": {"axes", "building", "config"},
    "width": {"axes", "config", "origins", "paging", "proxy"},
    "depth": {"proxy", "width"},
    "verify": {"axes", "config", "depth", "paging", "proxy", "width"},
    "strategies": {
        "axes",
        "building",
        "checkpoint",
        "config",
        "depth",
        "origins",
        "paging",
        "proxy",
        "report",
        "rests",
        "strategy",
        "verify",
        "widening",
        "width",
    },
    "vocabulary": {
        "axes",
        "building",
        "checkpoint",
        "config",
        "origins",
        "paging",
        "proxy",
        "report",
        "verify",
    },
    "disk": {
        "applying",
        "building",
        "checkpoint",
        "origins",
        "paging",
        "reading",
        "report",
        "student",
        "vocabulary",
    },
}


def package_of(path: Path, within: Path = PACKAGE) -> str:
    return path.relative_to(within).parts[0].removesuffix(".py")


def imports(path: Path, within: Path = PACKAGE) -> set[str]:
    """The packages and modules of `within` that a source file imports from, wherever in the file it does."""
    depth = len(path.relative_to(within).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_dwt"):
            found.add("by its full name")
    return found - {package_of(path, within)}


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if package_of(p) != "__init__"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_one_way(path: Path) -> None:
    assert imports(path) <= ALLOWED[package_of(path)]
    growth = PACKAGE / "growth"
    if path.is_relative_to(growth) and package_of(path, growth) in WITHIN_GROWTH:
        assert imports(path, growth) <= WITHIN_GROWTH[package_of(path, growth)]


def test_the_check_of_imports_sees_them() -> None:
    assert {"forward", "objective", "publish"} <= imports(PACKAGE / "training" / "trainer.py")
    assert "metrics" in imports(PACKAGE / "training" / "evaluation.py")  # within a function
    assert imports(PACKAGE / "teachers" / "frozen.py") == {"errors", "forward", "modes", "objective", "tasks"}
    assert imports(PACKAGE / "growth" / "width" / "search.py") == {"errors"}
    assert {"axes", "proxy"} <= imports(PACKAGE / "growth" / "width" / "search.py", PACKAGE / "growth")


# Names of other libraries that have no public form -> why the file has to read them.
UNAVOIDABLE = {
    ("hf_dwt/engines.py", "_hf_deepspeed_config_weak_ref"): "the config of DeepSpeed, to be set aside and put back",
    ("hf_dwt/tasks.py", "_orig_mod"): "the model inside torch.compile(model)",
    ("hf_dwt/tasks.py", "_compiled_call_impl"): "whether model.compile() was called",
    ("hf_dwt/training/record.py", "_commit_hash"): "the revision of the Hub that a model was loaded from",
    ("hf_dwt/growth/building.py", "_from_config"): "a model of a concrete class, in the dtype of its config",
    ("hf_dwt/growth/building.py", "_is_hf_initialized"): "which tensors initialize_weights leaves alone",
    ("hf_dwt/growth/config/rebuild.py", "_attn_implementation"): "a choice of the caller that no dict of a config has",
    ("hf_dwt/growth/config/rebuild.py", "_experts_implementation"): "likewise",
    ("hf_dwt/growth/disk/recording.py", "_python_dispatch"): "where TorchDispatchMode is",
    ("hf_dwt/growth/width/trace.py", "_python_dispatch"): "where TorchDispatchMode is",
    ("benchmarks/floor.py", "_python_dispatch"): "where TorchDispatchMode is",
    ("benchmarks/floor.py", "_scaled_dot_product_flash_attention"): "the name of an operator",
    ("benchmarks/floor.py", "_scaled_dot_product_flash_attention_backward"): "the name of an operator",
    ("benchmarks/floor.py", "_scaled_dot_product_flash_attention_for_cpu"): "the name of an operator",
    ("benchmarks/floor.py", "_scaled_dot_product_flash_attention_for_cpu_backward"): "the name of an operator",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def defined_in(folder: Path) -> set[str]:
    """The private names that the files of a folder define, a module of the top level being its own folder."""
    found = set()
    for path in [folder] if folder.is_file() else folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = ast.unparse(node)
                found.add(name.removeprefix("self.").removeprefix("cls."))
    return found


def private_reads(source: str) -> Iterator[tuple[str, str]]:
    """(object, private name) of each read of an attribute, by `getattr` too, and of each import."""
    for node in ast.walk(ast.parse(source)):
        found: list[tuple[str, str]] = []
        if isinstance(node, ast.Attribute):
            found = [(ast.unparse(node.value), node.attr)]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found = [(str(node.module), name) for name in names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            found = [(ast.unparse(node.args[0]), str(name.value))] if isinstance(name, ast.Constant) else []
        yield from ((where, name) for where, name in found if is_private(name))


def foreign_privates(source: str, folder: Path) -> set[str]:
    """The private names that a source file reads and that no file of its folder defines."""
    own = defined_in(folder) | {"_replace", "_asdict", "_fields"}  # of NamedTuple, where they are public
    trainers = inspect.getsource(Trainer) if folder == PACKAGE / "training" else ""  # on itself, what it inherits
    return {
        name
        for where, name in private_reads(source)
        if name not in own and not (where in ("self", "super()") and re.search(rf"\b(self\.|def ){name}\b", trainers))
    }


_BESIDE = [path for top in ("benchmarks", "examples") for path in (ROOT / top).rglob("*.py")]
# Without the environment of the peers, which `make benchmark` makes below benchmarks/.
READERS = [*SOURCES, *sorted(path for path in _BESIDE if ".venv" not in path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("path", READERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_private_name_is_read_from_outside_its_package(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    folder = path if path.parent in (PACKAGE, ROOT / "examples") else path.parent
    found = foreign_privates(path.read_text(encoding="utf-8"), folder)
    assert found == {private for file, private in UNAVOIDABLE if file == name}


def test_a_private_name_of_another_package_is_seen() -> None:
    """Each source reads one; the same on `self`, and within the package that defines it, is allowed."""
    batches, training = PACKAGE / "batches", PACKAGE / "training"
    for source in ("x._meter", "f(x)._meter", "getattr(x, '_meter')", "from ..training import _meter", "self._meter"):
        assert foreign_privates(source, batches) == {"_meter"}
    for source in ("run._tr_loss", "self.other._tr_loss", "self._no_such_name"):
        assert len(foreign_privates(source, training)) == 1
    for source in ("self._tr_loss", "super()._save(folder)", "self._meter", "x.__name__", "x._replace(a=1)"):
        assert not foreign_privates(source, training)


def given_trainers(source: str) -> list[str]:
    """The parameters of functions that are a trainer, by name or annotation; its class and arguments are none."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    parameters = [p for f in functions for p in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
    typed = re.compile(r"(?<!type\[)\b(Distillation)?Trainer\b")
    return [
        p.arg
        for p in parameters
        if ("trainer" in p.arg and p.arg not in ("trainer_class", "trainer_arguments"))
        or (p.annotation and typed.search(ast.unparse(p.annotation)))
    ]


def test_no_part_is_given_the_trainer() -> None:
    """Parts get the values and functions that they need; `attribute` is what a user gives a trainer to."""
    given = {path for path in SOURCES if given_trainers(path.read_text(encoding="utf-8"))}
    assert given == {PACKAGE / "attribution" / "api.py"}
    assert given_trainers("def f(trainer): ...") and given_trainers("def f(run: 'Trainer | None'): ...")
    assert not given_trainers("def f(state: TrainerState, self): ...")


@pytest.mark.parametrize("allowed", [ALLOWED, WITHIN_GROWTH], ids=["hf_dwt", "growth"])
def test_what_may_be_imported_has_no_circle(allowed: dict[str, set[str]]) -> None:
    """Each package comes after those that it imports from."""
    files = {
        "applying",
        "axes",
        "building",
        "checkpoint",
        "origins",
        "paging",
        "reading",
        "report",
        "rests",
        "strategy",
        "student",
        "widening",
    }
    before: set[str] = files if allowed is WITHIN_GROWTH else set()
    for name, below in allowed.items():
        assert below <= before, name
        before.add(name)


# The public interface. A new name is a promise: add it here on purpose, with its documentation.
PUBLIC: dict[str, set[str]] = {
    "hf_dwt": {
        *("DistillationArguments", "DistillationError", "DistillationTrainer"),
        *("assess_teacher", "from_weak_teacher", "__version__"),
    },
    "hf_dwt.attribution": {"Attribution", "attribute"},
    "hf_dwt.callbacks": {"DrawRun", "PushRun", "RecordRun", "SummarizeRun"},
    "hf_dwt.data": {"TeacherProposals", "select"},
    "hf_dwt.errors": {
        *("ArgumentError", "CacheError", "DataError", "DistillationError", "GrowthError", "GrowthNotPreservedError"),
        *("HubError", "SetupError", "TaskError", "TeacherError", "VocabularyError"),
    },
    "hf_dwt.growth": {"GrowthPlan", "GrowthReport", "NEW_ROWS", "RESTS", "declare", "plan_growth"},
    "hf_dwt.metrics": {
        *("Accuracy", "Loss", "Perplexity", "RowMean", "SoftLoss"),
        *("TeacherAccuracy", "TeacherAgreement", "TeacherLoss", "TeacherRows", "TeacherWeight"),
    },
    "hf_dwt.objective.hidden": {"HIDDEN_TERMS", "HiddenTerm"},
    "hf_dwt.objective": {"SOFT_TERMS", "Targets", "Weights", "distillation_terms"},
    "hf_dwt.programs": {"PROGRAMS", "run_program"},
    "hf_dwt.schedules": {"SCHEDULES"},
    "hf_dwt.stages": {
        *("BodyOf", "Stage", "StagePlan", "Stages", "plan_stages", "run_stages"),
        *("ernie_tiny", "generations", "progressive"),
    },
    "hf_dwt.tuning": {"DualSparse", "SCORES", "SUPPORTS", "layer_flops"},
    "hf_dwt.teachers": {
        *(
            "ColumnTeacher",
            "CorrectedTeacher",
            "Figures",
            "OnlineTeacher",
            "OtherTokenizer",
            "ReinforcedSelection",
            "SeveralTeachers",
            "Teacher",
        ),
        "export_columns",
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_names_are_these(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name] and len(module.__all__) == len(PUBLIC[name])
    found = {public: getattr(module, public) for public in PUBLIC[name]}
    undocumented = [public for public, value in found.items() if callable(value) and not value.__doc__]
    assert not undocumented


def test_every_error_is_public() -> None:
    errors = importlib.import_module("hf_dwt.errors")
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds == PUBLIC["hf_dwt.errors"]


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        hf_dwt.Trainer  # noqa: B018


def test_growing_a_model_needs_no_trainer() -> None:
    code = "import sys, hf_dwt; hf_dwt.from_weak_teacher; print('transformers.trainer' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "False"


def checks_something(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return bool(re.search(r"\bassert\b|pytest\.(raises|warns)|assert_\w+\(", text))


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.name)
def test_every_test_module_asserts(path: Path) -> None:
    assert checks_something(path)


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.name)
def test_every_test_asserts_something(path: Path) -> None:
    """Each test function holds an assertion, or calls a helper of its module that does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asserting = {f.name for f in functions if _asserts(f)}
    tests = [f for f in functions if f.name.startswith("test_")]
    silent = [f.name for f in tests if f.name not in asserting and not (_called(f) & asserting)]
    assert tests and not silent


def _asserts(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(function)) or any(
        name.startswith("assert_") or name == "raises" for name in _called(function)
    )


def _called(function: ast.FunctionDef) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def test_a_test_without_an_assertion_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "test_nothing.py"
    path.write_text("def test_nothing():\n    print(1)\n")
    assert not checks_something(path)
    with pytest.raises(AssertionError):
        test_every_test_asserts_something(path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small_enough_for_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300


def longest_function(path: Path) -> int:
    """Lines of the longest function of a file, its docstring not counted."""
    lengths = [0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) is not None
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
            lengths.append(node.end_lineno - node.lineno + 1 - docstring)
    return max(lengths)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_short_enough_to_be_read_at_once(path: Path) -> None:
    assert longest_function(path) <= 50


def test_a_long_function_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text('def f():\n    """\n    One.\n    """\n' + "    print(1)\n" * 50)
    assert longest_function(path) == 51


def test_growth_names_no_architecture() -> None:
    """Knowledge of single architectures is data, in the table of synonyms, not code."""
    named = re.compile(r"\b(bert|gpt|llama|roberta|t5)\w*\b", re.IGNORECASE)
    for path in (PACKAGE / "growth").rglob("*.py"):
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Compare)
            for node in ast.walk(node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if named.search(text)], path
