import errno
import hashlib
import inspect
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autoshard import programs, topology
from autoshard.compiled import answer as compiler_answer
from autoshard.compiled.answer import ANSWER_FORMAT, CompilerAnswer
from autoshard.compiled.cache import CompileCache, cache_folder

ANSWER = CompilerAnswer(
    status="ok",
    hbm_bytes_per_chip=2**34,
    argument_bytes=7,
    argument_specs=("x;", ";"),
    argument_orders=((1, 0), ()),
    result_orders=((0,),),
    text="HloModule m",
    log="W a warning",
)
OTHER = CompilerAnswer(status="out of memory", detail="too large", hbm_bytes_per_chip=2**40)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> CompileCache:
    return CompileCache(tmp_path / "deep" / "cache", notes.append)


def files(cache: CompileCache) -> list[Path]:
    assert cache.folder is not None
    return sorted(cache.folder.iterdir())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AUTOSHARD_CACHE": "/big/disk", "XDG_CACHE_HOME": "/xdg"}, Path("/big/disk/compile")),
        ({"AUTOSHARD_CACHE": "off", "XDG_CACHE_HOME": "/xdg"}, None),
        ({"AUTOSHARD_CACHE": "OFF"}, None),
        ({"AUTOSHARD_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, Path("/xdg/autoshard/compile")),
        ({"XDG_CACHE_HOME": "relative"}, Path("/home/me/.cache/autoshard/compile")),
        ({}, Path("/home/me/.cache/autoshard/compile")),
        ({"AUTOSHARD_CACHE": "~/mine"}, Path("/home/me/mine/compile")),
    ],
)
def test_where_the_cache_lies(
    environment: dict[str, str], expected: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder(environment) == expected


def test_answers_come_back_by_their_keys(cache: CompileCache, notes: list[str]) -> None:
    assert cache.get("one") is None
    cache.put("one", ANSWER)
    cache.put("two", OTHER)
    assert (cache.get("one"), cache.get("two"), cache.get("three")) == (ANSWER, OTHER, None)
    assert [path.name for path in files(cache)] == ["one.answer", "two.answer"]
    assert notes == []


def test_a_cache_that_is_switched_off_keeps_nothing(notes: list[str]) -> None:
    cache = CompileCache(None, notes.append)
    cache.put("one", ANSWER)
    assert cache.get("one") is None
    assert notes == []


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "one bit", "another's"])
def test_a_damaged_entry_is_missing_and_said_and_replaced(
    cache: CompileCache, notes: list[str], damage: str
) -> None:
    cache.put("one", ANSWER)
    (path,) = files(cache)
    entry = path.read_bytes()
    flipped = bytes([entry[-1] ^ 1])
    cache.put("two", OTHER)
    damaged = {
        "truncated": entry[: len(entry) // 2],
        "garbage": b"\x00\xff" * 500,
        "empty": b"",
        "one bit": entry[:-1] + flipped,
        "another's": (path.parent / "two.answer").read_bytes(),
    }[damage]
    path.write_bytes(damaged)
    assert cache.get("one") is None
    assert len(notes) == 1
    assert "damaged entry" in notes[0]
    assert str(path) in notes[0]
    cache.put("one", ANSWER)
    assert cache.get("one") == ANSWER
    assert len(notes) == 1


class _FullDisk:
    def __init__(self, handle: int, mode: str) -> None:
        self.handle = handle

    def __enter__(self) -> "_FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def write(self, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_once_and_leaves_nothing_behind(
    cache: CompileCache, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("before", OTHER)
    with monkeypatch.context() as full:
        full.setattr(os, "fdopen", _FullDisk)
        cache.put("one", ANSWER)
        cache.put("two", ANSWER)
    assert len(notes) == 1
    assert "No space left on device" in notes[0]
    assert "AUTOSHARD_CACHE" in notes[0]
    assert [path.name for path in files(cache)] == ["before.answer"]
    assert cache.get("before") == OTHER


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = CompileCache(tmp_path / "file" / "compile", notes.append)
    assert cache.get("one") is None
    cache.put("one", ANSWER)
    cache.put("two", ANSWER)
    assert len(notes) == 1
    assert "Not a directory" in notes[0]


def test_a_folder_that_is_read_only_still_answers(
    cache: CompileCache, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("one", ANSWER)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert cache.get("one") == ANSWER
    assert notes == []
    cache.put("two", ANSWER)
    assert len(notes) == 1
    assert "Read-only file system" in notes[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read only to root")
def test_a_folder_without_the_right_to_write_is_said(cache: CompileCache, notes: list[str]) -> None:
    cache.put("one", ANSWER)
    assert cache.folder is not None
    cache.folder.chmod(0o500)
    cache.put("two", ANSWER)
    cache.folder.chmod(0o700)
    assert len(notes) == 1
    assert cache.get("one") == ANSWER


def test_the_answers_that_were_read_longest_ago_go(tmp_path: Path, notes: list[str]) -> None:
    unbounded = CompileCache(tmp_path, notes.append)
    for age, key in ((40, "a"), (30, "b"), (20, "c")):
        unbounded.put(key, ANSWER)
        moment = time.time() - age
        os.utime(tmp_path / f"{key}.answer", (moment, moment))
    size = (tmp_path / "a.answer").stat().st_size
    assert unbounded.get("a") == ANSWER  # and is now the youngest
    bounded = CompileCache(tmp_path, notes.append, limit_bytes=3 * size + size // 2)
    bounded.put("d", ANSWER)  # four entries are over 3.5; three are within 90 % of it
    assert [path.stem for path in files(bounded)] == ["a", "c", "d"]
    assert notes == []


def test_what_a_killed_writer_left_goes_after_a_while(cache: CompileCache) -> None:
    cache.put("one", ANSWER)
    assert cache.folder is not None
    old, new = cache.folder / "old.unfinished", cache.folder / "new.unfinished"
    for path in (old, new):
        path.write_bytes(b"half an ent")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.put("two", ANSWER)
    assert [path.name for path in files(cache)] == ["new.unfinished", "one.answer", "two.answer"]


def test_many_writers_and_readers_see_whole_entries(cache: CompileCache, notes: list[str]) -> None:
    def write_and_read(i: int) -> CompilerAnswer | None:
        cache.put("one", ANSWER if i % 2 else OTHER)
        return cache.get("one")

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(write_and_read, range(200)))
    assert all(each in (ANSWER, OTHER) for each in seen)
    assert notes == []
    assert [path.name for path in files(cache)] == ["one.answer"]


def test_the_format_number_belongs_to_what_is_kept_and_how_it_is_compiled() -> None:
    """Old answers must not be taken for new ones.

    When this fails: raise `ANSWER_FORMAT` unless a program compiles to the same answer as before, then put
    the new numbers here.
    """
    parts = (
        compiler_answer.compile_program,
        programs.load,
        topology.aot_devices,
        topology.compiler_environment,
        topology.topology_request,
    )
    text = "".join(inspect.getsource(part) for part in parts) + str(CompilerAnswer.__struct_fields__)
    assert (ANSWER_FORMAT, hashlib.sha256(text.encode()).hexdigest()[:12]) == (2, "0df7e9406ef6")
