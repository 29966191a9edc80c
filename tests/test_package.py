"""The wheel: what a user installs holds what the package needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_types_and_the_cards_template(tmp_path: Path) -> None:
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
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        template = archive.read("hf_dwt/model_card_template.md")
        metadata = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
        commands = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "hf-dwt = hf_dwt.cli:main" in commands
    assert template == (ROOT / "model_card_template.md").read_bytes() and len(template) > 200
    assert "hf_dwt/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "hf_dwt").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    for line in ("Name: hf_dwt", "Requires-Python: >=3.11", "Requires-Dist: transformers>=5.19", "License"):
        assert line in metadata
    for extra in ("test", "quality", "plots"):
        assert f"Provides-Extra: {extra}" in metadata
