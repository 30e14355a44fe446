"""Audit a plan: its program as the TPU compiler makes it, against what the plan says that it communicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from autoshard.audit.attribution import Attributed, attributed
from autoshard.audit.attribution_source import short
from autoshard.audit.flow import Flow
from autoshard.audit.matching import NEAR_STEPS, match
from autoshard.audit.records import Audit, Compiled, Predicted
from autoshard.audit.replicated import replicated
from autoshard.compiled.hlo import parse_module
from autoshard.compiled.worker import CompileResult, compile_all
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis, TorusMesh
from autoshard.equations import Equation, Equations
from autoshard.errors import CompileError, PlanError
from autoshard.marks import marked_key
from autoshard.matching import require_match
from autoshard.name_patterns import expand_name
from autoshard.plan import Plan
from autoshard.plan_records import EinsumRecord, TensorRecord
from autoshard.refinement import compile_limit_seconds
from autoshard.refining import export_candidate
from autoshard.targets import load_target
from autoshard.trace import trace

_COPY = "copy"
"""The kind under which a plan lists a reshard's traffic in HBM: no collective."""


def audit_plan(plan: Plan, say: Callable[[str], None] = lambda text: None) -> Audit:
    """Compile the function of a plan under it, and lay predicted against compiled collectives.

    Args:
        plan: A plan that says where its function is, for a slice of TPUs.
        say: Told which stage begins.

    Raises:
        PlanError: The plan does not say where its function is.
        PlanMismatchError: The function has changed since it was planned.
        CompileError: The program cannot be compiled here, or does not fit.
    """
    if plan.function.target is None:
        raise PlanError(
            f"the plan of `{plan.function.name}` does not say where its function is, so it cannot be "
            "compiled: make it with `autoshard tune MODULE_OR_FILE:FUNCTION --slice ... -o PLAN`"
        )
    say(f"trace {plan.function.target}")
    target = load_target(plan.function.target, plan.function.inputs).bound(plan.choices)
    traced = trace(target.function, target.arguments, target.keywords, **target.jit_options)
    require_match(plan, traced)
    say(f"compile for {plan.slice}")
    limit_seconds = compile_limit_seconds(len(traced.equations.equations))
    (result,) = compile_all(
        [export_candidate(traced, plan, "tpu")],
        plan.slice,
        time_limit_seconds=limit_seconds,
        keep_text=True,
    )
    return audit_compiled(plan, traced.equations, result)


def audit_compiled(plan: Plan, equations: Equations, result: CompileResult) -> Audit:
    """Lay the collectives of a compiled plan against the predicted ones.

    Args:
        plan: The plan.
        equations: Its function, walked.
        result: What `compile_all(..., keep_text=True)` says of it.

    Raises:
        CompileError: It was not compiled.
    """
    if result.status != "ok" or result.text is None:
        raise CompileError(
            f"the plan of `{plan.function.name}` was not compiled for {plan.slice}: "
            f"{result.status}{f': {result.detail}' if result.detail else ''}"
        )
    predicted = tuple(predicted_collectives(plan))
    located = _Locator(plan, equations, predicted)
    module = parse_module(result.text)
    found = attributed(module, result.collectives)
    flow, sizes = Flow(equations, NEAR_STEPS), {axis.name: axis.size for axis in plan.mesh_axes}
    return Audit(
        function=plan.function.name,
        slice=plan.slice,
        mesh=sizes,
        has_plan=True,
        rows=match(predicted, [located.place(each) for each in found], located.places, flow, sizes),
        rematerialised=replicated(result.rematerialised, module, _mesh(plan), located.by_mark),
        unknown_loops=result.unknown_loops,
        seconds_estimated=result.seconds_estimated,
    )


def predicted_collectives(plan: Plan) -> Iterator[Predicted]:
    """Yield the collectives of a plan; its copies within HBM are none."""
    order = {axis.name: number for number, axis in enumerate(plan.mesh_axes)}
    records: Iterable[EinsumRecord | TensorRecord] = (*plan.einsums, *plan.tensors)
    for record in records:
        for each in record.collectives:
            if each.kind != _COPY:
                yield Predicted(
                    entry=record.name,
                    source=record.source,
                    tensor=each.tensor,
                    kind=each.kind,
                    axes=tuple(sorted(each.axes.split(","), key=order.__getitem__)),
                    bytes_per_chip=each.bytes_per_chip,
                    seconds=each.seconds,
                    trips=record.trips,
                    copies=record.repeats,
                )


def _mesh(plan: Plan) -> TorusMesh:
    axes = (MeshAxis(each.name, each.size, each.torus_dim, each.stride) for each in plan.mesh_axes)
    return TorusMesh(parse_slice(plan.slice), tuple(axes))


class _Locator:
    """Finds the equation, and with it the entry of the plan, that a compiled collective serves."""

    def __init__(self, plan: Plan, equations: Equations, predicted: Iterable[Predicted]) -> None:
        records: Iterable[EinsumRecord | TensorRecord] = (*plan.einsums, *plan.tensors)
        self.entries = {name: each.name for each in records for name in expand_name(each.name)}
        self.by_mark = {marked_key(each.path): each for each in equations.equations}
        self.wanted = {(each.entry, each.kind, each.axes) for each in predicted}
        self.places: Mapping[str, list[int]] = self._places(equations)

    def _places(self, equations: Equations) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for each in equations.equations:
            if each.name in self.entries:
                places.setdefault(self.entries[each.name], []).append(each.index)
        return places

    def place(self, found: Attributed) -> Compiled:
        """Return a collective at the equation that the plan predicts it for, else at the likeliest one."""
        at = [self.by_mark[mark] for mark in found.marks if mark in self.by_mark]
        planned = (each for each in at if (self._entry(each), found.kind, found.axes) in self.wanted)
        equation = next(planned, at[0] if at else None)
        line = short(found.stack[0]) if found.stack else ""
        if equation is None:
            return Compiled(found, None, found.op, line)
        return Compiled(
            collective=found,
            entry=self._entry(equation),
            op=equation.name,
            source=equation.source or line,
            equation=equation.index,
        )

    def _entry(self, equation: Equation) -> str | None:
        return self.entries.get(equation.name)
