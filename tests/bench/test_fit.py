"""Fits find constants that made the data, and never make the error larger."""

import numpy as np
import pytest

from autoshard.cost.chips import Chip, chip
from bench.fit import Data, fit, fitted_names, microbench_fits, table

V6E = chip("v6e")


def _line(chip: Chip) -> list[float]:
    return [chip.collective_base_seconds + size / chip.link_bytes_per_second for size in (1e4, 1e6, 1e8)]


def test_a_fit_finds_the_constants_that_made_the_data() -> None:
    names = ("collective_base_seconds", "link_bytes_per_second")
    true = V6E.with_values("assumed", "test", collective_base_seconds=2e-5, link_bytes_per_second=3e10)
    found = fit(Data("a line", _line(true), _line), V6E, names)
    assert found.values() == pytest.approx(
        {"collective_base_seconds": 2e-5, "link_bytes_per_second": 3e10}, rel=1e-3
    )
    assert found.after.source("link_bytes_per_second").provenance == "fitted"
    assert found.data.mean_error(found.after) < 1e-4 < found.data.mean_error(V6E)


def test_fractions_stay_below_one() -> None:
    data = Data("too fast", [1e-9], lambda chip: [1.0 / (chip.mxu_fraction * 1e6)])
    found = fit(data, V6E, ("mxu_fraction",))
    assert 0.99 < found.values()["mxu_fraction"] <= 1.0


def test_a_constant_of_zero_can_be_fitted() -> None:
    start = V6E.with_values("assumed", "test", kernel_seconds=0.0)
    data = Data("kernels", [5e-8], lambda chip: [chip.kernel_seconds + 1e-9])
    assert fit(data, start, ("kernel_seconds",)).values()["kernel_seconds"] == pytest.approx(4.9e-8, rel=1e-2)


def test_fits_on_microbenchmarks_lower_the_error_and_say_what_they_change() -> None:
    found = list(microbench_fits())
    assert {each.before.name for each in found} >= {"v5e", "v5p", "v6e", "tpu7x"}
    for each in found:
        assert each.data.mean_error(each.after) <= each.data.mean_error(each.before)
    lines = table(found).splitlines()
    assert len(lines) == 1 + sum(len(each.names) for each in found)


def test_fitted_names_are_those_of_the_table() -> None:
    own = V6E.with_values("fitted", "test", clock_hz=1e9)
    assert "clock_hz" in fitted_names(own)
    assert "clock_hz" not in fitted_names(V6E)


def test_errors_are_logarithms() -> None:
    data = Data("two", [1.0, 2.0], lambda chip: [2.0, 1.0])
    assert data.errors(V6E) == pytest.approx(np.log([2.0, 0.5]))
    assert data.mean_error(V6E) == pytest.approx(np.log(2.0))
