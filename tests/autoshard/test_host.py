import os
import re
from pathlib import Path

import pytest

from autoshard import host
from autoshard.host import available_cores, held_bytes, host_memory_bytes, host_swap_bytes


def test_a_process_holds_what_it_has_written_to() -> None:
    before = held_bytes(os.getpid())
    block = bytearray(b"x" * 2**26)
    after = held_bytes(os.getpid())
    assert 0 < before < 2**40
    assert 0.9 * len(block) < after - before < 2 * len(block)


def test_a_process_that_has_ended_holds_nothing() -> None:
    assert held_bytes(2**30) == 0


def test_the_host_has_no_more_than_its_physical_memory() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < host_memory_bytes() <= physical


def test_the_host_has_no_more_swap_than_the_system_tells() -> None:
    total = re.search(r"^SwapTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert total is not None
    assert 0 <= host_swap_bytes() <= int(total[1]) * 1024


def test_what_is_swapped_out_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = (
        "VmRSS:\t  900 kB\nRssAnon:\t  100 kB\nRssFile:\t  770 kB\nRssShmem:\t   30 kB\nVmSwap:\t  500 kB\n"
    )
    monkeypatch.setattr(host, "_text", {Path("/proc/1/status"): status}.__getitem__)
    assert held_bytes(1) == 630 * 1024


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        ("0::/box/inner\n", [2000, 3000]),
        ("12:cpu:/x\n0::/box\n", [3000]),
        ("0::/\n", []),
        ("", []),
    ],
)
def test_a_container_has_what_its_groups_allow(tmp_path: Path, membership: str, expected: list[int]) -> None:
    (tmp_path / "box" / "inner").mkdir(parents=True)
    (tmp_path / "box" / "inner" / "memory.max").write_text("2000\n")
    (tmp_path / "box" / "memory.max").write_text("3000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert host._control_group_limits(membership, tmp_path, "memory.max") == expected


def test_at_least_one_core_is_there() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
