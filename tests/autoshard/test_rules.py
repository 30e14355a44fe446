"""Sharding rules, each against the indices that a person would write down for the op."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn

import autoshard.shardy_rules
from autoshard.factor_table import FactorTable, Rule
from autoshard.primitives import called_jaxpr
from autoshard.rules import RuleBook, signature
from autoshard.search.graph import FactorKind
from autoshard.shardy import lowered_functions
from autoshard.shardy_rules import shardy_rules
from autoshard.written_rules import replicated_rule, shapes

KINDS = {"p": FactorKind.PARALLEL, "r": FactorKind.REDUCTION, "w": FactorKind.REPLICATED}


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


def i32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "int32")


def leaves(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        inner = called_jaxpr(eqn)
        if inner is None:
            yield eqn
        else:
            yield from leaves(inner[0])


def equation(primitive: str, fn: Callable[..., Any], *args: Any) -> JaxprEqn:
    """The last equation of a primitive in the jaxpr of `fn`."""
    found = [e for e in leaves(jax.make_jaxpr(fn)(*args).jaxpr) if e.primitive.name == primitive]
    return found[-1]


def rule_of(eqn: JaxprEqn) -> Rule:
    book = RuleBook()
    book.learn([eqn])
    return book[eqn]


def spelled(rule: Rule, eqn: JaxprEqn) -> str:
    """A rule in letters, each factor with its size and kind: "ab,bc->ac | a4p b8r c16p"."""
    names = "abcdefghijklmnop"

    def tensor(dims: Any) -> str:
        return "".join(
            names[dim[0]] if len(dim) == 1 else "(" + "".join(names[f] for f in dim) + ")" for dim in dims
        )

    operands = ",".join(tensor(dims) for dims in rule.operand_dims)
    results = ",".join(tensor(dims) for dims in rule.result_dims)
    kinds = {kind: letter for letter, kind in KINDS.items()}
    factors = " ".join(f"{names[i]}{f.size}{kinds[f.kind]}" for i, f in enumerate(rule.factors))
    every = list(
        zip([*rule.operand_dims, *rule.result_dims], [*shapes(eqn)[0], *shapes(eqn)[1]], strict=True)
    )
    assert all(len(dims) == len(shape) for dims, shape in every)
    return f"{operands}->{results} | {factors}"


def dot(contract: Any, batch: Any = ((), ())) -> Callable[..., Any]:
    return lambda x, y: lax.dot_general(x, y, (contract, batch))


# "()": a dim of size 1; "(ab)": a merged dim, a major; p, r, w: parallel, reduced, whole.
CASES: dict[str, tuple[str, Callable[..., Any], tuple[Any, ...], str]] = {
    "matmul": (
        "dot_general",
        dot(((1,), (0,))),
        (f32(4, 8), f32(8, 16)),
        "ab,bc->ac | a4p b8r c16p",
    ),
    "batched matmul": (
        "dot_general",
        dot(((2,), (1,)), ((0,), (0,))),
        (f32(2, 4, 8), f32(2, 8, 16)),
        "abc,acd->abd | a2p b4p c8r d16p",
    ),
    "two contracted dims": (
        "dot_general",
        dot(((1, 2), (0, 1))),
        (f32(4, 8, 2), f32(8, 2, 16)),
        "abc,bcd->ad | a4p b8r c2r d16p",
    ),
    "batch and contracted dims in other places": (
        "dot_general",
        dot(((1,), (3,)), ((0, 2), (1, 0))),
        (f32(2, 8, 3, 5), f32(3, 2, 7, 8)),
        "abcd,caeb->acde | a2p b8r c3p d5p e7p",
    ),
    "reshape that merges": (
        "reshape",
        lambda x: x.reshape(4, 48),
        (f32(4, 8, 6),),
        "abc->a(bc) | a4p b8p c6p",
    ),
    "reshape that splits": (
        "reshape",
        lambda x: x.reshape(4, 8, 6),
        (f32(4, 48),),
        "a(bc)->abc | a4p b8p c6p",
    ),
    "reshape that moves a border": (
        "reshape",
        lambda x: x.reshape(8, 12),
        (f32(4, 24),),
        "a(bc)->(ab)c | a4p b2p c12p",
    ),
    "reshape that adds a dim of size 1": (
        "reshape",
        lambda x: x.reshape(4, 1, 6),
        (f32(4, 6),),
        "ab->a()b | a4p b6p",
    ),
    "embedding: the vocabulary is summed over": (
        "gather",
        lambda table, i: jnp.take(table, i, axis=0, mode="clip"),
        (f32(256, 64), i32(8, 3)),
        "ab,cd()->cdb | a256r b64p c8p d3p",
    ),
    "gather along the last dim": (
        "gather",
        lambda x, i: jnp.take_along_axis(x, i, axis=-1),
        (f32(8, 64), i32(8, 1)),
        "ab,a()()->a() | a8p b64r",
    ),
    "scatter-add: the updates are summed over": (
        "scatter-add",
        lambda x, i, u: x.at[i].add(u),
        (f32(32, 8), i32(4), f32(4, 8)),
        "ab,c(),cb->ab | a32p b8p c4r",
    ),
    "dynamic_slice: the sliced dim stays whole": (
        "dynamic_slice",
        lambda x, i: lax.dynamic_slice(x, (i, 0), (1, 8)),
        (f32(32, 8), i32()),
        "ab,->ab | a32w b8p",
    ),
    "slice of one dim": ("slice", lambda x: x[2:6], (f32(32, 8),), "ab->ab | a32w b8p"),
    "reduce_sum": ("reduce_sum", lambda x: x.sum(1), (f32(4, 8, 6),), "abc->ac | a4p b8r c6p"),
    "reduce_max": ("reduce_max", lambda x: x.max(2), (f32(4, 8, 6),), "abc->ab | a4p b8p c6r"),
    "argmax": ("argmax", lambda x: jnp.argmax(x, 0), (f32(4, 8),), "ab->b | a4r b8p"),
    "broadcast of a vector": (
        "broadcast_in_dim",
        lambda x: lax.broadcast_in_dim(x, (4, 8, 6), (2,)),
        (f32(6),),
        "a->bca | a6p b4p c8p",
    ),
    "broadcast of a dim of size 1": (
        "broadcast_in_dim",
        lambda x: lax.broadcast_in_dim(x, (4, 8), (0, 1)),
        (f32(1, 8),),
        "()a->ba | a8p b4p",
    ),
    "transpose": ("transpose", lambda x: x.transpose(2, 0, 1), (f32(4, 8, 6),), "abc->cab | a4p b8p c6p"),
    "concatenate": (
        "concatenate",
        lambda x, y: lax.concatenate([x, y], 1),
        (f32(4, 8), f32(4, 6)),
        "ab,ac->ad | a4p b8w c6w d14w",
    ),
    "top_k": ("top_k", lambda x: lax.top_k(x, 3), (f32(4, 8),), "ab->ac,ac | a4p b8w c3w"),
    "top_k of the first dim": (
        "top_k",
        lambda x: lax.top_k(x, 3, axis=0),
        (f32(4, 8),),
        "ab->cb,cb | a4w b8p c3w",
    ),
    "approx_top_k": (
        "approx_top_k",
        lambda x: lax.approx_max_k(x, 3, reduction_dimension=0),
        (f32(4, 8),),
        "ab->cb,cb | a4w b8p c3w",
    ),
    "sort": ("sort", lambda x: lax.sort(x, dimension=1), (f32(4, 8),), "ab->ab | a4p b8w"),
    "sort of two": (
        "sort",
        lambda x, y: lax.sort((x, y), dimension=0, num_keys=1),
        (f32(4, 8), f32(4, 8)),
        "ab,ab->ab,ab | a4w b8p",
    ),
    "convolution: rows and channels, but not the window": (
        "conv_general_dilated",
        lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
        (f32(2, 16, 4), f32(3, 4, 8)),
        "abc,dce->abe | a2p b16w c4r d3w e8p",
    ),
    "ragged_dot": (
        "ragged_dot_general",
        lambda x, w, groups: lax.ragged_dot(x, w, groups),
        (f32(16, 8), f32(4, 8, 6), i32(4)),
        "ab,cbd,c->ad | a16p b8r c4w d6p",
    ),
    "cumsum": ("cumsum", lambda x: jnp.cumsum(x, 1), (f32(4, 8),), "ab->ab | a4p b8w"),
    "select": (
        "select_n",
        lax.select_n,
        (jax.ShapeDtypeStruct((4, 8), "bool"), f32(4, 8), f32(4, 8)),
        "ab,ab,ab->ab | a4p b8p",
    ),
    "select by a scalar": (
        "select_n",
        lax.select_n,
        (jax.ShapeDtypeStruct((), "bool"), f32(4, 8), f32(4, 8)),
        ",ab,ab->ab | a4p b8p",
    ),
    "elementwise with a dim of size 1": (
        "add",
        lambda x, y: x + y,
        (f32(4, 8), f32(4, 1)),
        "ab,a()->ab | a4p b8p",
    ),
    "elementwise of two dims of size 1": ("add", lax.add, (f32(4, 1), f32(4, 1)), "a(),a()->a() | a4p"),
    "elementwise with a literal": ("mul", lambda x: x * 2.0, (f32(4, 8),), "ab->ab | a4p b8p"),
    "a chlo op": ("erf_inv", lax.erf_inv, (f32(4, 8),), "ab->ab | a4p b8p"),
    "optimization_barrier": (
        "optimization_barrier",
        lambda x, y: lax.optimization_barrier((x, y)),
        (f32(4, 8), f32(6)),
        "ab,c->ab,c | a4p b8p c6p",
    ),
    "rng bits of a key": (
        "random_bits",
        lambda key: jax.random.bits(key, (4, 8)),
        (jax.eval_shape(lambda: jax.random.key(0)),),
        "->ab | a4p b8p",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case: str) -> None:
    primitive, fn, args, expected = CASES[case]
    eqn = equation(primitive, fn, *args)
    rule = rule_of(eqn)
    assert spelled(rule, eqn) == expected
    assert rule.ruled


def test_dynamic_update_slice_shares_the_dims_that_are_written_whole() -> None:
    eqn = equation(
        "dynamic_update_slice",
        lambda cache, new, i: lax.dynamic_update_slice(cache, new, (i, 0, 0)),
        f32(32, 8, 16),
        f32(1, 8, 16),
        i32(),
    )
    rule = rule_of(eqn)
    cache, update, start = rule.operand_dims
    assert cache == rule.result_dims[0]
    assert update == ((), cache[1], cache[2])
    assert start == ()
    assert [rule.factors[dim[0]].kind for dim in cache[1:]] == [FactorKind.PARALLEL] * 2


def test_a_factor_of_half_a_dim_that_the_result_lacks_stays_whole() -> None:
    """4x6 to 6x4: only the leading 2 of the 4 rows and the trailing 2 of the 6 columns line up."""
    eqn = equation("reshape", lambda x: x.reshape(6, 4), f32(4, 6))
    rule = rule_of(eqn)
    (rows, columns) = rule.operand_dims[0]
    assert [rule.factors[f].size for f in (*rows, *columns)] == [2, 2, 3, 2]
    assert rule.factors[rows[1]].kind is FactorKind.REPLICATED
    assert rule.factors[columns[0]].kind is FactorKind.REPLICATED


def test_a_primitive_without_a_rule_is_replicated_and_says_so() -> None:
    eqn = equation("pure_callback", lambda x: jax.pure_callback(lambda v: v, f32(4, 1), x), f32(4, 1))
    rule = rule_of(eqn)
    assert spelled(rule, eqn) == "a()->b() | a4w b4w"
    assert not rule.ruled


def test_a_primitive_that_lowers_to_a_loop_is_replicated_and_says_so() -> None:
    rule = rule_of(equation("igamma", lax.igamma, f32(4), f32(4)))
    assert not rule.ruled
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}


def test_an_equation_that_does_not_lower_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [
        equation(p, f, *args) for p, f, args, _ in (CASES["matmul"], CASES["transpose"], CASES["reduce_sum"])
    ]
    bad = equation("sort", lambda x: lax.sort(x, dimension=0), f32(6))
    lower = autoshard.shardy_rules._lower

    def refuse(eqns: Any) -> Any:
        if any(eqn is bad for eqn in eqns):
            raise NotImplementedError("no lowering of this one")
        return lower(eqns)

    monkeypatch.setattr(autoshard.shardy_rules, "_lower", refuse)
    found = shardy_rules([*good[:2], bad, good[2]])
    assert [rule.ruled for rule in found] == [True, True, False, True]
    assert found[2] == replicated_rule(bad)
    assert [found[i] for i in (0, 1, 3)] == shardy_rules(good)


def test_each_signature_is_lowered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[int] = []
    lower = autoshard.shardy_rules._lower

    def counted(eqns: Any) -> Any:
        lowered.append(len(eqns))
        return lower(eqns)

    monkeypatch.setattr(autoshard.shardy_rules, "_lower", counted)

    def three_layers(x: jax.Array, w: jax.Array) -> jax.Array:
        for _ in range(3):
            x = jnp.tanh(x @ w)
        return x

    eqns = jax.make_jaxpr(three_layers)(f32(4, 8), f32(8, 8)).jaxpr.eqns
    assert len(eqns) == 6
    book = RuleBook()
    book.learn(eqns)
    assert lowered == [2]  # one dot_general, one tanh, together
    book.learn(eqns)
    assert lowered == [2]
    book.learn(jax.make_jaxpr(three_layers)(f32(2, 8), f32(8, 8)).jaxpr.eqns)
    assert lowered == [2, 2]  # other shapes are other rules


def test_the_signature_has_what_the_rule_depends_on() -> None:
    first = equation("reduce_sum", lambda x: x.sum(0), f32(8, 8))
    again = equation("reduce_sum", lambda x: x.sum(0), f32(8, 8))
    other = equation("reduce_sum", lambda x: x.sum(1), f32(8, 8))
    assert signature(first) == signature(again)
    assert signature(first) != signature(other)
    assert signature(equation("mul", lambda x: x * 2.0, f32(8))) != signature(
        equation("mul", lambda x: x * 3.0, f32(8))
    )


# ---- the table in which factors are joined


def test_dims_that_merge_inside_one_equation() -> None:
    """The middle op sees (ab) c where the operand had a (bc): the border between them splits both."""
    table = FactorTable()
    operand = [(table.add(4),), (table.add(24),)]
    merged = [(table.add(8),), (table.add(12),)]
    table.join([*operand[0], *operand[1]], [*merged[0], *merged[1]])
    rule = table.rule([operand], [merged], [(4, 24)], [(8, 12)])
    assert rule.operand_dims == (((0,), (1, 2)),)
    assert rule.result_dims == (((0, 1), (2,)),)
    assert [factor.size for factor in rule.factors] == [4, 2, 12]


def test_joining_keeps_what_is_known_of_a_factor() -> None:
    table = FactorTable()
    whole, summed, dim = table.add(6), table.add(5), table.add(30)
    table.replicate(whole)
    table.reduce(summed)
    table.join([dim], [whole, summed])
    rule = table.rule([[(dim,)]], [[]], [(30,)], [()])
    assert rule.operand_dims == (((0, 1),),)
    assert [factor.kind for factor in rule.factors] == [FactorKind.REPLICATED, FactorKind.REDUCTION]


def test_dims_that_do_not_line_up_stay_whole() -> None:
    table = FactorTable()
    left, right = [table.add(4), table.add(6)], [table.add(6), table.add(4)]
    table.join(left, right)
    rule = table.rule([[tuple(left)]], [[tuple(right)]], [(24,)], [(24,)])
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}


def test_dims_of_other_sizes_stay_whole() -> None:
    table = FactorTable()
    left, right = table.add(4), table.add(6)
    table.join([left], [right])
    rule = table.rule([[(left,)]], [[(right,)]], [(4,)], [(6,)])
    assert [factor.kind for factor in rule.factors] == [FactorKind.REPLICATED] * 2


def test_a_dim_joined_with_its_own_transpose_ends_and_stays_whole() -> None:
    table = FactorTable()
    a, b = table.add(3), table.add(3)
    table.join([a, b], [b, a])
    rule = table.rule([[(a,), (b,)]], [[(a,), (b,)]], [(3, 3)], [(3, 3)])
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}


# ---- the adapter to Shardy


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


@pytest.mark.smoke
def test_a_rule_composed_of_several_ops_and_calls() -> None:
    """`take` clamps its indices before it gathers; `cumsum` is a function that is called."""
    test_rule("embedding: the vocabulary is summed over")
    test_rule("cumsum")
    test_rule("reshape that moves a border")
