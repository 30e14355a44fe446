"""Jaxprs flattened by hand: values, ties, loops, names, letters."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autoshard.equations import Equation, Equations
from autoshard.primitives import flops, kind_of, nbytes_of, shape_of
from autoshard.scopes import Scope
from autoshard.search.graph import OpKind, Tie
from autoshard.trace import trace
from autoshard.walking import largest_small

X, W = jax.ShapeDtypeStruct((8, 64), "float32"), jax.ShapeDtypeStruct((64, 64), "float32")
STACK = jax.ShapeDtypeStruct((3, 64, 64), "float32")
INDEX = jax.ShapeDtypeStruct((), "int32")


def walked(fn: Callable[..., Any], *args: Any, **options: Any) -> Equations:
    return trace(fn, args, **options).equations


def einsums(found: Equations) -> list[Equation]:
    return [e for e in found.equations if e.kind is OpKind.EINSUM]


def line_of(text: str) -> str:
    """Where a text stands in this file, the one place with it."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if line.endswith(text)]
    return f"{Path(__file__).name}:{number}"


# ---- calls are entered


@jax.custom_jvp
def jvp_square(x: Any) -> Any:
    return x * x


jvp_square.defjvp(lambda primals, tangents: (jvp_square(*primals), 2 * primals[0] * tangents[0]))


@jax.custom_vjp
def vjp_square(x: Any) -> Any:
    return x * x


vjp_square.defvjp(lambda x: (vjp_square(x), x), lambda x, g: (2 * x * g,))

