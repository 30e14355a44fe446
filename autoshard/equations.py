"""The equations of a jaxpr as one flat list in program order, loop bodies in place, with stable names.

Calls (jit, remat, custom derivatives) are entered and vanish.  A scan becomes a loop whose carried and scanned values are tied to
the values outside.  Every value gets a number; equations read and write numbers.  No sharding rule is needed for this, so
that a plan can be applied to a function by walking it once more.

Names are what a plan file is keyed by, so they must survive small edits: an einsum is named after the argument it
reads (`layers/wi`) or after its scope and letters (`attention/bhd,btd->bht`), never after its position alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from autoshard.search.graph import Loop, OpKind, Tie

SMALL_ARGUMENT_BYTES = 8 * 2**20
"""Arguments below this, and below 1/1024 of all arguments, are kept replicated: tokens, positions, norm scales."""
_SMALL_FRACTION = 1 / 1024

_EINSUMS = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated"})
_UPDATES = frozenset({"dynamic_update_slice", "scatter", "scatter-add", "scatter_add"})
_VIEWS = frozenset(
    "reshape squeeze expand_dims transpose broadcast_in_dim convert_element_type slice dynamic_slice split "
    "stop_gradient copy copy_p name optimization_barrier sharding_constraint reshard rev bitcast_convert_type".split()
)


@dataclass(frozen=True, slots=True)
class TracedValue:
    """A value before rules are known; the fields are those of `autoshard.search.graph.Value`."""

    index: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: float
    name: str
    producer: int
    free: bool
    stored_bytes: float
    loop: int


@dataclass(frozen=True, slots=True)
class Equation:
    """One leaf equation. `eqn` is None for the hand-over of a value to a loop's next iteration or to the caller."""

    index: int
    eqn: JaxprEqn | None
    primitive: str
    kind: OpKind
    operands: tuple[int, ...]
    results: tuple[int, ...]
    flops: float
    trips: int
    loop: int
    source: str
    scope: str
    equation: str
    path: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Equations:
    """A walked jaxpr: values, equations, ties, loops and the flat arguments and results as value numbers."""

    values: tuple[TracedValue, ...]
    equations: tuple[Equation, ...]
    ties: tuple[Tie, ...]
    loops: tuple[Loop, ...]
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    constants: tuple[int, ...]
    traced: int


