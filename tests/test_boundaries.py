"""The walls of the house: what may import what, which names are public, and that every test can fail."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_dwt

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_dwt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# room -> rooms of hf_dwt that it may import from
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "bookkeeping": {"errors"},
    "rows": {"errors"},
    "schedules": {"errors"},
    "tasks": {"errors"},
    "objective": {"errors"},
    "finish": set(),
    "modes": set(),
    "inputs": {"errors", "tasks"},
    "precision": set(),
    "tail": {"precision", "rows"},
    "heads": {"finish", "modes", "objective", "precision", "rows", "tail", "tasks"},
    "own_loss": {"heads", "modes", "objective", "precision", "randomness", "rows", "tail", "tasks"},
    "figures": {"objective", "rows"},
    "metrics": {"objective"},
    "draws": set(),
    "padding": {"rows"},
    "randomness": {"padding"},
    "collation": {"draws", "padding", "randomness"},
    "fading": {"schedules"},
    "meter": {"errors", "objective"},
    "watch": {"errors"},
    "checkpoints": {"errors", "facts"},
    "argument_types": {"errors"},
    "arguments": {"argument_types", "errors", "objective", "schedules"},
    "teachers": {"errors", "heads", "inputs", "modes", "objective", "randomness", "rows", "tasks"},
    "growth": {"errors", "modes", "precision", "reach"},
    "assess": {
        "bookkeeping",
        "collation",
        "errors",
        "growth",
        "heads",
        "inputs",
        "modes",
        "objective",
        "randomness",
        "reach",
        "rows",
        "tasks",
        "teachers",
    },
    "facts": {"errors", "tasks"},
    "faults": set(),
    "reach": {"faults"},
    "weights": set(),
    "signatures": {"errors"},
    "hub": {"errors", "faults", "signatures", "weights"},
    "callbacks": {"bookkeeping", "errors", "facts", "hub", "signatures", "tasks"},
    "cards": {"bookkeeping", "facts"},
    "cli": {"assess", "bookkeeping", "callbacks", "cards", "errors", "facts", "growth", "hub", "teachers"},
    "publishing": {"bookkeeping", "callbacks", "cards", "checkpoints", "errors", "facts", "hub", "tasks", "weights"},
    "loaders": {"collation", "errors", "randomness", "rows"},
    "evaluation": {"figures", "metrics", "objective", "randomness", "rows", "watch"},
    "slips": {"errors", "rows", "tasks"},
    "checks": {"arguments", "errors", "hub", "objective", "reach", "rows", "slips", "tasks", "teachers", "vocabulary"},
    "vocabulary": {"errors", "tasks", "teachers"},
    "trainer": {
        "argument_types",
        "bookkeeping",
        "arguments",
        "assess",
        "checkpoints",
        "checks",
        "errors",
        "evaluation",
        "fading",
        "heads",
        "inputs",
        "loaders",
        "meter",
        "objective",
        "own_loss",
        "publishing",
        "randomness",
        "rows",
        "slips",
        "tasks",
        "teachers",
        "watch",
    },
}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a source file imports from, wherever in the file it does."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_dwt"):
            found.add("by its full name")
    return found


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if room(p) != "__init__"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_point_one_way(path: Path) -> None:
    assert imports(path) <= ALLOWED[room(path)]


def test_the_check_of_imports_sees_them() -> None:
    assert {"checks", "evaluation", "heads"} <= imports(PACKAGE / "trainer.py")
    assert "metrics" in imports(PACKAGE / "evaluation.py")  # within a function
    expected = {"errors", "heads", "inputs", "modes", "objective", "rows", "tasks"}
    assert imports(PACKAGE / "teachers" / "frozen.py") == expected
    assert not any("trainer" in allowed for allowed in ALLOWED.values())


def test_the_public_names_are_these() -> None:
    assert hf_dwt.__all__ == [
        "DistillationArguments",
        "DistillationError",
        "DistillationTrainer",
        "assess_teacher",
        "from_weak_teacher",
        "__version__",
    ]
    assert all(getattr(hf_dwt, name) is not None for name in hf_dwt.__all__)
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
    assert lines <= (400 if path.name == "trainer.py" else 300)


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
    # Half of the longest, from_weak_teacher, is its signature; the next has 42 lines.
    assert longest_function(path) <= 50


def test_a_long_function_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text('def f():\n    """\n    One.\n    """\n' + "    print(1)\n" * 50)
    assert longest_function(path) == 51


def test_growth_names_no_architecture() -> None:
    """Knowledge of single architectures is data, in the table of synonyms, not code."""
    named = re.compile(r"\b(bert|gpt|llama|roberta|t5)\w*\b", re.IGNORECASE)
    for path in (PACKAGE / "growth").glob("*.py"):
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Compare)
            for node in ast.walk(node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if named.search(text)], path