CALLS: dict[str, Callable[..., Any]] = {
    "jit": jax.jit(lambda x: x * x),
    "jit in jit": jax.jit(lambda x: jax.jit(lambda y: y * y)(x)),
    "custom_jvp": jvp_square,
    "custom_vjp": vjp_square,
    "remat": jax.checkpoint(lambda x: x * x),
    "plain": lambda x: x * x,
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_vanish(call: str) -> None:
    found = walked(lambda x, w: CALLS[call](x) @ w, X, W)
    assert [e.primitive for e in found.equations] == ["mul", "dot_general", "identity"]
    mul, dot, result = found.equations
    x, w = found.arguments
    assert mul.operands == (x, x)
    assert dot.operands == (*mul.results, w)
    assert result.operands == dot.results
    assert found.results == result.results


def test_a_path_names_an_equation_within_its_call() -> None:
    found = walked(lambda x, w: jnp.sin(jax.jit(lambda x: jnp.cos(x) @ w)(x)), X, W)
    assert [(e.primitive, e.path) for e in found.equations] == [
        ("cos", "0/0"),
        ("dot_general", "0/1"),
        ("sin", "1"),
        ("identity", ":result0"),
    ]
    assert found.traced == 4  # the call counts, the hand-over does not


def test_closed_over_arrays_are_constants_and_free() -> None:
    table = np.ones((64, 64), np.float32)
    found = walked(lambda x: x @ jnp.asarray(table), X)
    (dot,) = einsums(found)
    x, held = (found.values[v] for v in dot.operands)
    assert not x.free
    assert held.free
    assert held.shape == (64, 64)


def test_what_combines_two_elements_is_no_call() -> None:
    found = walked(lambda x: lax.reduce(x, np.float32(1), lambda a, b: a * b, (1,)), X)
    assert [e.primitive for e in found.equations] == ["reduce", "identity"]


def test_a_mutable_array_is_one_value_and_never_free() -> None:
    """What is read from it is what was written to it, although it starts as zeros."""

    def model(x: Any) -> Any:
        held = jax.new_ref(jnp.zeros((8, 64)))
        held[...] = x
        return lax.scan(lambda c, _: (c + held[...], None), x * 0, None, length=3)[0]

    found = walked(model, X)
    new, write, read = (
        next(e for e in found.equations if e.primitive == p) for p in ("new_ref", "swap", "get")
    )
    assert found.values[new.operands[0]].free
    assert not found.values[new.results[0]].free
    assert write.operands == (new.results[0], found.arguments[0])
    assert read.operands == new.results
    assert (read.loop, read.trips) == (0, 3)
    assert not found.values[read.results[0]].free


# ---- loops


def test_a_scan_is_a_loop_with_tied_carries_slices_and_outputs() -> None:
    def model(x: Any, layers: Any, shift: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            h = x @ w + shift
            return h, jnp.sin(h)

        return lax.scan(layer, x, layers)

    found = walked(model, X, STACK, jax.ShapeDtypeStruct((8, 64), "float32"))
    x, layers, shift = found.arguments
    (loop,) = found.loops
    assert (loop.parent, loop.trips, loop.trips_known) == (-1, 3, True)
    names = [(e.primitive, e.path, e.trips, e.loop) for e in found.equations]
    assert names == [
        ("identity", "0:init0", 1, -1),
        ("dot_general", "0/0", 3, 0),
        ("add", "0/1", 3, 0),
        ("sin", "0/2", 3, 0),
        ("identity", "0:carry0", 3, 0),
        ("identity", "0:y0", 3, 0),
        ("identity", ":result0", 1, -1),
        ("identity", ":result1", 1, -1),
    ]
    assert (loop.start, loop.stop) == (1, 6)
    init, dot, add, sin, carry, y, final, stacked = found.equations
    slot, w = dot.operands
    assert init.results == (slot,)
    assert init.operands == (x,)
    assert found.values[w].shape == (64, 64)
    assert found.values[w].stored_bytes == 64 * 64 * 4  # one layer of the three
    assert add.operands == (*dot.results, shift)
    assert carry.operands == add.results
    assert final.operands == carry.results  # what the loop hands on last is the result
    assert y.operands == sin.results
    (ys,) = stacked.operands
    assert found.values[ys].shape == (3, 8, 64)
    assert set(found.ties) == {
        Tie(layers, w, (1, 2)),
        Tie(slot, carry.results[0], (0, 1)),
        Tie(ys, y.results[0], (1, 2)),
    }


def test_trips_of_nested_scans_multiply_and_loops_nest() -> None:
    def model(x: Any, w: Any) -> Any:
        def inner(x: Any, _: Any) -> Any:
            return x @ w, None

        def outer(x: Any, _: Any) -> Any:
            return lax.scan(inner, x, None, length=5)[0], None

        return lax.scan(outer, x, None, length=7)[0]

    found = walked(model, X, W)
    (dot,) = einsums(found)
    assert dot.trips == 35
    assert [(loop.parent, loop.trips) for loop in found.loops] == [(-1, 7), (0, 35)]
    assert dot.loop == 1
    assert dot.path == "0/0/0"


def test_a_reverse_scan_is_walked_as_a_forward_one() -> None:
    def model(x: Any, layers: Any, *, reverse: bool) -> Any:
        return lax.scan(lambda x, w: (x @ w, x), x, layers, reverse=reverse)

    one, other = (walked(functools.partial(model, reverse=reverse), X, STACK) for reverse in (False, True))
    assert [(e.name, e.operands, e.results, e.path) for e in one.equations] == [
        (e.name, e.operands, e.results, e.path) for e in other.equations
    ]
    assert one.ties == other.ties


def test_while_has_unknown_trips_counted_once() -> None:
    def model(x: Any, w: Any, n: Any) -> Any:
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ w), (0, x))[1]

    found = walked(model, X, W, INDEX)
    (loop,) = found.loops
    assert (loop.trips, loop.trips_known) == (1, False)
    (dot,) = einsums(found)
    init, carry = (next(e for e in found.equations if e.path.endswith(end)) for end in (":init1", ":carry1"))
    assert dot.operands == (init.results[0], found.arguments[1])
    assert carry.operands == dot.results
    assert Tie(init.results[0], carry.results[0], (0, 1)) in found.ties


def test_branches_of_a_cond_are_all_counted_and_share_a_layout() -> None:
    def model(flag: Any, x: Any, w: Any) -> Any:
        return lax.cond(flag, lambda x: x @ w, lambda x: jnp.sin(x), x)

    found = walked(model, jax.ShapeDtypeStruct((), "bool"), X, W)
    assert [(e.primitive, e.path) for e in found.equations if e.eqn is not None] == [
        ("convert_element_type", "0"),
        ("sin", "1/branch0/0"),
        ("dot_general", "1/branch1/0"),
    ]
    first, second = (e for e in found.equations if e.path == "1:out0")
    assert found.ties == (Tie(first.results[0], second.results[0], (0, 1)),)
    assert found.equations[-1].operands == first.results


