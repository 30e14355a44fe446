"""The sharding rule of every equation, cached by the equation's signature.

Each distinct signature (primitive, parameters, operand and result types) is looked up once: among the rules
written by hand, else in what Shardy says of the ops it lowers to, all new ones in one lowering.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from autoshard.compiler_limits import within_limits
from autoshard.factor_table import Rule
from autoshard.partitioner.shardy_rules import shardy_rules
from autoshard.primitives import OPAQUE
from autoshard.written_rules import written_rule

_LABELS = frozenset({"name"})
"""Parameters that say nothing of what an equation does."""


def signature(eqn: JaxprEqn) -> Hashable:
    """Return a key that is equal for equations with the same rule.

    The value of a literal is not in it: a rule is of the array operands. Dtypes are: they decide how an
    equation lowers.
    """
    types = [_type(v.aval) for v in (*eqn.invars, *eqn.outvars)]
    literals = [isinstance(v, Literal) for v in eqn.invars]
    known = {} if eqn.primitive.name in OPAQUE else eqn.params  # of an opaque one only the shapes matter
    params = [(key, _hashable(value)) for key, value in known.items() if key not in _LABELS]
    return eqn.primitive, bool(eqn.effects), tuple(types), tuple(literals), tuple(params)


@functools.lru_cache(maxsize=2**16)
def _type(aval: Any) -> Hashable:
    """What a rule depends on of an abstract value; not its weak type, nor a sharding it may carry."""
    return type(aval), getattr(aval, "shape", ()), getattr(aval, "dtype", None)


def _hashable(value: Any) -> Hashable:
    """A parameter that has a hash, else one that is equal to itself only (an array, a list, a dict)."""
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value  # type: ignore[no-any-return]


class _Same:
    """Equal to another when both hold the same object, which it keeps alive."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


class RuleBook:
    """Rules by signature; one book serves many traces."""

    def __init__(self) -> None:
        """Start an empty book."""
        self._rules: dict[Hashable, Rule] = {}

    def rules(self, eqns: Iterable[JaxprEqn]) -> list[Rule]:
        """Return the rule of each equation, all that are new found in one lowering."""
        eqns = list(eqns)
        distinct = {id(eqn): eqn for eqn in eqns}  # jaxprs recur, and their equations with them
        keys = {number: signature(eqn) for number, eqn in distinct.items()}
        self._find({keys[number]: eqn for number, eqn in distinct.items()})
        return [self._rules[keys[id(eqn)]] for eqn in eqns]

    def learn(self, eqns: Iterable[JaxprEqn]) -> None:
        """Find the rules of all equations whose signature is new."""
        self.rules(eqns)

    def __getitem__(self, eqn: JaxprEqn) -> Rule:
        """Return the rule of an equation that was learnt."""
        return self._rules[signature(eqn)]

    def _find(self, eqns: dict[Hashable, JaxprEqn]) -> None:
        new = {key: eqn for key, eqn in eqns.items() if key not in self._rules}
        written = {key: rule for key, eqn in new.items() if (rule := written_rule(eqn)) is not None}
        rest = {key: eqn for key, eqn in new.items() if key not in written}
        asked = zip(rest.items(), shardy_rules(list(rest.values())), strict=True)
        self._rules |= written
        self._rules |= {key: within_limits(eqn, rule) for (key, eqn), rule in asked}
