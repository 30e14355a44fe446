"""Plans applied: outputs, gradients and shardings against the function without a plan."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.application import Application
from autoshard.applying import argument_specs, constraints_of
from autoshard.errors import PlanMismatchError
from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.specs import parse_spec, rank_of, to_partition_spec
from autoshard.trace import trace

QUICK: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": "0"}}
"""These programs run once: compile time is all."""


def same(left: Any, right: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    left_tree: Any = jax.tree.structure(left)
    assert left_tree == jax.tree.structure(right)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), left, right)


def three(plans: tuple[Plan, ...]) -> list[Plan]:
    """The best, the last and one between: plans of different layouts."""
    assert len(plans) >= 3
    chosen = [plans[0], plans[len(plans) // 2], plans[-1]]
    layouts = [tuple(e.layout for e in plan.einsums) + tuple(map(str, plan.tensors)) for plan in chosen]
    assert len(set(layouts)) == 3
    return chosen


def equivalent(found: Any, expected: Any, values: Any) -> None:
    """Shardings that place every shard alike."""
    for have, want, value in zip(*map(jax.tree.leaves, (found, expected, values)), strict=True):
        assert have.is_equivalent_to(want, value.ndim), f"{have} is not {want}"


# ---- the examples under several plans


def test_example_under_plans_equals_the_example(example: Any) -> None:
    expected = jax.jit(example.function, **QUICK)(*example.arrays())
    for plan in three(example.plans):
        planned = autoshard.jit(example.function, plan=plan, **QUICK)
        compiled = planned.lower(*example.arguments).compile()
        result = compiled(*jax.device_put(example.arrays(), plan.in_shardings(plan.mesh())))
        same(result, expected)
        (inputs, _) = compiled.input_shardings
        equivalent(inputs, plan.in_shardings(plan.mesh()), example.arguments)
        equivalent(compiled.output_shardings, plan.out_shardings(plan.mesh()), result)


@pytest.mark.smoke
def test_calling_places_the_arguments_itself(small: Any) -> None:
    for plan in small.plans:
        result = autoshard.jit(small.function, plan=plan)(*small.arrays())
        same(result, small.function(*small.arrays()))
        assert result.sharding.is_equivalent_to(plan.out_shardings(plan.mesh()), result.ndim)


def test_a_donated_cache_is_donated(decode: Any) -> None:
    plan = decode.plans[0]
    assert {n for n, a in plan.arguments.items() if a.donated} == {"cache/keys", "cache/values"}
    for name in ("keys", "values"):  # one buffer is one layout
        assert plan.arguments[f"cache/{name}"].spec == plan.results[f"result/1/{name}"].spec
    planned = autoshard.jit(decode.function, plan=plan, donate_argnames=("cache",), **QUICK)
    params, cache, tokens, position = jax.device_put(decode.arrays(), plan.in_shardings(plan.mesh()))
    places = {leaf.unsafe_buffer_pointer() for leaf in shards(cache)}
    expected = jax.jit(decode.function, **QUICK)(*decode.arrays())
    logits, new_cache = planned(params, cache, tokens, position)
    same((logits, new_cache), expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(cache))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, tokens, position)))
    assert {leaf.unsafe_buffer_pointer() for leaf in shards(new_cache)} == places


def shards(tree: Any) -> list[Any]:
    return [shard.data for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]


# ---- apply, inside other transformations


def test_apply_under_jit_puts_arguments_and_results_where_the_plan_says(small: Any) -> None:
    plan = small.plans[2]
    applied = autoshard.apply(small.function, plan)
    assert applied.__name__ == "mlp"
    result = jax.jit(applied)(*small.arrays())
    same(result, small.function(*small.arrays()))
    assert result.sharding.is_equivalent_to(plan.out_shardings(plan.mesh()), 2)


def test_gradients_through_apply_are_those_of_the_function(small: Any) -> None:
    def loss(fn: Callable[..., Any], params: Any, x: Any) -> Any:
        return jnp.sum(jnp.square(fn(params, x)))

    expected = jax.jit(jax.grad(functools.partial(loss, small.function), argnums=(0, 1)))(*small.arrays())
    for plan in small.plans[2:]:
        applied = autoshard.apply(small.function, plan)
        same(jax.jit(jax.grad(functools.partial(loss, applied), argnums=(0, 1)))(*small.arrays()), expected)


def test_apply_inside_a_scan(small: Any) -> None:
    params, x = small.arrays()

    def many(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, x: lax.scan(lambda x, _: (fn(params, x), x.sum()), x, None, length=3)

    applied = autoshard.apply(small.function, small.plans[2])
    same(jax.jit(many(applied))(params, x), jax.jit(many(small.function))(params, x))


def test_apply_without_jit_and_with_a_mesh_of_the_same_axes(small: Any) -> None:
    plan = small.plans[2]
    mesh = plan.mesh(jax.devices()[::-1])
    result = autoshard.apply(small.function, plan, mesh=mesh)(*small.arrays())
    same(result, small.function(*small.arrays()))
    assert result.sharding.mesh == mesh


def hidden_over_x(small: Any) -> Plan:
    """The candidate that has f over x."""
    plans: tuple[Plan, ...] = small.plans
    return next(plan for plan in plans if plan.einsums[0].layout == "BE,EF_x->BF_x")


def test_constraints_are_in_the_loop_of_the_lowered_program(small: Any) -> None:
    """The plan with f over x: the hidden activations inside the loop are constrained, and said to be."""
    plan = hidden_over_x(small)
    (up, down) = plan.einsums
    assert (up.name, up.layout, down.layout) == ("up", "BE,EF_x->BF_x", "BF_x,F_xE->BE{U_x}")
    text = autoshard.jit(small.function, plan=plan).lower(*small.arguments).as_text()
    body = text.partition("stablehlo.while")[2]
    assert re.search(r'sharding_constraint .*\[\{\}, \{"x"\}\]', body)
    unplanned = jax.jit(small.function).lower(*small.arguments).as_text()
    assert "sharding_constraint" not in unplanned


@jax.custom_vjp
def tenfold(x: Any) -> Any:
    return x * 1.0


tenfold.defvjp(lambda x: (tenfold(x), None), lambda _, g: (10.0 * g,))


@jax.custom_jvp
def doubled(x: Any) -> Any:
    return jnp.maximum(x, -100.0)


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2.0 * tangents[0]))


def test_derivative_rules_inside_the_function_are_kept() -> None:
    """Gradients that no derivative of the forward computation gives: only the user's rules do."""

    def fn(w: Any, x: Any) -> Any:
        layer = jax.checkpoint(lambda w, x: doubled(tenfold(jnp.einsum("be,ef->bf", x, w))))
        return layer(w, x)

    w, x = jnp.ones((64, 64)), jnp.ones((16, 64))
    plan = autoshard.tune(fn, w, x, slice="cpu:8", refine="none")
    applied = autoshard.apply(fn, plan)
    gradient = jax.jit(jax.grad(lambda w, x: applied(w, x).sum()))(w, x)
    np.testing.assert_allclose(gradient, np.full((64, 64), 20.0 * 16), rtol=1e-6)


