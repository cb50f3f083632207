"""The process in which one target is fuzzed; atheris never returns from it."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Fuzz the target that the first argument names; the rest are libFuzzer's."""
    with atheris.instrument_imports(include=["cache", "channels", "realtime"]):
        from tests.guided.targets import TARGETS  # noqa: PLC0415 - instrumented as it is imported

    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name][0])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
