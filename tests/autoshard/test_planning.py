"""From a candidate of the search to a plan file: what is written, and that its parts agree."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import autoshard
from autoshard.cost_records import cost_of
from autoshard.notation import _plain_equation
from autoshard.plan import Plan
from autoshard.specs import parse_chain, parse_spec, rank_of
from autoshard.targets import load_target
from autoshard.trace import trace


def tuned(fn: Any, *args: Any, **options: Any) -> Plan:
    return autoshard.tune(fn, *args, slice="cpu:8", refine="none", **options)


ROUNDED = 1e-5
"""Plans keep six digits."""


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


def structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def shards(plan: Plan, axes: Any) -> int:
    sizes = {axis.name: axis.size for axis in plan.mesh_axes}
    product = 1
    for axis in axes:
        product *= sizes[axis]
    return product


def read_layout(text: str) -> tuple[list[tuple[str, ...]], list[str]]:
    """Axes of every dim of one tensor, and of the open sum: "BL_x0E_x1{U_y}" is ([(), (x0,), (x1,)], [y])."""
    body, _, open_sum = text.partition("{U_")
    dims = re.findall(r"[A-Z](?:_([a-z0-9]+))?", body)
    return [tuple(re.findall(r"[a-z]+\d*", axes)) for axes in dims], re.findall(
        r"[a-z]+\d*", open_sum.rstrip("}")
    )


# ---- the tiny examples, every candidate


def test_arguments_and_results_are_listed_in_flat_order(example: Any) -> None:
    traced = trace(example.function, example.arguments)
    for plan in example.plans:
        assert tuple(plan.arguments) == traced.argument_names
        assert tuple(plan.results) == traced.result_names
        assert {name: a.type for name, a in plan.arguments.items()} == traced.argument_types
        assert plan.function.fingerprint == traced.fingerprint()
        places = plan.in_shardings(plan.mesh())
        assert structure(places) == structure(example.arguments)
        assert structure(plan.out_shardings(plan.mesh())) == traced.out_tree


def test_every_spec_divides_its_array(example: Any) -> None:
    for plan in example.plans:
        for record in (*plan.arguments.values(), *plan.results.values()):
            shape = [int(size) for size in re.findall(r"\d+", record.type.partition("[")[2])]
            for axes, size in zip(parse_spec(record.spec, len(shape)), shape, strict=True):
                assert size % shards(plan, axes) == 0


def test_a_buffer_that_is_donated_has_one_layout(decode: Any) -> None:
    for plan in decode.plans:
        donated = [name for name, argument in plan.arguments.items() if argument.donated]
        assert donated == ["cache/keys", "cache/values"]
        for name in donated:
            assert plan.arguments[name].spec == plan.results[f"result/1/{name.partition('/')[2]}"].spec


def test_the_layout_says_what_the_specs_say(example: Any) -> None:
    """The notation of an operand is its last spec, of the result its first one, if it is not open."""
    for plan in example.plans:
        for einsum in plan.einsums:
            inputs, _, output = einsum.layout.partition("->")
            letters = einsum.equation.partition("->")[0].split(",")
            for text, spec, names in zip(inputs.split(","), einsum.operands, letters, strict=True):
                assert "".join(re.findall("[A-Z]", text)).lower() == names
                if spec is not None:
                    assert tuple(read_layout(text)[0]) == parse_chain(spec, len(names))[-1]
            dims, open_sum = read_layout(output)
            if einsum.result is not None and not open_sum:
                assert tuple(dims) == parse_chain(einsum.result, len(dims))[0]


def test_work_per_chip_is_the_whole_over_the_shards_of_its_dims(example: Any) -> None:
    sizes_of = {e.name: e for e in trace(example.function, example.arguments).equations.equations}
    for plan in example.plans:
        for einsum in plan.einsums:
            used = {
                axis
                for dims, opened in map(read_layout, re.split(",|->", einsum.layout))
                for axis in (*sum(dims, ()), *opened)
            }
            whole = sizes_of[einsum.name].flops
            assert einsum.flops_per_chip == pytest.approx(whole / shards(plan, used), rel=ROUNDED)
        total = sum(e.flops_per_chip * e.trips for e in plan.einsums)
        assert plan.predicted.flops_per_chip == pytest.approx(total, rel=ROUNDED)


def test_times_add_up(example: Any) -> None:
    for plan in example.plans:
        records: list[Any] = [*plan.einsums, *plan.tensors]
        for record in records:
            moved = sum(c.seconds for c in record.collectives)
            assert record.ici_seconds == pytest.approx(moved, rel=ROUNDED)
            cost = cost_of(record.cost)
            least = max(getattr(record, "compute_seconds", 0.0), record.hbm_seconds) + moved
            assert cost.seconds >= least * (1 - ROUNDED)
        assert cost_of(plan.predicted.cost).seconds == pytest.approx(plan.predicted.seconds, rel=ROUNDED)
        assert plan.predicted.cost.compute_seconds == plan.predicted.compute_seconds
        assert plan.predicted.compute_seconds == pytest.approx(
            sum(e.compute_seconds * e.trips for e in plan.einsums), rel=ROUNDED
        )
        listed = sum(r.ici_seconds * r.trips for r in records)
        assert listed <= plan.predicted.ici_seconds * (1 + ROUNDED)
        assert plan.predicted.lower_bound_seconds <= plan.predicted.seconds
        assert 0 <= plan.gap < 1
        assert plan.predicted.hbm_bytes_per_chip <= plan.predicted.hbm_limit_bytes
        assert sum(plan.predicted.hbm_by_kind.values()) == pytest.approx(
            plan.predicted.hbm_bytes_per_chip, abs=8
        )


def test_candidates_come_best_first(example: Any) -> None:
    times = [plan.predicted_seconds for plan in example.plans]
    assert times == sorted(times)


def test_names_are_the_functions_and_every_carry_is_listed(example: Any) -> None:
    found = trace(example.function, example.arguments).equations
    by_name = {e.name: e for e in found.equations}
    carries = {e.name for e in found.equations if ":carry" in e.path}
    for plan in example.plans:
        assert [e.name for e in plan.einsums] == [e.name for e in found.equations if e.flops]
        tensors = {tensor.name for tensor in plan.tensors}
        assert tensors <= by_name.keys()
        assert carries <= tensors
        for einsum in plan.einsums:
            assert (einsum.source, einsum.trips) == (by_name[einsum.name].source, by_name[einsum.name].trips)


def test_a_plan_is_the_same_every_time(small: Any) -> None:
    again = tuned(small.function, *small.arguments, top_k=6, trials=6)
    first = small.plans[0]
    assert (again.einsums, again.tensors, again.arguments) == (first.einsums, first.tensors, first.arguments)


# ---- single facts


def test_tokens_are_counted_where_they_are_named() -> None:
    def fn(params: Any, batch: Any) -> Any:
        return jnp.take(params, batch["input_ids"], axis=0, mode="clip") @ params.T

    ids = jax.ShapeDtypeStruct((8, 16), "int32")
    assert tuned(fn, f32(256, 64), {"input_ids": ids}).predicted.tokens == 128
    assert tuned(lambda x, w: x @ w, f32(16, 64), f32(64, 64)).predicted.tokens is None


def test_what_has_no_rule_is_counted() -> None:
    def fn(x: Any, w: Any) -> Any:
        y = x @ w
        return y + jax.ffi.ffi_call("foreign", f32(16, 64))(y)

    coverage = tuned(fn, f32(16, 64), f32(64, 64)).coverage
    assert coverage.einsums == 1
    assert coverage.flops_fraction == 1.0
    assert [(u.primitive, u.count, u.bytes) for u in coverage.unruled] == [("ffi_call", 1, 2 * 16 * 64 * 4)]
    assert coverage.equations == 3


def test_versions_and_names() -> None:
    plan = tuned(lambda x, w: x @ w, f32(16, 64), f32(64, 64))
    assert plan.versions.jax == jax.__version__
    assert plan.versions.autoshard == autoshard.__version__
    assert plan.created_by == f"autoshard {autoshard.__version__}"
    assert (plan.function.name, plan.function.target, plan.objective) == ("<lambda>", None, "latency")


def test_keyword_arguments_are_planned_by_name() -> None:
    def fn(z: Any, a: Any) -> Any:
        return z @ a

    plan = tuned(fn, f32(16, 64), f32(64, 32))
    assert {name: rank_of(a.type) for name, a in plan.arguments.items()} == {"z": 2, "a": 2}


def test_a_convolution_and_a_ragged_dot_have_letters() -> None:
    def fn(x: Any, kernel: Any, rows: Any, experts: Any, groups: Any) -> Any:
        dims = ("NWC", "WIO", "NWC")
        y = lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=dims)
        return y, lax.ragged_dot(rows, experts, groups)

    groups = jax.ShapeDtypeStruct((4,), "int32")
    plan = tuned(fn, f32(16, 32, 64), f32(3, 64, 64), f32(64, 64), f32(4, 64, 128), groups)
    conv, ragged = (re.sub(r"_[a-z0-9]+|\{.*\}", "", e.layout) for e in plan.einsums)
    assert conv == "ABC,DCE->ABE"
    assert ragged == "AB,CBD,C->AD"


def test_letters_of_dims_of_size_1_are_their_own() -> None:
    assert _plain_equation([((0,), ()), ((), (1,))], [((0,), (1,))]) == "ab,cd->ad"


def test_a_table_that_is_resharded_to_be_looked_up_is_pinned() -> None:
    """The embedding is looked up in one layout and multiplied in another: unpinned, it took 90 GiB a chip."""
    target = load_target(f"{Path(__file__).parents[2] / 'examples' / 'palm.py'}:prefill_540b")
    plan = autoshard.tune(target.function, *target.arguments, slice="v4:4x4x4", refine="none", top_k=1)
    (lookup,) = (tensor for tensor in plan.tensors if tensor.name == "gather")
    moved = [each for each in lookup.collectives if each.tensor == "params/embed"]
    assert moved, "this case is meant to reshard its table"
    pinned = lookup.operands[0]
    assert pinned is not None and pinned.split(" > ")[-1] != plan.arguments["params/embed"].spec