def test_a_free_carry_that_a_later_iteration_binds_is_bound_from_the_start() -> None:
    """The sum starts at zero, which every chip can have in any layout, but then holds an activation."""

    def model(x: Any, w: Any) -> Any:
        def layer(carry: Any, _: Any) -> Any:
            step, total = carry
            return (step + 1.0, total + x @ w * step), None

        return lax.scan(layer, (0.0, jnp.zeros((8, 64))), None, length=4)[0]

    found = walked(model, X, W)
    (loop,) = found.loops
    assert loop.trips == 4  # the second walk left nothing of the first
    assert [e.path for e in found.equations if e.eqn is None] == [
        "1:init1",
        "1:carry1",
        ":result0",
        ":result1",
    ]
    init, carry = (e for e in found.equations if e.path in ("1:init1", "1:carry1"))
    assert found.values[init.operands[0]].free
    assert not found.values[init.results[0]].free
    assert Tie(init.results[0], carry.results[0], (0, 1)) in found.ties
    step, total = found.results
    assert found.values[step].free
    assert not found.values[total].free
    assert [e.index for e in found.equations] == list(range(len(found.equations)))
    assert [v.index for v in found.values] == list(range(len(found.values)))


def test_a_carry_that_turns_bound_through_another_carry() -> None:
    """b is bound after the first iteration, a after the second."""

    def model(x: Any) -> Any:
        zero = jnp.zeros((8, 64))
        return lax.fori_loop(0, 3, lambda i, c: (c[1], c[1] + x), (zero, zero))

    found = walked(model, X)
    assert [found.values[v].free for v in found.results] == [False, False]


# ---- what is free, and what is stored


def test_small_arguments_are_free_and_what_depends_on_them_only() -> None:
    def model(weights: Any, position: Any) -> Any:
        angles = jnp.arange(64, dtype=jnp.float32) * position
        return weights * jnp.cos(angles)

    found = walked(model, W, INDEX)
    weights, position = (found.values[v] for v in found.arguments)
    assert (weights.free, weights.stored_bytes) == (False, 64 * 64 * 4)
    assert (position.free, position.stored_bytes) == (True, 0)
    free = {e.primitive: found.values[e.results[0]].free for e in found.equations}
    assert free["cos"]
    assert not free["identity"]


def test_views_of_a_weight_keep_its_name_and_its_bytes() -> None:
    def model(x: Any, w: Any) -> Any:
        return jnp.tanh(x) @ w["layers"]["wi"].astype("bfloat16").astype("float32").T[:, :32]

    found = walked(model, X, {"layers": {"wi": W}})
    (dot,) = einsums(found)
    weight = found.values[dot.operands[1]]
    assert dot.name == "layers/wi"
    assert weight.stored_bytes == 64 * 32 * 4  # half of it is read, as it is stored


def test_a_weight_that_is_scaled_is_read_as_it_is_stored() -> None:
    def model(x: Any, w: Any) -> Any:
        return x @ (w.astype("float32") * 0.5)

    found = walked(model, X, jax.ShapeDtypeStruct((64, 64), "int8"))
    (dot,) = einsums(found)
    assert found.values[dot.operands[1]].stored_bytes == 64 * 64


def test_a_product_of_two_weights_is_no_view() -> None:
    found = walked(lambda x, w, v: x @ (w * v), X, W, W)
    (dot,) = einsums(found)
    assert found.values[dot.operands[1]].stored_bytes == 0


def test_a_dot_that_sums_nothing_is_a_multiplication() -> None:
    found = walked(lambda x, w: jnp.einsum("be,e->be", x, w), X, jax.ShapeDtypeStruct((64,), "float32"))
    assert einsums(found) == []
    assert [e.kind for e in found.equations if e.primitive == "dot_general"] == [OpKind.ELEMENTWISE]
    assert sum(e.flops for e in found.equations) == 0


def test_an_update_writes_into_what_is_stored() -> None:
    def model(cache: Any, new: Any, i: Any) -> Any:
        return lax.dynamic_update_slice(cache, new, (i, 0))

    found = walked(model, W, jax.ShapeDtypeStruct((1, 64), "float32"), INDEX)
    update = next(e for e in found.equations if e.kind is OpKind.UPDATE)
    assert found.values[update.results[0]].stored_bytes == 64 * 64 * 4


# ---- names