def walk(closed: ClosedJaxpr, argument_names: Sequence[str], result_names: Sequence[str]) -> Equations:
    """Flatten a closed jaxpr.

    Args:
        closed: The traced function.
        argument_names: A path for each flat argument, e.g. "params/layers/wi".
        result_names: A path for each flat result.
    """
    walker = _Walker()
    jaxpr = closed.jaxpr
    sizes = [_nbytes(var.aval) for var in jaxpr.invars]
    small = min(SMALL_ARGUMENT_BYTES, sum(sizes) * _SMALL_FRACTION)
    arguments = [
        walker.value(var.aval, name, free=size <= small, stored=0 if size <= small else size)
        for var, name, size in zip(jaxpr.invars, argument_names, sizes, strict=True)
    ]
    constants = [walker.value(var.aval, f"constant{i}", free=True) for i, var in enumerate(jaxpr.constvars)]
    outs = walker.body(jaxpr, [*constants, *arguments], _Place("", -1, 1))
    results = [
        walker.hand_over(out, name, _Place(f":result{i}", -1, 1))
        for i, (out, name) in enumerate(zip(outs, result_names, strict=True))
    ]
    return Equations(
        values=tuple(walker.values),
        equations=tuple(_named(walker.equations, walker.values)),
        ties=tuple(walker.ties),
        loops=tuple(walker.loops),
        arguments=tuple(arguments),
        results=tuple(results),
        constants=tuple(constants),
        traced=walker.traced,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the walk stands: path of equation positions, innermost loop, executions per step."""

    path: str
    loop: int
    trips: int

    def at(self, position: int) -> _Place:
        return replace(self, path=f"{self.path}/{position}" if self.path else str(position))

    def slot(self, kind: str, position: int) -> _Place:
        """The place of a hand-over: `init`, `carry` or `y` number `position` of the loop at this path."""
        return replace(self, path=f"{self.path}:{kind}{position}")


@dataclass(slots=True)
class _Walker:
    """The state of one walk; lists only grow, except when a loop is walked again."""

    values: list[TracedValue] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    traced: int = 0

    def value(
        self, aval: Any, name: str, *, producer: int = -1, free: bool = False, stored: float = 0.0, loop: int = -1
    ) -> int:
        shape = tuple(getattr(aval, "shape", ()))
        dtype = str(getattr(aval, "dtype", "token"))
        self.values.append(
            TracedValue(len(self.values), shape, dtype, _nbytes(aval), name, producer, free, stored, loop)
        )
        return len(self.values) - 1

    def same(self, source: int, *, producer: int, loop: int, name: str = "") -> int:
        """A new value of the type of `source`."""
        value = self.values[source]
        self.values.append(replace(value, index=len(self.values), producer=producer, loop=loop, name=name or value.name))
        return len(self.values) - 1

    def hand_over(self, source: int, name: str, place: _Place) -> int:
        """An identity from a value to the slot in which the next iteration or the caller finds it."""
        index = len(self.equations)
        result = self.same(source, producer=index, loop=place.loop, name=name)
        self.equations.append(
            Equation(index, None, "identity", OpKind.IDENTITY, (source,), (result,), 0.0, place.trips, place.loop, "", "", "", place.path, name)
        )
        return result

    def body(self, jaxpr: Jaxpr, operands: Sequence[int], place: _Place) -> list[int]:
        """Walk a jaxpr whose constvars and invars hold the values `operands`; return the values of its outvars."""
        env: dict[Var, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], operands, strict=True))
        for position, eqn in enumerate(jaxpr.eqns):
            self.traced += 1
            results = self.equation(eqn, env, place.at(position))
            env.update(zip(eqn.outvars, results, strict=True))
        return [self.literal(var) if isinstance(var, Literal) else env[var] for var in jaxpr.outvars]

    def literal(self, literal: Literal) -> int:
        return self.value(literal.aval, "literal", free=True)

    def read(self, atom: Any, env: dict[Var, int]) -> int:
        return self.literal(atom) if isinstance(atom, Literal) else env[atom]

    def equation(self, eqn: JaxprEqn, env: dict[Var, int], place: _Place) -> list[int]:
        name = eqn.primitive.name
        if name == "scan":
            return self.scan(eqn, [self.read(v, env) for v in eqn.invars], place)
        if name == "while":
            return self.while_loop(eqn, [self.read(v, env) for v in eqn.invars], place)
        if name == "cond":
            return self.cond(eqn, [self.read(v, env) for v in eqn.invars], place)
        inner = called_jaxpr(eqn)
        if inner is not None:
            jaxpr, consts = inner
            held = [self.value(v.aval, "constant", free=True) for v, _ in zip(jaxpr.constvars, consts, strict=True)]
            return self.body(jaxpr, [*held, *(self.read(v, env) for v in eqn.invars)], place)
        return self.leaf(eqn, [env[v] for v in eqn.invars if not isinstance(v, Literal)], place)

    def leaf(self, eqn: JaxprEqn, operands: list[int], place: _Place) -> list[int]:
        index = len(self.equations)
        kind = _kind(eqn)
        read = [self.values[v] for v in operands]
        free = kind is not OpKind.EINSUM and all(value.free for value in read)
        name, stored = _inherited(kind, read)
        results = [
            self.value(v.aval, name, producer=index, free=free, stored=_stored(stored, v.aval, kind, eqn), loop=place.loop)
            for v in eqn.outvars
        ]
        scope, letters = _scope(eqn)
        self.equations.append(
            Equation(
                index=index,
                eqn=eqn,
                primitive=eqn.primitive.name,
                kind=kind,
                operands=tuple(operands),
                results=tuple(results),
                flops=flops(eqn),
                trips=place.trips,
                loop=place.loop,
                source=_source(eqn),
                scope=scope,
                equation=einsum_letters(eqn, letters) if eqn.primitive.name == "dot_general" else "",
                path=place.path,
            )
        )
        return results

    def enter(self, place: _Place, trips: int, known: bool) -> _Place:
        loop = Loop(len(self.loops), place.loop, len(self.equations), -1, place.trips * trips, known)
        self.loops.append(loop)
        return replace(place, loop=loop.index, trips=loop.trips)

    def leave(self, place: _Place) -> None:
        self.loops[place.loop] = replace(self.loops[place.loop], stop=len(self.equations))

    def mark(self) -> tuple[int, int, int, int, int]:
        return len(self.values), len(self.equations), len(self.ties), len(self.loops), self.traced

    def rewind(self, mark: tuple[int, int, int, int, int]) -> None:
        for kept, items in zip(mark, (self.values, self.equations, self.ties, self.loops), strict=False):
            del items[kept:]  # type: ignore[attr-defined]
        self.traced = mark[4]

    def carried(self, init: Sequence[int], varying: set[int], place: _Place) -> list[int]:
        """Slots in which a loop keeps its carried values; those in `varying` are no longer free inside."""
        slots = []
        for position, value in enumerate(init):
            if self.values[value].free and position not in varying:
                slots.append(value)
                continue
            slot = self.hand_over(value, f"{self.values[value].name or 'carry'}>", place.slot("init", position))
            self.values[slot] = replace(self.values[slot], free=False, name=self.values[value].name)
            slots.append(slot)
        return slots

    def scan(self, eqn: JaxprEqn, operands: list[int], place: _Place) -> list[int]:
        params = eqn.params
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        consts, init, stacked = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]
        jaxpr, closed_over = params["jaxpr"].jaxpr, params["jaxpr"].consts
        held = [self.value(v.aval, "constant", free=True) for v, _ in zip(jaxpr.constvars, closed_over, strict=True)]
        varying: set[int] = set()
        while True:
            mark = self.mark()
            slots = self.carried(init, varying, place)
            inside = self.enter(place, length, known=True)
            slices = [self.sliced(value, inside) for value in stacked]
            outs = self.body(jaxpr, [*held, *consts, *slots, *slices], inside)
            grown = {i for i, (slot, out) in enumerate(zip(slots, outs, strict=False)) if self.values[slot].free and not self.values[out].free}
            if not grown:
                break
            self.rewind(mark)
            varying |= grown
        finals = [
            self.next_carry(slot, out, inside.slot("carry", i))
            for i, (slot, out) in enumerate(zip(slots, outs[:n_carry], strict=True))
        ]
        ys = [
            self.stacked(out, var.aval, inside.slot("y", i), place)
            for i, (out, var) in enumerate(zip(outs[n_carry:], eqn.outvars[n_carry:], strict=True))
        ]
        self.leave(inside)
        return finals + ys

    def sliced(self, value: int, inside: _Place) -> int:
        """The slice of a scanned value that one iteration sees."""
        outer = self.values[value]
        length = max(1, outer.shape[0])
        inner = replace(
            outer,
            index=len(self.values),
            shape=outer.shape[1:],
            nbytes=outer.nbytes / length,
            stored_bytes=outer.stored_bytes / length,
            loop=inside.loop,
        )
        self.values.append(inner)
        if not outer.free:
            self.ties.append(Tie(value, inner.index, tuple(range(1, len(outer.shape)))))
        return inner.index

    def next_carry(self, slot: int, out: int, inside: _Place) -> int:
        if self.values[slot].free:
            return slot
        final = self.hand_over(out, f"{self.values[slot].name or 'carry'}<", inside)
        self.values[final] = replace(
            self.values[final], free=False, stored_bytes=self.values[slot].stored_bytes, name=self.values[slot].name
        )
        self.ties.append(Tie(slot, final, tuple(range(len(self.values[slot].shape)))))
        return final

    def stacked(self, out: int, aval: Any, inside: _Place, place: _Place) -> int:
        """The stacked output that collects `out` of every iteration."""
        if self.values[out].free:
            return self.value(aval, self.values[out].name, free=True, loop=place.loop)
        slot = self.hand_over(out, f"{self.values[out].name or 'stacked'}<", inside)
        outer = self.value(aval, self.values[out].name, producer=self.values[slot].producer, loop=place.loop)
        self.ties.append(Tie(outer, slot, tuple(range(1, len(self.values[outer].shape)))))
        return outer

    def while_loop(self, eqn: JaxprEqn, operands: list[int], place: _Place) -> list[int]:
        """The trip count is unknown: the body is counted once and the loop says so."""
        n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        body = eqn.params["body_jaxpr"]
        consts, init = operands[n_cond : n_cond + n_body], operands[n_cond + n_body :]
        held = [self.value(v.aval, "constant", free=True) for v, _ in zip(body.jaxpr.constvars, body.consts, strict=True)]
        varying: set[int] = set()
        while True:
            mark = self.mark()
            slots = self.carried(init, varying, place)
            inside = self.enter(place, 1, known=False)
            outs = self.body(body.jaxpr, [*held, *consts, *slots], inside)
            grown = {i for i, (slot, out) in enumerate(zip(slots, outs, strict=True)) if self.values[slot].free and not self.values[out].free}
            if not grown:
                break
            self.rewind(mark)
            varying |= grown
        finals = [
            self.next_carry(slot, out, inside.slot("carry", i))
            for i, (slot, out) in enumerate(zip(slots, outs, strict=True))
        ]
        self.leave(inside)
        return finals

    def cond(self, eqn: JaxprEqn, operands: list[int], place: _Place) -> list[int]:
        """All branches are counted; their results share one layout."""
        branches = []
        for number, branch in enumerate(eqn.params["branches"]):
            held = [self.value(v.aval, "constant", free=True) for v, _ in zip(branch.jaxpr.constvars, branch.consts, strict=True)]
            inside = replace(place, path=f"{place.path}/branch{number}")
            branches.append(self.body(branch.jaxpr, [*held, *operands[1:]], inside))
        results = []
        for outs in zip(*branches, strict=True):
            bound = [out for out in outs if not self.values[out].free]
            if not bound:
                results.append(outs[0])
                continue
            slots = [self.hand_over(out, "branch", place.slot("out", len(results))) for out in bound]
            self.ties += [Tie(slots[0], slot, tuple(range(len(self.values[slot].shape)))) for slot in slots[1:]]
            results.append(slots[0])
        return results


def called_jaxpr(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """Return the jaxpr (and its constants) that a call-like equation runs on its own operands, or None for a leaf."""
    if eqn.primitive.name in {"shard_map", "pallas_call", "custom_partitioning"}:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if isinstance(inner, ClosedJaxpr):
            jaxpr, consts = inner.jaxpr, inner.consts
        elif isinstance(inner, Jaxpr):
            jaxpr, consts = inner, ()
        else:
            continue
        if len(jaxpr.invars) == len(eqn.invars) and len(jaxpr.outvars) == len(eqn.outvars) and eqn.primitive.multiple_results:
            return jaxpr, consts
    return None


def flops(eqn: JaxprEqn) -> float:
    """Return the floating point operations of a contraction: two per multiply-add, 0 for all else."""
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs.shape[d] for d in contracted)
    if name == "ragged_dot_general":
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * eqn.invars[0].aval.shape[-1]
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / max(1, out_channels)
    return 0.0


def einsum_letters(eqn: JaxprEqn, written: str) -> str:
    """Return the letters of a dot_general: those the user wrote in `jnp.einsum` when they fit, else b.., m.., k.., n.."""
    (contract, batch) = eqn.params["dimension_numbers"]
    lhs, rhs = (tuple(v.aval.shape) for v in eqn.invars[:2])
    if written:
        inputs, _, output = written.partition("->")
        parts = inputs.split(",")
        for left, right in (parts, parts[::-1]) if len(parts) == 2 else ():
            if len(left) == len(lhs) and len(right) == len(rhs) and _fits(left, right, contract, batch):
                return f"{left},{right}->{_output(left, right, contract, batch)}"
    left, right = _default_letters(len(lhs), len(rhs), contract, batch)
    return f"{left},{right}->{_output(left, right, contract, batch)}"


def _fits(left: str, right: str, contract: Any, batch: Any) -> bool:
    pairs = [*zip(*contract, strict=True), *zip(*batch, strict=True)]
    return all(left[i] == right[j] for i, j in pairs) and len(set(left) & set(right)) == len(pairs)


def _output(left: str, right: str, contract: Any, batch: Any) -> str:
    gone_left, gone_right = {*contract[0], *batch[0]}, {*contract[1], *batch[1]}
    shared = "".join(left[i] for i in batch[0])
    rows = "".join(c for i, c in enumerate(left) if i not in gone_left)
    columns = "".join(c for i, c in enumerate(right) if i not in gone_right)
    return shared + rows + columns


def _default_letters(left_rank: int, right_rank: int, contract: Any, batch: Any) -> tuple[str, str]:
    alphabet = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    left = [next(alphabet) for _ in range(left_rank)]
    right = [""] * right_rank
    for i, j in [*zip(*contract, strict=True), *zip(*batch, strict=True)]:
        right[j] = left[i]
    return "".join(left), "".join(letter or next(alphabet) for letter in right)


def _nbytes(aval: Any) -> float:
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0.0
    name = str(dtype)
    bits = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}.get(name, 8 * int(getattr(dtype, "itemsize", 4)))
    return math.prod(aval.shape) * bits / 8


def _kind(eqn: JaxprEqn) -> OpKind:
    name = eqn.primitive.name
    if name in _EINSUMS:
        return OpKind.EINSUM
    if name in _UPDATES:
        return OpKind.UPDATE
    if name in _VIEWS:
        return OpKind.VIEW
    return OpKind.ELEMENTWISE if _is_elementwise(eqn) else OpKind.OTHER


_MIXING = ("cum", "sort", "reduce", "gather", "scatter", "concatenate", "top_k", "fft", "random")


def _is_elementwise(eqn: JaxprEqn) -> bool:
    """All results have one shape, and every operand has it too, up to dims of size 1, or is a scalar."""
    if eqn.primitive.name.startswith(_MIXING):
        return False
    out = tuple(eqn.outvars[0].aval.shape) if eqn.outvars else ()
    shapes = [tuple(getattr(v.aval, "shape", ())) for v in (*eqn.invars, *eqn.outvars)]
    return all(
        not shape or (len(shape) == len(out) and all(s in (1, o) for s, o in zip(shape, out, strict=True)))
        for shape in shapes
    )


def _inherited(kind: OpKind, read: Sequence[TracedValue]) -> tuple[str, TracedValue | None]:
    """The name and the stored origin that a view or an update takes over from what it reads."""
    bound = [value for value in read if not value.free]
    if kind is OpKind.VIEW and len(bound) == 1:
        return bound[0].name, bound[0]
    if kind is OpKind.UPDATE and read and not read[0].free:
        return "", read[0]
    return "", None


def _stored(origin: TracedValue | None, aval: Any, kind: OpKind, eqn: JaxprEqn) -> float:
    if origin is None or not origin.stored_bytes:
        return 0.0
    scale = float(np.prod(aval.shape)) / max(1.0, float(np.prod(origin.shape)))
    return origin.stored_bytes * min(1.0, scale)


def _source(eqn: JaxprEqn) -> str:
    text = source_info_util.summarize(eqn.source_info)
    match = re.match(r"(.*?):(\d+)", text)
    return f"{match[1].rsplit('/', 1)[-1]}:{match[2]}" if match else ""


_WRAPPER = re.compile(r"\b(?:jit|jvp|vmap|remat|checkpoint|rematted_computation|closed_call|while|body|cond)\b")


def _scope(eqn: JaxprEqn) -> tuple[str, str]:
    """The user's scope as a path, with ".grad" after what ran backward, and the letters of `jnp.einsum`, if any."""
    text = str(eqn.source_info.name_stack)
    backward = "transpose(" in text
    parts = [_WRAPPER.sub("", part.replace("transpose", "")).strip("()") for part in text.split("/")]
    letters = next((part for part in parts if "->" in part), "")
    scope = "/".join(part for part in parts if part and "->" not in part)
    return (f"{scope}.grad" if backward else scope), letters


def _named(equations: Sequence[Equation], values: Sequence[TracedValue]) -> list[Equation]:
    """Give every equation a unique name; repeats are counted from #2 on."""
    seen: dict[str, int] = {}
    named = []
    for equation in equations:
        base = equation.name or _base_name(equation, values)
        count = seen[base] = seen.get(base, 0) + 1
        named.append(replace(equation, name=base if count == 1 else f"{base}#{count}"))
    return named


def _base_name(equation: Equation, values: Sequence[TracedValue]) -> str:
    if equation.kind is OpKind.EINSUM:
        weights = {values[v].name for v in equation.operands if values[v].name and values[v].stored_bytes}
        if len(weights) == 1:
            path = weights.pop()
            suffix = ".grad" if equation.scope.endswith(".grad") else ""
            return (path.partition("/")[2] or path) + suffix
        label = equation.equation or equation.primitive
        return f"{equation.scope}/{label}" if equation.scope else label
    return f"{equation.scope}/{equation.primitive}" if equation.scope else equation.primitive
