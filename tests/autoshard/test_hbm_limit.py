"""A limit of memory that the user sets: in the search, in the plan, and before the compiler's answer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import pytest

import autoshard
from autoshard.compiled.worker import CompileResult
from autoshard.errors import InfeasibleError, OptionError
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.judged import OK, Judged, with_estimate
from autoshard.plan import Plan
from autoshard.refinement import shortfall_bytes

GIB = 2**30


def model(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("be,ef->bf", x, w)


def tuned(limit_bytes: float | None = None, mesh: str = "native", storage: str | None = None) -> Plan:
    """8 MiB of weight and 32 MiB each of input and output, on two chips."""
    weight, x = (jax.ShapeDtypeStruct(shape, "bfloat16") for shape in ((2048, 2048), (8192, 2048)))
    return autoshard.tune(
        model,
        weight,
        x,
        slice="v5e:1x2",
        mesh=mesh,
        refine="none",
        top_k=4,
        hbm_limit_bytes=limit_bytes,
        storage=storage,
    )


def test_all_candidates_stay_under_the_limit_and_the_plan_says_which() -> None:
    free = tuned()
    assert free.hbm_limit_bytes is None
    limit = free.hbm_bytes_per_chip - 1
    plan = tuned(limit)
    assert plan.hbm_bytes_per_chip <= limit
    assert all((each.hbm_bytes_per_chip or 0) <= limit for each in plan.runners_up)
    assert (plan.hbm_limit_bytes, plan.predicted.hbm_limit_bytes) == (limit, limit)
    assert plan.predicted_seconds >= free.predicted_seconds


def test_a_limit_above_what_the_chip_has_is_the_chips() -> None:
    plan, free = tuned(1e15), tuned()
    assert plan.predicted.hbm_limit_bytes == free.predicted.hbm_limit_bytes
    assert plan.predicted_seconds == free.predicted_seconds


def test_the_least_possible_memory_is_named_and_is_enough() -> None:
    with pytest.raises(
        InfeasibleError, match=r"stays under the memory limit of 0\.01 GiB per chip"
    ) as caught:
        tuned(0.01 * GIB)
    least = float(str(caught.value).partition("the least possible is ")[2].partition(" ")[0])
    # Halves of input and output and the whole weight, 16 + 16 + 8 MiB: half a weight would be gathered into
    # a copy, and half of the sum over e is an open sum of the whole output. 40 MiB = 0.03906 GiB.
    assert least == 0.04
    assert tuned(least * GIB).hbm_bytes_per_chip == 40 * 2**20


def test_the_limit_is_kept_in_the_file_and_explained(tmp_path: Path) -> None:
    plan = tuned(0.5 * GIB)
    plan.save(tmp_path / "plan.json")
    assert autoshard.load_plan(tmp_path / "plan.json") == plan
    assert "memory limit: 0.5 GiB per chip" in to_text(explain(plan))
    tuned().save(tmp_path / "free.json")
    assert '"hbm_limit_bytes": null' not in (tmp_path / "free.json").read_text()
    assert "memory limit" not in to_text(explain(tuned()))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none(limit: float) -> None:
    with pytest.raises(OptionError, match="`hbm_limit_bytes` is"):
        tuned(limit)


def test_a_study_under_a_limit_is_another_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    free = tuned(mesh="search", storage=storage)
    assert free.hbm_bytes_per_chip > 40 * 2**20
    assert tuned(40 * 2**20, mesh="search", storage=storage).hbm_bytes_per_chip == 40 * 2**20
    assert tuned(mesh="search", storage=storage).predicted_seconds == free.predicted_seconds


def test_what_the_compiler_finds_over_the_limit_cannot_win_and_is_searched_again(plan: Plan) -> None:
    limited = msgspec.structs.replace(
        plan,
        hbm_limit_bytes=plan.predicted.hbm_bytes_per_chip,
        predicted=msgspec.structs.replace(plan.predicted, hbm_limit_bytes=plan.predicted.hbm_bytes_per_chip),
    )
    needed = plan.predicted.hbm_bytes_per_chip + GIB
    result = CompileResult(status="ok", seconds_estimated=1e-3, hbm_bytes_per_chip=needed)
    judged = with_estimate(Judged(limited), result)
    assert judged.status.startswith("out of memory: needs ")
    assert judged.status.endswith(f"{GIB} bytes over")
    assert shortfall_bytes([judged]) == GIB + 2**26
    assert with_estimate(Judged(plan), result).status == OK
