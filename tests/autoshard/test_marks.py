import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from autoshard.constraining import Constraints, run_constrained
from autoshard.marks import mark_in, mark_of, marked_key, without_marks
from autoshard.naming import source_of
from autoshard.trace import Traced, trace


@pytest.mark.parametrize("path", ["3", "27/14", "27:carry0", "4/branch1/2", "4/cond/0", "4:out1", "9:y2"])
def test_a_mark_is_read_back_from_an_op_name(path: str) -> None:
    assert mark_in(f"jit(f)/while/body/ffn/{mark_of(path)}/dot_general") == marked_key(path)
    assert mark_in(f"jit(f)/transpose(jvp({mark_of(path)}))/mul") == marked_key(path)


def test_the_innermost_mark_counts_and_none_is_no_mark() -> None:
    assert mark_in("jit(f)/plan.3/body/plan.3.7/mul") == "3.7"
    assert mark_in("jit(f)/plan.best/mul") is None
    assert mark_in("jit(f)/my_plan.3/mul") is None


def test_without_marks_an_op_name_is_the_users() -> None:
    assert without_marks("jit(f)/ffn/plan.3.7/dot_general") == "jit(f)/ffn/dot_general"


def scanned() -> Traced:
    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        return jnp.where(x > 0, x @ w, 0.0), None

    x, weights = jax.ShapeDtypeStruct((8, 16), "float32"), jax.ShapeDtypeStruct((3, 16, 16), "float32")
    return trace(lambda x, w: jax.lax.scan(layer, x, w)[0], (x, weights))


def marked_lowering(traced: Traced, constraints: Constraints) -> str:
    def run(*leaves: jax.Array) -> list[jax.Array]:
        return run_constrained(traced.closed, leaves, constraints, lambda array, _: array * 1)

    return jax.jit(run).lower(*traced.in_avals).as_text(debug_info=True)


def test_each_equation_under_a_plan_carries_its_own_path() -> None:
    traced = scanned()
    (einsum,) = (e for e in traced.equations.equations if e.primitive == "dot_general")
    text = marked_lowering(traced, Constraints(results={einsum.path: ((P(),),)}))
    assert f"plan.{marked_key(einsum.path)}/dot_general" in text
    assert f"plan.{marked_key(einsum.path)}/mul" in text  # the constraint, here a product by 1


def test_a_slot_carries_its_name() -> None:
    traced = scanned()
    (slot,) = (e for e in traced.equations.equations if e.path.endswith(":carry0"))
    assert f"{mark_of(slot.path)}/mul" in marked_lowering(traced, Constraints(slots={slot.path: P()}))


def test_marks_change_no_program() -> None:
    traced = scanned()
    (slot,) = (e for e in traced.equations.equations if e.path.endswith(":carry0"))

    def run(*leaves: jax.Array) -> list[jax.Array]:
        return run_constrained(traced.closed, leaves, Constraints(slots={slot.path: P()}), lambda a, _: a)

    plain = jax.make_jaxpr(jax.extend.core.jaxpr_as_fun(traced.closed))(*traced.in_avals)
    assert str(jax.make_jaxpr(run)(*traced.in_avals)) == str(plain)


def test_what_a_cached_function_computes_has_the_line_that_calls_it() -> None:
    """`jnp.where` is traced once for the process: inside, JAX knows no caller."""
    traced = scanned()
    (select,) = (e for e in traced.equations.equations if e.primitive == "select_n")
    constraints = Constraints(results={select.path: ((P(),),)})

    def run(*leaves: jax.Array) -> list[jax.Array]:
        return run_constrained(traced.closed, leaves, constraints, lambda array, _: array)

    (scan,) = (e for e in jax.make_jaxpr(run)(*traced.in_avals).eqns if e.primitive.name == "scan")
    (found,) = (e for e in scan.params["jaxpr"].jaxpr.eqns if e.primitive.name == "select_n")
    assert source_of(found).startswith("test_marks.py:")
