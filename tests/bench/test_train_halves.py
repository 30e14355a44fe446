"""Halves of the families, and constants found on one that help the other."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from autoshard.cost.chips import Chip
from bench import train_halves
from bench.train_rows import Planned


def test_halves_are_every_other_family_by_name() -> None:
    assert train_halves.halves_of(["c", "a", "b", "a"]) == (("a", "c"), ("b",))
    assert train_halves.halves_of(["a"]) == (("a",), ())


def test_what_is_fitted_on_one_half_is_tried_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(family: str, chip_name: str = "v4") -> Planned:
        row = SimpleNamespace(family=family, chip_name=chip_name, seconds=3e-6)
        return cast(Planned, SimpleNamespace(row=row))

    def prices(steps: Any) -> Any:
        return lambda chip: [cast(Chip, chip).hop_seconds for _ in steps]

    monkeypatch.setattr(train_halves, "prices", prices)
    monkeypatch.setattr(train_halves, "fitted_names", lambda chip: ("hop_seconds", "dcn_base_seconds"))
    lines = train_halves.halves_table([step("a"), step("b"), step("only", "v6e")]).splitlines()
    assert len(lines) == 3  # a heading, both ways on v4; v6e has one family
    assert all(line.count("0.000") == 2 and "hop_seconds 3e-06" in line for line in lines[1:])
    assert "dcn_" not in lines[1]
