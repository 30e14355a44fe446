"""Small programs written down by hand as graphs, without JAX.

Sizes are given by letter; every value is bfloat16.  Each function returns the graph of a program, its ops in
the order in which the docstring names them.  What op "h" makes is called "h_out".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, native_mesh
from autoshard.search.graph import Dims, Factor, FactorKind, Graph, Loop, Op, OpKind, Tie, Value
from autoshard.search.problem import Problem

ELEMENT_BYTES = 2


def mesh_of(text: str) -> TorusMesh:
    """The native mesh of a slice such as "v5e:1x2"."""
    return native_mesh(parse_slice(text))


@dataclass
class Sketch:
    """A graph under construction; methods add to it and return value numbers."""

    sizes: Mapping[str, int]
    values: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    arguments: list[int] = field(default_factory=list)
    loop: int = -1

    @property
    def trips(self) -> int:
        return 1 if self.loop < 0 else self.loops[self.loop].trips

    def shape(self, letters: str) -> tuple[int, ...]:
        return tuple(self.sizes[letter] for letter in letters)

    def value(
        self,
        shape: tuple[int, ...],
        name: str = "",
        *,
        producer: int = -1,
        free: bool = False,
        stored: bool = False,
        partial: bool = False,
        loop: int | None = None,
    ) -> int:
        nbytes = float(ELEMENT_BYTES * math.prod(shape))
        place = self.loop if loop is None else loop
        known = nbytes if stored else 0.0
        self.values.append(
            Value(len(self.values), shape, "bfloat16", nbytes, name, producer, free, known, partial, place)
        )
        return len(self.values) - 1

    def argument(self, name: str, letters: str, *, free: bool = False) -> int:
        number = self.value(self.shape(letters), name, free=free, stored=not free)
        self.arguments.append(number)
        return number

    def op(
        self,
        kind: OpKind,
        primitive: str,
        operands: Sequence[int],
        shape: tuple[int, ...],
        factors: Sequence[Factor],
        operand_dims: tuple[Dims, ...],
        result_dims: Dims,
        *,
        name: str = "",
        flops: float = 0.0,
        equation: str = "",
        linear: bool = False,
        stored: bool = False,
    ) -> int:
        index = len(self.ops)
        partial = linear or any(factor.kind is FactorKind.REDUCTION for factor in factors)
        free = kind is not OpKind.EINSUM and all(self.values[v].free for v in operands)
        name = name or f"{primitive}{index}"
        label = name if kind is OpKind.IDENTITY else f"{name}_out"
        result = self.value(shape, label, producer=index, stored=stored, partial=partial, free=free)
        self.ops.append(
            Op(
                index=index,
                name=name,
                primitive=primitive,
                kind=kind,
                operands=tuple(operands),
                results=(result,),
                factors=tuple(factors),
                operand_dims=operand_dims,
                result_dims=(result_dims,),
                linear=tuple(range(len(operands))) if linear else (),
                flops=flops,
                trips=self.trips,
                loop=self.loop,
                source="",
                scope="",
                equation=equation,
                path=str(index),
                ruled=True,
            )
        )
        return result

    def einsum(self, equation: str, *operands: int, name: str = "") -> int:
        """A contraction; factors are its letters in order of appearance."""
        inputs, _, output = equation.partition("->")
        letters = list(dict.fromkeys(inputs.replace(",", "")))
        factors = [
            Factor(self.sizes[c], FactorKind.PARALLEL if c in output else FactorKind.REDUCTION, c)
            for c in letters
        ]

        def dims(text: str) -> Dims:
            return tuple((letters.index(c),) for c in text)

        flops = 2.0 * math.prod(self.sizes[c] for c in letters)
        operand_dims = tuple(dims(text) for text in inputs.split(","))
        return self.op(
            OpKind.EINSUM,
            "dot_general",
            operands,
            self.shape(output),
            factors,
            operand_dims,
            dims(output),
            name=name,
            flops=flops,
            equation=equation,
        )

    def elementwise(
        self, primitive: str, *operands: int, linear: bool = False, name: str = "", stored: bool = False
    ) -> int:
        """All operands have the shape of the first; `stored` if it shows one of them in another form."""
        shape = self.values[operands[0]].shape
        factors = [Factor(size, FactorKind.PARALLEL) for size in shape]
        dims: Dims = tuple((i,) for i in range(len(shape)))
        return self.op(
            OpKind.ELEMENTWISE,
            primitive,
            operands,
            shape,
            factors,
            (dims,) * len(operands),
            dims,
            name=name,
            linear=linear,
            stored=stored,
        )

    def hand_over(self, source: int, name: str = "") -> int:
        """An identity into a slot or a result."""
        shape = self.values[source].shape
        factors = [Factor(size, FactorKind.PARALLEL) for size in shape]
        dims: Dims = tuple((i,) for i in range(len(shape)))
        slot = self.op(OpKind.IDENTITY, "identity", (source,), shape, factors, (dims,), dims, name=name)
        self.values[slot] = replace(self.values[slot], stored_bytes=self.values[source].stored_bytes)
        return slot

    def enter(self, trips: int) -> None:
        """Begin the body of a loop."""
        self.loops.append(Loop(len(self.loops), self.loop, len(self.ops), -1, self.trips * trips, True))
        self.loop = len(self.loops) - 1

    def leave(self) -> None:
        """End the body."""
        self.loops[self.loop] = replace(self.loops[self.loop], stop=len(self.ops))
        self.loop = self.loops[self.loop].parent

    def sliced(self, stack: int) -> int:
        """What one iteration sees of a stack."""
        outer = self.values[stack]
        inner = self.value(
            outer.shape[1:], outer.name, producer=outer.producer, stored=outer.stored_bytes > 0
        )
        self.ties.append(Tie(stack, inner, tuple(range(1, len(outer.shape)))))
        return inner

    def next_carry(self, slot: int, out: int) -> int:
        final = self.hand_over(out)
        self.ties.append(Tie(slot, final, tuple(range(len(self.values[slot].shape)))))
        return final

    def stacked(self, out: int, length: int) -> int:
        """The stacked output that collects `out` of every iteration of the current loop."""
        slot = self.hand_over(out)
        parent = self.loops[self.loop].parent
        shape = (length, *self.values[out].shape)
        outer = self.value(shape, producer=self.values[slot].producer, loop=parent)
        self.ties.append(Tie(outer, slot, tuple(range(1, len(shape)))))
        return outer

    def graph(self, *results: int, aliases: Sequence[tuple[int, int]] = ()) -> Graph:
        """Hand the results over and finish; aliases are (argument, result) positions of donated arguments."""
        handed = [self.hand_over(value, f"result{i}") for i, value in enumerate(results)]
        for argument, result in aliases:
            outer = self.arguments[argument]
            self.ties.append(Tie(outer, handed[result], tuple(range(len(self.values[outer].shape)))))
        return Graph(
            values=tuple(self.values),
            ops=tuple(self.ops),
            ties=tuple(self.ties),
            loops=tuple(self.loops),
            arguments=tuple(self.arguments),
            results=tuple(handed),
            donated=tuple(argument for argument, _ in aliases),
            aliases=tuple(aliases),
            constants=(),
            equations=len(self.ops),
        )


def feed_forward(b: int = 4, e: int = 8, f: int = 16) -> Graph:
    """Ops: h = BE,EF->BF; y = BF,FE->BE; result."""
    sketch = Sketch({"b": b, "e": e, "f": f})
    x, wi, wo = (sketch.argument(n, dims) for n, dims in (("x", "be"), ("wi", "ef"), ("wo", "fe")))
    h = sketch.einsum("be,ef->bf", x, wi, name="h")
    return sketch.graph(sketch.einsum("bf,fe->be", h, wo, name="y"))


def scanned_feed_forward(
    layers: int = 3, b: int = 4, e: int = 8, f: int = 16, *, donated: bool = False, collect: bool = False
) -> Graph:
    """Ops: carry in; h, y, x + y, carry on; with `collect` also the stack of all h; results."""
    sketch = Sketch({"l": layers, "b": b, "e": e, "f": f})
    x, wi, wo = (sketch.argument(n, dims) for n, dims in (("x", "be"), ("wi", "lef"), ("wo", "lfe")))
    slot = sketch.hand_over(x, "carry")
    sketch.enter(layers)
    weights = sketch.sliced(wi), sketch.sliced(wo)
    h = sketch.einsum("be,ef->bf", slot, weights[0], name="h")
    y = sketch.einsum("bf,fe->be", h, weights[1], name="y")
    final = sketch.next_carry(slot, sketch.elementwise("add", slot, y, name="sum"))
    stacks = [sketch.stacked(h, layers)] if collect else []
    sketch.leave()
    return sketch.graph(final, *stacks, aliases=[(0, 0)] if donated else [])


def two_readers(b: int = 4, e: int = 8, f: int = 16) -> Graph:
    """Ops: h = BE,EF->BF; two einsums BF,FE->BE that read it; two results."""
    sketch = Sketch({"b": b, "e": e, "f": f})
    x, wi = sketch.argument("x", "be"), sketch.argument("wi", "ef")
    outs = [sketch.argument(name, "fe") for name in ("wo1", "wo2")]
    h = sketch.einsum("be,ef->bf", x, wi, name="h")
    return sketch.graph(*(sketch.einsum("bf,fe->be", h, wo, name=f"y{i}") for i, wo in enumerate(outs, 1)))


def parallel_sum(b: int = 4, e: int = 8, f: int = 16) -> Graph:
    """Ops: two einsums BF,FE->BE; their sum, which may be left open; result."""
    sketch = Sketch({"b": b, "e": e, "f": f})
    h1, h2 = sketch.argument("h1", "bf"), sketch.argument("h2", "bf")
    w1, w2 = sketch.argument("w1", "fe"), sketch.argument("w2", "fe")
    y1, y2 = sketch.einsum("bf,fe->be", h1, w1, name="y1"), sketch.einsum("bf,fe->be", h2, w2, name="y2")
    return sketch.graph(sketch.elementwise("add", y1, y2, linear=True, name="sum"))


def split_heads(b: int = 4, h: int = 2, d: int = 4) -> Graph:
    """Ops: reshape of x [b, h*d] to [b, h, d]; result."""
    sketch = Sketch({"b": b, "m": h * d})
    x = sketch.argument("x", "bm")
    factors = [Factor(size, FactorKind.PARALLEL) for size in (b, h, d)]
    merged: Dims = ((0,), (1, 2))
    split: Dims = ((0,), (1,), (2,))
    return sketch.graph(
        sketch.op(OpKind.VIEW, "reshape", (x,), (b, h, d), factors, (merged,), split, stored=True)
    )


def cache_update(b: int = 4, t: int = 32, d: int = 8, *, donated: bool = True) -> Graph:
    """Ops: write new [b, 1, d] into cache [b, t, d]; result, in the cache's buffer if that is donated."""
    sketch = Sketch({"b": b, "t": t, "d": d, "1": 1})
    cache, new = sketch.argument("cache", "btd"), sketch.argument("new", "b1d")
    factors = [
        Factor(b, FactorKind.PARALLEL),
        Factor(t, FactorKind.REPLICATED),
        Factor(d, FactorKind.PARALLEL),
    ]
    large: Dims = ((0,), (1,), (2,))
    small: Dims = ((0,), (), (2,))
    kind, shape = OpKind.UPDATE, (b, t, d)
    updated = sketch.op(
        kind, "dynamic_update_slice", (cache, new), shape, factors, (large, small), large, stored=True
    )
    return sketch.graph(updated, aliases=[(0, 0)] if donated else [])


def labels_of(problem: Problem, **codes: Sequence[int]) -> tuple[int, ...]:
    """A plan by the codes of some variables, named by argument, result or op; all others replicated.

    Raises:
        ValueError: a name or a code that the problem does not have.
    """
    labels = [0] * len(problem.variables)
    for name, code in codes.items():
        number = problem.network.names.index(name)
        rows = problem.variables[number].codes.tolist()
        labels[number] = rows.index(list(code))
    return tuple(labels)


PROGRAMS: dict[str, Callable[[int, int, int], Graph]] = {
    "feed forward": lambda b, e, f: feed_forward(b, e, f),
    "scanned": lambda b, e, f: scanned_feed_forward(2, b, e, f, donated=True),
    "parallel": lambda b, e, f: parallel_sum(b, e, f),
    "heads": lambda b, e, f: split_heads(b, e, f),
    "cache": lambda b, e, f: cache_update(b, e, f, donated=False),
}
"""Small programs of three sizes."""
