"""Where values are at home that one equation reads through a chain of specs, and another as they are.

A constraint on what an equation reads is a value of its own.  Where the value it is put on has no sharding
yet, as the argument of a loop's body or of a nested call, Shardy takes the constraint to be meant for that
value and hands the end of the chain to all who read it later: the residual stream of a layer would be
gathered for its norm and taken apart again for the sum behind.  So such a value is held at home first
(`autoshard.constraining`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from jax.sharding import PartitionSpec

from autoshard.constraining import Chain, Chains
from autoshard.equations import Equations

Homes = dict[str, tuple[PartitionSpec | None, ...]]


def homes_of(equations: Equations, operands: Mapping[str, Chains], results: Mapping[str, Chains]) -> Homes:
    """Return the homes of operands by equation path, None for those that need not be held there.

    Args:
        equations: Of the function.
        operands: Chains of operands by path.
        results: Chains of results and slots by path.
    """
    specs = _specs(equations, results)
    readers = Counter(value for equation in equations.equations for value in {*equation.operands})

    def home(value: int, chain: Chain) -> PartitionSpec | None:
        spec = specs.get(value)
        return spec if readers[value] > 1 and chain not in ((), (spec,)) else None

    homes = {
        equation.path: tuple(map(home, equation.operands, operands[equation.path]))
        for equation in equations.equations
        if equation.path in operands
    }
    return {path: found for path, found in homes.items() if any(spec is not None for spec in found)}


def _specs(equations: Equations, results: Mapping[str, Chains]) -> dict[int, PartitionSpec]:
    """The spec of each value that has one; what a loop carries has that of what it hands on."""
    found = {
        value: chain[-1]
        for equation in equations.equations
        for value, chain in zip(equation.results, results.get(equation.path, ()), strict=False)
        if chain
    }
    for tie in equations.ties:
        whole = len(tie.dims) == len(equations.values[tie.outer].shape)
        if whole and tie.inner in found:
            found.setdefault(tie.outer, found[tie.inner])
    return found
