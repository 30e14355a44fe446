"""What the stages of a case of the zoo share: program, trace, graph, and the slice that it fits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autoshard.cost.slices import parse_slice
from autoshard.errors import AutoshardError
from autoshard.graph_building import build_graph
from autoshard.infeasible import argument_bytes
from autoshard.judged import Judged
from autoshard.mesh_search import search_candidates
from autoshard.progress import Progress
from autoshard.search.graph import Graph
from autoshard.targets import Target
from autoshard.trace import Traced, trace
from autoshard.tune_options import Options
from autoshard.tune_session import Session
from tests.models.case import Case, Program


class ZooError(AutoshardError):
    """A stage that cannot give a result; the message says why."""


@dataclass(frozen=True)
class Work:
    """One case, and what its stages share, each made when it is first asked for.

    Attributes:
        case: The case.
        slices: Slices to plan on, the smallest first.
        mesh: As for `autoshard.tune`.
        compile_seconds: Limit of one compile.
        compile_effort: What the compiler spends on fast code, from -1 to 0.
        plans: Folder for plans.
    """

    case: Case
    slices: tuple[str, ...]
    mesh: str
    compile_seconds: float
    compile_effort: float
    plans: Path

    @cached_property
    def program(self) -> Program:
        """The program at its published size."""
        return self.case.full()

    @cached_property
    def traced(self) -> Traced:
        """The program, traced."""
        return trace(self.program.fn, self.program.args, self.program.kwargs, **self.program.options)

    @cached_property
    def graph(self) -> Graph:
        """Its graph."""
        return build_graph(self.traced)

    @cached_property
    def fit(self) -> Fit:
        """The best plan on the first slice that fits."""
        return first_fit(self, {})

    def session(self, slice_name: str) -> Session:
        """What a tuning run on a slice shares, without tracing anew."""
        program, name = self.program, self.case.name
        target = Target("", None, program.fn, name, program.args, dict(program.options), dict(program.kwargs))
        options = Options(slice_name, refine="none", top_k=1, mesh=self.mesh)
        slice_, progress = parse_slice(slice_name), Progress(quiet=True)
        return Session(target, options, progress, slice_, self.traced, self.graph)


@dataclass(frozen=True, slots=True)
class Fit:
    """The best plan on a slice, by the analytical model; `refused` says why smaller slices do not do."""

    session: Session
    candidate: Judged
    search_seconds: float
    refused: dict[str, str]


def first_fit(work: Work, refused: dict[str, str]) -> Fit:
    """Search on each slice that is not yet refused until a plan fits.

    Raises:
        ZooError: None fits.
    """
    refused = dict(refused)
    for name in (name for name in work.slices if name not in refused):
        session = work.session(name)
        needed, total = argument_bytes(session), session.slice_.n_chips * session.slice_.chip.hbm_usable_bytes
        if needed > total:
            refused[name] = f"arguments of {needed / 2**30:.0f} GiB for {total / 2**30:.0f} GiB of HBM"
            continue
        started = time.monotonic()
        found = search_candidates(session)
        seconds = time.monotonic() - started
        if found.candidates:
            return Fit(session, found.candidates[0], seconds, refused)
        refused[name] = f"no plan fits ({seconds:.0f} s of search)"
    raise ZooError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
