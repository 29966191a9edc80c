"""The command line answers at once where nothing has to be loaded for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_dwt import cli
from hf_dwt.programs import PROGRAMS
from hf_dwt.publish.run_record import RUN_FILE


def python(code: str) -> subprocess.Popen[bytes]:
    """A process with the command line, and pipes to all that it reads and writes."""
    command = [sys.executable, "-c", f"import sys; from hf_dwt import cli; {code}"]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=buffered)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["card", "NO_DIR"], "folder='NO_DIR': has no run.json"),
        (["assess", "me/teacher", "--text", "NO_FILE"], "--text='NO_FILE'"),
        (["grow", "me/teacher", "--hidden-size", "32"], "Give --out DIR, or --dry-run"),
        (["cache", "NO_SCRIPT"], "no such script: NO_SCRIPT"),
        (["stages", "NO_FILE"], "file='NO_FILE': There is no such file"),
        (["train", "NO_FILE"], "file='NO_FILE': There is no such file"),
        (["train", "setup.py"], "file='setup.py': cannot be read"),
        (["train", "mkdocs.yml"], "program=None: is missing"),
        (["train", "mkdocs.yml", "--program", "mml"], "Did you mean 'mlm'?"),
    ],
)
def test_what_is_missing_is_known_without_importing_torch(line: list[str], words: str) -> None:
    process = python(f"code = cli.main({line!r}); sys.exit(9 if 'torch' in sys.modules else code)")
    out, err = process.communicate()
    assert process.returncode == 1 and out == b"" and words in err.decode()


def test_the_help_of_the_programs_needs_no_torch() -> None:
    last = "import atexit; atexit.register(lambda: print('torch' in sys.modules))"
    out, err = python(f"{last}; cli.main(['train', '--help'])").communicate()
    lines = out.decode().splitlines()
    assert err == b"" and lines[-1] == "False"
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in PROGRAMS)


def test_the_name_of_the_record_is_that_of_a_run() -> None:
    assert cli.RUN_FILE == RUN_FILE


@pytest.mark.parametrize("lines", [1, 9999])
def test_a_reader_that_wants_no_more_ends_it_in_silence(lines: int) -> None:
    """`hf-dwt grow ... --dry-run | head`: what is written before the end of the command, and what is flushed there."""
    command = f"cli.COMMANDS['print'] = lambda parser: lambda options: print('line\\n' * {lines})"
    with python(f"{command}; sys.stdin.read(); sys.exit(cli.main(['print']))") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()  # now it writes
        assert process.stderr.read() == b""
        assert process.wait() == 141  # as a shell reports what SIGPIPE has ended


def test_an_option_may_still_be_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["assess", "me/teacher", "--tex", str(tmp_path / "none")]) == 1
    assert "--text=" in capsys.readouterr().err


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_every_command_has_a_help(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"] if command else ["--help"])
    told = capsys.readouterr()
    assert end.value.code == 0 and told.err == "" and "usage: hf-dwt" in told.out and "--help" in told.out
