"""Habits of the terminal: help that teaches, and completion in three shells."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from realtime.command import COMMANDS, app
from tests.conftest import REQUIRES
from tests.realtime.command_line import PROGRAM, environment

# What is typed before the Tab key, and all that may come next.
COMPLETED = [
    ("zonecast re", {"replay", "resync"}),
    ("zonecast replay --to", {"--token", "--token-file"}),
]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_help_of_a_command_has_an_example_that_can_be_run(name: str) -> None:
    """It fits 80 columns; the example's options are ones that the command has."""
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    callback = command.callback
    doc = callback.__doc__ or ""
    assert " ".join(doc.partition("\n\n")[0].split()) == COMMANDS[name][1]
    example = doc.partition("Example: ")[2].strip()
    assert f"zonecast {name}" in example
    flattened = " ".join(result.output.replace("│", " ").split())
    assert " ".join(example.split()) in flattened
    words = shlex.split(example.partition(f"zonecast {name}")[2].partition(" | ")[0].strip(")"))
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The command as it is installed, in a folder of its own."""
    command = tmp_path / "bin" / "zonecast"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM[2]}" "$@"\n')
    command.chmod(0o755)
    return command


def place_of(shell: str) -> str:
    """Return where a shell is."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{REQUIRES}{shell}: install {shell}")
    return found


def shell_environment(program: Path) -> dict[str, str]:
    """Return the environment of a shell that finds the command, with a home of its own."""
    return environment() | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path.cwd()),
        "HOME": str(program.parents[1]),
        "XDG_CONFIG_HOME": str(program.parents[1]),
        "TERM": "dumb",
    }


def script_for(shell: str, program: Path) -> Path:
    """Write what the command prints for a shell."""
    script = program.parents[1] / f"script.{shell}"
    script.write_text(CliRunner().invoke(app, ["completion", shell]).output)
    return script


@pytest.mark.parametrize(("typed", "offered"), COMPLETED)
def test_bash_completes(program: Path, typed: str, offered: set[str]) -> None:
    """By the script that the program prints, in a real bash."""
    words = typed.split(" ")
    asking = f"""source {script_for("bash", program)}
        COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
        _zonecast_completion zonecast; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(
        [place_of("bash"), "-c", asking],
        env=shell_environment(program),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize(("typed", "offered"), COMPLETED)
def test_fish_completes(program: Path, typed: str, offered: set[str]) -> None:
    """By the script that the program prints, in a real fish."""
    done = subprocess.run(
        [place_of("fish"), "-c", f"source {script_for('fish', program)}; complete -C '{typed}'"],
        env=shell_environment(program),
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == offered


@pytest.mark.parametrize(("typed", "offered"), COMPLETED)
def test_zsh_completes(program: Path, typed: str, offered: set[str]) -> None:
    """By the script that the program prints, with the Tab key in a real zsh."""
    terminal, end = pty.openpty()
    shell = subprocess.Popen(
        [place_of("zsh"), "-f", "-i"],
        env=shell_environment(program) | {"PS1": "", "LISTMAX": "1000"},
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    shown = b""
    try:
        script = script_for("zsh", program)
        os.write(terminal, f"autoload -U compinit; compinit -u -D; source {script}\n".encode())
        os.write(terminal, b"setopt autolist; unsetopt beep listambiguous; echo rea''dy\n")
        while b"ready" not in shown:
            shown += os.read(terminal, 65_536)
        shown = b""
        os.write(terminal, f"{typed}\t".encode())
        while not all(word.encode() in shown for word in offered):
            shown += os.read(terminal, 65_536)
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def test_every_shell_has_a_script_and_others_are_refused() -> None:
    """A shell that isn't known is a usage error."""
    for shell in ("bash", "zsh", "fish"):
        result = CliRunner().invoke(app, ["completion", shell])
        assert result.exit_code == 0
        assert "_ZONECAST_COMPLETE" in result.output
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2


def test_names_are_completed_and_zones_watched_without_the_database() -> None:
    """Whoever presses the tab key does not wait for SQLAlchemy, nor does who watches."""
    program = (
        "import sys, realtime.command, realtime.watch_command, realtime.client; "
        "assert realtime.command.run(['--help']) == 0; "
        "heavy = {'sqlalchemy', 'fastapi', 'alembic'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
