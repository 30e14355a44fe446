"""From a candidate of the search to a plan: specs by path and name, costs, notation.

A plan is written in names (mesh axes, argument paths, einsum names), so it can be read, compared and
applied without the graph it came from. Only what the compiler needs is pinned: einsums, values that
several ops read, and values that are resharded.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Collection, Sequence

import jax

import autoshard
from autoshard.compiled.options import default_options
from autoshard.cost.torus import TorusMesh
from autoshard.cost_records import cost_record
from autoshard.coverage import coverage_record
from autoshard.memory_orders import written_order
from autoshard.name_patterns import count_names, fold_names
from autoshard.notation import einsum_layout
from autoshard.padding_records import padding_records
from autoshard.plan import Plan
from autoshard.plan_records import (
    ArgumentRecord,
    AxisRecord,
    CollectiveRecord,
    EinsumRecord,
    FunctionRecord,
    FusionRecord,
    ResultRecord,
    TensorRecord,
)
from autoshard.plan_shardings import structure_text
from autoshard.search.decisions import Decisions, OpDecision, spell_out
from autoshard.search.fusing import fusions
from autoshard.search.graph import Graph, OpKind, Value
from autoshard.search.ordering import Spec
from autoshard.search.planner import Candidate, Outcome
from autoshard.search.problem import Problem
from autoshard.search.updates import written_along_shards
from autoshard.specs import format_chain, format_spec, format_type
from autoshard.trace import Traced
from autoshard.verdict_records import Prediction, Versions


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
    written = written_along_shards(problem, candidate.labels)
    return Plan(
        created_by=f"autoshard {autoshard.__version__}",
        function=FunctionRecord(
            name=function_name,
            target=target,
            inputs=inputs,
            fingerprint=traced.fingerprint(),
            tree_in=structure_text(_positional(traced)),
            tree_out=structure_text(traced.out_tree),
        ),
        slice=mesh.slice.name,
        mesh_axes=tuple(
            AxisRecord(name=a.name, size=a.size, torus_dim=a.torus_dim, stride=a.stride) for a in mesh.axes
        ),
        objective=objective,
        compiler_options=default_options(mesh.slice),
        arguments=_arguments(traced, problem.graph, decisions, written),
        results=_results(traced, problem.graph, decisions, written),
        einsums=_einsums(decisions),
        tensors=_tensors(decisions),
        fusions=_fusions(decisions),
        predicted=_prediction(traced, problem, candidate, outcome, decisions),
        versions=_versions(),
        coverage=coverage_record(problem.graph),
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


def _arguments(
    traced: Traced, graph: Graph, decisions: Decisions, written: Collection[int]
) -> dict[str, ArgumentRecord]:
    mesh, taken = decisions.problem.mesh, dict(graph.aliases)
    return {
        name: ArgumentRecord(
            type=format_type(aval.dtype, aval.shape),
            spec=_text(decisions.spec_of_value(_holder(graph, position, taken.get(position))), mesh),
            donated=position in traced.donated,
            order=written_order(len(aval.shape)) if position in written else None,
        )
        for position, (name, aval) in enumerate(zip(traced.argument_names, traced.in_avals, strict=True))
    }


def _holder(graph: Graph, position: int, result: int | None) -> int:
    """The value whose layout an argument has: for a small one that is donated the `result` in its buffer."""
    value = graph.arguments[position]
    return graph.results[result] if graph.values[value].free and result is not None else value


def _results(
    traced: Traced, graph: Graph, decisions: Decisions, written: Collection[int]
) -> dict[str, ResultRecord]:
    mesh = decisions.problem.mesh
    kept = {result for argument, result in graph.aliases if argument in written}
    rows = zip(traced.result_names, traced.out_avals, graph.results, strict=True)
    return {
        name: ResultRecord(
            type=format_type(aval.dtype, aval.shape),
            spec=_text(decisions.spec_of_value(value), mesh),
            order=written_order(len(aval.shape)) if position in kept else None,
        )
        for position, (name, aval, value) in enumerate(rows)
    }


def _patterns(decision: OpDecision, graph: Graph) -> tuple[str, ...]:
    """Patterns of the names of an op's copies; each becomes a record."""
    return fold_names([graph.ops[copy].name for copy in decision.copies])


def _einsums(decisions: Decisions) -> tuple[EinsumRecord, ...]:
    problem = decisions.problem
    return tuple(
        _einsum(decision, pattern, problem.mesh)
        for decision in decisions.ops
        if decision.op.kind is OpKind.EINSUM
        for pattern in _patterns(decision, problem.graph)
    )


def _einsum(decision: OpDecision, pattern: str, mesh: TorusMesh) -> EinsumRecord:
    op = decision.op
    return EinsumRecord(
        name=pattern,
        repeats=count_names(pattern),
        source=op.source,
        equation=op.equation,
        trips=op.trips,
        layout=einsum_layout(decision, mesh),
        operands=tuple(_chain(chain, mesh) for chain in decision.operands),
        result=_chain(decision.result, mesh),
        collectives=_collectives(decision, pattern),
        compute_seconds=decision.compute_seconds,
        hbm_seconds=decision.hbm_seconds,
        ici_seconds=decision.ici_seconds,
        flops_per_chip=decision.flops_per_chip,
        cost=cost_record(decision.cost),
        padding=padding_records(decision.padded, mesh),
    )


