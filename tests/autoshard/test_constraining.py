"""Constraints put by path, everywhere that a jaxpr has equations; numerics and derivative rules stay."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Jaxpr, Literal
from jax.ref import AbstractRef
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.constraining import Constraints, run_constrained
from autoshard.equations import Equations
from autoshard.primitives import called_jaxpr
from autoshard.trace import Traced, trace

X = jax.ShapeDtypeStruct((8, 16), "float32")
W = jax.ShapeDtypeStruct((16, 16), "float32")
LAYERS = jax.ShapeDtypeStruct((3, 16, 16), "float32")


def mesh() -> Mesh:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto, AxisType.Auto))


def constrain(array: Any, spec: P) -> Any:
    return lax.with_sharding_constraint(array, NamedSharding(mesh(), spec))


def spec_of(shape: tuple[int, ...]) -> P:
    """Both mesh axes on the last two dims they divide."""
    entries: list[str | None] = [None] * len(shape)
    axes = {"y": 2, "x": 4}
    for dim in reversed(range(len(shape))):
        axis = next((a for a, size in axes.items() if shape[dim] % size == 0), None)
        if axis is not None:
            entries[dim] = axis
            del axes[axis]
    return P(*entries)


def everywhere(found: Equations) -> Constraints:
    """A constraint on every operand, every result and every slot."""
    shapes = [value.shape for value in found.values]
    leaves = [e for e in found.equations if e.eqn is not None]
    return Constraints(
        operands={e.path: tuple((spec_of(shapes[v]),) for v in e.operands) for e in leaves},
        results={e.path: tuple((spec_of(shapes[v]),) for v in e.results) for e in leaves},
        slots={e.path: spec_of(shapes[e.results[0]]) for e in found.equations if e.eqn is None},
    )


def constrained(fn: Callable[..., Any], traced: Traced, constraints: Constraints) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        return jax.tree.unflatten(
            traced.out_tree, run_constrained(traced.closed, leaves, constraints, constrain)
        )

    return run


def arrays(*types: Any) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def one(t: Any) -> Any:
        if jnp.issubdtype(t.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return (
            jnp.asarray(rng.normal(size=t.shape) / 4, t.dtype)
            if t.dtype.kind == "f"
            else jnp.asarray(rng.integers(0, 2, t.shape), t.dtype)
        )

    return tuple(jax.tree.map(one, t) for t in types)


def jaxprs(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """A jaxpr and all those inside it."""
    yield jaxpr
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if isinstance(inner, Jaxpr):
                    yield from jaxprs(inner)


def primitives(fn: Callable[..., Any], *args: Any) -> list[str]:
    return [eqn.primitive.name for j in jaxprs(jax.make_jaxpr(fn)(*args).jaxpr) for eqn in j.eqns]


# ---- programs with everything that a jaxpr can nest


@jax.custom_jvp
def half_grad(x: Any) -> Any:
    return jnp.sin(x) * 1.0


half_grad.defjvp(lambda p, t: (half_grad(*p), t[0] * 0.5))  # not the derivative: it shows whose rule ran


@jax.custom_vjp
def sevenfold_grad(x: Any, w: Any) -> Any:
    return jnp.tanh(x @ w)


sevenfold_grad.defvjp(lambda x, w: (sevenfold_grad(x, w), w), lambda w, g: (7.0 * g @ w.T, jnp.zeros_like(w)))


def scanned(x: Any, layers: Any) -> Any:
    def layer(x: Any, w: Any) -> Any:
        h = jnp.tanh(x @ w)
        return h, h.sum(0)

    return lax.scan(layer, x, layers)


def scan_with_constants(x: Any, layers: Any, w: Any) -> Any:
    def layer(carry: Any, inputs: Any) -> Any:
        x, total = carry
        h = x @ inputs @ w
        return (jnp.tanh(h), total + h), None

    return lax.scan(layer, (x, jnp.zeros_like(x)), layers, reverse=True)[0]


def nested_scans(x: Any, layers: Any) -> Any:
    def inner(x: Any, w: Any) -> Any:
        return x @ w, x

    def outer(x: Any, _: Any) -> Any:
        return lax.scan(inner, x, layers)

    return lax.scan(outer, x, None, length=2)


def while_loop(x: Any, w: Any) -> Any:
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x))


def branches(flag: Any, x: Any, w: Any) -> Any:
    return lax.cond(flag, lambda: jnp.sin(x @ w), lambda: (x * 2) @ w) + 1.0


def calls(x: Any, w: Any) -> Any:
    h = jax.jit(lambda x: jnp.sin(x @ w))(x)
    return sevenfold_grad(half_grad(h), w) + jax.checkpoint(lambda h: jnp.cos(h @ w))(h)


def closed_over(x: Any) -> Any:
    table = jnp.asarray(np.arange(256, dtype=np.float32).reshape(16, 16) / 256)
    return jax.checkpoint(lambda x: jnp.sin(x @ table))(x)


def mutable(x: Any, w: Any) -> Any:
    """A mutable array of its own, written in the loop, in a call and outside."""
    held = jax.new_ref(jnp.sin(x))

    def layer(x: Any, i: Any) -> Any:
        held[i] = x[0]
        h = jnp.tanh(x @ w)
        held[...] += h
        return h, held[0].sum()

    x, sums = lax.scan(layer, x, jnp.arange(3))
    jax.jit(lambda x: jax.ref.addupdate(held, ..., x))(x)
    return jax.freeze(held), sums


def counted_down(x: Any, w: Any) -> Any:
    return lax.while_loop(lambda c: c[0].sum() > c[1], lambda c: (c[0] @ w, c[1] + 1), (x, 0.0))


def random_numbers(key: Any, x: Any) -> Any:
    keys = jax.random.split(key, 8)
    noise = jax.vmap(lambda key: jax.random.normal(key, (16,)))(keys)
    return lax.scan(lambda x, key: (x + jax.random.uniform(key, x.shape), None), x * noise, keys)[0]


PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "scan": (scanned, (X, LAYERS)),
    "reverse scan with constants": (scan_with_constants, (X, LAYERS, W)),
    "nested scans": (nested_scans, (X, LAYERS)),
    "while": (while_loop, (X, W)),
    "cond": (branches, (jax.ShapeDtypeStruct((), "bool"), X, W)),
    "calls": (calls, (X, W)),
    "closed-over array": (closed_over, (X,)),
    "train step": (jax.grad(lambda w, x: scanned(x, w)[0].sum() + calls(x, w[0]).sum()), (LAYERS, X)),
    "unrolled scan": (lambda x, w: lax.scan(lambda x, w: (x @ w, None), x, w, unroll=2)[0], (X, LAYERS)),
    "mutable array": (mutable, (X, W)),
    "while on what it computes": (counted_down, (X, W)),
    "keys": (random_numbers, (jax.eval_shape(lambda: jax.random.key(0)), X)),
    "vmap": (jax.vmap(lambda x, w: jnp.tanh(x @ w)), (X, jax.ShapeDtypeStruct((8, 16, 4), "float32"))),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_constraints_everywhere_change_nothing(program: str) -> None:
    fn, types = PROGRAMS[program]
    traced = trace(fn, types)
    args = arrays(*types)
    planned = constrained(fn, traced, replace(everywhere(traced.equations), held_at_start=True))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6),
        jax.jit(planned)(*args),
        jax.jit(fn)(*args),
    )


def pairs(values: Sequence[int], atoms: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Operands with their variables, literals left out."""
    return zip(values, (atom for atom in atoms if not isinstance(atom, Literal)), strict=True)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_constraint_is_put(program: str) -> None:
    """As many as were asked for: each leaf's results, and its operands less those that share a copy."""
    fn, types = PROGRAMS[program]
    traced = trace(fn, types)
    found = traced.equations
    slots = [e for e in found.equations if e.eqn is None]
    leaves = [(e, e.eqn) for e in found.equations if e.eqn is not None]
    read = {
        (e.path.rpartition("/")[0], v, var) for e, eqn in leaves for v, var in pairs(e.operands, eqn.invars)
    }
    copies = {(path, v) for path, v, var in read if not isinstance(var.aval, AbstractRef)}
    results = sum(not isinstance(var.aval, AbstractRef) for _, eqn in leaves for var in eqn.outvars)
    carried = {e.path for e in slots if ":carry" in e.path}
    ends = {e.path for e in slots if ":y" in e.path or ":out" in e.path}
    # a carried value is constrained before the loop, after every iteration and behind the loop
    expected = len(copies) + results + 3 * len(carried) + len(ends)
    put = primitives(constrained(fn, traced, everywhere(found)), *types).count("sharding_constraint")
    assert put == expected
    held = replace(everywhere(found), held_at_start=True)
    more = primitives(constrained(fn, traced, held), *types).count("sharding_constraint") - put
    assert more == len(carried)


