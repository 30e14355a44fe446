"""Sharding rules: each is what a person would write down for the op, and each is legal.

That a rule is legal is shown with the real partitioner: under its strategies the op computes the same, and
needs no collective beyond the sums that the rule says.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import autoshard.partitioner.shardy_rules
from autoshard.cost.layouts import REPLICATED
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.factor_table import Rule
from autoshard.partitioner.shardy_rules import shardy_rules
from autoshard.primitives import called_jaxpr
from autoshard.rules import RuleBook, signature
from autoshard.search.candidates import strategies
from autoshard.search.graph import Dims, FactorKind, Op, OpKind
from autoshard.written_rules import replicated_rule, shapes

KINDS = {"p": FactorKind.PARALLEL, "r": FactorKind.REDUCTION, "w": FactorKind.REPLICATED}


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


def c64(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "complex64")


def b1(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "bool")


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


KEY = jax.eval_shape(lambda: jax.random.key(0))


def conv(x: Any, kernel: Any, strides: tuple[int, ...], padding: str, **groups: Any) -> Any:
    """A convolution with channels last."""
    spatial = "XY"[: len(strides)]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **groups)


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
    # ---- reads by index
    "embedding of which what is out of bounds is filled": (
        "gather",
        lambda table, i: jnp.take(table, i, axis=0),
        (f32(256, 64), i32(8, 4)),
        "ab,cd()->cdb | a256r b64p c8p d4p",
    ),
    "gather of one row is a slice": (
        "gather",
        lambda table, i: jnp.take(table, i, axis=0),
        (f32(256, 64), i32()),
        "ab,()->b | a256w b64p",
    ),
    "gather of two dims": (
        "gather",
        lambda x, i, j: x[i, :, j],
        (f32(16, 32, 64), i32(8), i32(8)),
        "abc,de->db | a16r b32p c64r d8p e2w",
    ),
    "gather along a middle dim, by batch": (
        "gather",
        lambda x, i: jnp.take_along_axis(x, i, axis=1),
        (f32(8, 64, 4), i32(8, 16, 4)),
        "abc,adc()->adc | a8p b64r c4p d16p",
    ),
    "gather under vmap": (
        "gather",
        jax.vmap(lambda table, i: jnp.take(table, i, axis=0)),
        (f32(4, 64, 8), i32(4, 16)),
        "abc,ad()->adc | a4p b64r c8p d16p",
    ),
    "slices of several rows under vmap": (
        "gather",
        jax.vmap(lambda x, i: lax.dynamic_slice(x, (i, 0), (4, 8))),
        (f32(4, 64, 8), i32(4)),
        "abc,ad->abc | a4p b64w c8p d2w",
    ),
    "dynamic_slice that keeps a dim": (
        "dynamic_slice",
        lambda x, i: lax.dynamic_slice(x, (0, i), (32, 1)),
        (f32(32, 8), i32()),
        "ab,->ab | a32p b8w",
    ),
    # ---- writes by index
    "scatter": (
        "scatter",
        lambda x, i, u: x.at[i].set(u),
        (f32(32, 8), i32(4), f32(4, 8)),
        "ab,c(),cb->ab | a32p b8p c4w",
    ),
    "scatter-mul": (
        "scatter-mul",
        lambda x, i, u: x.at[i].mul(u),
        (f32(32, 8), i32(4), f32(4, 8)),
        "ab,c(),cb->ab | a32p b8p c4r",
    ),
    "scatter-max": (
        "scatter-max",
        lambda x, i, u: x.at[i].max(u),
        (f32(32, 8), i32(4), f32(4, 8)),
        "ab,c(),cb->ab | a32p b8p c4r",
    ),
    "scatter-min": (
        "scatter-min",
        lambda x, i, u: x.at[i].min(u),
        (f32(32, 8), i32(4), f32(4, 8)),
        "ab,c(),cb->ab | a32p b8p c4r",
    ),
    "scatter of one row": (
        "scatter",
        lambda x, i, u: x.at[i].set(u),
        (f32(32, 8), i32(), f32(8)),
        "ab,(),b->ab | a32w b8p",
    ),
    "scatter into the middle dim": (
        "scatter",
        lambda x, i, u: x.at[:, i].set(u),
        (f32(16, 32, 8), i32(4), f32(16, 4, 8)),
        "abc,d(),adc->abc | a16p b32p c8p d4w",
    ),
    "cache write under vmap": (
        "scatter",
        jax.vmap(lambda x, i, u: x.at[i].set(u)),
        (f32(16, 32, 8, 4), i32(16), f32(16, 8, 4)),
        "abcd,a(),acd->abcd | a16p b32p c8p d4p",
    ),
    "cache write by two indices: an update may go to any batch": (
        "scatter",
        lambda x, i, u: x.at[jnp.arange(16), i].set(u),
        (f32(16, 32, 8, 4), i32(16), f32(16, 8, 4)),
        "abcd,ef,ecd->abcd | a16p b32p c8p d4p e16w f2w",
    ),
    "cache write of several places under vmap": (
        "scatter",
        jax.vmap(lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0))),
        (f32(4, 64, 8), f32(4, 2, 8), i32(4)),
        "abc,ad,aec->abc | a4p b64w c8p d2w e2w",
    ),
    "gradient of an embedding": (
        "scatter-add",
        jax.grad(lambda table, i: jnp.take(table, i, axis=0).sum()),
        (f32(256, 64), i32(8, 4)),
        "ab,cd(),cdb->ab | a256p b64p c8r d4r",
    ),
    "gradient of take_along_axis": (
        "scatter-add",
        jax.grad(lambda x, i: jnp.take_along_axis(x, i, axis=-1).sum()),
        (f32(8, 64), i32(8, 4)),
        "ab,ac(),ac->ab | a8p b64p c4r",
    ),
    "cache write of one place": (
        "dynamic_update_slice",
        lambda cache, new, i: lax.dynamic_update_slice(cache, new, (0, i, 0)),
        (f32(4, 32, 8), f32(4, 1, 8), i32()),
        "abc,a()c,->abc | a4p b32p c8p",
    ),
    "cache write of several places": (
        "dynamic_update_slice",
        lambda cache, new, i: lax.dynamic_update_slice(cache, new, (0, i, 0)),
        (f32(4, 32, 8), f32(4, 16, 8), i32()),
        "abc,adc,->abc | a4p b32w c8p d16w",
    ),
    # ---- dims that are put together or taken apart
    "pad": ("pad", lambda x: lax.pad(x, 0.0, ((0, 0, 0), (1, 2, 0))), (f32(4, 8),), "ab->ab | a4p b8w"),
    "rev": ("rev", lambda x: x[:, ::-1], (f32(4, 8),), "ab->ab | a4p b8w"),
    "split": ("split", lambda x: jnp.split(x, 2, axis=1), (f32(4, 16),), "ab->ab,ab | a4p b16w"),
    "squeeze": ("squeeze", lambda x: lax.squeeze(x, (1,)), (f32(4, 1, 8),), "a()b->ab | a4p b8p"),
    "iota": ("iota", lambda: lax.broadcasted_iota("int32", (4, 8), 1), (), "->ab | a4p b8p"),
    "bitcast to a narrower type": (
        "bitcast_convert_type",
        lambda x: lax.bitcast_convert_type(x, "int16"),
        (f32(4, 8),),
        "ab->abc | a4p b8p c2w",
    ),
    "select by an index": (
        "select_n",
        lax.select_n,
        (i32(4, 8), f32(4, 8), f32(4, 8), f32(4, 8)),
        "ab,ab,ab,ab->ab | a4p b8p",
    ),
    "optimization_barrier": (
        "optimization_barrier",
        lambda x, y: lax.optimization_barrier((x, y)),
        (f32(4, 8), f32(16)),
        "ab,c->ab,c | a4p b8p c16p",
    ),
    # ---- reductions, windows, orders
    "reduce_prod": ("reduce_prod", lambda x: x.prod(0), (f32(4, 8),), "ab->b | a4r b8p"),
    "reduce_min": ("reduce_min", lambda x: x.min(0), (f32(4, 8),), "ab->b | a4r b8p"),
    "reduce_and": ("reduce_and", lambda x: x.all(0), (b1(4, 8),), "ab->b | a4r b8p"),
    "reduce_or": ("reduce_or", lambda x: x.any(1), (b1(4, 8),), "ab->a | a4p b8r"),
    "reduce_xor: there is no all-reduce for it": (
        "reduce_xor",
        lambda x: lax.reduce_xor(x, (0,)),
        (i32(4, 8),),
        "ab->b | a4w b8p",
    ),
    "reduce of two": (
        "reduce",
        lambda x, y: lax.reduce(
            (x, y), (np.float32(0), np.int32(0)), lambda a, b: (a[0] + b[0], a[1] | b[1]), (0,)
        ),
        (f32(4, 8), i32(4, 8)),
        "ab,ab->b,b | a4r b8p",
    ),
    "argmin": ("argmin", lambda x: jnp.argmin(x, -1), (f32(4, 8),), "ab->a | a4p b8r"),
    "sort of three by two": (
        "sort",
        lambda x, y, z: lax.sort((x, y, z), dimension=1, num_keys=2),
        (f32(4, 8), f32(4, 8), i32(4, 8)),
        "ab,ab,ab->ab,ab,ab | a4p b8w",
    ),
    "cumsum": ("cumsum", lambda x: jnp.cumsum(x, 1), (f32(4, 8),), "ab->ab | a4p b8w"),
    "cumprod": ("cumprod", lambda x: lax.cumprod(x, 0), (f32(4, 8),), "ab->ab | a4w b8p"),
    "cummax from the end": (
        "cummax",
        lambda x: lax.cummax(x, 0, reverse=True),
        (f32(4, 8),),
        "ab->ab | a4w b8p",
    ),
    "cumlogsumexp": ("cumlogsumexp", lambda x: lax.cumlogsumexp(x, 1), (f32(4, 8),), "ab->ab | a4p b8w"),
    "reduce_window_sum": (
        "reduce_window_sum",
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 1), (1, 2, 1), "VALID"),
        (f32(4, 8, 16),),
        "abc->adc | a4p b8w c16p d4w",
    ),
    "reduce_window_max": (
        "reduce_window_max",
        lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 3, 1), (1, 1, 1), "SAME"),
        (f32(4, 8, 16),),
        "abc->abc | a4p b8w c16p",
    ),
    "reduce_window of another function": (
        "reduce_window",
        lambda x: lax.reduce_window(x, 1.0, lax.mul, (1, 3, 1), (1, 1, 1), "SAME"),
        (f32(4, 8, 16),),
        "abc->abc | a4p b8w c16p",
    ),
    "select_and_scatter_add": (
        "select_and_scatter_add",
        jax.grad(lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID").sum()),
        (f32(4, 8, 16),),
        "abc,adc->adc | a4p b4w c16p d8w",
    ),
    "fft": ("fft", jnp.fft.fft, (c64(4, 8),), "ab->ab | a4p b8w"),
    "fft of reals": ("fft", jnp.fft.rfft, (f32(4, 8),), "ab->ab | a4p b8w"),
    "cholesky: matrices stay whole": (
        "cholesky",
        lax.linalg.cholesky,
        (f32(4, 8, 8),),
        "abc->abc | a4p b8w c8w",
    ),
    # ---- random numbers
    "random bits of a key": (
        "random_bits",
        lambda key: jax.random.bits(key, (4, 8)),
        (KEY,),
        "->ab | a4p b8p",
    ),
    "random bits of keys": (
        "random_bits",
        jax.vmap(lambda key: jax.random.bits(key, (8,))),
        (jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4)),),
        "a->ab | a4p b8p",
    ),
    "a key is split": ("random_split", lambda key: jax.random.split(key, 4), (KEY,), "->a | a4p"),
    "a key is folded": ("random_fold_in", lambda key: jax.random.fold_in(key, 3), (KEY,), "-> | "),
    "the words of keys": (
        "random_unwrap",
        jax.random.key_data,
        (jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4)),),
        "a->ab | a4p b2w",
    ),
    # ---- contractions
    "outer product": ("dot_general", dot(((), ())), (f32(4), f32(8)), "a,b->ab | a4p b8p"),
    "matmul of two dtypes": (
        "dot_general",
        dot(((1,), (0,))),
        (jax.ShapeDtypeStruct((4, 8), "bfloat16"), f32(8, 16)),
        "ab,bc->ac | a4p b8r c16p",
    ),
    "patches: a convolution whose windows do not overlap": (
        "conv_general_dilated",
        lambda x, k: conv(x, k, (4, 4), "VALID"),
        (f32(2, 16, 16, 4), f32(4, 4, 4, 8)),
        "a(bc)(de)f,cefg->abdg | a2p b4w c4w d4w e4w f4r g8p",
    ),
    "gradient of the patches' kernel": (
        "conv_general_dilated",
        lambda x, k: jax.grad(lambda k: conv(x, k, (4, 4), "VALID").sum())(k),
        (f32(2, 16, 16, 4), f32(4, 4, 4, 8)),
        "a(bc)(de)f,aceg->bdfg | a2r b4w c4w d4w e4w f4p g8p",
    ),
    "depthwise convolution": (
        "conv_general_dilated",
        lambda x, k: conv(x, k, (1,), "SAME", feature_group_count=8),
        (f32(2, 16, 8), f32(3, 1, 8)),
        "abc,d()c->abc | a2p b16w c8p d3w",
    ),
    "convolution of feature groups": (
        "conv_general_dilated",
        lambda x, k: conv(x, k, (1,), "SAME", feature_group_count=2),
        (f32(4, 16, 8), f32(3, 4, 16)),
        "ab(cd),ed(cf)->ab(cf) | a4p b16w c2p d4r e3w f8p",
    ),
    "convolution of batch groups": (
        "conv_general_dilated",
        lambda x, k: conv(x, k, (1,), "SAME", batch_group_count=2),
        (f32(4, 16, 8), f32(3, 8, 16)),
        "(ab)cd,ed(af)->bc(af) | a2w b2w c16w d8w e3w f8w",
    ),
    "grouped matmul": (
        "ragged_dot_general",
        lax.ragged_dot,
        (f32(16, 8), f32(4, 8, 32), i32(4)),
        "ab,cbd,c->ad | a16w b8r c4w d32p",
    ),
    "gradient of the rows of a grouped matmul": (
        "ragged_dot_general",
        lambda x, w, g: jax.grad(lambda x: lax.ragged_dot(x, w, g).sum())(x),
        (f32(16, 8), f32(4, 8, 32), i32(4)),
        "ab,cdb,c->ad | a16w b32r c4w d8p",
    ),
    "gradient of the matrices of a grouped matmul": (
        "ragged_dot_general",
        lambda x, w, g: jax.grad(lambda w: lax.ragged_dot(x, w, g).sum())(w),
        (f32(16, 8), f32(4, 8, 32), i32(4)),
        "ab,ac,d->dbc | a16w b8p c32p d4w",
    ),
    "batched grouped matmul": (
        "ragged_dot_general",
        jax.vmap(lax.ragged_dot),
        (f32(2, 16, 8), f32(2, 4, 8, 32), i32(2, 4)),
        "abc,adce,ad->abe | a2p b16w c8r d4w e32p",
    ),
}


UNARY: dict[str, Callable[..., Any]] = {
    **{name: getattr(lax, name) for name in ("abs", "acos", "asin", "atan", "cbrt", "ceil", "cos", "cosh")},
    **{name: getattr(lax, name) for name in ("erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor")},
    **{name: getattr(lax, name) for name in ("is_finite", "lgamma", "log", "log1p", "logistic", "neg")},
    **{name: getattr(lax, name) for name in ("round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square")},
    **{name: getattr(lax, name) for name in ("digamma", "tan", "tanh", "bessel_i0e", "bessel_i1e")},
    "convert_element_type": lambda x: x.astype("bfloat16"),
    "integer_pow": lambda x: x**3,
    "reduce_precision": lambda x: lax.reduce_precision(x, 5, 4),
    "clamp": lambda x: lax.clamp(0.0, x, 1.0),
    "copy": jnp.copy,
    "name": lambda x: checkpoint_name(x, "saved"),
    "stop_gradient": lax.stop_gradient,
    "imag": lambda x: lax.imag(lax.complex(x, x)),
    "real": lambda x: lax.real(lax.complex(x, x)),
    "conj": lambda x: lax.conj(lax.complex(x, x)),
}
BINARY: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(lax, name)
        for name in ("add", "atan2", "complex", "div", "eq", "ge", "igamma", "igammac")
    },
    **{name: getattr(lax, name) for name in ("max", "min", "mul", "nextafter", "pow", "rem", "sub", "zeta")},
}
INTEGER: dict[str, Callable[..., Any]] = {
    "and": lambda x: x & x,
    "clz": lax.clz,
    "not": lambda x: ~x,
    "or": lambda x: x | x,
    "population_count": lax.population_count,
    "shift_left": lambda x: x << 2,
    "shift_right_arithmetic": lambda x: x >> 2,
    "shift_right_logical": lambda x: lax.shift_right_logical(x, x),
    "xor": lambda x: x ^ x,
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case: str) -> None:
    primitive, fn, args, expected = CASES[case]
    eqn = equation(primitive, fn, *args)
    rule = rule_of(eqn)
    assert spelled(rule, eqn) == expected
    assert rule.ruled


@pytest.mark.parametrize("primitive", [*UNARY, *BINARY, *INTEGER])
def test_a_pointwise_rule(primitive: str) -> None:
    if primitive in BINARY:
        eqn = equation(primitive, BINARY[primitive], f32(4, 8), f32(4, 8))
    elif primitive in UNARY:
        eqn = equation(primitive, UNARY[primitive], f32(4, 8))
    else:
        eqn = equation(primitive, INTEGER[primitive], i32(4, 8))
    rule = rule_of(eqn)
    assert {*rule.operand_dims, *rule.result_dims} == {((0,), (1,))}
    assert [(factor.size, factor.kind) for factor in rule.factors] == [(4, KINDS["p"]), (8, KINDS["p"])]
    assert rule.ruled


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


def test_what_shardy_would_split_wrongly_is_replicated_and_says_so() -> None:
    """It has the rows and columns of `eigh` as dims of its own."""
    rule = rule_of(equation("eigh", lambda x: lax.linalg.eigh(x), f32(4, 8, 8)))
    assert not rule.ruled
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}


def test_a_primitive_that_lowers_to_a_loop_is_replicated_and_says_so() -> None:
    rule = rule_of(equation("random_gamma", lambda key, a: jax.random.gamma(key, a), KEY, f32(4)))
    assert not rule.ruled
    assert {factor.kind for factor in rule.factors} == {FactorKind.REPLICATED}


def test_an_equation_that_does_not_lower_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [
        equation(p, f, *args) for p, f, args, _ in (CASES["matmul"], CASES["transpose"], CASES["reduce_sum"])
    ]
    bad = equation("sort", lambda x: lax.sort(x, dimension=0), f32(6))
    lower = autoshard.partitioner.shardy_rules._lower

    def refuse(eqns: Any) -> Any:
        if any(eqn is bad for eqn in eqns):
            raise NotImplementedError("no lowering of this one")
        return lower(eqns)

    monkeypatch.setattr(autoshard.partitioner.shardy_rules, "_lower", refuse)
    found = shardy_rules([*good[:2], bad, good[2]])
    assert [rule.ruled for rule in found] == [True, True, False, True]
    assert found[2] == replicated_rule(bad)
    assert [found[i] for i in (0, 1, 3)] == shardy_rules(good)


def test_each_signature_is_lowered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[int] = []
    lower = autoshard.partitioner.shardy_rules._lower

    def counted(eqns: Any) -> Any:
        lowered.append(len(eqns))
        return lower(eqns)

    monkeypatch.setattr(autoshard.partitioner.shardy_rules, "_lower", counted)

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
    literals = [equation("mul", lambda x, s=s: x * s, f32(8)) for s in (2.0, 3.0)]
    assert signature(literals[0]) == signature(literals[1])  # a rule is of the array operands
    assert signature(literals[0]) != signature(equation("mul", lambda x: x * x, f32(8)))
    assert signature(literals[0]) != signature(equation("mul", lambda x: x * 2, i32(8)))


def test_parameters_without_a_hash_are_equal_to_themselves_only() -> None:
    """Their equations get rules all the same."""
    eqn = equation("mul", lambda x: x * x, f32(8))
    one, other = (eqn.replace(params={**eqn.params, "table": np.zeros(3)}) for _ in range(2))
    assert signature(one) == signature(one)
    assert signature(one) != signature(other)


def test_an_opaque_equation_is_known_by_its_shapes() -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("d")
    one, other = (
        equation("shard_map", jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec), f32(8, 4))
        for f in (lambda x: x, lambda x: x + x)
    )
    assert signature(one) == signature(other)
    assert not rule_of(one).ruled


@pytest.mark.smoke
def test_a_rule_composed_of_several_ops_and_calls() -> None:
    """`take` clamps its indices before it gathers; `cumsum` is a function that is called."""
    test_rule("embedding: the vocabulary is summed over")
    test_rule("cumsum")
    test_rule("reshape that moves a border")


# ---- rules are legal

TORUS = native_mesh(parse_slice("v5p:2x2x2"))
GATHERED_ON_CPU = frozenset({"conv_general_dilated", "fft", "top_k"})
"""The CPU's partitioner replicates these in some cases where the TPU compiler splits them."""
COLLECTIVE = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def op_of(eqn: JaxprEqn, rule: Rule) -> Op:
    return Op(
        *(
            0,
            "op",
            eqn.primitive.name,
            OpKind.OTHER,
            (),
            (),
            rule.factors,
            rule.operand_dims,
            rule.result_dims,
        ),
        *((), 0.0, 1, -1, "", "", "", "0", rule.ruled),
    )


