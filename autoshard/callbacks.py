"""Calls back to Python in a traced function.

`jax.pure_callback` and `jax.experimental.io_callback` give values that the program needs: neither
`jax.export` nor the TPU compiler ahead of time can take such a program, so it is refused. `jax.debug.print`,
`jax.debug.callback` and `jax.debug.inspect_array_sharding` only look: they stay in the user's function and
are dropped from the copy that is compiled to be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

from autoshard.equations import Equation

_HOST = frozenset({"pure_callback", "io_callback"})
_DEBUG = frozenset({"debug_callback", "debug_print", "inspect_sharding"})


def host_callback(equations: Iterable[Equation]) -> Equation | None:
    """Return the first equation whose value Python computes, or None."""
    return next((equation for equation in equations if equation.primitive in _HOST), None)


def without_debugging(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return a program without what only prints or inspects; the same one where there is nothing of that."""
    everything = _equations(closed.jaxpr) if closed.effects else ()
    gone = {effect for eqn in everything if eqn.primitive.name in _DEBUG for effect in eqn.effects}
    return ClosedJaxpr(_pruned(closed.jaxpr, gone), closed.consts) if gone else closed


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from _equations(inner)


def _pruned(jaxpr: Jaxpr, gone: Set[Any]) -> Jaxpr:
    """Nested programs without side effects, which most are, stay as they are."""
    if not jaxpr.effects:
        return jaxpr
    eqns = [_pruned_equation(eqn, gone) for eqn in jaxpr.eqns if eqn.primitive.name not in _DEBUG]
    pruned: Jaxpr = jaxpr.replace(eqns=eqns, effects=jaxpr.effects - gone)
    return pruned


def _pruned_equation(eqn: JaxprEqn, gone: Set[Any]) -> JaxprEqn:
    if not eqn.effects:
        return eqn
    params = {name: _pruned_parameter(value, gone) for name, value in eqn.params.items()}
    pruned: JaxprEqn = eqn.replace(params=params, effects=eqn.effects - gone)
    return pruned


def _pruned_parameter(value: Any, gone: Set[Any]) -> Any:
    if isinstance(value, ClosedJaxpr):
        return ClosedJaxpr(_pruned(value.jaxpr, gone), value.consts)
    if isinstance(value, Jaxpr):
        return _pruned(value, gone)
    return tuple(_pruned_parameter(each, gone) for each in value) if type(value) is tuple else value
