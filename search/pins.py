"""Pins and bans: layouts that the user fixes or forbids, as masks of the labels that are left.

A pin gives a value (an argument, a result) its layout, or tells an op in which layouts to read its operands
and leave its result.  Either allows some labels of one variable and denies the others; what is denied costs
infinity, so that every solver keeps to it and bounds and runners-up are those of the pinned problem.  Tied
values and copies share a variable (`autoshard.search.folding`), hence a pin on one holds for all of them.

In an operand an axis that the pin does not name is replicated.  In the result of an op it may also be left
open (unreduced): over what the op sums is decided by its operands.  A pin may leave dims *loose*: the axes
that it does not name may shard these, and no others.  It may also give the *order* of the axes within a dim,
which is else chosen later (`autoshard.search.ordering`).  A ban says the same of the layouts that shard some
dim along some axis: all others are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from autoshard.cost.layouts import REPLICATED, UNREDUCED, Layouts, shard_counts
from autoshard.cost.torus import TorusMesh
from autoshard.search.candidates import operand_layouts, result_layouts
from autoshard.search.conflict import conflict
from autoshard.search.errors import NoSolutionError, PinError
from autoshard.search.network import BoolArray
from autoshard.search.problem import Problem
from autoshard.search.reduction import reduce

Wanted = tuple[int, ...]
"""A layout [A]: for each mesh axis the tensor dim that it shards, or `REPLICATED`."""
Order = tuple[tuple[int, ...], ...]
"""For each tensor dim the mesh axes that shard it, major first."""

_MOST_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Banned:
    """The layouts that shard some dim along some axis: any of the `pairs` of mesh axis and tensor dim."""

    pairs: frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ValuePin:
    """The layout of a value.

    Attributes:
        value: Index in `Graph.values`.
        layout: [A] its layout, or those that it may not have.
        text: The pin as the user wrote it, for messages.
        loose: Dims that axes which `layout` leaves replicated may shard.
        order: The axes of each dim, major first; empty leaves their order to the search.
    """

    value: int
    layout: Wanted | Banned
    text: str
    loose: tuple[int, ...] = ()
    order: Order = ()


@dataclass(frozen=True, slots=True)
class OpPin:
    """The layouts in which an op reads and leaves its tensors, or may not; None leaves one free.

    Attributes:
        op: Index in `Graph.ops`.
        operands: [A] the layout of each operand; operands at the end may be left out.
        result: [A] the layout of the first result.
        text: The pin as the user wrote it, for messages.
        loose: Dims of the result that axes which `result` leaves replicated may shard.
        order: The axes of each dim of the result, major first; empty leaves their order to the search.
    """

    op: int
    operands: tuple[Wanted | Banned | None, ...]
    result: Wanted | Banned | None
    text: str
    loose: tuple[int, ...] = ()
    order: Order = ()


Pin = ValuePin | OpPin


def pinned(problem: Problem, pins: Sequence[Pin]) -> Problem:
    """Return the problem whose plans keep to all pins.

    Raises:
        PinError: a pin allows no label, or pins contradict each other.
    """
    if not pins:
        return problem
    masks = _masked(problem, pins)
    network = problem.network.restricted(masks.allowed)
    try:
        reduce(network)
    except NoSolutionError as error:
        clash = conflict(pins, lambda chosen: _can_hold(problem, chosen))
        texts = ", ".join(f"`{text}`" for text in dict.fromkeys(pin.text for pin in clash))
        raise PinError(f"no plan has all of the layouts {texts}: {error}") from error
    ops = frozenset(problem.folding.op_leader[pin.op] for pin in pins if _pins_result(pin))
    return replace(problem, network=network, orders=masks.orders, pinned_ops=ops)


def _pins_result(pin: Pin) -> TypeGuard[OpPin]:
    return isinstance(pin, OpPin) and pin.result is not None


def _masked(problem: Problem, pins: Sequence[Pin]) -> _Masks:
    masks = _Masks(problem)
    for pin in pins:
        masks.add(pin)
    return masks


def _can_hold(problem: Problem, pins: Sequence[Pin]) -> bool:
    """Whether some assignment of finite cost keeps to all pins."""
    try:
        reduce(problem.network.restricted(_masked(problem, pins).allowed))
    except NoSolutionError:
        return False
    return True


@dataclass(slots=True)
class _Masks:
    """The labels allowed so far, and the pins that decided on them, by variable."""

    problem: Problem
    allowed: dict[int, BoolArray] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)
    orders: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def add(self, pin: Pin) -> None:
        """Allow only what a pin allows."""
        found = self.of_value(pin) if isinstance(pin, ValuePin) else self.of_op(pin)
        if found is None:
            return
        variable, mask = found
        both = mask & self.allowed.get(variable, np.ones_like(mask))
        if not both.any() or not self.orders_agree(pin, variable):
            others = ", ".join(f"`{text}`" for text in dict.fromkeys(self.texts[variable]))
            raise PinError(
                f"`{pin.text}` contradicts {others}: they are of one layout (tied arrays and copies of a "
                "layer have one layout) and leave none; keep one of them"
            )
        self.allowed[variable] = both
        self.texts.setdefault(variable, []).append(pin.text)

    def orders_agree(self, pin: Pin, variable: int) -> bool:
        """Fix the order of the axes within dims; whether no other pin has fixed another."""
        sizes = self.problem.mesh.shape
        for dim, axes in enumerate(pin.order):
            several = tuple(axis for axis in axes if sizes[axis] > 1)
            if len(several) > 1:
                place = (variable, self.part(pin, dim))
                if self.orders.setdefault(place, several) != several:
                    return False
        return True

    def part(self, pin: Pin, dim: int) -> int:
        """What of a variable shards a dim of the pinned tensor: a factor, or a canonical dim."""
        problem = self.problem
        if isinstance(pin, ValuePin):
            tied = problem.classes.get(pin.value)
            return dim if tied is None else tied.dims[pin.value].index(dim)
        op = problem.graph.ops[problem.folding.op_leader[pin.op]]
        factors = op.result_dims[0][dim]
        if len(factors) != 1:
            raise PinError(
                f"`{pin.text}` cannot give the order of axes in dim {dim} of what `{op.name}` makes, which "
                "merges several dims; leave the order to the search"
            )
        return factors[0]

    def of_value(self, pin: ValuePin) -> tuple[int, BoolArray] | None:
        """The variable of a value and its allowed labels; None where there is nothing to decide."""
        problem, value = self.problem, self.problem.graph.values[pin.value]
        if pin.value not in problem.value_variable:
            if isinstance(pin.layout, Banned) or (_effective(pin.layout, problem.mesh) == REPLICATED).all():
                return None
            raise PinError(
                f"`{pin.text}` cannot shard {value.name or 'the array'} {_shape(value.shape)}: an array this "
                "small, and what is computed from such arrays alone, stays whole on every chip; drop the pin"
            )
        name = f"`{value.name}`" if value.name else "the array"
        layouts = problem.layouts(pin.value)
        return problem.value_variable[pin.value], self.matching(
            pin.text, name, pin.value, layouts, pin.layout, pin.loose
        )

    def of_op(self, pin: OpPin) -> tuple[int, BoolArray] | None:
        """The variable of an op and its allowed labels; None where a ban has nothing to forbid."""
        problem = self.problem
        op = problem.graph.ops[problem.folding.op_leader[pin.op]]
        if op.index not in problem.op_variable:
            if any(isinstance(each, Banned) for each in (*pin.operands, pin.result)):
                return None
            raise PinError(f"`{pin.text}`: `{op.name}` decides nothing, all that it reads is small; drop it")
        variable = problem.op_variable[op.index]
        codes = problem.variables[variable].codes
        mask: BoolArray = np.ones(len(codes), dtype=bool)
        for position, (wanted, value) in enumerate(zip(pin.operands, op.operands, strict=False)):
            if wanted is not None:
                layouts = operand_layouts(op, codes, position)
                what = f"operand {position} of `{op.name}`"
                mask &= self.matching(pin.text, what, value, layouts, wanted)
        if pin.result is not None:
            layouts = result_layouts(op, codes, 0)
            layouts = np.where(layouts == UNREDUCED, np.int8(REPLICATED), layouts)
            what = f"the result of `{op.name}`"
            mask &= self.matching(pin.text, what, op.results[0], layouts, pin.result, pin.loose)
        if not mask.any():
            raise PinError(
                f"`{pin.text}`: no way to split `{op.name}` ({op.equation}) has all of these layouts at "
                "once: an axis on one letter shards that letter in every tensor that has it; leave a tensor "
                "free with `*`"
            )
        return variable, mask

    def matching(
        self,
        text: str,
        what: str,
        value: int,
        layouts: Layouts,
        wanted: Wanted | Banned,
        loose: tuple[int, ...] = (),
    ) -> BoolArray:
        """[K] which of a tensor's layouts are a wanted one, or not banned; an error where none is wanted."""
        if isinstance(wanted, Banned):
            return _spared(layouts, wanted)
        mesh, shape = self.problem.mesh, self.problem.graph.values[value].shape
        asked = _effective(wanted, mesh)
        same = layouts == asked
        same |= (asked == REPLICATED) & np.isin(layouts, loose)
        mask: BoolArray = same.all(axis=1)
        if mask.any():
            return mask
        counts = shard_counts(asked[None], len(shape), mesh)[0]
        uneven = [
            f"dim {dim} of size {size} is not divisible by {count}"
            for dim, (size, count) in enumerate(zip(shape, counts, strict=True))
            if size % count
        ]
        reason = "; ".join(uneven) or "one of these dims must stay whole (a loop or the op itself cuts it)"
        raise PinError(
            f"`{text}` cannot hold on {mesh.slice.name}: {what} {_shape(shape)} has no layout "
            f"`{_spec(asked, len(shape), mesh)}`: {reason}; possible are {_shown(layouts, len(shape), mesh)}"
        )


