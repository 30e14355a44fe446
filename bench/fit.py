"""Refits constants of the chip table from the data in `bench/data`, and says on what.

Run from the repository's root: ``python -m bench.fit [--quick]``.

For each fit: the data, the value now in the table and where that is from, the value found, and the mean
``|ln(predicted / measured)|`` before and after. Nothing is written: the table is changed by hand, with the
source. Fits of one chip build on each other in the order of the table below, so that a constant is found with
those already refitted.

* micro-benchmarks (`bench.microbench_rows`): link bandwidth and base time of collectives, the share of joint
  dims, bandwidth between slices; the shares of matmuls and copies, what does not overlap, and kernel starts;
* published step times of PaLM on v4 (`bench.published_plans`) and published train steps
  (`bench.train_rows`): the constants that the table itself calls fitted. Plans are searched once on the
  table's chip and priced again. These take minutes; ``--quick`` leaves them out.

A fit minimises the squares of the logarithms' errors over the logarithms of the constants, each between a
hundredth and a hundred times its value, fractions up to 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from autoshard.cost.chips import Chip, chip
from autoshard.cost.collectives import Kind
from autoshard.text_table import align
from bench.microbench_rows import COPY, MATMUL, Bench, read_benches

Price = Callable[[Chip], Sequence[float]]

_RANGE = 100.0
_LEAST = 1e-9
"""Stands for a constant that is 0 in the table, of which there is no logarithm."""
_STEP = 1e-3
_EVALUATIONS = 60

BASE, LINK = "collective_base_seconds", "link_bytes_per_second"
ONE_WAY = (Kind.ALL_GATHER.value, Kind.COLLECTIVE_PERMUTE.value)
_MATMUL = ("mxu_fraction", "serial_fraction", "kernel_seconds")


@dataclass(frozen=True, slots=True)
class Data:
    """What constants are fitted on.

    Attributes:
        name: In words.
        measured: Published seconds.
        price: Predicts them on a chip.
    """

    name: str
    measured: Sequence[float]
    price: Price

    def errors(self, chip: Chip) -> npt.NDArray[np.float64]:
        """ln(predicted / measured)."""
        ratios = np.asarray(self.price(chip)) / np.asarray(self.measured)
        return np.asarray(np.log(ratios), dtype=np.float64)

    def mean_error(self, chip: Chip) -> float:
        """Mean absolute error of logarithms."""
        return float(np.mean(np.abs(self.errors(chip))))


@dataclass(frozen=True, slots=True)
class Found:
    """Constants of a chip that suit some data best.

    Attributes:
        data: The data.
        before: The chip as it was.
        after: The chip with the new constants.
        names: Which constants.
    """

    data: Data
    before: Chip
    after: Chip
    names: tuple[str, ...]

    def values(self) -> dict[str, float]:
        """The new constants."""
        return {name: self.after.source(name).value for name in self.names}


def fit(data: Data, chip: Chip, names: Sequence[str]) -> Found:
    """Find the constants under which predictions are nearest to the data.

    Args:
        data: What to fit on.
        chip: Where the fit starts; other constants stay as they are.
        names: Which of its numbers may change.
    """
    start = np.array([max(chip.source(name).value, _LEAST) for name in names])
    is_fraction = np.array([chip.source(name).unit == "1" and chip.source(name).value <= 1 for name in names])
    most = np.where(is_fraction, 1.0, start * _RANGE)
    least = np.minimum(start / _RANGE, 0.99 * most)

    def chip_at(logarithms: npt.NDArray[np.float64]) -> Chip:
        values = dict(zip(names, np.exp(logarithms).tolist(), strict=True))
        return chip.with_values("fitted", f"bench.fit: {data.name}", **values)

    found = least_squares(
        lambda logarithms: data.errors(chip_at(logarithms)),
        np.log(np.clip(start, least * 1.001, most * 0.999)),
        bounds=(np.log(least), np.log(most)),
        diff_step=_STEP,
        max_nfev=_EVALUATIONS,
    )
    after = chip_at(found.x)
    if data.mean_error(after) > data.mean_error(chip):
        after = chip  # squares and absolute values disagree: nothing is gained
    return Found(data, chip, after, tuple(names))


def fitted_names(chip: Chip) -> tuple[str, ...]:
    """The chip's numbers that the table calls fitted."""
    return tuple(name for name, quantity in chip.quantities.items() if quantity.provenance == "fitted")


