"""Virtual environments for the zoo: this project, and a library of models beside it.

Run from the repository's root: ``python -m bench.zoo_venvs [--into FOLDER] [--together] [LIBRARY ...]``.

Makes one environment for each library, or with ``--together`` one for each version of Python: the libraries
of one version agree. What is there already is brought up to date. Standard output has one line for each
library, with the interpreter that imports it; progress goes to standard error. An environment takes 1 to 6 GB
and some minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.models.zoo import LIBRARIES, Library

ROOT = Path(__file__).resolve().parent.parent


class ZooError(Exception):
    """An environment that cannot be made; the message says why."""


def main() -> int:
    """Make the environments; returns the exit status."""
    parser = argparse.ArgumentParser(description="virtual environments for the zoo")
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=f"default: {' '.join(LIBRARIES)}")
    parser.add_argument("--into", type=Path, default=ROOT / ".venv-zoo", help="folder (default: .venv-zoo)")
    parser.add_argument("--together", action="store_true", help="one environment for each version of Python")
    parser.add_argument("--extras", default="dev,tpu", help="other groups to install (default: dev,tpu)")
    options = parser.parse_args()
    if unknown := [name for name in options.libraries if name not in LIBRARIES]:
        parser.error(f"no such library: {', '.join(unknown)}; there are {', '.join(LIBRARIES)}")
    wanted = [LIBRARIES[name] for name in dict.fromkeys(options.libraries or LIBRARIES)]
    try:
        for name, interpreter, libraries in environments(wanted, together=options.together):
            python = make(options.into.absolute() / name, interpreter, libraries, options.extras.split(","))
            for library in libraries:
                print(library.name, python, flush=True)
    except ZooError as error:
        say(f"error: {error}")
        return 1
    return 0


def environments(
    wanted: Sequence[Library], *, together: bool
) -> Iterator[tuple[str, str, tuple[Library, ...]]]:
    """Name, base interpreter and libraries of each environment.

    Raises:
        ZooError: An interpreter is missing; before any environment is made.
    """
    found = {library: find_python(library) for library in wanted}
    if not together:
        yield from ((library.name, interpreter, (library,)) for library, (_, interpreter) in found.items())
        return
    for minor, interpreter in dict.fromkeys(found.values()):
        same = tuple(library for library in wanted if found[library] == (minor, interpreter))
        yield f"python3.{minor}", interpreter, same


def find_python(library: Library) -> tuple[int, str]:
    """Minor version and interpreter of the first Python here that the library works on.

    Raises:
        ZooError: There is none.
    """
    versions = Path.home() / ".pyenv" / "versions"
    for minor in library.pythons:
        candidates = [f"python3.{minor}", *map(str, sorted(versions.glob(f"3.{minor}.*/bin/python")))]
        for candidate in candidates:
            if version(candidate) == f"3.{minor}":
                return minor, candidate
    names = " or ".join(f"python3.{minor}" for minor in library.pythons)
    raise ZooError(f"{library.name} needs {names}, which is neither on PATH nor in {versions}")


def version(interpreter: str) -> str | None:
    """Such as "3.11"; None where it does not run: a shim of pyenv may have no version behind it."""
    command = [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def make(folder: Path, interpreter: str, libraries: Sequence[Library], extras: Sequence[str]) -> Path:
    """Make an environment or bring it up to date; returns its interpreter.

    Raises:
        ZooError: A command failed; what it said is on standard error.
    """
    python = folder / "bin" / "python"
    say(f"{folder}: {' '.join(library.name for library in libraries)}, on {interpreter}")
    if not python.exists():
        run(interpreter, "-m", "venv", str(folder))
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "pip>=25")  # 23 is still trying versions after a quarter of an hour
    groups = [*filter(None, extras), *(library.group for library in libraries)]
    run(*pip, "--editable", f"{ROOT}[{','.join(groups)}]")
    return python


def run(*command: str) -> None:
    """Run a command; what it prints goes to standard error.

    Raises:
        ZooError: It failed.
    """
    say(f"  {' '.join(command)}")
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status != 0:
        raise ZooError(f"status {status} of `{' '.join(command)}`")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