def _collectives(decision: OpDecision, pattern: str) -> tuple[CollectiveRecord, ...]:
    """The collectives of an op and its copies; what the op itself makes goes by the name of the record."""
    return tuple(
        CollectiveRecord(
            kind=m.kind,
            axes=",".join(m.axes),
            bytes_per_chip=round(m.bytes_per_chip),
            seconds=m.seconds,
            tensor=pattern if m.tensor == decision.op.name else m.tensor,
        )
        for m in decision.movements
    )


def _is_tensor(decision: OpDecision) -> bool:
    if decision.op.kind is OpKind.EINSUM:
        return False
    if decision.op.kind is OpKind.IDENTITY:
        return _is_loop_slot(decision) or bool(decision.movements)
    return bool(decision.movements) or (decision.constrained and bool(decision.result))


def _is_loop_slot(decision: OpDecision) -> bool:
    return ":carry" in decision.op.path or ":y" in decision.op.path


def _pinned_operands(decision: OpDecision, decisions: Decisions) -> tuple[str | None, ...]:
    """Specs of operands that are pinned for an op that is no einsum; empty when there are none.

    These are stored ones that are resharded: left to itself the partitioner would look a table up where it
    lies and reduce the whole result. Those whose way takes several steps: it would gather them whole. And
    those that a loop carries in another layout: it would carry them in that of the op.
    """
    if decision.op.kind is OpKind.IDENTITY:
        return ()
    graph, mesh = decisions.problem.graph, decisions.problem.mesh
    names = {movement.tensor for movement in decision.movements}
    values = [graph.values[value] for value in decision.op.operands]
    pinned = [
        len(chain) > 1
        or (value.stored_bytes > 0 and value.name in names)
        or (_is_carried(value, graph) and chain not in ((), (decisions.spec_of_value(value.index),)))
        for chain, value in zip(decision.operands, values, strict=True)
    ]
    if not any(pinned):
        return ()
    pairs = zip(decision.operands, pinned, strict=True)
    return tuple(_chain(chain, mesh) if is_pinned else None for chain, is_pinned in pairs)


def _is_carried(value: Value, graph: Graph) -> bool:
    """Whether a value is handed to the iterations of a loop."""
    return value.producer >= 0 and graph.ops[value.producer].kind is OpKind.IDENTITY


def _tensors(decisions: Decisions) -> tuple[TensorRecord, ...]:
    problem = decisions.problem
    return tuple(
        _tensor(decision, pattern, decisions)
        for decision in decisions.ops
        if _is_tensor(decision)
        for pattern in _patterns(decision, problem.graph)
    )


def _tensor(decision: OpDecision, pattern: str, decisions: Decisions) -> TensorRecord:
    op, mesh = decision.op, decisions.problem.mesh
    return TensorRecord(
        name=pattern,
        repeats=count_names(pattern),
        source=op.source,
        spec=_chain(decision.result, mesh),
        operands=_pinned_operands(decision, decisions),
        trips=op.trips,
        collectives=_collectives(decision, pattern),
        hbm_seconds=decision.hbm_seconds,
        ici_seconds=decision.ici_seconds,
        cost=cost_record(decision.cost),
        padding=padding_records(decision.padded, mesh),
    )


def _fusions(decisions: Decisions) -> tuple[FusionRecord, ...]:
    graph = decisions.problem.graph
    return tuple(
        FusionRecord(
            einsums=tuple(name for member in each.members for name in _patterns(member, graph)),
            reads=graph.value_label(each.activation),
            seconds=each.seconds,
            fused_seconds=each.fused_seconds,
            collective_seconds=each.collective_seconds,
            fused_collective_seconds=each.fused_collective_seconds,
        )
        for each in fusions(decisions)
    )


def _prediction(
    traced: Traced, problem: Problem, candidate: Candidate, outcome: Outcome, decisions: Decisions
) -> Prediction:
    chip = problem.mesh.slice.chip
    ops = decisions.ops
    seconds = candidate.seconds - candidate.permute_seconds + decisions.orders.permute_seconds
    gap = max(0.0, seconds - outcome.bound_seconds) / seconds if seconds else 0.0
    return Prediction(
        seconds=seconds,
        lower_bound_seconds=outcome.bound_seconds,
        gap=gap,
        compute_seconds=sum(d.compute_seconds * d.executions for d in ops),
        hbm_seconds=sum(d.hbm_seconds * d.executions for d in ops),
        ici_seconds=sum(d.ici_seconds * d.executions for d in ops),
        exposed_ici_fraction=chip.exposed_ici_fraction,
        hbm_bytes_per_chip=round(candidate.peak.nbytes),
        hbm_by_kind={kind: round(nbytes) for kind, nbytes in candidate.peak.by_kind.items() if nbytes},
        hbm_limit_bytes=round(chip.hbm_usable_bytes),
        flops_per_chip=sum(d.flops_per_chip * d.executions for d in ops),
        tokens=_tokens(traced),
        cost=cost_record(decisions.cost),
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