# ---- a plan of another function, other shapes, another slice


def error_of(fn: Callable[..., Any], plan: Plan, *args: Any, **kwargs: Any) -> str:
    messages = []
    for call in (autoshard.apply(fn, plan), autoshard.jit(fn, plan=plan), autoshard.jit(fn, plan=plan).lower):
        with pytest.raises(PlanMismatchError) as caught:
            call(*args, **kwargs)
        messages.append(str(caught.value))
    assert len(set(messages)) == 1
    return messages[0]


def edited(plan: Plan, **function: Any) -> Plan:
    return msgspec.structs.replace(plan, function=msgspec.structs.replace(plan.function, **function))


def test_another_batch(small: Any) -> None:
    params, x = small.arrays()
    message = error_of(small.function, small.plans[0], params, jnp.concatenate([x, x]))
    assert "argument `x` is float32[32,64], the plan has float32[16,64]" in message
    assert "autoshard tune MODULE_OR_FILE:function --slice cpu:8" in message


def test_another_dtype_names_the_first_argument_that_differs(small: Any) -> None:
    args = jax.tree.map(lambda x: x.astype("bfloat16"), small.arrays())
    message = error_of(small.function, small.plans[0], *args)
    assert "argument `params/down` is bfloat16[2,256,64], the plan has float32[2,256,64]" in message
    assert "params/up" not in message


def test_a_missing_argument(small: Any) -> None:
    def fn(params: Any) -> Any:
        return small.function(params, jnp.zeros((16, 64)))

    params, _ = small.arrays()
    assert "argument `x` of the plan is missing" in error_of(fn, small.plans[0], params)


def test_an_argument_more(small: Any) -> None:
    def fn(params: Any, x: Any, bias: Any) -> Any:
        return small.function(params, x) + bias

    message = error_of(fn, small.plans[0], *small.arrays(), jnp.ones(64))
    assert "argument `bias` is not in the plan" in message


def test_another_result(small: Any) -> None:
    message = error_of(lambda params, x: {"y": small.function(params, x)}, small.plans[0], *small.arrays())
    assert "result `result` of the plan is missing" in message


def test_another_function_of_the_same_types(small: Any) -> None:
    def fn(params: Any, x: Any) -> Any:
        return small.function(params, x) + jnp.einsum("be,ef->bf", x, params["up"][0])[:, :64]

    message = error_of(fn, small.plans[0], *small.arrays())
    assert "the function has changed since it was planned" in message


def test_an_einsum_that_is_gone_is_named_with_its_line(small: Any) -> None:
    message = error_of(lambda params, x: x * params["up"].sum(), small.plans[0], *small.arrays())
    assert re.search(r"einsum `up` \(conftest.py:\d+\) of the plan is not in the function", message)


