"""Habits of the terminal: help that teaches, and completion in three shells."""

from __future__ import annotations

import os
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
from tests.realtime.command_line import PROGRAM, environment


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


@pytest.mark.timeout(180)
def test_bash_completes_commands(tmp_path: Path) -> None:
    """By the script that the program prints, in a real bash."""
    bash = shutil.which("bash")
    assert bash is not None
    script = CliRunner().invoke(app, ["completion", "bash"]).output
    (tmp_path / "script").write_text(script)
    command = tmp_path / "zonecast"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM[2]}" "$@"\n')
    command.chmod(0o755)
    asking = f"""source {tmp_path}/script; COMP_WORDS=(zonecast re); COMP_CWORD=1
        _zonecast_completion zonecast; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(
        [bash, "-c", asking],
        env=environment()
        | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.split()) == ["replay", "resync"]


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