@functools.cache
def mesh() -> Mesh:
    return jax.make_mesh(TORUS.shape, TORUS.names, axis_types=(AxisType.Auto,) * len(TORUS.names))


def sharding(dims: Dims, codes: Sequence[int]) -> NamedSharding:
    """Where a strategy, one factor or REPLICATED for each mesh axis, puts a tensor."""
    entries = [[TORUS.names[a] for f in dim for a, code in enumerate(codes) if code == f] for dim in dims]
    return NamedSharding(mesh(), PartitionSpec(*(tuple(names) or None for names in entries)))


def made_up(aval: Any, rng: np.random.Generator) -> Any:
    """An array on which all the ops are defined: floats in (0, 1), small integers, keys."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(3), aval.shape) if aval.shape else jax.random.key(3)
    if aval.dtype.kind in "iu":
        return jnp.asarray(rng.integers(0, 3, aval.shape), aval.dtype)
    if aval.dtype.kind == "b":
        return jnp.asarray(rng.random(aval.shape) < 0.5)
    return jnp.asarray(rng.random(aval.shape) * 0.8 + 0.1, aval.dtype)


def abstract(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def compiled(eqn: JaxprEqn, rule: Rule, codes: Sequence[int]) -> jax.stages.Compiled:
    """The equation with operands and results put where a strategy has them."""
    operands = [v for v in eqn.invars if not isinstance(v, Literal)]

    def run(*arrays: Any) -> Any:
        given = iter(arrays)
        read = [v.val if isinstance(v, Literal) else next(given) for v in eqn.invars]
        return eqn.primitive.bind(*read, **eqn.primitive.get_bind_params(eqn.params))

    results = [sharding(dims, codes) for dims in rule.result_dims]
    types = [abstract(v.aval) for v in operands]
    jitted = jax.jit(
        run,
        in_shardings=[sharding(dims, codes) for dims in rule.operand_dims],
        out_shardings=results if eqn.primitive.multiple_results else results[0],
        keep_unused=True,
    )
    return jitted.lower(*types).compile()


def allowed(eqn: JaxprEqn, rule: Rule, code: int) -> set[str]:
    """The collectives that an op needs when one mesh axis is on a factor."""
    if code == REPLICATED:
        return set()
    if eqn.primitive.name in ("argmax", "argmin", "reduce"):  # of two results: all partial ones are gathered
        return {"all-gather", "all-reduce"}
    if eqn.primitive.name == "igamma":  # a loop, which all chips leave together
        return {"all-reduce"}
    return {"all-reduce"} if rule.factors[code].kind is FactorKind.REDUCTION else set()


def plain(array: jax.Array) -> Any:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array, np.complex64 if array.dtype.kind == "c" else np.float64)


RUN = {
    **{name: case[:3] for name, case in CASES.items()},
    **{name: (name, BINARY[name], (f32(4, 8), f32(4, 8))) for name in ("igamma", "nextafter")},
    **{name: (name, UNARY[name], (f32(4, 8),)) for name in ("bessel_i1e", "erf_inv")},
}


@pytest.mark.parametrize("case", RUN)
def test_a_rule_is_legal(case: str) -> None:
    """Every factor alone on a mesh axis, and a random strategy of several axes."""
    primitive, fn, args = RUN[case]
    eqn = equation(primitive, fn, *args)
    rule = rule_of(eqn)
    rng = np.random.default_rng(0)
    arrays = [made_up(v.aval, rng) for v in eqn.invars if not isinstance(v, Literal)]
    every = strategies(op_of(eqn, rule), TORUS)
    used = (every != REPLICATED).sum(axis=1)
    alone = every[(used == 0) | ((used == 1) & (every[:, 0] != REPLICATED))]
    expected: list[Any] = []
    for codes in (*alone, *rng.permutation(every[used > 1])[:1]):
        program = compiled(eqn, rule, codes)
        found = jax.tree.map(plain, program(*arrays))
        expected = expected or [found]  # the first strategy replicates all
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), found, expected[0])
        if (codes[1:] == REPLICATED).all() and primitive not in GATHERED_ON_CPU:
            put = {match[1] for match in COLLECTIVE.finditer(str(program.as_text()))}
            assert put <= allowed(eqn, rule, codes[0]), codes
