"""The sharding rule of every equation, cached by the equation's signature.

Each distinct signature (primitive, parameters, operand types) is looked up once: among the rules written
by hand, else in what Shardy says of the ops it lowers to, all new ones in one lowering.
"""

from __future__ import annotations

from collections.abc import Iterable

from jax.extend.core import JaxprEqn, Literal

from autoshard.factor_table import Rule
from autoshard.shardy_rules import shardy_rules
from autoshard.written_rules import written_rule


def signature(eqn: JaxprEqn) -> str:
    """Return a key that is equal for equations with the same rule."""
    operands = [f"={v.val}" if isinstance(v, Literal) else v.aval.str_short() for v in eqn.invars]
    results = [v.aval.str_short() for v in eqn.outvars]
    params = {name: value for name, value in eqn.params.items() if name != "name"}
    return f"{eqn.primitive.name}|{operands}|{results}|{params}"


class RuleBook:
    """Rules by signature; one book serves many traces."""

    def __init__(self) -> None:
        """Start an empty book."""
        self._rules: dict[str, Rule] = {}

    def learn(self, eqns: Iterable[JaxprEqn]) -> None:
        """Find the rules of all equations whose signature is new, in one lowering."""
        new: dict[str, JaxprEqn] = {}
        for eqn in eqns:
            key = signature(eqn)
            if key not in self._rules and key not in new:
                new[key] = eqn
        written = {key: rule for key, eqn in new.items() if (rule := written_rule(eqn)) is not None}
        rest = {key: eqn for key, eqn in new.items() if key not in written}
        self._rules |= written
        self._rules |= dict(zip(rest, shardy_rules(list(rest.values())), strict=True))

    def __getitem__(self, eqn: JaxprEqn) -> Rule:
        """Return the rule of an equation that was learnt."""
        return self._rules[signature(eqn)]