@pytest.mark.parametrize("program", ["scan", "reverse scan with constants", "calls", "nested scans"])
def test_gradients_are_those_of_the_function(program: str) -> None:
    fn, types = PROGRAMS[program]
    traced = trace(fn, types)
    planned = constrained(fn, traced, everywhere(traced.equations))

    def loss(f: Callable[..., Any], *args: Any) -> Any:
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(f(*args)))

    args = arrays(*types)
    found, expected = (jax.jit(jax.grad(functools.partial(loss, f)))(*args) for f in (planned, fn))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def test_derivative_rules_are_kept() -> None:
    def fn(x: Any, w: Any) -> Any:
        return sevenfold_grad(half_grad(x), w)

    traced = trace(fn, (X, W))
    planned = constrained(fn, traced, everywhere(traced.equations))
    x, w = arrays(X, W)
    gradient = jax.grad(lambda x: planned(x, w).sum())(x)
    np.testing.assert_allclose(gradient, 0.5 * 7.0 * jnp.ones((8, 16)) @ w.T, rtol=1e-5)
    assert {"custom_jvp_call", "custom_vjp_call"} <= set(primitives(planned, X, W))


def test_remat_keeps_its_policy() -> None:
    """A policy that saves nothing multiplies again in the backward pass, one that saves all does not."""
    for policy, dots in ((None, 3), (jax.checkpoint_policies.everything_saveable, 2)):

        def fn(x: Any, w: Any, policy: Any = policy) -> Any:
            return jax.checkpoint(lambda x: jnp.exp(jnp.exp(x @ w)), policy=policy)(x)

        traced = trace(fn, (X, W))
        planned = constrained(fn, traced, everywhere(traced.equations))
        found = primitives(jax.grad(lambda x, w, f=planned: f(x, w).sum()), X, W)
        assert found.count("dot_general") == primitives(jax.grad(lambda x, w: fn(x, w).sum()), X, W).count(
            "dot_general"
        )
        assert found.count("dot_general") == dots