def test_names_are_unique_and_say_weight_or_scope() -> None:
    def model(params: Any, x: Any) -> Any:
        x = jnp.tanh(x)
        with jax.named_scope("block"):
            h = x @ params["up"]
            h = jax.nn.relu(h) @ params["down"]
            scores = jnp.einsum("be,ce->bc", h, h)
        return jnp.sin(scores), jnp.sin(h), x @ params["up"]

    found = walked(model, {"up": W, "down": W}, X)
    assert [e.name for e in einsums(found)] == ["up", "down", "block/be,ce->bc", "up#2"]
    names = [e.name for e in found.equations]
    assert len(set(names)) == len(names)
    assert {"sin", "sin#2", "result/0", "result/1", "result/2"} <= set(names)


def test_a_name_that_looks_counted_is_not_taken_twice() -> None:
    def model(params: Any, x: Any) -> Any:
        x = jnp.tanh(x)
        return x @ params["a"] + x @ params["a#2"] + x @ params["a"]

    found = walked(model, {"a": W, "a#2": W}, X)
    assert [e.name for e in einsums(found)] == ["a", "a#2", "a#3"]


def test_names_do_not_change_when_code_is_put_in_front() -> None:
    def model(params: Any, x: Any) -> Any:
        x = jnp.sin(x)
        with jax.named_scope("block"):
            return jnp.einsum("be,ce->bc", x @ params["up"], x)

    def edited(params: Any, x: Any) -> Any:
        return model(params, jnp.tanh(x * 2.0))

    one, other = (walked(fn, {"up": W}, X) for fn in (model, edited))
    assert [e.name for e in einsums(one)] == [e.name for e in einsums(other)]


def test_the_backward_pass_is_told_apart() -> None:
    def loss(w: Any, x: Any) -> Any:
        with jax.named_scope("block"):
            return jnp.sum(jnp.tanh(jnp.tanh(x) @ w["up"]) @ w["down"])

    found = walked(jax.grad(loss), {"down": W, "up": W}, X)
    names = [e.name for e in einsums(found)]
    assert names == ["up", "down", "block.grad/ab,ac->bc", "down.grad", "block.grad/ab,ac->bc#2"]


