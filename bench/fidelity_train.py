"""Section 6b of the fidelity bench: published train steps of dense models against tier 0.

Run alone from the repository's root: ``python -m bench.fidelity_train``.

Every usable row of `data/train_steps.csv`, traced from one generic decoder (`bench.train_models`) under the
row's own sharding (`bench.train_rows`). Errors are ``|ln(predicted / measured)|``; a family is a model on a
chip. Rankings, by Kendall's tau: the shardings of one model, whose order a planner must get right, and all
settings of a family, whose sizes differ. The verdict is the mean over families: some are sweeps of one model,
whose many rows are not so many models.

The noise floor stands beside it: settings that the sources measured more than once, in other sessions or
with other flags, by how much the times differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np

from autoshard.text_table import align
from bench.fidelity_statistics import kendall_tau, top_regret
from bench.fidelity_verdicts import Verdict
from bench.fixed_plan import Seconds
from bench.train_halves import halves_table
from bench.train_pins import Parallelism
from bench.train_rows import Planned, Row, Setting, planned, read_rows

Say = Callable[[str], None]

NOISE = 0.2
"""By how much the sources' own times of one setting differ between sessions, see `noise_table`."""
_ANY = Parallelism("", "", "")


@dataclass(frozen=True, slots=True)
class Compared:
    """A measured step beside what is predicted."""

    step: Planned
    predicted: Seconds

    @property
    def row(self) -> Row:
        """The measurement."""
        return self.step.row

    @property
    def error(self) -> float:
        """ln(predicted / measured)."""
        return log(self.predicted.whole / self.row.seconds)


def run(say: Say) -> tuple[Verdict, ...]:
    """Print predictions, errors, rankings, the fit and the noise floor; returns the verdicts."""
    rows, left_out = read_rows()
    compared = compare(rows)
    say(steps_table(compared))
    say("\n" + families_table(compared))
    say("\n" + shardings_table(compared))
    say("\n" + halves_table([each.step for each in compared]))
    say("\n" + noise_table(rows))
    say("\n" + left_out_table(left_out))
    return (error_verdict(compared),)


def compare(rows: Sequence[Row]) -> list[Compared]:
    """Predict every row."""
    compared = []
    for number, row in enumerate(rows, 1):
        print(f"train steps: {number} of {len(rows)}", end="\r", file=sys.stderr)
        step = planned(row)
        compared.append(Compared(step, step.price()))
    print(file=sys.stderr)
    return compared


def steps_table(compared: Sequence[Compared]) -> str:
    """One line per row."""
    head = (
        *("row", "family", "slice", "layers", "d_model", "d_ff", "batch", "length", "sharding", "remat"),
        *("measured", "predicted", "ratio", "compute", "HBM", "ICI", ""),
    )
    notes = "seconds; compute, HBM, ICI: parts of the prediction over the measurement, partly overlapping"
    return "\n".join([*align([head, *map(_line, compared)], right=range(10, 16)), notes])


def _line(each: Compared) -> tuple[str, ...]:
    row, setting, config = each.row, each.row.setting, each.row.config
    sizes = (config.layers, config.d_model, config.d_ff, setting.batch, setting.length)
    parts = (each.predicted.compute, each.predicted.hbm, each.predicted.ici)
    return (
        *(row.name, row.family, setting.slice_name, *map(str, sizes), row.sharding, config.remat),
        *(f"{row.seconds:.4g}", f"{each.predicted.whole:.4g}", f"{exp(each.error):.2f}"),
        *(f"{part / row.seconds:.2f}" for part in parts),
        row.note,
    )


