"""What people write down of a layout, so that the compiler may do the rest.

A rule of `bench.fidelity_hand` fixes the big matrices and what their einsums read; the search fills in all
else, and a plan says all of it. People do not: they give arguments and results their shardings, put a
constraint on what goes into each big matrix multiplication, and leave the layout of everything between to the
partitioner's propagation. That program is made here, of a rule's plan.

    x = lax.with_sharding_constraint(x, P(("x", "y"), None, None))
    w = lax.with_sharding_constraint(params["w_up"], P(None, "z"))
    h = jnp.einsum("ble,ef->blf", x, w)

It is generous: arguments that a rule says nothing of (embeddings, norms, the cache) lie as the search would
have them, and so do the tokens of experts.
"""

from __future__ import annotations

import msgspec

from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord
from bench.fidelity_hand import NARROWING, WIDENING

_SUFFIXES = tuple(f"layers/{name}{kind}" for name in (*WIDENING, *NARROWING) for kind in ("", "/int8"))


def as_written(plan: Plan) -> Plan:
    """The plan with no constraints but those on what the einsums of big matrices read."""
    einsums = tuple(_read_alone(einsum) for einsum in plan.einsums if einsum.name.endswith(_SUFFIXES))
    return msgspec.structs.replace(plan, einsums=einsums, tensors=())


def _read_alone(einsum: EinsumRecord) -> EinsumRecord:
    """The operands in the layouts in which they are read, however they come there; any result."""
    ends = tuple(text if text is None else text.rpartition(" > ")[2] for text in einsum.operands)
    return msgspec.structs.replace(einsum, operands=ends, result=None)
