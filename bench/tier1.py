"""Tier 1: how long Shardy's word on a plan takes, and how near it is to the plan's and to the compiler's.

Run from the repository's root: ``python -m bench.tier1 [--top-k N] [--compile N]``.

The best plans of each case are found by the model, exported, and partitioned by Shardy's passes in a child
process (`autoshard.partitioner.check`). Bytes are those of all collectives of a step, per chip; milliseconds
are those of the passes and of reading their result, without the start of the child (about 0.3 s, once) and
without the export that tier 2 needs too. `unseen` is what the propagated collectives take beyond the
predicted ones. With ``--compile`` the first plans of each case also go to the TPU compiler (5-40 s each,
package `libtpu`): its bytes then stand beside, and how its order of the plans agrees with that of the model
before and after tier 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.mesh_search import search_candidates
from autoshard.partitioner.check import PropagationCheck, check_candidates
from autoshard.plan import Plan
from autoshard.programs import Program
from autoshard.progress import Progress
from autoshard.refining import export_candidate
from autoshard.targets import load_target
from autoshard.text_table import align
from autoshard.tune_options import Options
from autoshard.tune_session import open_session

CASES = (
    ("examples/palm.py:decode_540b", "v4:4x4x4"),
    ("examples/palm.py:prefill_540b", "v4:4x4x4"),
    ("examples/palm.py:decode_8b", "v5e:2x4"),
    ("examples/palm.py:prefill_8b", "v5e:2x4"),
    ("examples/llama.py:decode_70b", "v4:4x4x4"),
    ("examples/llama.py:prefill_70b", "v4:4x4x4"),
    ("examples/llama.py:decode_8b", "v5e:2x4"),
    ("examples/llama.py:prefill_8b", "v5e:2x4"),
    ("examples/llama.py:decode_8b_unrolled", "v5e:2x4"),
)
HEADING = (
    *("case", "step ms", "tier 1 ms", "predicted MiB", "propagated", "unexpected", "compiled"),
    *("with tier 1 ms", "unseen ms", "compiled ms"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One plan of one case, with what the tiers say of it; `compiled` is None where it was not asked for."""

    case: str
    plan: Plan
    check: PropagationCheck
    compiled: CompileResult | None

    @property
    def predicted_bytes(self) -> float:
        """Bytes of the plan's own collectives."""
        return sum(each.total_bytes for each in self.check.predicted)

    @property
    def compiled_bytes(self) -> float | None:
        """Bytes of the compiled collectives."""
        if self.compiled is None or self.compiled.status != "ok":
            return None
        return sum(each.bytes_per_chip * each.trips for each in self.compiled.collectives)

    @property
    def adjusted_seconds(self) -> float:
        """The predicted step time with what tier 1 adds."""
        return self.plan.predicted_seconds + self.check.unseen_seconds


def main() -> None:
    """Check the plans of every case; print the rows and what they come to."""
    parser = argparse.ArgumentParser(description="tier 1 in milliseconds and bytes")
    parser.add_argument("--top-k", type=int, default=3, help="plans of each case (default: 3)")
    parser.add_argument("--compile", type=int, default=0, help="of them to compile (default: 0)")
    parser.add_argument("--case", action="append", default=[], help="part of a case's name (default: all)")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.case or any(part in case[0] for part in options.case)]
    rows = [row for case in cases for row in checked(*case, options.top_k, options.compile)]
    print("\n".join(align([HEADING, *map(cells, rows)], right=range(1, 10))))
    print()
    print("\n".join(summary(rows)))


def checked(target: str, slice_name: str, top_k: int, n_compiled: int) -> list[Row]:
    """The best plans of a case, checked, and the first of them compiled."""
    plans, programs = candidates(target, slice_name, top_k)
    started = time.perf_counter()
    checks = check_candidates(plans, programs, slice_name)
    name = f"{target.rpartition('/')[2]} {slice_name}"
    print(f"{name}: {len(plans)} plans checked in {time.perf_counter() - started:.2f} s, start included")
    compiled: list[CompileResult | None] = [*compile_all(programs[:n_compiled], slice_name)]
    compiled += [None] * (len(plans) - len(compiled))
    return [Row(name, *each) for each in zip(plans, checks, compiled, strict=True)]