def by_family(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """The rows by family, families in order."""
    families: dict[str, list[Compared]] = {}
    for each in sorted(compared, key=lambda each: each.row.family):
        families.setdefault(each.row.family, []).append(each)
    return families


def families_table(compared: Sequence[Compared]) -> str:
    """Errors and rankings of each family, and over all rows."""
    head = ("family", "rows", "mean |ln ratio|", "worst ratio", "mean ratio", "tau of its settings")
    groups = {**by_family(compared), "all": list(compared)}
    return "\n".join(align([head, *(_family(name, group) for name, group in groups.items())]))


def _family(name: str, group: Sequence[Compared]) -> tuple[str, ...]:
    errors = [each.error for each in group]
    return (
        *(name, str(len(group)), f"{_mean_error(group):.3f}", f"{exp(max(errors, key=abs)):.2f}"),
        *(f"{exp(np.mean(errors)):.2f}", _tau(group)),
    )


def _mean_error(group: Sequence[Compared]) -> float:
    return float(np.mean([abs(each.error) for each in group]))


def _tau(group: Sequence[Compared]) -> str:
    tau = kendall_tau([each.predicted.whole for each in group], [each.row.seconds for each in group])
    return "-" if tau is None else f"{tau:.2f}"


def shardings(compared: Sequence[Compared]) -> Iterator[list[Compared]]:
    """Groups of rows of one model, batch and slice that differ in their sharding, by their first note.

    Where a sharding was measured more than once the fastest counts.
    """
    groups: dict[tuple[str, Setting], dict[Parallelism, Compared]] = {}
    for each in sorted(compared, key=lambda each: -each.row.seconds):
        setting = each.row.setting
        key = (each.row.family, replace(setting, parallel=_ANY))
        groups.setdefault(key, {})[setting.parallel] = each
    yield from (list(group.values()) for group in groups.values() if len(group) > 1)


def shardings_table(compared: Sequence[Compared]) -> str:
    """The shardings of each model that was measured under several: order and cost of trusting the model."""
    head = ("several shardings of", "layers", "d_model", "measured", "predicted", "tau", "regret")
    return "\n".join(align([head, *map(_shardings, shardings(compared))]))


def _shardings(group: list[Compared]) -> tuple[str, ...]:
    measured = sorted(group, key=lambda each: each.row.seconds)
    predicted = sorted(group, key=lambda each: each.predicted.whole)
    regret = top_regret([each.predicted.whole for each in group], [each.row.seconds for each in group])
    config = group[0].row.config
    return (
        *(group[0].row.family, str(config.layers), str(config.d_model)),
        ", ".join(f"{each.row.sharding} {each.row.seconds * 1e3:.2f} ms" for each in measured),
        ", ".join(f"{each.row.sharding} {each.predicted.whole * 1e3:.2f} ms" for each in predicted),
        *(_tau(group), f"{regret:.1%}"),
    )


def noise_table(rows: Sequence[Row]) -> str:
    """Settings that were measured more than once: by how much their times differ."""
    groups: dict[tuple[str, Setting], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.family, row.setting), []).append(row)
    lines = [
        (
            *(family, str(setting.config.layers), str(setting.config.d_model), str(len(group))),
            f"{max(r.seconds for r in group) / min(r.seconds for r in group) - 1:.1%}",
            "; ".join(dict.fromkeys(row.note for row in group if row.note)),
        )
        for (family, setting), group in groups.items()
        if len(group) > 1
    ]
    return "\n".join(align([("measured again", "layers", "d_model", "times", "spread", ""), *lines]))


def left_out_table(left_out: Sequence[tuple[str, str]]) -> str:
    """How many rows are not compared, by reason."""
    reasons: dict[str, int] = {}
    for _, reason in left_out:
        reasons[reason] = reasons.get(reason, 0) + 1
    return "\n".join(align([("rows left out", "why"), *((str(n), why) for why, n in reasons.items())]))


def error_verdict(compared: Sequence[Compared]) -> Verdict:
    """Mean over families of their mean errors, beside what one setting's own times differ by."""
    families = [_mean_error(group) for group in by_family(compared).values()]
    error, limit = float(np.mean(families)), log(1 + NOISE)
    return Verdict(
        "train steps, mean |ln ratio|",
        f"{error:.3f} over {len(families)} families, {_mean_error(compared):.3f} over {len(compared)} rows",
        f"none set; noise floor {limit:.2f}",
        error <= limit,
    )


def main() -> None:
    """Print the part, its verdicts last."""
    for verdict in run(print):
        print(f"{verdict.name}: {verdict.figure}; target: {verdict.target}")


if __name__ == "__main__":
    main()
