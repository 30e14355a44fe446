"""What planning phases together gives: a plan for each, what they cost together, and what alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoshard.phases.memory_order import Reordered
from autoshard.plan import Plan
from autoshard.tune_result import TuneResult


@dataclass(frozen=True, slots=True)
class PlannedPhase:
    """One phase of a joint plan.

    Attributes:
        name: Its name.
        runs: How often it runs, in the unit of the other phases' runs.
        tuned: Its plan, and what finding it took.
        separate: Its best plan alone, by the analytical model.
        reordered: What lies in the memory order of another phase; its copies are in none of the times.
    """

    name: str
    runs: float
    tuned: TuneResult
    separate: Plan
    reordered: Reordered

    @property
    def plan(self) -> Plan:
        """Its plan."""
        return self.tuned.plan

    @property
    def predicted_seconds(self) -> float:
        """Predicted time of one run: of its best plan under what the phases share, by the model."""
        return min(candidate.predicted_seconds for candidate in self.tuned.candidates)

    @property
    def separate_seconds(self) -> float:
        """Predicted time of one run when it is planned alone."""
        return self.separate.predicted_seconds

    @property
    def loss(self) -> float:
        """What planning together costs this phase, as a share of its time alone."""
        return self.predicted_seconds / self.separate_seconds - 1


@dataclass(frozen=True, slots=True)
class PlannedHandOver:
    """An array that a phase hands over.

    Attributes:
        source: The phase that has it.
        result: Its path in the results there.
        given: The spec in which it is left.
        target: The phase that takes it.
        argument: Its path in the arguments there.
        taken: The spec in which it is taken.
        runs: How often this happens.
        seconds: Predicted time of once.
    """

    source: str
    result: str
    given: str
    target: str
    argument: str
    taken: str
    runs: float
    seconds: float


@dataclass(frozen=True, slots=True)
class JointPlans:
    """Phases planned together.

    Attributes:
        phases: The phases, in the order given.
        shared: Paths of the arguments that lie alike in all of them.
        handovers: What they hand over.
        moving_seconds: What plans made alone would take, in one pass through the phases, to bring what is
            shared and handed over to the layouts of the next phase; None where their meshes differ.
        bound_seconds: A lower bound, by the model, on the time of all runs with one layout of what is shared.
        search_seconds: Time of the searches: of each phase alone, of all together, and under their pins.
        total_seconds: Time of the whole run.
        assumed_runs: Whether the runs are the default.
        interrupted: Whether Ctrl-C ended the run early, with the best plans known by then.
    """

    phases: tuple[PlannedPhase, ...]
    shared: tuple[str, ...]
    handovers: tuple[PlannedHandOver, ...]
    moving_seconds: float | None
    bound_seconds: float
    search_seconds: float
    total_seconds: float
    assumed_runs: bool = False
    interrupted: bool = False

    @property
    def plans(self) -> Mapping[str, Plan]:
        """The plan of each phase, by its name."""
        return {phase.name: phase.plan for phase in self.phases}

    @property
    def handover_seconds(self) -> float:
        """Predicted time of all hand-overs, each as often as it happens."""
        return sum(each.runs * each.seconds for each in self.handovers)

    @property
    def seconds(self) -> float:
        """Predicted time of all runs of all phases, and of the hand-overs."""
        return self.handover_seconds + sum(phase.runs * phase.predicted_seconds for phase in self.phases)

    @property
    def separate_seconds(self) -> float:
        """Predicted time of all runs, each phase planned alone and what they exchange free of charge."""
        return sum(phase.runs * phase.separate_seconds for phase in self.phases)

    @property
    def loss(self) -> float:
        """What one layout of what is shared costs, hand-overs included, as a share of the time apart."""
        return self.seconds / self.separate_seconds - 1

    @property
    def gap(self) -> float:
        """Relative distance of `seconds` to its proven lower bound."""
        return max(0.0, self.seconds - self.bound_seconds) / self.seconds

    def save(self, path: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write a plan file for each phase: `plan.json` becomes `plan.prefill.json` and `plan.decode.json`.

        Returns:
            The paths.

        Raises:
            PlanError: a file cannot be written.
        """
        paths = plan_paths(path, [phase.name for phase in self.phases])
        for phase, own in zip(self.phases, paths, strict=True):
            phase.plan.save(own)
        return paths


def plan_paths(path: str | os.PathLike[str], names: Sequence[str]) -> tuple[str, ...]:
    """The plan file of each phase: its name put before the ending of `path`."""
    whole = Path(path)
    return tuple(str(whole.with_name(f"{whole.stem}.{name}{whole.suffix}")) for name in names)
