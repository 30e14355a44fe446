"""From a candidate of the search to a plan: specs by path and name, costs, notation.

A plan is written in names (mesh axes, argument paths, einsum names), so it can be read, compared and
applied without the graph it came from. Only what the compiler needs is pinned: einsums, values that
several ops read, and values that are resharded.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence

import jax

import autoshard
from autoshard.cost.torus import TorusMesh
from autoshard.notation import einsum_layout
from autoshard.plan import Plan
from autoshard.plan_records import (
    ArgumentRecord,
    AxisRecord,
    CollectiveRecord,
    Coverage,
    EinsumRecord,
    FunctionRecord,
    Prediction,
    ResultRecord,
    TensorRecord,
    UnruledPrimitive,
    Versions,
)
from autoshard.search.decisions import Decisions, Movement, OpDecision, spell_out
from autoshard.search.graph import Graph, OpKind
from autoshard.search.ordering import Spec
from autoshard.search.planner import Candidate, Outcome
from autoshard.search.problem import Problem
from autoshard.specs import format_chain, format_spec, format_type
from autoshard.trace import Traced


def make_plan(
    traced: Traced,
    problem: Problem,
    candidate: Candidate,
    outcome: Outcome,
    *,
    function_name: str,
    target: str | None = None,
    inputs: str | None = None,
    objective: str = "latency",
) -> Plan:
    """Write one candidate as a plan; compiler and hardware tiers are added by the caller."""
    decisions = spell_out(problem, candidate.labels)
    mesh = problem.mesh
    return Plan(
        created_by=f"autoshard {autoshard.__version__}",
        function=FunctionRecord(
            name=function_name,
            target=target,
            inputs=inputs,
            fingerprint=traced.fingerprint(),
            tree_in=str(_positional(traced)),
            tree_out=str(traced.out_tree),
        ),
        slice=mesh.slice.name,
        mesh_axes=tuple(
            AxisRecord(name=a.name, size=a.size, torus_dim=a.torus_dim, stride=a.stride) for a in mesh.axes
        ),
        objective=objective,
        arguments=_arguments(traced, problem.graph, decisions),
        results=_results(traced, problem.graph, decisions),
        einsums=tuple(_einsum(d, mesh) for d in decisions.ops if d.op.kind is OpKind.EINSUM),
        tensors=tuple(_tensor(d, problem.graph, mesh) for d in decisions.ops if _is_tensor(d)),
        predicted=_prediction(traced, problem, candidate, outcome, decisions),
        versions=_versions(),
        coverage=_coverage(problem.graph),
    )


def _positional(traced: Traced) -> jax.tree_util.PyTreeDef:
    """The structure of the positional arguments, keyword ones appended in the order of their names."""
    args, kwargs = jax.tree.unflatten(traced.in_tree, [0] * traced.in_tree.num_leaves)
    return jax.tree.structure((*args, *(kwargs[name] for name in sorted(kwargs))))


def _text(spec: Spec, mesh: TorusMesh) -> str:
    return format_spec(tuple(tuple(mesh.names[a] for a in dim) for dim in spec))


def _chain(chain: Sequence[Spec], mesh: TorusMesh) -> str | None:
    """A chain of specs as text; None where the compiler is left free."""
    return (
        format_chain([tuple(tuple(mesh.names[a] for a in dim) for dim in spec) for spec in chain])
        if chain
        else None
    )


def _arguments(traced: Traced, graph: Graph, decisions: Decisions) -> dict[str, ArgumentRecord]:
    mesh = decisions.problem.mesh
    return {
        name: ArgumentRecord(
            type=format_type(aval.dtype, aval.shape),
            spec=_text(decisions.spec_of_value(value), mesh),
            donated=position in traced.donated,
        )
        for position, (name, aval, value) in enumerate(
            zip(traced.argument_names, traced.in_avals, graph.arguments, strict=True)
        )
    }


def _results(traced: Traced, graph: Graph, decisions: Decisions) -> dict[str, ResultRecord]:
    mesh = decisions.problem.mesh
    return {
        name: ResultRecord(
            type=format_type(aval.dtype, aval.shape), spec=_text(decisions.spec_of_value(value), mesh)
        )
        for name, aval, value in zip(traced.result_names, traced.out_avals, graph.results, strict=True)
    }


def _einsum(decision: OpDecision, mesh: TorusMesh) -> EinsumRecord:
    op = decision.op
    return EinsumRecord(
        name=op.name,
        source=op.source,
        equation=op.equation,
        trips=op.trips,
        layout=einsum_layout(decision, mesh),
        operands=tuple(_chain(chain, mesh) for chain in decision.operands),
        result=_chain(decision.result, mesh),
        collectives=_collectives(decision.movements),
        compute_seconds=decision.compute_seconds,
        hbm_seconds=decision.hbm_seconds,
        ici_seconds=decision.ici_seconds,
        flops_per_chip=decision.flops_per_chip,
    )


def _collectives(movements: Sequence[Movement]) -> tuple[CollectiveRecord, ...]:
    return tuple(
        CollectiveRecord(
            kind=m.kind,
            axes=",".join(m.axes),
            bytes_per_chip=round(m.bytes_per_chip),
            seconds=m.seconds,
            tensor=m.tensor,
        )
        for m in movements
    )


def _is_tensor(decision: OpDecision) -> bool:
    if decision.op.kind is OpKind.EINSUM:
        return False
    if decision.op.kind is OpKind.IDENTITY:
        return _is_loop_slot(decision) or bool(decision.movements)
    return bool(decision.movements) or (decision.constrained and bool(decision.result))


def _is_loop_slot(decision: OpDecision) -> bool:
    return ":carry" in decision.op.path or ":y" in decision.op.path


def _pinned_operands(decision: OpDecision, graph: Graph, mesh: TorusMesh) -> tuple[str | None, ...]:
    """Specs of stored operands that are resharded for an op; empty when there are none.

    Left to itself the partitioner would look a table up where it lies and reduce the whole result.
    """
    names = {movement.tensor for movement in decision.movements}
    stored = [graph.values[value] for value in decision.op.operands]
    moved = [value.stored_bytes > 0 and value.name in names for value in stored]
    if not any(moved) or decision.op.kind is OpKind.IDENTITY:
        return ()
    pairs = zip(decision.operands, moved, strict=True)
    return tuple(_chain(chain, mesh) if pinned else None for chain, pinned in pairs)


def _tensor(decision: OpDecision, graph: Graph, mesh: TorusMesh) -> TensorRecord:
    op = decision.op
    return TensorRecord(
        name=op.name,
        source=op.source,
        spec=_chain(decision.result, mesh),
        operands=_pinned_operands(decision, graph, mesh),
        trips=op.trips,
        collectives=_collectives(decision.movements),
        hbm_seconds=decision.hbm_seconds,
        ici_seconds=decision.ici_seconds,
    )


def _prediction(
    traced: Traced, problem: Problem, candidate: Candidate, outcome: Outcome, decisions: Decisions
) -> Prediction:
    chip = problem.mesh.slice.chip
    ops = decisions.ops
    seconds = candidate.seconds + decisions.orders.permute_seconds
    gap = max(0.0, seconds - outcome.bound_seconds) / seconds if seconds else 0.0
    return Prediction(
        seconds=seconds,
        lower_bound_seconds=outcome.bound_seconds,
        gap=gap,
        compute_seconds=sum(d.compute_seconds * d.op.trips for d in ops),
        hbm_seconds=sum(d.hbm_seconds * d.op.trips for d in ops),
        ici_seconds=sum(d.ici_seconds * d.op.trips for d in ops) + decisions.orders.permute_seconds,
        exposed_ici_fraction=chip.exposed_ici_fraction,
        hbm_bytes_per_chip=round(candidate.peak.nbytes),
        hbm_by_kind={kind: round(nbytes) for kind, nbytes in candidate.peak.by_kind.items() if nbytes},
        hbm_limit_bytes=round(chip.hbm_usable_bytes),
        flops_per_chip=sum(d.flops_per_chip * d.op.trips for d in ops),
        tokens=_tokens(traced),
    )


def _tokens(traced: Traced) -> int | None:
    """Tokens of a step: the size of the integer argument whose name says token or ids."""
    for name, aval in zip(traced.argument_names, traced.in_avals, strict=True):
        leaf = name.rpartition("/")[2]
        if str(aval.dtype).startswith(("int", "uint")) and ("token" in leaf or leaf.endswith("ids")):
            return int(math.prod(aval.shape))
    return None


def _versions() -> Versions:
    try:
        libtpu: str | None = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        libtpu = None
    return Versions(
        jax=jax.__version__,
        jaxlib=importlib.metadata.version("jaxlib"),
        libtpu=libtpu,
        autoshard=autoshard.__version__,
    )


def _coverage(graph: Graph) -> Coverage:
    unruled: dict[str, list[float]] = {}
    for op in graph.ops:
        if not op.ruled:
            nbytes = sum(graph.values[v].nbytes for v in (*op.operands, *op.results))
            unruled.setdefault(op.primitive, []).append(nbytes)
    covered = sum(op.flops * op.trips for op in graph.ops if op.ruled)
    return Coverage(
        equations=graph.equations,
        einsums=len(graph.einsums),
        flops_fraction=covered / graph.flops if graph.flops else 1.0,
        unruled=tuple(
            UnruledPrimitive(primitive=name, count=len(sizes), bytes=round(sum(sizes)))
            for name, sizes in sorted(unruled.items())
        ),
    )