def test_the_backward_pass_of_a_scan_is_told_apart_and_has_the_users_letters() -> None:
    def loss(layers: Any, x: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            with jax.named_scope("ffn"):
                return jnp.tanh(jnp.einsum("be,ef->bf", x, w["wi"])), None

        with jax.named_scope("blocks"):
            return jnp.sum(lax.scan(jax.checkpoint(layer), jnp.tanh(x), layers)[0])

    found = walked(jax.grad(loss), {"wi": STACK}, X)
    assert [(e.name, sorted(e.equation.split("->")[0].split(",")), e.trips) for e in einsums(found)] == [
        ("wi", ["be", "ef"], 3),
        ("wi.grad", ["be", "ef"], 3),  # what remat computes again
        ("blocks/ffn.grad/be,bf->ef", ["be", "bf"], 3),
        ("wi.grad#2", ["bf", "ef"], 3),
    ]


def test_scopes_lose_the_words_of_transformations_and_go_into_calls() -> None:
    def model(x: Any) -> Any:
        with jax.named_scope("attention"):
            return jax.checkpoint(jax.vmap(jax.jit(jnp.sin)))(x)

    found = walked(lambda x: jax.grad(lambda x: jnp.sum(model(x)))(x), X)
    scopes = [(e.primitive, e.scope) for e in found.equations if e.primitive in ("sin", "cos")]
    assert ("cos", "attention.grad") in scopes
    assert {scope for _, scope in scopes} <= {"attention", "attention.grad"}


@pytest.mark.parametrize(
    ("stack", "name", "einsum", "backward"),
    [
        ("", "", "", False),
        ("attention", "attention", "", False),
        ("block/ffn/be,ef->bf", "block/ffn", "be,ef->bf", False),
        ("jvp(block)/ffn", "block/ffn", "", False),
        ("transpose(jvp(block))/be,ef->bf", "block.grad", "be,ef->bf", True),
        ("/transpose(jvp())/rematted_computation/ffn", "ffn.grad", "", True),
        ("vmap(transpose_heads)/while_mask", "transpose_heads/while_mask", "", False),
        ("...e , ef", "", "...e,ef", False),
        ("block/ij->i", "block", "ij->i", False),
    ],
)
def test_name_stacks(stack: str, name: str, einsum: str, backward: bool) -> None:
    scope = Scope().under(stack)
    assert (scope.name, scope.einsum, scope.backward) == (name, einsum, backward)


def test_scopes_nest_and_are_not_said_twice() -> None:
    outer = Scope().under("model/transpose(jvp(block))")
    assert outer.under("ffn").name == "model/block/ffn.grad"
    assert outer.under("block/ffn").name == "model/block/ffn.grad"
    assert outer.under("model/block").name == "model/block.grad"
    assert outer.under("other/block").name == "model/block/other/block.grad"
    remat = Scope().under("transpose(jvp(outer))/attention/jvp(outer)/attention")
    assert remat.name == "outer/attention.grad"


def test_source_is_the_users_line() -> None:
    def model(x: Any, w: Any) -> Any:
        def layer(x: Any, _: Any) -> Any:
            return jnp.einsum("be,ef->bf", x, w), None  # the line of the einsum

        return lax.scan(layer, x, None, length=2)[0]

    (dot,) = einsums(walked(model, X, W))
    assert dot.source == line_of("# the line of the " + "einsum")


# ---- letters


@pytest.mark.parametrize(
    ("written", "left", "right", "expected"),
    [
        ("be,ef->bf", (8, 4), (4, 16), "be,ef->bf"),
        ("bhd,btd->bht", (2, 4, 8), (2, 16, 8), "bhd,btd->bht"),
        ("ve,be->bv", (16, 4), (8, 4), "be,ve->bv"),  # jnp.einsum may exchange the operands
        ("bld,vd->blv", (2, 3, 4), (16, 4), "bld,vd->blv"),
        ("tbd,blhd->blht", (5, 2, 4), (2, 3, 6, 4), "blhd,tbd->blht"),
        ("be,ef->fb", (8, 4), (4, 16), "ef,be->fb"),
        ("aeb,ec->acb", (2, 4, 3), (4, 5), "aeb,ec->acb"),
        ("be,ef", (8, 4), (4, 16), "be,ef->bf"),
        (" b e , e f -> b f", (8, 4), (4, 16), "be,ef->bf"),
    ],
)
def test_letters_are_the_users(
    written: str, left: tuple[int, ...], right: tuple[int, ...], expected: str
) -> None:
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in (left, right)]
    (dot,) = einsums(walked(lambda x, y: jnp.einsum(written, x, y), *args))
    operands, _, output = expected.partition("->")
    found_operands, _, found_output = dot.equation.partition("->")
    assert sorted(found_operands.split(",")) == sorted(operands.split(","))
    assert sorted(found_output) == sorted(output)
    letters = written.partition("->")[0].replace(",", "").replace(" ", "")
    sizes = dict(zip(letters, (*left, *right), strict=True))
    assert dot.eqn is not None
    for text, var in zip(found_operands.split(","), dot.eqn.invars, strict=True):
        assert tuple(sizes[letter] for letter in text) == shape_of(var.aval)
    assert tuple(sizes[letter] for letter in found_output) == shape_of(dot.eqn.outvars[0].aval)


def test_letters_where_none_are_written() -> None:
    dimensions = (((1,), (3,)), ((0, 2), (1, 0)))
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((2, 8, 3, 5), (3, 2, 7, 8))]
    (dot,) = einsums(walked(lambda x, y: lax.dot_general(x, y, dimensions), *shapes))
    assert dot.equation == "abcd,caeb->acde"


def test_an_ellipsis_has_letters_of_its_own() -> None:
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 3, 4), (4, 5))]
    (dot,) = einsums(walked(lambda x, y: jnp.einsum("...e,ef->...f", x, y), *args))
    assert dot.equation == "abc,cd->abd"
    assert dot.name == "abc,cd->abd"


def test_an_einsum_of_three_has_letters_that_fit_each_step() -> None:
    found = walked(lambda x, y, z: jnp.einsum("ab,bc,cd->ad", x, y, z), X, W, W)
    for dot in einsums(found):
        assert dot.eqn is not None
        inputs = dot.equation.partition("->")[0].split(",")
        assert [len(text) for text in inputs] == [2, 2]
        assert len(set(inputs[0]) & set(inputs[1])) == 1


# ---- kinds, work and bytes


