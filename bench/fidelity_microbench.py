"""Section 6a of the fidelity bench: published micro-benchmarks against the model's single ops.

Run alone from the repository's root: ``python -m bench.fidelity_microbench``.

Every usable row of `data/microbench.csv` (`bench.microbench_rows`): collectives by
`autoshard.cost.collectives`, matmuls and copies by `autoshard.cost.roofline`. Errors are of logarithms,
``|ln(predicted / measured)|``, so that twice too long counts as twice too short; a family is an op on
a chip. Within a family Kendall's tau compares the orders of times. Nothing here times a whole program.

The chip table has some of its constants from these very rows (`bench.fit` says which): their errors are those
of a fit. Hence a second table, for each chip with enough all-gathers and permutes: base time and link
bandwidth fitted on every other size, and tried on the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

import numpy as np

from autoshard.cost.chips import chip
from autoshard.text_table import align
from bench.fidelity_statistics import kendall_tau
from bench.fidelity_verdicts import Verdict
from bench.fit import BASE, LINK, ONE_WAY, bench_data, fit, uses_joint_dims
from bench.microbench_rows import COPY, MATMUL, Bench, read_benches

Say = Callable[[str], None]

NOISE = 0.2
"""By how much times of one setting differ between sessions, see `bench.fidelity_train.noise_table`."""
_ENOUGH = 6
"""Rows, of which a half is more than the two constants."""


def run(say: Say) -> tuple[Verdict, ...]:
    """Print predictions, errors by family and what is left out; returns the verdicts."""
    used, left_out = read_benches()
    say(rows_table(used))
    say("\n" + families_table(used))
    say("\n" + held_out_table(used))
    say("\n" + left_out_table(left_out))
    on_chip = [bench for bench in used if bench.op in (MATMUL, COPY)]
    collectives = [bench for bench in used if bench.op not in (MATMUL, COPY)]
    return _verdict("collectives", collectives), _verdict("matmuls and copies", on_chip)


def log_error(bench: Bench) -> float:
    """ln(predicted / measured)."""
    return log(bench.predict() / bench.seconds)


def by_family(benches: Sequence[Bench]) -> dict[str, list[Bench]]:
    """The measurements by op and chip, families in order."""
    families: dict[str, list[Bench]] = {}
    for bench in sorted(benches, key=lambda bench: bench.family):
        families.setdefault(bench.family, []).append(bench)
    return families


def rows_table(benches: Sequence[Bench]) -> str:
    """One line per measurement."""
    head = ("row", "slice", "op", "axes", "size", "measured", "predicted", "ratio", "")
    rows = [
        (
            *(bench.name, bench.slice_name, bench.op, ",".join(bench.axes), bench.shape),
            *(f"{bench.seconds * 1e6:.4g}", f"{bench.predict() * 1e6:.4g}"),
            *(f"{bench.predict() / bench.seconds:.2f}", bench.note),
        )
        for bench in benches
    ]
    return "\n".join([*align([head, *rows], right=(5, 6, 7)), "microseconds"])


def families_table(benches: Sequence[Bench]) -> str:
    """Mean and worst error and the ranking of each family, and over all rows."""
    head = ("family", "rows", "mean |ln ratio|", "worst ratio", "mean ratio", "Kendall tau")
    groups = {**by_family(benches), "all": list(benches)}
    return "\n".join(align([head, *(_family(name, group) for name, group in groups.items())]))


def _family(name: str, benches: Sequence[Bench]) -> tuple[str, ...]:
    errors = [log_error(bench) for bench in benches]
    tau = kendall_tau([bench.predict() for bench in benches], [bench.seconds for bench in benches])
    return (
        *(name, str(len(benches)), f"{np.mean(np.abs(errors)):.3f}", f"{exp(max(errors, key=abs)):.2f}"),
        *(f"{exp(np.mean(errors)):.2f}", "-" if tau is None else f"{tau:.2f}"),
    )


def held_out_table(benches: Sequence[Bench]) -> str:
    """Errors of rows that the constants were not fitted on."""
    lines = []
    for name in dict.fromkeys(bench.chip_name for bench in benches):
        own = [b for b in benches if b.chip_name == name and b.op in ONE_WAY and not uses_joint_dims(b)]
        sizes = sorted({bench.nbytes for bench in own})[::2]
        fitted = bench_data("", [bench for bench in own if bench.nbytes in sizes])
        tried = bench_data("", [bench for bench in own if bench.nbytes not in sizes])
        if len(own) >= _ENOUGH:
            found = fit(fitted, chip(name), (BASE, LINK))
            errors = (f"{data.mean_error(found.after):.3f}" for data in (fitted, tried))
            values = (f"{value:.3g}" for value in found.values().values())
            lines.append((name, str(len(own)), *errors, *values))
    head = ("all-gathers and permutes of", "rows", "error on the half fitted", "on the other", BASE, LINK)
    return "\n".join(align([head, *lines]))


def left_out_table(left_out: Sequence[tuple[str, str, str]]) -> str:
    """What is not compared, and why."""
    return "\n".join(align([("left out", "op", "why"), *left_out]))


def _verdict(name: str, benches: Sequence[Bench]) -> Verdict:
    """Mean error beside what one setting's own times differ by."""
    errors = [log_error(bench) for bench in benches]
    mean, limit = float(np.mean(np.abs(errors))), log(1 + NOISE)
    figure = f"{mean:.3f} over {len(benches)} rows, worst ratio {exp(max(errors, key=abs)):.2f}"
    return Verdict(f"{name}, mean |ln ratio|", figure, f"none set; noise floor {limit:.2f}", mean <= limit)


def main() -> None:
    """Print the part, its verdicts last."""
    for verdict in run(print):
        print(f"{verdict.name}: {verdict.figure}; target: {verdict.target}")


if __name__ == "__main__":
    main()
