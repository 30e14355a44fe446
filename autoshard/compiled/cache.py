"""Answers of the TPU compiler on disk, so that a tuning run which is repeated compiles nothing.

One file per answer, named by its key (`autoshard.compiled.program_key`): a magic line, a SHA-256 of the key
and of what follows, and the answer, compressed. A file is written beside its place and moved there, so
processes share the folder without locks and a reader sees a whole entry or none. An entry that is read
becomes the youngest; when the folder grows over its bound, the oldest go.

The cache never ends a run: an entry that is damaged counts as missing, a folder that cannot be read or
written is told once. It lies in ``$AUTOSHARD_CACHE``, else ``$XDG_CACHE_HOME/autoshard``, else
``~/.cache/autoshard``; ``AUTOSHARD_CACHE=off`` leaves it out.

Source: https://specifications.freedesktop.org/basedir-spec/latest/.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from autoshard.compiled.answer import CompilerAnswer

VARIABLE = "AUTOSHARD_CACHE"
OFF = "off"
LIMIT_BYTES = 512 * 2**20
"""What all entries together may take; an answer takes 20 to 200 kB."""

_MAGIC = b"autoshard compiler answer\n"
_SUFFIX, _UNFINISHED = ".answer", ".unfinished"
_KEPT_AFTER_EVICTION = 0.9  # so that not every write evicts
_ABANDONED_SECONDS = 3600.0  # an unfinished file as old as that has lost its writer


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """Return where compiler answers lie; None where that is switched off, or the user has no home."""
    chosen = environment.get(VARIABLE, "")
    if chosen.lower() == OFF:
        return None
    if chosen:
        return Path(chosen).expanduser() / "compile"
    base = Path(environment.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the specification ignores relative paths
        base = Path(os.path.expanduser("~/.cache"))
    return base / "autoshard" / "compile" if base.is_absolute() else None


@dataclass(slots=True)
class CompileCache:
    """The answers in one folder.

    Attributes:
        folder: where they lie; it is made when the first one is written. None keeps nothing.
        note: told, once, in words what is wrong with the folder, and of each damaged entry.
        limit_bytes: what all entries together may take.
    """

    folder: Path | None
    note: Callable[[str], None]
    limit_bytes: int = LIMIT_BYTES
    _told: bool = False

    def get(self, key: str) -> CompilerAnswer | None:
        """Return the answer of a key, None where there is none or none that is sound."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}{_SUFFIX}"
        try:
            entry = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(error)
            return None
        answer = _decoded(entry, key)
        with suppress(OSError):  # another's folder may be read only: its owner sees to its bound
            os.utime(path)
        if answer is None:
            self.note(f"the compile cache has a damaged entry, which is compiled anew: {path}")
        return answer

    def put(self, key: str, answer: CompilerAnswer) -> None:
        """Keep an answer; what stood under its key before is replaced."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self.folder / f"{key}{_SUFFIX}", _encoded(answer, key))
            _evict(self.folder, self.limit_bytes)
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self.note(
                f"the compile cache does not work, so answers are not kept or not found: {error}. "
                f"Set {VARIABLE} to another folder, or to `{OFF}`"
            )


def _encoded(answer: CompilerAnswer, key: str) -> bytes:
    content = zlib.compress(msgspec.msgpack.encode(answer))
    return _MAGIC + _digest(content, key) + content


def _decoded(entry: bytes, key: str) -> CompilerAnswer | None:
    digest_end = len(_MAGIC) + hashlib.sha256().digest_size
    content = entry[digest_end:]
    if entry[:digest_end] != _MAGIC + _digest(content, key):
        return None
    try:
        return msgspec.msgpack.decode(zlib.decompress(content), type=CompilerAnswer)
    except (zlib.error, msgspec.DecodeError):  # whole, but not as this version writes it
        return None


def _digest(content: bytes, key: str) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _write(path: Path, entry: bytes) -> None:
    """Write a file under another name and move it to its place, whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(entry)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _evict(folder: Path, limit_bytes: int) -> None:
    """Remove the entries that were read longest ago, until the rest is within bounds."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process evicts too
            status = path.stat()
            if path.suffix == _SUFFIX:
                found.append((status.st_mtime, status.st_size, path))
            elif path.suffix == _UNFINISHED and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink()
    total = sum(size for _, size, _ in found)
    if total <= limit_bytes:
        return
    for _, size, path in sorted(found):
        path.unlink(missing_ok=True)
        total -= size
        if total <= _KEPT_AFTER_EVICTION * limit_bytes:
            return