@pytest.mark.parametrize(
    ("fn", "shapes", "expected"),
    [
        (lambda x, y: x @ y, [(4, 8), (8, 16)], 2 * 4 * 8 * 16),
        (lambda x, y: jnp.einsum("bij,bjk->bik", x, y), [(2, 4, 8), (2, 8, 16)], 2 * 2 * 4 * 8 * 16),
        # every row meets the one group it belongs to
        (lambda x, y: lax.ragged_dot(x, y, jnp.ones(4, "int32")), [(16, 8), (4, 8, 6)], 2 * 16 * 8 * 6),
        # its gradient: every pair of a row of 8 and one of 6 is added to one of the matrices
        (
            lambda x, y: jax.grad(lambda w: jnp.sum(lax.ragged_dot(x, w, jnp.ones(4, "int32"))))(y),
            [(16, 8), (4, 8, 6)],
            2 * 16 * 8 * 6,
        ),
        # 16 places, window 3, 4 channels in, 8 out, batch 2
        (
            lambda x, y: lax.conv_general_dilated(
                x, y, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            ),
            [(2, 16, 4), (3, 4, 8)],
            2 * (2 * 16 * 8) * (3 * 4),
        ),
    ],
)
def test_flops(fn: Callable[..., Any], shapes: list[tuple[int, ...]], expected: float) -> None:
    found = walked(fn, *(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
    assert einsums(found)[-1].flops == expected


def test_flops_of_a_dilated_convolution_leave_out_the_zeros() -> None:
    """The gradient of patches of 4x4: each of 2x4x4 patches gives its 8 channels to 4x4x3 elements."""
    patches = functools.partial(
        lax.conv_general_dilated,
        window_strides=(4, 4),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 16, 16, 3), (4, 4, 3, 8))]
    found = walked(lambda x, k: jax.grad(lambda x: jnp.sum(patches(x, k)))(x), *shapes)
    assert einsums(found)[-1].flops == 2 * (2 * 4 * 4) * 8 * (4 * 4 * 3)


def test_only_contractions_count_as_work() -> None:
    (eqn,) = jax.make_jaxpr(jnp.sin)(X).jaxpr.eqns
    assert flops(eqn) == 0
    assert kind_of(eqn) is OpKind.ELEMENTWISE


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (lambda x: x + 1.0, OpKind.ELEMENTWISE),
        (lambda x: x + lax.slice(x, (0, 0), (8, 1)), OpKind.ELEMENTWISE),
        (lambda x: x.T, OpKind.VIEW),
        (lambda x: x.astype("bfloat16"), OpKind.VIEW),
        (lambda x: jnp.sum(x, 1), OpKind.OTHER),
        (lambda x: jnp.cumsum(x, 1), OpKind.OTHER),
        (lambda x: lax.sort(x), OpKind.OTHER),
        (lambda x: x.at[0].set(0.0), OpKind.UPDATE),
        (lambda x: x.at[0].multiply(2.0), OpKind.UPDATE),
        (lambda x: lax.dynamic_update_slice(x, x[:1], (0, 0)), OpKind.UPDATE),
        (lambda x: x @ x.T, OpKind.EINSUM),
    ],
)
def test_kinds(fn: Callable[..., Any], kind: OpKind) -> None:
    equations = [e for e in walked(fn, X).equations if e.eqn is not None]
    assert equations[-1].kind is kind


@pytest.mark.parametrize(("dtype", "nbytes"), [("float32", 48), ("bfloat16", 24), ("int8", 12), ("int4", 6)])
def test_bytes(dtype: str, nbytes: float) -> None:
    assert nbytes_of(jax.ShapeDtypeStruct((3, 4), dtype)) == nbytes
    assert nbytes_of(object()) == 0


def test_small_arguments_are_a_small_share_together() -> None:
    mebibyte = 2.0**20
    weights, scales = [4096 * mebibyte] * 4, [0.25 * mebibyte] * 32
    assert largest_small([*weights, *scales]) == 0.25 * mebibyte
    heads = [4 * mebibyte] * 64  # each below 1/1024 of all, but not together
    assert largest_small([*weights, *scales, *heads]) == 0.25 * mebibyte
    assert largest_small([*weights, *scales, 4 * mebibyte]) == 4 * mebibyte
    assert largest_small([2.0**40, 16 * mebibyte]) == 0.0
    assert largest_small([]) == 0.0
