"""Minimising a network under budgets: Lagrangian bounds, repaired incumbents, branch and bound on the rest.

First the budgets are ignored; most often the optimum keeps them and all is said. Otherwise prices give a
lower bound (`lagrange`), every assignment met is repaired into an incumbent (`repair`), labels whose priced
bound exceeds the incumbent are removed for good, and what gap remains is closed by splitting the labels of
one variable between assignments on either side of the limit, each side with prices of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from time import monotonic

import numpy as np

from autoshard.search.budget_rows import BudgetRow, priced
from autoshard.search.errors import BudgetError, NoSolutionError, TimeLimitError
from autoshard.search.experience import Experience
from autoshard.search.lagrange import Dual, Relaxation, Sample, maximise
from autoshard.search.least_use import require_within, thriftiest
from autoshard.search.network import BoolArray, FloatArray, Network
from autoshard.search.reduction import Reduced, reduce
from autoshard.search.repair import Repair
from autoshard.search.shrink import shrink
from autoshard.search.solution import Solution
from autoshard.search.solver import solve

_TOLERANCE = 1e-9
_CLEARLY = 1e-6  # by what share a bound must exceed all costs to prove that nothing keeps the budgets
_ROOT_STEPS, _STEPS = (5, 8, 20), (6,)  # networks to solve for prices, before each pruning of labels
_PRICED_SHARE = 0.25
"""Share of the gap that the solution of one priced network may leave open."""


def solve_with_budgets(
    network: Network,
    rows: Sequence[BudgetRow],
    limits: Sequence[float],
    *,
    gap: float = 0.0,
    time_limit_seconds: float | None = None,
    experience: Experience | None = None,
    most_nodes: int | None = None,
) -> Solution:
    """Minimise a network subject to `rows[r].use(labels) <= limits[r]` for every r.

    Args:
        network: the costs.
        rows: the resources.
        limits: one per row, in the row's unit.
        gap: relative distance to the optimum that is good enough; 0.0 asks for the optimum.
        time_limit_seconds: stop after about this long with the best found and its proven bound.
        most_nodes: stop after so many nodes of the branch and bound, as after the time limit.
        experience: of earlier calls with this network and gap, and the first of these rows; it is added to.

    Returns:
        The solution. `method` is that of `solver.solve` when no budget binds, "priced" when prices alone
        closed the gap, "priced branch and bound" otherwise. `prices` are those of the root, empty when no
        budget binds: `k_best(priced(network, rows, prices), ...)` ranks what else is worth a look.

    Raises:
        BudgetError: one row cannot be kept, or all together cannot; names a row, its least use and its limit.
        NoSolutionError: every assignment costs +inf.
        TimeLimitError: time was up before any assignment within the budgets was found.
        ValueError: a row does not fit the network.
    """
    if len(rows) != len(limits):
        raise ValueError(f"expected one limit per budget row, got {len(rows)} rows and {len(limits)} limits")
    if not np.isfinite(limits).all():
        raise ValueError(f"limits must be finite, got {list(limits)}; leave out a row that has none")
    deadline = np.inf if time_limit_seconds is None else monotonic() + time_limit_seconds
    checked = [row.checked(network) for row in rows]
    experience = experience or Experience()
    free = experience.free or solve(network, gap=gap, time_limit_seconds=time_limit_seconds)
    experience.free = free
    if all(row.use(free.labels) <= limit for row, limit in zip(checked, limits, strict=True)):
        return free
    search = _Search(network, checked, np.array(limits, dtype=np.float64), gap, deadline, experience)
    return search.run(free, most_nodes)


@dataclass(frozen=True, order=True, slots=True)
class _Node:
    bound: float
    serial: int
    allowed: list[BoolArray] = field(compare=False)
    prices: FloatArray = field(compare=False)
    samples: tuple[Sample, ...] = field(compare=False)


class _Search:
    """Branch and bound with Lagrangian bounds."""

    def __init__(
        self,
        network: Network,
        rows: list[BudgetRow],
        limits: FloatArray,
        gap: float,
        deadline: float,
        experience: Experience,
    ) -> None:
        self._network = network
        self._rows = rows
        self._experience = experience
        self._most = _dearest(network)
        self._limits = limits
        self._gap = gap
        self._deadline = deadline
        self._repair = Repair(network, rows, list(limits))
        self._met: set[tuple[int, ...]] = set()
        self._labels: tuple[int, ...] | None = None
        self._value = np.inf
        self._open: list[_Node] = []
        self._closed = np.inf
        self._serial = 0
        self._prices = np.zeros(len(rows))

    def run(self, free: Solution, most_nodes: int | None = None) -> Solution:
        """Search from the unbudgeted solution on."""
        thrifty = [self._least_use(number) for number in range(len(self._rows))]
        scale = abs(free.value) or 1.0
        relaxation = Relaxation(
            self._network, self._rows, self._limits, scale, self._gap * _PRICED_SHARE, self.meet
        )
        for labels in self._experience.known:
            self._offer_if_within(labels)
        samples = (
            *(s for labels in (free.labels, *thrifty) for s in relaxation.samples(labels)),
            *map(relaxation.sample, self._experience.known),
        )
        everything = [np.ones(size, np.bool_) for size in self._network.sizes]
        self._push(Dual(free.bound, np.zeros(len(self._rows)), samples), everything)
        self._process(heappop(self._open), relaxation, _ROOT_STEPS)
        nodes = 1
        while self._open and self._open[0].bound < self._cutoff() and monotonic() < self._deadline:
            if nodes == most_nodes:
                break
            nodes += 1
            self._process(heappop(self._open), relaxation, _STEPS)
        return self._result()

    def _least_use(self, number: int) -> tuple[int, ...]:
        """The assignment that uses least of a row; raises `BudgetError` where that is too much."""
        row, limit = self._rows[number], float(self._limits[number])
        thrifty = self._experience.thriftiest(self._network, self._rows, number)
        require_within(row, limit, thrifty)
        return thrifty.labels

    def _result(self) -> Solution:
        bound = min([self._closed, *(node.bound for node in self._open)])
        if self._labels is None and not self._open:
            row, limit = self._rows[0], float(self._limits[0])
            message = f"the budgets cannot be kept together: {', '.join(row.name for row in self._rows)}"
            least = thriftiest(self._network, row).bound
            raise BudgetError(f"{message}; raise a limit", row=row.name, minimum_use=least, limit=limit)
        if self._labels is None:
            raise TimeLimitError("no assignment within the budgets was found in time; allow more time")
        if bound >= self._value - _TOLERANCE * abs(self._value):
            bound = self._value
        method = "priced" if self._serial == 1 else "priced branch and bound"
        return Solution(self._labels, self._value, bound, method, tuple(self._prices.tolist()))

    def meet(self, labels: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Learn from an assignment of finite cost; returns its repaired form when there is a new one."""
        if labels in self._met:
            return ()
        self._met.add(labels)
        self._experience.met.setdefault(labels)
        self._offer_if_within(labels)
        better = self._repair(labels)
        if better is None or better in self._met:
            return ()
        self._met.add(better)
        self._experience.met.setdefault(better)
        self._offer(better)
        return (better,)

    def _offer_if_within(self, labels: tuple[int, ...]) -> None:
        if (self._repair.excess(labels) <= 0).all():
            self._offer(labels)

    def _offer(self, labels: tuple[int, ...]) -> None:
        cost = self._network.value(labels)
        if cost < self._value:
            self._labels, self._value = labels, cost

    def _cutoff(self) -> float:
        """The bound from which on a node holds nothing of interest, or nothing within the budgets at all."""
        if np.isinf(self._value):
            return self._most + _CLEARLY * (abs(self._most) or 1.0)
        return self._value - max(self._gap, _TOLERANCE) * abs(self._value)

    def _process(self, node: _Node, relaxation: Relaxation, steps: Sequence[int]) -> None:
        """Bound a node; close it or split it."""
        try:
            reduced = reduce(self._network, dict(enumerate(node.allowed)))
            dual = Dual(node.bound, node.prices, node.samples)
            for most_steps in steps:
                if self._is_hopeless(reduced):
                    return
                dual = self._bounded(relaxation, reduced, dual, most_steps)
                if node.serial == 1:
                    self._prices = dual.prices
                if dual.bound >= self._cutoff():
                    self._closed = min(self._closed, dual.bound)
                    return
                reduced = reduced.further(self._promising(reduced, dual))
        except NoSolutionError:
            return
        except TimeLimitError:
            heappush(self._open, node)
            return
        self._split(dual, reduced.masks(self._network.sizes))

    def _is_hopeless(self, reduced: Reduced) -> bool:
        """Whether even the least entries of some row add up to more than its limit."""
        least = [row.cut(reduced.kept).least() for row in self._rows]
        return any(use > limit for use, limit in zip(least, self._limits, strict=True))

    def _bounded(self, relaxation: Relaxation, reduced: Reduced, dual: Dual, steps: int) -> Dual:
        """The node's dual, raised; only the samples still allowed may stand in for planes."""
        masks = reduced.masks(self._network.sizes)
        samples = tuple(sample for sample in dual.samples if sample.is_allowed(masks))
        start = Dual(dual.bound, dual.prices, samples)
        return maximise(relaxation, reduced, start, cutoff=self._cutoff, steps=steps, deadline=self._deadline)

    def _promising(self, reduced: Reduced, dual: Dual) -> list[BoolArray]:
        """Masks of the labels of `reduced` that may lead to an assignment worth finding.

        Their priced bound does not exceed the incumbent, or with a gap what is good enough: such labels are
        then closed at that value.
        """
        rows = [row.cut(reduced.kept) for row in self._rows]
        charged = priced(reduced.network, rows, list(dual.prices))
        most = self._value + _TOLERANCE * abs(self._value) if self._labels is not None else np.inf
        if self._gap > 0 and self._labels is not None:
            most = self._cutoff()
            self._closed = min(self._closed, most)
        return shrink(charged, most + float(dual.prices @ self._limits)).masks(charged.sizes)

    def _split(self, dual: Dual, allowed: list[BoolArray]) -> None:
        """Open two children that part the labels of one variable; close a node of a single assignment."""
        samples = [sample for sample in dual.samples if sample.is_allowed(allowed)]
        choice = [i for i, mask in enumerate(allowed) if mask.sum() > 1]
        if not choice:
            self.meet(tuple(int(np.argmax(mask)) for mask in allowed))
            return
        i, part = self._parting(dual, samples, choice, allowed)
        for side in (part, allowed[i] & ~part):
            child = list(allowed)
            child[i] = side
            kept = tuple(sample for sample in samples if side[sample.labels[i]])
            self._push(Dual(dual.bound, dual.prices, kept), child)

    def _parting(
        self, dual: Dual, samples: Sequence[Sample], choice: Sequence[int], allowed: Sequence[BoolArray]
    ) -> tuple[int, BoolArray]:
        """The variable on which good assignments within and beyond the limits differ most, and a parting."""
        uses = {i: self._priced_use(i, dual.prices) for i in choice}
        ranked = sorted(samples, key=lambda sample: sample.cost + float(np.maximum(sample.excess, 0).sum()))
        within = [sample for sample in ranked if max(sample.excess) <= 0][:1]
        beyond = [sample for sample in ranked if max(sample.excess) > 0][:1]
        for a, b in zip(within, beyond, strict=False):
            differing = [i for i in choice if a.labels[i] != b.labels[i]]
            if differing:
                i = max(differing, key=lambda i: abs(uses[i][a.labels[i]] - uses[i][b.labels[i]]))
                near = np.abs(uses[i] - uses[i][a.labels[i]]) < np.abs(uses[i] - uses[i][b.labels[i]])
                near[a.labels[i]] = True
                return i, allowed[i] & near
        i = max(choice, key=lambda i: (float(np.ptp(uses[i][allowed[i]])), int(allowed[i].sum())))
        order = np.flatnonzero(allowed[i])
        order = order[np.argsort(uses[i][order], kind="stable")]
        part = np.zeros_like(allowed[i])
        part[order[: len(order) // 2]] = True
        return i, part

    def _priced_use(self, i: int, prices: FloatArray) -> FloatArray:
        """Charge on each label of a variable, a little of every row counted even when its price is zero."""
        total = np.zeros(self._network.size(i))
        for row, price, limit in zip(self._rows, prices, self._limits, strict=True):
            unit = abs(self._value) if np.isfinite(self._value) else 1.0
            total += np.asarray(row.unary.get(i, 0.0)) * (price + 1e-3 * unit / (abs(limit) or 1.0))
        return total

    def _push(self, dual: Dual, allowed: list[BoolArray]) -> None:
        self._serial += 1
        heappush(self._open, _Node(dual.bound, self._serial, allowed, dual.prices, dual.samples))


def _dearest(network: Network) -> float:
    """What no assignment of finite cost costs more than."""
    tables = [*network.unary, *network.pairwise.values()]
    return sum(float(np.max(table, where=np.isfinite(table), initial=-np.inf)) for table in tables)
