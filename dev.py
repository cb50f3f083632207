#!/usr/bin/env python3
"""Set up, run, test and check Zonecast. Needs nothing but Python's standard library."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:
    sys.exit("dev.py: runs on Linux and macOS; on Windows use it inside WSL")

USAGE = """\
Zonecast: who is in which zone, true on every screen that watches.

  python3 dev.py run [--port N]     set everything up and serve on http://127.0.0.1:8000
                                    (arguments go to `zonecast serve`; ZONECAST_* settings hold)
  python3 dev.py test [ARGUMENTS]   set up servers and clients, run the tests (arguments: pytest's)
  python3 dev.py check              format, lint, types, layers, addresses, tests: what CI runs
  python3 dev.py fix                format, and mend what the linter can
  python3 dev.py bench [ARGUMENTS]  measure (`bench --help` tells what)
  python3 dev.py soak [ARGUMENTS]   break everything at random for minutes, and check what clients
                                    get: --minutes M --seed S [--json FILE]
  python3 dev.py fuzz [ARGUMENTS]   feed whatever reads foreign bytes, guided by what they reach:
                                    [TARGET...] --seconds N
  python3 dev.py bugs [WORDS]       make known bugs one by one, and show which test notices each
  python3 dev.py docs [serve]       build the documentation into .site, or serve it while you write;
                                    `docs picture` records the README's moving picture anew
  python3 dev.py newcomer           clone this, run it and its demo, and tell after how many seconds
                                    people move on the board in Chromium

Everything is installed into .venv; only `test`, `soak`, `bugs` and `check` install programs of the
system (Redis, Chromium, Node, nginx ...), where apt-get may without a password.
ZONECAST_DEV_APT=0 forbids it.
"""

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CLIENTS = ROOT / "tests" / "clients"
PROGRAMS = {
    "redis-server": ("redis-server", "valkey-server"),
    "chromium-headless-shell": ("chromium-headless-shell", "chromium", "google-chrome"),
    "pgbouncer": ("pgbouncer",),
    "nodejs": ("node",),
    "npm": ("npm",),
    # Whose completion of commands is tried.
    "zsh": ("zsh",),
    "fish": ("fish",),
    # What the deployment is tested with: its load balancer, alert rules, compose file, secrets.
    "nginx-light": ("nginx",),
    "prometheus": ("promtool",),
    "docker-compose": ("docker-compose",),
    "openssl": ("openssl",),
}
"""What only some tests need: Debian's packages, and the programs of which one is enough."""
PEERS = ROOT / "bench" / "peers"
EXTRAS = ("", "test", "test,bench", "test,bench,fuzz")
"""What may be installed with it, each with more than the one before."""
APT_RETRY_AFTER_S = 24 * 3600
MIN_PYTHON = (3, 11)


class StepError(Exception):
    """A step failed; the message is the one line that the user reads."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], *, folder: Path = ROOT) -> int:
    """Run a program with our output; returns its exit code."""
    try:
        return subprocess.run([str(word) for word in command], cwd=folder, check=False).returncode
    except FileNotFoundError as error:
        raise StepError(f"no program {error.filename}") from None


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, and tell at its end how long it took."""
    say(f"==> {title}")
    started = time.monotonic()
    yield
    say(f"    {time.monotonic() - started:.1f} s")


# --- The Python environment


def set_up(extra: str = "") -> None:
    """Make `.venv` hold this checkout and its dependencies; skipped when nothing changed.

    Args:
        extra: One of `EXTRAS`.
    """
    with (ROOT / ".dev.lock").open("w") as lock:
        # Two nodes may be started at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = _fingerprint(ROOT / "pyproject.toml", ROOT / "constraints.txt")
        level = EXTRAS.index(extra)
        stamps = [VENV / f"zonecast{'-' * bool(name)}{name}.stamp" for name in EXTRAS]
        enough = stamps[level:]
        if PYTHON.exists() and any(_read(stamp) == wanted for stamp in enough):
            return
        if not _usable():
            with step(f"making {VENV.name} with Python {'.'.join(map(str, sys.version_info[:3]))}"):
                _make_environment()
        target = f".[{extra}]" if extra else "."
        with step(f"installing Zonecast and what it needs into {VENV.name} (half a minute)"):
            _install(["--constraint", "constraints.txt", "--editable", target])
        stamps[level].write_text(wanted)


def _fingerprint(*files: Path) -> str:
    digest = hashlib.sha256(str(ROOT).encode())
    for file in files:
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _usable() -> bool:
    return PYTHON.exists() and _quietly([str(PYTHON), "-c", "import pip"]) == 0


def _make_environment() -> None:
    uv = shutil.which("uv")
    if uv and run([uv, "venv", "-q", "--seed", "--clear", "--python", sys.executable, VENV]) == 0:
        return
    if importlib.util.find_spec("ensurepip") is None:
        # Debian keeps it in a package of its own.
        apt_install(["python3-venv"])
        importlib.invalidate_caches()
        if importlib.util.find_spec("ensurepip") is None:
            raise StepError("this Python cannot make .venv: install python3-venv")
    if run([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        raise StepError("cannot make .venv: see the lines above")


def _install(arguments: Sequence[str]) -> None:
    uv = shutil.which("uv")
    if uv and run([uv, "pip", "install", "-q", "--python", PYTHON, *arguments]) == 0:
        return
    quiet = [] if sys.stderr.isatty() else ["-q"]
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *quiet]
    if run([*pip, *arguments]) != 0:
        raise StepError("installing Python packages failed: see pip's lines above")


# --- Programs of the system, and npm packages


def set_up_programs() -> None:
    """Install what only some tests need, where we may; they skip with a hint without it."""
    missing = [package for package, names in PROGRAMS.items() if not _has(*names)]
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        missing.append("postgresql")  # The one in the wheel speaks no TLS.
    if sys.platform == "linux" and not _loads("libatomic.so.1"):
        missing.append("libatomic1")  # Playwright's own Node needs it.
    if missing and not _tried_lately(missing):
        with step(f"installing {', '.join(missing)} with apt-get"):
            apt_install(missing)
    _install_npm_packages(CLIENTS, "the JavaScript SDK", "the tests with it skip")


def _has(*names: str) -> bool:
    # Debian has nginx where only root looks.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return any(shutil.which(name, path=path) for name in names)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _tried_lately(packages: Sequence[str]) -> bool:
    if required():
        return False
    stamp = VENV / "apt.stamp"
    wanted = " ".join(packages)
    if _read(stamp) == wanted and time.time() - stamp.stat().st_mtime < APT_RETRY_AFTER_S:
        say(f"    without {', '.join(packages)}: the tests that need them skip")
        return True
    stamp.write_text(wanted)
    return False


def required() -> bool:
    """Whether a test that skips for something missing is a failure."""
    return os.environ.get("ZONECAST_REQUIRE_ALL", "") not in {"", "0"}


def apt_install(packages: Sequence[str]) -> None:
    """Install packages one after the other, so that one that fails spares the others."""
    by_hand = f"install by hand: {' '.join(packages)}"
    apt = shutil.which("apt-get")
    if apt is None or os.environ.get("ZONECAST_DEV_APT") == "0":
        say(f"    no apt-get to be used here; {by_hand}")
        return
    # RUNLEVEL=1 keeps Debian from starting a Redis service: the tests start their own.
    prefix = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", apt]
    prefix += ["-q", "-y", "-o", "Acquire::http::Timeout=30", "-o", "DPkg::Lock::Timeout=120"]
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        if sudo is None or _quietly([sudo, "-n", "true"]) != 0:
            say(f"    not root, and no sudo without a password; {by_hand}")
            return
        prefix = [sudo, "-n", *prefix]
    _quietly([*prefix, "update"])
    for package in packages:
        if _quietly([*prefix, "install", "--no-install-recommends", package]) != 0:
            say(f"    apt-get could not install {package}")


def _quietly(command: Sequence[str]) -> int:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    ).returncode


def _install_npm_packages(folder: Path, what: str, without: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        say(f"    no npm to install {what}: {without}")
        return
    wanted = _fingerprint(folder / "package.json", folder / "package-lock.json")
    stamp = folder / "node_modules" / "zonecast.stamp"
    if _read(stamp) == wanted:
        return
    with step(f"installing {what} into {folder.relative_to(ROOT)}/node_modules"):
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        if run([npm, "ci", *flags], folder=folder) != 0:
            say(f"    npm failed: {without}")
            return
    stamp.write_text(wanted)


# --- The commands


def become(command: Sequence[str | Path]) -> int:
    """Replace this process by a program of the environment; never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(PYTHON, [str(word) for word in (PYTHON, *command)])  # noqa: S606 - no shell wanted.


def run_service(arguments: Sequence[str]) -> int:
    set_up()
    return become([VENV / "bin" / "zonecast", "serve", *arguments])


def test(arguments: Sequence[str]) -> int:
    set_up("test")
    set_up_programs()
    os.chdir(ROOT)
    return become(["-m", "pytest", *arguments])


def check(arguments: Sequence[str]) -> int:
    if arguments:
        raise StepError("check takes no arguments; `test` takes pytest's")
    set_up("test")
    set_up_programs()
    steps: list[tuple[str, list[str | Path]]] = [
        ("format", ["-m", "ruff", "format", "--check", "."]),
        ("lint", ["-m", "ruff", "check", "."]),
        ("types", ["-m", "mypy"]),
        ("layers", [VENV / "bin" / "lint-imports"]),
        ("addresses", ["-m", "tests.addresses"]),
        ("tests", ["-m", "pytest"]),
    ]
    for name, command in steps:
        with step(name):
            if (code := run([PYTHON, *command])) != 0:
                raise StepError(f"check failed at: {name} (exit code {code})")
    say("==> all checks passed")
    return 0


def fix(arguments: Sequence[str]) -> int:
    set_up("test")
    formatted = run([PYTHON, "-m", "ruff", "format", *(arguments or ["."])])
    return run([PYTHON, "-m", "ruff", "check", "--fix", *(arguments or ["."])]) or formatted


def bench(arguments: Sequence[str]) -> int:
    if not (ROOT / "bench" / "__main__.py").exists():
        raise StepError("there is nothing to measure: bench/__main__.py is missing")
    set_up("test,bench")
    if not {"-h", "--help", "--report"} & set(arguments):
        _install_npm_packages(PEERS, "the peers for Node", "they are not compared with")
    os.chdir(ROOT)
    return become(["-m", "bench", *arguments])


def soak(arguments: Sequence[str]) -> int:
    set_up("test")
    set_up_programs()
    os.chdir(ROOT)
    return become(["-m", "tests.faults.soak", *arguments])


def fuzz(arguments: Sequence[str]) -> int:
    set_up("test,bench,fuzz")
    os.chdir(ROOT)
    return become(["-m", "tests.guided", *arguments])


def bugs(arguments: Sequence[str]) -> int:
    set_up("test")
    set_up_programs()
    os.chdir(ROOT)
    return become(["-m", "tests.faults.catalogue", *arguments])


def newcomer(arguments: Sequence[str]) -> int:
    if arguments:
        raise StepError("newcomer takes no arguments")
    set_up("test")
    set_up_programs()
    os.chdir(ROOT)
    return become(["-m", "tests.documentation.newcomer"])


def docs(arguments: Sequence[str]) -> int:
    if arguments not in ([], ["serve"], ["picture"]):
        raise StepError("docs takes nothing, `serve`, or `picture`")
    set_up("test")
    os.chdir(ROOT)
    if arguments == ["picture"]:
        return become(["-m", "tests.documentation.moving_picture"])
    with step("pages made from the code"):
        if run([PYTHON, "-m", "tests.documentation.pages"]) != 0:
            raise StepError("they can't be made: see the lines above")
    return become(["-m", "zensical", *(arguments or ["build", "--strict", "--clean"])])


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run_service,
    "test": test,
    "check": check,
    "fix": fix,
    "bench": bench,
    "soak": soak,
    "fuzz": fuzz,
    "bugs": bugs,
    "newcomer": newcomer,
    "docs": docs,
}


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    if sys.version_info < MIN_PYTHON:
        say(f"dev.py: needs Python 3.11 or later, this is {sys.version.split()[0]}")
        return 2
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(USAGE, end="")
        return 0 if arguments else 2
    command = COMMANDS.get(arguments[0])
    if command is None:
        say(f"dev.py: no command {arguments[0]!r}; there are {', '.join(COMMANDS)}")
        return 2
    try:
        return command(arguments[1:])
    except StepError as error:
        say(f"dev.py: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