def microbench_fits() -> Iterator[Found]:
    """The fits on micro-benchmarks, chip by chip."""
    used, _ = read_benches()
    latest: dict[str, Chip] = {}
    for name, constants, what, chosen in _selected(used):
        found = fit(bench_data(what, chosen), latest.get(name, chip(name)), constants)
        latest[name] = found.after
        yield found


def _selected(
    used: Sequence[Bench],
) -> Iterator[tuple[str, tuple[str, ...], str, list[Bench]]]:
    """Chip, constants, data in words, and the data, in the order of the fits."""
    for name in dict.fromkeys(bench.chip_name for bench in used):
        own = [bench for bench in used if bench.chip_name == name]
        on_slice = [bench for bench in own if bench.axes and bench.axes != ("dcn",)]
        rings = [b for b in on_slice if b.op in ONE_WAY and not uses_joint_dims(b)]
        joint = [bench for bench in on_slice if uses_joint_dims(bench)]
        across = [bench for bench in own if bench.axes == ("dcn",)]
        matmuls = [bench for bench in own if bench.op == MATMUL]
        copies = [bench for bench in own if bench.op == COPY]
        several = len({bench.seconds for bench in rings}) > 1
        groups = (
            ((BASE, LINK) if several else (LINK,), "all-gathers and permutes", rings),
            (("joint_dim_fraction",), "collectives over several rings", joint),
            (("dcn_bytes_per_second",), "collectives across slices", across),
            (_MATMUL if len(matmuls) > len(_MATMUL) else _MATMUL[:1], "matmuls", matmuls),
            (("hbm_streaming_fraction",), "copies", copies),
        )
        yield from ((name, constants, what, chosen) for constants, what, chosen in groups if chosen)


def uses_joint_dims(bench: Bench) -> bool:
    """Whether a collective has more links than one ring uses: two dims, one of them a ring."""
    mesh = bench.mesh()
    dims = [mesh.axes[mesh.names.index(name)].torus_dim for name in bench.axes]
    return len(dims) > 1 and any(mesh.slice.wraps[dim] for dim in dims)


def bench_data(what: str, benches: Sequence[Bench]) -> Data:
    """Micro-benchmarks to fit on."""
    return Data(what, [b.seconds for b in benches], lambda chip: [b.predict(chip) for b in benches])


def program_fits() -> Iterator[Found]:
    """The fits on published step times of whole programs."""
    from bench.published_plans import case_of  # these trace models with JAX: not for a quick run
    from bench.published_points import read_points
    from bench.train_rows import planned, prices, read_rows

    cases = [case_of(point) for point in read_points()]
    yield _program_fit(
        "PaLM and MT-NLG inference",
        "v4",
        [case.point.seconds for case in cases],
        lambda chip: [case.price(chip).whole for case in cases],
    )
    rows, _ = read_rows()
    for name in dict.fromkeys(row.chip_name for row in rows):
        steps = [planned(row) for row in rows if row.chip_name == name]
        yield _program_fit("train steps", name, [step.row.seconds for step in steps], prices(steps))


def _program_fit(what: str, chip_name: str, measured: Sequence[float], price: Price) -> Found:
    start = chip(chip_name)
    names = tuple(name for name in fitted_names(start) if not name.startswith("dcn_"))
    return fit(Data(what, measured, price), start, names)


def table(found: Sequence[Found]) -> str:
    """One line per constant."""
    head = (
        *("chip", "fitted on", "rows", "constant", "in the table", "from", "found"),
        *("error before", "after"),
    )
    rows = [
        (
            *(each.before.name, each.data.name, str(len(each.data.measured)), name),
            *(_number(chip(each.before.name), name), chip(each.before.name).source(name).provenance),
            *(_number(each.after, name), f"{each.data.mean_error(each.before):.3f}"),
            f"{each.data.mean_error(each.after):.3f}",
        )
        for each in found
        for name in each.names
    ]
    return "\n".join(align([head, *rows], right=(2, 4, 6, 7, 8)))


def _number(chip: Chip, name: str) -> str:
    quantity = chip.source(name)
    return f"{quantity.value:.3g} {quantity.unit}"


def main() -> None:
    """Fit, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fit", description="refits of the chip table")
    parser.add_argument("--quick", action="store_true", help="micro-benchmarks only, no traced programs")
    quick = parser.parse_args().quick
    found = [*microbench_fits(), *(() if quick else program_fits())]
    print(table(found))
    better = np.mean([each.data.mean_error(each.before) - each.data.mean_error(each.after) for each in found])
    print(f"\nerror: mean |ln(predicted / measured)|; refits lower it by {better:.3f} on average of the fits")


if __name__ == "__main__":
    main()