def _spared(layouts: Layouts, banned: Banned) -> BoolArray:
    """[K] the layouts that shard no banned dim along its axis; whole on every chip is always among them."""
    mask: BoolArray = np.ones(len(layouts), dtype=bool)
    for axis, dim in banned.pairs:
        mask &= layouts[:, axis] != dim
    return mask


def _effective(layout: Wanted, mesh: TorusMesh) -> npt.NDArray[np.int8]:
    """A layout [A] as candidates have it: an axis of one chip shards nothing."""
    pairs = zip(layout, mesh.shape, strict=True)
    return np.array([dim if size > 1 else REPLICATED for dim, size in pairs], dtype=np.int8)


def _shown(layouts: Layouts, rank: int, mesh: TorusMesh) -> str:
    """Some of the layouts as specs, those with most axes first."""
    order = np.argsort(-(layouts >= 0).sum(axis=1), kind="stable")
    specs = list(dict.fromkeys(_spec(layouts[label], rank, mesh) for label in order))
    shown = ", ".join(f"`{spec}`" for spec in specs[:_MOST_SHOWN])
    return shown + (f" and {len(specs) - _MOST_SHOWN} more" if len(specs) > _MOST_SHOWN else "")


def _spec(layout: npt.NDArray[np.int8], rank: int, mesh: TorusMesh) -> str:
    """A layout as the spec text of plan files, axes in mesh order."""
    dims = ([mesh.names[axis] for axis in np.flatnonzero(layout == dim)] for dim in range(rank))
    return ";".join(",".join(names) for names in dims)


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
