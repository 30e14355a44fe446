"""Is a committed plan still that of its function?"""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from autoshard.checking import check_plan
from autoshard.errors import PlanError, TargetError, TraceError
from autoshard.plan import Plan
from autoshard.tuning import tune_target

MODEL = """
import jax
import jax.numpy as jnp
import autoshard

def inputs():
    w = jax.ShapeDtypeStruct((64, 64), "float32")
    return {"w": w}, jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((BATCH, 64), "float32")

@autoshard.jit(inputs=inputs, donate_argnames=("cache",))
def step(params, cache, x):
    y = jnp.einsum("be,ef->bf", jnp.tanh(x), params["w"])
    return y @ cache, cache * 2
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write the model with a text replaced, as if it were edited."""
    monkeypatch.chdir(tmp_path)
    paths = list(sys.path)

    def write(old: str = "", new: str = "") -> str:
        assert old in MODEL
        sys.modules.pop("checked_model", None)
        importlib.invalidate_caches()
        Path("checked_model.py").write_text(MODEL.replace(old, new).replace("BATCH", "16"))
        return "checked_model.py"

    yield write
    sys.modules.pop("checked_model", None)
    sys.path[:] = paths


@pytest.fixture
def fresh(write: Callable[..., str]) -> Plan:
    return tune_target(f"{write()}:step", slice="cpu:8", refine="none").plan


def test_a_fresh_plan_has_no_differences(fresh: Plan) -> None:
    assert check_plan(fresh) == []


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("BATCH", "32", "argument `x` is float32[32,64], the plan has float32[16,64]"),
        ('{"w": w}', '{"w": w, "b": w}', "argument `params/b` is not in the plan"),
        ("return y @ cache, cache * 2", "return y @ cache", "result `result/0` of the plan is missing"),
        ("cache, x):\n", "cache, y):\n    x = y\n", "argument `x` of the plan is missing"),
        ("y @ cache,", "y @ cache @ cache,", "the function has changed since it was planned"),
        ('("cache",)', "()", "donated arguments were ['cache'], are []"),
    ],
)
def test_what_was_edited_is_named(
    old: str, new: str, difference: str, fresh: Plan, write: Callable[..., str]
) -> None:
    write(old, new)
    assert difference in check_plan(fresh)[0]


def test_edits_that_do_not_matter(fresh: Plan, write: Callable[..., str]) -> None:
    write("    y = jnp.einsum", "    # the same, further down\n    y = jnp.einsum")
    assert check_plan(fresh) == []


KEPT = """
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec as P

MESH = AbstractMesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

def inputs():
    return jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((64, 128), "float32")

def step(x, w):
    y = jnp.tanh(x @ w)
    y = jax.lax.with_sharding_constraint(y, NamedSharding(MESH, P("data", None)))
    return y @ w.T
"""


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("", "", None),
        ('P("data", None)', 'P("model", None)', "=data;` of the plan is not in the model"),
        ('P("data", None)', 'P("data", "model")', "=data;model` of the model is not in the plan"),
        ("(2, 4)", "(4, 2)", "the mesh of the model is data=4 model=2, the plan has data=2 model=4"),
        ("(2, 4)", "(2, 2)", "the shardings of the model can no longer be kept: "),
    ],
)
def test_kept_shardings_that_change_make_a_plan_stale(
    old: str, new: str, difference: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "kept_model.py"
    path.write_text(KEPT)
    plan = tune_target(
        "kept_model.py:step", inputs="kept_model.py:inputs", slice="cpu:8", refine="none", shardings="keep"
    ).plan
    assert plan.kept
    sys.modules.pop("kept_model", None)
    importlib.invalidate_caches()
    path.write_text(KEPT.replace(old, new))
    found = check_plan(plan)
    sys.modules.pop("kept_model", None)
    if difference is None:
        assert found == []
    else:
        assert any(difference in each for each in found), found


def test_a_freed_constraint_that_changes_leaves_a_plan_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "kept_model.py"
    path.write_text(KEPT)
    plan = tune_target("kept_model.py:step", inputs="kept_model.py:inputs", slice="cpu:8", refine="none").plan
    sys.modules.pop("kept_model", None)
    importlib.invalidate_caches()
    path.write_text(KEPT.replace('P("data", None)', 'P("model", None)'))
    assert check_plan(plan) == []
    sys.modules.pop("kept_model", None)


def test_a_plan_of_the_python_function_does_not_say_where_it_is(fresh: Plan) -> None:
    homeless = msgspec.structs.replace(fresh, function=msgspec.structs.replace(fresh.function, target=None))
    with pytest.raises(PlanError, match=r"does not say where its function is.*autoshard tune"):
        check_plan(homeless)


def test_a_function_that_is_gone(fresh: Plan, write: Callable[..., str]) -> None:
    write("def step", "def stride")
    with pytest.raises(TargetError, match="has no `step`"):
        check_plan(fresh)


def test_a_function_that_does_not_trace_any_more(fresh: Plan, write: Callable[..., str]) -> None:
    write("    y = jnp", "    if x.sum() > 0:\n        x = -x\n    y = jnp")
    with pytest.raises(TraceError, match=r"checked_model.py:12"):
        check_plan(fresh)