def candidates(target: str, slice_name: str, top_k: int) -> tuple[list[Plan], list[Program]]:
    """The best plans by the model, and the programs under them."""
    options = Options(slice_name, refine="none", top_k=top_k)
    session = open_session(load_target(target, None), options, Progress(quiet=True))
    plans = [candidate.plan for candidate in search_candidates(session).candidates]
    return plans, [export_candidate(session.traced, plan, "tpu") for plan in plans]


def cells(row: Row) -> tuple[str, ...]:
    """One row of the table."""
    check, estimated = row.check, row.compiled.seconds_estimated if row.compiled else None
    if check.result.status != "ok":
        return (row.case, check.summary, *[""] * 8)
    return (
        row.case,
        f"{row.plan.predicted_seconds * 1e3:.2f}",
        f"{(check.result.seconds_taken or 0.0) * 1e3:.0f}",
        *(mebibytes(row.predicted_bytes), mebibytes(check.result.total_bytes)),
        *(mebibytes(check.unexpected_bytes), mebibytes(row.compiled_bytes)),
        f"{row.adjusted_seconds * 1e3:.2f}",
        f"{check.unseen_seconds * 1e3:.2f}",
        "" if estimated is None else f"{estimated * 1e3:.2f}",
    )


def mebibytes(nbytes: float | None) -> str:
    """Bytes as MiB."""
    return "" if nbytes is None else f"{nbytes / 2**20:.1f}"


def summary(rows: Sequence[Row]) -> list[str]:
    """What the rows come to."""
    answered = [row for row in rows if row.check.result.status == "ok"]
    taken = [(row.check.result.seconds_taken or 0.0) * 1e3 for row in answered]
    lines = [
        f"{len(answered)} of {len(rows)} plans answered for",
        f"milliseconds per plan: median {statistics.median(taken):.0f}, largest {max(taken):.0f}",
        "predicted against propagated bytes, |difference|: "
        + differences([(row.predicted_bytes, row.check.result.total_bytes) for row in answered]),
    ]
    pairs = [(row, row.compiled_bytes) for row in answered if row.compiled_bytes is not None]
    if pairs:
        lines += [
            "predicted against compiled bytes: "
            + differences([(row.predicted_bytes, nbytes) for row, nbytes in pairs]),
            "propagated against compiled bytes: "
            + differences([(row.check.result.total_bytes, nbytes) for row, nbytes in pairs]),
            f"pairs of plans in the compiler's order: {orders([row for row, _ in pairs])}",
        ]
    return lines


def differences(pairs: Sequence[tuple[float, float]]) -> str:
    """Median and largest relative difference; without bytes on either side there is none."""
    relative = [abs(said - found) / max(said, found) if said != found else 0.0 for said, found in pairs]
    return f"median {statistics.median(relative):.2%}, largest {max(relative):.2%} of {len(pairs)}"


def orders(rows: Sequence[Row]) -> str:
    """How many pairs of plans of one case the model ranks as the compiler does, without and with tier 1."""
    pairs = [
        (a, b)
        for i, a in enumerate(rows)
        for b in rows[i + 1 :]
        if a.case == b.case and seconds(a) != seconds(b)
    ]
    before = sum(
        (a.plan.predicted_seconds < b.plan.predicted_seconds) == (seconds(a) < seconds(b)) for a, b in pairs
    )
    after = sum((a.adjusted_seconds < b.adjusted_seconds) == (seconds(a) < seconds(b)) for a, b in pairs)
    return f"{before} of {len(pairs)} by the model, {after} with tier 1"


def seconds(row: Row) -> float:
    """The compiler's step time."""
    return (row.compiled.seconds_estimated or 0.0) if row.compiled is not None else 0.0


if __name__ == "__main__":
    main()
