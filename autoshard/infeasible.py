"""What to say when nothing fits: by how much, and which slice of the same chip would do."""

from __future__ import annotations

import math
from dataclasses import replace

from autoshard.cost.slices import Slice, slices_of
from autoshard.cost.torus import native_mesh
from autoshard.errors import InfeasibleError
from autoshard.mesh_solving import possible_problems, solve_mesh
from autoshard.search.errors import TimeLimitError
from autoshard.search.memory_front import MemoryFront
from autoshard.tune_session import Session

_SHOWN = 3
_GAP = 0.5
_TIME_LIMIT_SECONDS = 10.0


def does_not_fit(session: Session) -> InfeasibleError:
    """The error for a function that no plan fits into the slice."""
    if session.hbm_limit_bytes < session.slice_.chip.hbm_usable_bytes:
        return _over_the_limit(session)
    slice_, usable = session.slice_, session.slice_.chip.hbm_usable_bytes
    needed, total = argument_bytes(session), slice_.n_chips * usable
    reason = (
        f"its arguments alone take {needed / 2**30:.1f} GiB, and {slice_.n_chips} chips of "
        f"{usable / 2**30:.2f} GiB hold {total / 2**30:.1f} GiB in all"
    )
    if needed <= total:
        reason += "; with what it computes on the way, no layout found keeps every chip within its own"
    return InfeasibleError(f"`{session.target.name}` does not fit {slice_.name}: {reason}; {advice(session)}")


def compiler_finds_no_room(session: Session, least_bytes: int) -> InfeasibleError:
    """The error where the compiler finds every candidate too large, the leanest `least_bytes` per chip."""
    usable = session.hbm_limit_bytes
    return InfeasibleError(
        f"`{session.target.name}` does not fit {session.slice_.name}: by the compiler's count the "
        f"leanest candidate needs {least_bytes / 2**30:.2f} GiB per chip of {usable / 2**30:.2f} GiB; "
        f"{advice(session)}"
    )


def _over_the_limit(session: Session) -> InfeasibleError:
    """The error for a limit of memory that no plan keeps."""
    limit, least = session.hbm_limit_bytes, least_bytes(session)
    return InfeasibleError(
        f"no plan of `{session.target.name}` on {session.slice_.name} stays under the memory limit of "
        f"{limit / 2**30:.6g} GiB per chip: the least possible is {gib_text(least)} GiB per chip; raise the "
        "limit or choose a larger slice"
    )


def least_bytes(session: Session) -> float:
    """The least HBM per chip that any plan needs, on any of the meshes that are tried."""
    problems = possible_problems(session)
    return MemoryFront([problem for _, problem in problems], gap=session.options.gap).least.nbytes


def gib_text(nbytes: float, *, up: bool = True) -> str:
    """Bytes in GiB, rounded up so that what is named is enough, or down so that it is there."""
    thousandths = nbytes / 2**30 * 1e3
    return f"{(math.ceil(thousandths) if up else math.floor(thousandths)) / 1e3:.3f}"


def advice(session: Session) -> str:
    """What to do: free what is kept, take the smallest larger slice that fits, or a smaller model."""
    if session.kept is not None and _fits(session, session.slice_):
        return (
            f"the shardings of the model that are kept leave no room, most of all {_largest(session)}: "
            "without them (`--shardings free`) a plan is found"
        )
    chip, fits = session.slice_.chip, smallest_fitting(session)
    if fits is None:
        return f"no {chip.name} slice fits; shrink the batch or the context, or use smaller weights (int8)"
    return f"the smallest {chip.name} slice that fits is {fits.name}"


def _largest(session: Session) -> str:
    """The kept shardings under which arrays take most of a chip, with their GiB there."""
    if session.kept is None:
        return ""
    held = session.kept.bytes_per_chip(session.graph)
    most = sorted(held, key=lambda text: -held[text])[:_SHOWN]
    return ", ".join(f"`{text}` ({held[text] / 2**30:.2f} GiB per chip)" for text in most)


def argument_bytes(session: Session) -> float:
    """Bytes of all arguments, over all chips."""
    return sum(session.graph.values[v].nbytes for v in session.graph.arguments)


def smallest_fitting(session: Session) -> Slice | None:
    """The first larger slice of the same chip on which a search finds a plan that fits."""
    chip = session.slice_.chip
    least_chips = max(session.slice_.n_chips + 1, argument_bytes(session) / chip.hbm_usable_bytes)
    larger = (slice_ for slice_ in slices_of(chip) if slice_.n_chips >= least_chips)
    return next((slice_ for slice_ in larger if _fits(session, slice_)), None)


def _fits(session: Session, slice_: Slice) -> bool:
    """Whether a quick search finds a plan that fits, under no shardings of the model."""
    quick = replace(session.options, gap=_GAP, time_limit_seconds=_TIME_LIMIT_SECONDS)
    freed = replace(session, slice_=slice_, options=quick, kept=None)
    try:
        return solve_mesh(freed, native_mesh(slice_)) is not None
    except TimeLimitError:
        return False