def test_the_command_that_mends_it_is_the_one_that_made_it(small: Any) -> None:
    plan = edited(small.plans[0], target="model.py:mlp", inputs="model.py:inputs")
    params, x = small.arrays()
    message = error_of(small.function, plan, params, x[:8])
    assert message.endswith("autoshard tune model.py:mlp --inputs model.py:inputs --slice cpu:8 -o PLAN")


def test_another_number_of_devices(small: Any) -> None:
    plan = autoshard.tune(small.function, *small.arguments, slice="cpu:4", refine="none")
    message = error_of(small.function, plan, *small.arrays())
    assert "`cpu:4`, 4 devices, but 8 devices" in message
    mesh = plan.mesh(jax.devices()[:4])
    same(Application(small.function, plan, mesh=mesh)(*small.arrays()), small.function(*small.arrays()))


def test_shapes_that_change_after_the_first_call(small: Any) -> None:
    params, x = small.arrays()
    planned = autoshard.jit(small.function, plan=small.plans[0])
    planned(params, x)
    with pytest.raises(PlanMismatchError, match=re.escape("argument `x` is float32[12,64]")):
        planned(params, x[:12])
    same(planned(params, x), small.function(params, x))


def test_a_tensor_of_the_plan_that_the_function_lacks(small: Any) -> None:
    plan = small.plans[2]
    tensors = (*plan.tensors, msgspec.structs.replace(plan.tensors[0], name="gone"))
    with pytest.raises(PlanMismatchError, match="`gone`"):
        constraints_of(
            msgspec.structs.replace(plan, tensors=tensors), trace(small.function, small.arguments).equations
        )


def unrolled(params: Any, x: Any) -> Any:
    """Three layers, unrolled; the sums of the hidden activations are of one name."""
    for layer in params:
        hidden = jnp.tanh(jnp.einsum("be,ef->bf", x, layer["up"]))
        gate = jnp.einsum("bf,bf->b", hidden, hidden)
        x = x + gate[:, None] * jnp.einsum("bf,fe->be", hidden, layer["down"])
    return x


UNROLLED = ([{"up": jnp.ones((64, 256)), "down": jnp.ones((256, 64))}] * 3, jnp.ones((16, 64)))


def folded(plan: Plan) -> Plan:
    """The plan with the einsums of each layer as one record, laid out as that of the first."""
    patterns = {
        each.name: pattern
        for pattern in ("{0..2}/up", "bf,bf->b{#1..3}", "{0..2}/down")
        for each in plan.einsums
        if each.name == expand_name(pattern)[0]
    }
    einsums = [
        msgspec.structs.replace(each, name=patterns[each.name], repeats=3)
        for each in plan.einsums
        if each.name in patterns
    ]
    return msgspec.structs.replace(plan, einsums=tuple(einsums))


def test_a_record_of_copies_constrains_every_copy() -> None:
    plan = autoshard.tune(unrolled, *UNROLLED, slice="cpu:8", refine="none")
    found = trace(unrolled, UNROLLED).equations
    paths = {e.name: e.path for e in found.equations}
    short = folded(plan)
    constraints = constraints_of(short, found)
    assert len(short.einsums) == 3
    for einsum in short.einsums:
        names = expand_name(einsum.name)
        assert len({constraints.operands[paths[name]] for name in names}) == 1
        assert len({constraints.results[paths[name]] for name in names}) == 1
    same(autoshard.jit(unrolled, plan=short)(*UNROLLED), unrolled(*UNROLLED))


def test_a_copy_that_is_gone_is_named() -> None:
    plan = folded(autoshard.tune(unrolled, *UNROLLED, slice="cpu:8", refine="none"))
    more = msgspec.structs.replace(plan.einsums[0], name="{1..4}/up", repeats=4)
    message = error_of(unrolled, msgspec.structs.replace(plan, einsums=(more,)), *UNROLLED)
    assert re.search(
        r"einsum `3/up` \(.*py:\d+\) of the plan is not in the function, nor are 1 more of `\{1..4\}/up`",
        message,
    )


# ---- from names to paths


def test_constraints_go_to_the_einsums_paths(small: Any) -> None:
    plan = hidden_over_x(small)
    found = trace(small.function, small.arguments).equations
    constraints = constraints_of(plan, found)
    paths = {e.name: e.path for e in found.equations}
    assert set(constraints.operands) == {paths["up"], paths["down"]}
    hidden, weight = constraints.operands[paths["down"]]
    assert (hidden[-1], weight[-1]) == (P(None, "x"), P("x", None))
    assert all(":carry" in path for path in constraints.slots)


def test_argument_specs_are_the_plans(small: Any) -> None:
    plan = small.plans[2]
    assert argument_specs(plan) == [
        to_partition_spec(parse_spec(a.spec, rank_of(a.type))) for a in plan.arguments.values()
    ]
    mesh: Mesh = plan.mesh()
    expected = [NamedSharding(mesh, spec) for spec in argument_specs(plan)]
    assert jax.tree.leaves(plan.in_shardings(mesh)) == expected