def test_loops_stay_loops() -> None:
    traced = trace(nested_scans, (X, LAYERS))
    planned = constrained(nested_scans, traced, everywhere(traced.equations))
    outer, inner = (
        e
        for j in jaxprs(jax.make_jaxpr(planned)(X, LAYERS).jaxpr)
        for e in j.eqns
        if e.primitive.name == "scan"
    )
    assert (outer.params["length"], inner.params["length"]) == (2, 3)


def test_what_is_not_touched_is_bound_as_it_was() -> None:
    fn, types = PROGRAMS["scan"]
    traced = trace(lambda x, layers: jnp.sin(fn(x, layers)[0]), types)
    constraints = Constraints(results={"1": ((P("x"),),)})
    planned = jax.make_jaxpr(constrained(fn, traced, constraints))(*types)
    (before,) = [e for e in traced.closed.jaxpr.eqns if e.primitive.name == "scan"]
    (after,) = [e for e in planned.jaxpr.eqns if e.primitive.name == "scan"]
    assert after.params["jaxpr"] is before.params["jaxpr"]
    assert [e.primitive.name for e in planned.jaxpr.eqns] == ["scan", "sin", "sharding_constraint"]


def test_touched_paths_are_the_constrained_ones_and_those_around_them() -> None:
    constraints = Constraints(
        operands={"3/1/0": ()}, results={"12": ()}, slots={"4/2:carry0": P(), "5/branch1/0:y1": P()}
    )
    assert constraints.touched() == {
        *("3", "3/1", "3/1/0"),
        "12",
        *("4", "4/2"),
        *("5", "5/branch1", "5/branch1/0"),
    }


