"""One order in memory for what phases share: that of the phase which runs most often."""

import functools
from typing import Any

import msgspec
import pytest

from autoshard.cost.slices import parse_slice
from autoshard.phases.joint_search import Links
from autoshard.phases.matching import Handed
from autoshard.phases.memory_order import reordered, with_one_order
from autoshard.phases.phase import Phase
from autoshard.plan import Plan
from autoshard.tune_result import TuneResult
from autoshard.tuning import run_session
from tests.autoshard.phases.test_held import session

CHIP = parse_slice("v5e:4x4").chip
LINKS = Links(("w",), (Handed(0, "result", 1, "x"),))


@functools.cache
def plan() -> Plan:
    return run_session(session(), 0.0).plan


def laid(w: str | None = None, x: str | None = None, result: str | None = None) -> TuneResult:
    """A plan whose arrays lie in some orders."""

    def ordered(records: Any, orders: dict[str, str | None]) -> Any:
        return {
            name: msgspec.structs.replace(record, order=orders.get(name)) for name, record in records.items()
        }

    made = msgspec.structs.replace(
        plan(),
        arguments=ordered(plan().arguments, {"w": w, "x": x}),
        results=ordered(plan().results, {"result": result}),
    )
    return TuneResult(made, 0.0, 0.0, ())


def settled(runs: tuple[float, float], *tuned: TuneResult) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """The orders of w, w, the result of the first and x of the second; and what each has in another order."""
    phases = [Phase(name, session(), count) for name, count in zip(("a", "b"), runs, strict=True)]
    first, second = (each.plan for each in with_one_order(phases, LINKS, tuned))
    orders = [first.arguments["w"].order, second.arguments["w"].order]
    changed = [
        reordered(own.plan, plan, CHIP).paths for own, plan in zip(tuned, (first, second), strict=True)
    ]
    return [*orders, first.results["result"].order, second.arguments["x"].order], changed


def test_orders_that_agree_stay() -> None:
    assert settled((1, 64), laid("1,0"), laid("1,0")) == (["1,0", "1,0", None, None], [(), ()])


@pytest.mark.parametrize(("runs", "order"), [((1.0, 64.0), "1,0"), ((3.0, 2.0), None)])
def test_the_phase_that_runs_most_often_decides(runs: tuple[float, float], order: str | None) -> None:
    orders, changed = settled(runs, laid(None), laid("1,0"))
    assert orders == [order, order, None, None]
    assert changed == ([("w",), ()] if order else [(), ("w",)])


@pytest.mark.parametrize(("runs", "order"), [((1.0, 64.0), "1,0"), ((3.0, 2.0), None)])
def test_what_is_handed_over_is_taken_as_it_is_left(runs: tuple[float, float], order: str | None) -> None:
    orders, changed = settled(runs, laid(), laid(x="1,0"))
    assert orders == [None, None, order, order]
    assert changed == ([("result",), ()] if order else [(), ("x",)])


def test_other_arrays_keep_their_orders() -> None:
    tuned = [laid(x="1,0"), laid("1,0", result="1,0")]
    phases = [Phase("a", session(), 1.0), Phase("b", session(), 64.0)]
    first, second = (each.plan for each in with_one_order(phases, Links(("w",), ()), tuned))
    assert first.arguments["x"].order == "1,0"
    assert second.results["result"].order == "1,0"


def test_a_copy_reads_and_writes_a_chips_part_of_the_array() -> None:
    """float32 [16384, 65536] over 16 chips: 256 MiB each, read and written at the rate of v5e's HBM."""
    records = laid().plan.arguments
    large = msgspec.structs.replace(records["w"], type="float32[16384,65536]", spec=";x,y")
    wanted = msgspec.structs.replace(plan(), arguments={**records, "w": large})
    turned = msgspec.structs.replace(large, order="1,0")
    other = msgspec.structs.replace(plan(), arguments={**records, "w": turned})
    found = reordered(wanted, other, CHIP)
    assert found.paths == ("w",)
    assert found.seconds == pytest.approx(
        2 * 2**28 / (CHIP.hbm_bytes_per_second * CHIP.hbm_streaming_fraction)
    )
