"""What this host gives: memory and cores; and how much memory a process holds.

A process holds its anonymous and shared pages (`RssAnon`, `RssShmem`) and those swapped out (`VmSwap`); pages
of files, such as those of the compiler's library, are shared by all processes and can be dropped, so they do
not count. The host gives its physical memory and, for programs that can wait, its swap; or less of each where
a container's control group says so.

Source: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html, proc_meminfo.5.html beside it and
https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_HELD = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
_SWAP = re.compile(r"^SwapTotal:\s+(\d+) kB$", re.MULTILINE)
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def host_memory_bytes() -> int:
    """Return the memory that all processes of this host, or of this container, may hold together."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits("memory.max")])


def host_swap_bytes() -> int:
    """Return the swap that all processes of this host, or of this container, may hold together."""
    swap = _kilobytes(_SWAP, Path("/proc/meminfo"))
    return min([swap, *_limits("memory.swap.max")])


def available_cores() -> int:
    """Return how many processor cores this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(allowed) or os.cpu_count() or 1


def held_bytes(process_id: int) -> int:
    """Return the memory that a process holds; 0 where it has ended or the system does not tell."""
    return _kilobytes(_HELD, Path(f"/proc/{process_id}/status"))


def _kilobytes(pattern: re.Pattern[str], path: Path) -> int:
    """Return the bytes that a file of the system gives in kilobytes, summed over all matches."""
    return sum(int(kilobytes) for kilobytes in pattern.findall(_text(path))) * 1024


def _limits(name: str) -> list[int]:
    return _control_group_limits(_text(Path("/proc/self/cgroup")), _CONTROL_GROUPS, name)


def _control_group_limits(membership: str, root: Path, name: str) -> list[int]:
    """Return the limits called `name` of a process's control group and of those around it; no version 1."""
    path = next(
        (line.removeprefix("0::/") for line in membership.splitlines() if line.startswith("0::/")), ""
    )
    groups = [root / path, *(root / path).parents]
    inside = [group for group in groups if group.is_relative_to(root)]
    texts = [_text(group / name).strip() for group in inside]
    return [int(text) for text in texts if text.isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such process any more, or not Linux
        return ""