def test_a_chain_is_put_one_spec_after_the_other_and_copies_are_shared() -> None:
    """Both einsums read the same gathered copy of x; the second one reads it through one more spec."""

    def fn(x: Any, w: Any) -> Any:
        return x @ w, x @ w

    traced = trace(fn, (X, W))
    a, b = P("x", None), P(None, None)
    constraints = Constraints(operands={"0": ((a, b), ()), "1": ((a, b), (P("x", "y"),))})
    jaxpr = jax.make_jaxpr(constrained(fn, traced, constraints))(X, W).jaxpr
    names = [e.primitive.name for e in jaxpr.eqns]
    assert names == [
        "sharding_constraint",
        "sharding_constraint",
        "dot_general",
        "sharding_constraint",
        "dot_general",
    ]
    first, second, one, weight, other = jaxpr.eqns
    x, w = jaxpr.invars
    assert first.invars == [x]
    assert second.invars == first.outvars
    assert [e.params["sharding"].spec for e in (first, second, weight)] == [a, b, P("x", "y")]
    assert one.invars == [second.outvars[0], w]
    assert other.invars == [second.outvars[0], weight.outvars[0]]


def test_constraints_are_in_the_lowered_loop_body() -> None:
    fn, types = PROGRAMS["scan"]
    traced = trace(fn, types)
    (dot,) = [e for e in traced.equations.equations if e.primitive == "dot_general"]
    constraints = Constraints(results={dot.path: ((P("x", "y"),),)})
    text = jax.jit(constrained(fn, traced, constraints)).lower(*types).as_text()
    before, _, body = text.partition("stablehlo.while")
    marks = ("sdy.sharding_constraint", "@Sharding")
    assert any(mark in body for mark in marks)
    assert not any(mark in before.partition("func.func")[2] for mark in marks)
    assert '[{"x"}, {"y"}]' in body or "devices=[4,2]" in body


def test_names_and_lines_of_the_user_stay() -> None:
    def fn(x: Any, w: Any) -> Any:
        with jax.named_scope("ffn"):
            return jax.jit(lambda x: jnp.sin(x @ w))(x)

    traced = trace(fn, (X, W))
    jaxpr = jax.make_jaxpr(constrained(fn, traced, everywhere(traced.equations)))(X, W).jaxpr
    sine = next(e for e in jaxpr.eqns if e.primitive.name == "sin")
    assert "ffn" in str(sine.source_info.name_stack)
    inner = next(j for e in traced.closed.jaxpr.eqns if (j := called_jaxpr(e)) is not None)[0]
    original = next(e for e in inner.eqns if e.primitive.name == "sin")
    assert sine.source_info.traceback is original.source_info.traceback


@pytest.mark.smoke
def test_constraints_work_with_the_internals_of_this_jax() -> None:
    for program in ("nested scans", "while", "cond", "calls"):
        test_constraints_everywhere_change_nothing(program)
        test_every_constraint_is_put(program)


@pytest.mark.parametrize("wrap", [lambda cut: cut, jax.checkpoint], ids=["slice", "slice in a call"])
def test_a_slice_reads_a_copy_where_the_partitioner_would_take_its_operand_for_it(
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Without the copy XLA stops at the slice: it takes the gathered operand for the gathered slice."""

    def fn(x: Any) -> Any:
        x = jnp.sin(x)
        return x * 2, wrap(lambda x: x[:, :-1])(x)

    traced = trace(fn, (X,))
    constraints = Constraints(results={"0": ((P(None, "y"),),), "1": ((P(),),), "2": ((P(),),)})

    def run(x: Any) -> Any:
        return run_constrained(traced.closed, [x], constraints, constrain, mesh())

    (x,) = arrays(X)
    for result, wanted in zip(jax.jit(run)(x), fn(x), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-6)
