"""The wheel: what a user installs holds what the package needs."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hf_dwt

ROOT = Path(__file__).parents[1]
# import -> distribution, where their names differ
DISTRIBUTIONS = {"yaml": "pyyaml"}


def imported(path: Path) -> set[str]:
    """The packages of others that a source file imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names


def requirements(metadata: str, extra: str = "") -> set[str]:
    """The names that a wheel's metadata requires, of itself or of an extra."""
    lines = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*(?:; extra == \"(\w+)\")?$", metadata, re.M)
    return {name.lower().replace("_", "-") for name, of in lines if of == extra}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("wheel")
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in tracked.stdout.splitlines():
        if name.startswith("hf_dwt/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    ran = subprocess.run(build, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    (built,) = tmp_path.glob("*.whl")
    return built


def metadata_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))).decode()


def test_the_wheel_holds_types_and_the_cards_template(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        template = archive.read("hf_dwt/model_card_template.md")
        commands = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "hf-dwt = hf_dwt.cli:main" in commands
    assert template == (ROOT / "model_card_template.md").read_bytes() and len(template) > 200
    assert "hf_dwt/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "hf_dwt").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    for line in ("Name: hf_dwt", "Requires-Python: >=3.11", "Requires-Dist: transformers>=5.23", "License"):
        assert line in metadata
    for extra in ("test", "quality", "plots", "docs"):
        assert f"Provides-Extra: {extra}" in metadata


def test_what_is_imported_is_required(wheel: Path) -> None:
    found = {DISTRIBUTIONS.get(n, n) for path in (ROOT / "hf_dwt").rglob("*.py") for n in imported(path)}
    required = requirements(metadata_of(wheel))
    names = {name.lower().replace("_", "-") for name in found} - {"hf-dwt"}
    # The picture is left out without the one; the others are there where a model is in parts of its making, or where
    # a run reports to them.
    assert names - required == {"matplotlib", "deepspeed", "mlflow", "trackio", "wandb"}
    assert requirements(metadata_of(wheel), "plots") == {"matplotlib"}
    assert required - names <= {"evaluate", "peft", "accelerate", "jinja2"}  # used through others
    assert {"torch", "numpy", "safetensors"} <= names


def test_the_version_is_in_one_place(wheel: Path) -> None:
    assert f"Version: {hf_dwt.__version__}\n" in metadata_of(wheel)
    assert hf_dwt.__version__ not in (ROOT / "setup.py").read_text(encoding="utf-8")
