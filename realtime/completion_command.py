"""`zonecast completion`: what a shell has to read to complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # re-exported so

PROGRAM = "zonecast"
COMPLETE_VARIABLE = "_ZONECAST_COMPLETE"
"""Set by the script when it asks the program what may come next."""


class Shell(StrEnum):
    """Shells that can be helped."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell reads it.")],
) -> None:
    """Print a script that lets a shell complete commands and options.

    bash: zonecast completion bash > ~/.local/share/bash-completion/completions/zonecast

    zsh: zonecast completion zsh > ~/.zfunc/_zonecast, with ~/.zfunc in fpath

    fish: zonecast completion fish > ~/.config/fish/completions/zonecast.fish

    Example: source <(zonecast completion bash)
    """
    script = get_completion_script(
        prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell.value
    )
    typer.echo(script)
