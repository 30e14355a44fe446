"""The adapter to Shardy's passes."""

import jax
import pytest
from jax import lax

from autoshard.partitioner.shardy import lowered_functions


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


@pytest.mark.smoke
def test_shardy_gives_the_rule_of_a_matmul() -> None:
    """The whole contract with jaxlib's private passes: functions, calls, values, rules, factor kinds."""

    @jax.jit
    def named(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.sort(x @ w, dimension=1)

    lowered = (
        jax.jit(lambda x, w: named(x, w) + 1).trace(f32(4, 8), f32(8, 16)).lower(lowering_platforms=("tpu",))
    )
    functions = lowered_functions(lowered)
    assert set(functions) >= {"main", "named"}
    main, inner = functions["main"], functions["named"]
    (call,) = [op for op in main.ops if op.callee is not None]
    assert (call.callee, call.operands) == ("named", main.arguments)
    matmul, sort = [op for op in inner.ops if op.name in ("stablehlo.dot_general", "stablehlo.sort")]
    assert matmul.operands == inner.arguments
    assert matmul.results == sort.operands
    assert matmul.result_shapes == ((4, 16),)
    assert sort.results == inner.returned
    rule = matmul.rule
    assert rule is not None
    i, j, k = (dim[0] for dim in (*rule.result_dims[0], rule.operand_dims[0][1]))
    assert rule.operand_dims == (((i,), (k,)), ((k,), (j,)))
    assert [rule.sizes[f] for f in (i, j, k)] == [4, 16, 8]
    assert rule.reduction == {k}
    assert not rule.replicated
    assert sort.rule is not None
    assert sort.rule.replicated == {sort.rule.operand_dims[0][1][0]}


def test_functions_know_the_shapes_of_what_they_take_and_return() -> None:
    """A PRNG key is lowered to the words that it consists of."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = jax.jit(lambda key, x: (jax.random.split(key, 4), x.T)).trace(key, f32(4, 8))
    main = lowered_functions(lowered.lower(lowering_platforms=("tpu",)))["main"]
    assert main.argument_shapes == ((2,), (4, 8))
    assert main.returned_shapes == ((4, 2), (8, 4))
