"""The `zonecast` command. Errors are one line on standard error; exit codes: 1 failed, 2 usage."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, Final, cast

import typer
from typer._click.shell_completion import CompletionItem
from typer.completion import completion_init  # type: ignore[attr-defined]  # re-exported so
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from realtime.failures import is_failure
from realtime.logs import mask_text

INTERRUPTED: Final = 130

COMMANDS: Final = {
    "serve": (
        "realtime.service_commands:serve",
        "Migrate the database, then serve until a signal ends it.",
    ),
    "demo": (
        "realtime.demo.command:demo",
        "Show an invented building: morning rush, lunch, an evacuation drill, over and over.",
    ),
    "watch": (
        "realtime.watch_command:watch",
        "Watch zones: a live table in a terminal, JSON lines in a pipe.",
    ),
    "import": (
        "realtime.user_commands:import_users",
        "Make the users of a file, up to 1,000 in a transaction.",
    ),
    "export": (
        "realtime.user_commands:export_users",
        "Write all users as CSV, or as JSON lines; `zonecast import` reads the CSV.",
    ),
    "replay": (
        "realtime.replay_command:replay",
        "Replay recorded moves into a running service; it makes the zones and users it needs.",
    ),
    "top": (
        "realtime.top_command:top",
        "Show nodes, their rates, the most watched channels, and clients that don't keep up.",
    ),
    "verify": (
        "realtime.verify.command:verify",
        "Compare nodes, what their clients are told, and the database, at equal revisions.",
    ),
    "check": (
        "realtime.check_command:check_configuration",
        "Test a configuration: keys, database, migrations, Redis, clocks; changes nothing.",
    ),
    "token": (
        "realtime.token_command:token",
        "Make a token: it goes to standard output, what it grants to standard error.",
    ),
    "migrate": (
        "realtime.service_commands:migrate",
        "Bring the database to the tables of this release; again and again does no harm.",
    ),
    "resync": (
        "realtime.service_commands:resync",
        "Renew all epochs: every client gets its zones anew, and what was written by hand is seen.",
    ),
    "prune": (
        "realtime.service_commands:prune",
        "Delete the changes that are kept no longer; running nodes do it by themselves.",
    ),
    "completion": (
        "realtime.completion_command:completion",
        "Print a script that lets a shell complete commands and options.",
    ),
}
"""Where each command is and its first sentence, in the order of the help.

Imported when asked for: who watches needs no database, and who presses the tab key waits for no
more than the names.
"""


# The program answers the scripts of `zonecast completion` in the form that they expect.
completion_init()


class _Commands(MutableMapping[str, TyperCommand]):
    """The commands by name, each made when it is looked up."""

    def __init__(self) -> None:
        self._made: dict[str, TyperCommand] = {}

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in self._made:
            module, _, function = COMMANDS[name][0].partition(":")
            alone = typer.Typer(add_completion=False, context_settings=app.info.context_settings)
            alone.command(name)(getattr(import_module(module), function))
            self._made[name] = cast("TyperCommand", get_command(alone))
        return self._made[name]

    def __setitem__(self, name: str, command: TyperCommand) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class CommandGroup(TyperGroup):
    """All commands, of which only the one that runs is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast("Any", _Commands())

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, without making them."""
        made, self.commands = self.commands, cast("Any", _listed())
        try:
            super().format_help(ctx, formatter)
        finally:
            self.commands = made

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, without making the commands."""
        return list(COMMANDS)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the names that begin so; nothing is imported for that."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)]


def _listed() -> dict[str, TyperCommand]:
    return {name: TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()}


app = typer.Typer(
    cls=CommandGroup,
    help="Who is in which zone, true on every screen that watches.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def zonecast() -> None:
    """Who is in which zone, true on every screen that watches."""


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    failure: str
    try:
        result = app(args=arguments, prog_name="zonecast", standalone_mode=False)
    except TyperException as error:
        failure = error.format_message()
        code = 2
    except BrokenPipeError:
        # Whoever read our lines has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if not is_failure(error):
            raise
        failure = str(error)
        code = 1
    else:
        return result if isinstance(result, int) else 0
    if failure:  # Without a command there is only the help, on standard output.
        sys.stderr.write(f"zonecast: {mask_text(' '.join(failure.split()))}\n")
    return code
