"""Which candidates go to the compiler and to the devices, and what follows when they come back.

Each tier re-ranks the survivors of the one above. A tier that cannot run here is skipped and the reason is
kept. Where the compiler finds that no candidate fits, the search is repeated with as much memory held back
as the model was short of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoshard.errors import CompileError
from autoshard.judged import OK, Judged
from autoshard.mesh_search import SearchResult
from autoshard.option_refinement import OptionRefinement, with_first_options
from autoshard.projection_refinement import ProjectionRefinement
from autoshard.refining import (
    compile_candidates,
    host_memory_reason,
    partition_candidates,
    time_candidates,
)
from autoshard.topology import compiler_skip_reason
from autoshard.trace import Traced
from autoshard.tune_session import Session

ESTIMATED, MEASURED = "estimated", "measured"
TIER_NAMES = {ESTIMATED: "tier 2 (TPU compiler)", MEASURED: "tier 3 (timing)"}
NOT_ASKED = "not asked for (--refine)"

_NOTABLE_SHARE = 0.01
"""Time of collectives that the model did not see, as a share of the step, from which on it is said."""
_HEADROOM_RETRIES = 3
_MARGIN_BYTES = 2**26
_COMPILE_SECONDS, _COMPILE_SECONDS_PER_OP, _MOST_COMPILE_SECONDS = 300.0, 0.05, 3600.0
"""How long a compile may take: unrolled layers take the compiler longer, scanned ones do not."""
_TIMING_SECONDS = 300.0
_PLATFORMS = {"tpu": "tpu", "gpu": "cuda", "cpu": "cpu"}


@dataclass(slots=True)
class Refinement:
    """The candidates as they stand, kept up to date, so that an interrupted run still has them.

    Attributes:
        session: What is planned.
        candidates: With what every tier has said so far.
        search: Finds candidates that leave so many bytes of HBM per chip free.
        skipped: Why a tier did not run.
    """

    session: Session
    candidates: list[Judged]
    search: Callable[[float], SearchResult]
    skipped: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Take the candidates as far as was asked and as this machine can."""
        refine = self.session.options.refine
        if refine != "none":
            self._partition_new()
        if self._runs(ESTIMATED, refine in ("compile", "auto"), compiler_skip_reason(self.session.slice_)):
            self._compile()
            ProjectionRefinement(self.session, self.candidates, self._compile_limit_seconds).run()
            self._search_compile_options()
        elif self.session.options.compile_options == "search":
            self.session.progress.note("compile options are not searched: tier 2 judges them")
        if self._runs(MEASURED, refine in ("time", "auto"), self._timing_skip_reason()):
            self._time()

    def _runs(self, tier: str, wanted: bool, reason: str | None) -> bool:
        """Whether a tier runs; if not, why is kept, and said if it was wanted."""
        if wanted and reason is None:
            return True
        self.skipped[tier] = reason if wanted and reason is not None else NOT_ASKED
        if wanted:
            self.session.progress.note(f"{TIER_NAMES[tier]} skipped: {reason}")
        return False

    def _timing_skip_reason(self) -> str | None:
        slice_ = self.session.slice_
        if self.session.on_attached_devices:
            return None
        if slice_.chip.kind != "cpu":
            return f"{slice_.name} is not attached to this machine; on the slice itself, use --slice local"
        return host_memory_reason(self.session.traced)

    def _partition_new(self) -> None:
        """Ask Shardy about the candidates that it has not seen."""
        waiting = [i for i, candidate in enumerate(self.candidates) if candidate.propagated is None]
        session = self.session
        session.progress.stage("partition", total=len(waiting))

        def keep(index: int, judged: Judged) -> None:
            self.candidates[waiting[index]] = judged
            check, step_seconds = judged.propagated, judged.plan.predicted_seconds
            if check is not None and not check.agrees(_NOTABLE_SHARE * step_seconds):
                session.progress.note(f"candidate {waiting[index] + 1} partitioned: {check.summary}")

        try:
            partition_candidates(
                session.traced,
                [self.candidates[i] for i in waiting],
                session.slice_,
                platform=_PLATFORMS[session.slice_.chip.kind],
                workers=session.options.workers,
                on_result=keep,
            )
        except CompileError as error:  # it cannot be exported; a tier that has to says so itself
            session.progress.note(f"tier 1 (partitioner) skipped: {error}")

    def _compile(self) -> None:
        headroom_bytes = 0.0
        self._compile_new()
        for _ in range(_HEADROOM_RETRIES):
            short_bytes = shortfall_bytes(self.candidates)
            if short_bytes is None:
                return
            headroom_bytes += short_bytes
            self.session.progress.note(
                "the compiler finds no candidate that fits; searching again with "
                f"{headroom_bytes / 2**30:.2f} GiB per chip held back"
            )
            found = self.search(headroom_bytes)
            self.candidates += with_first_options(self.session, found.candidates)
            if found.interrupted:
                raise KeyboardInterrupt
            if not found.candidates:
                return
            self._partition_new()
            self._compile_new()

    def _compile_new(self) -> None:
        """Compile the candidates that the compiler has not seen."""
        waiting = [i for i, candidate in enumerate(self.candidates) if candidate.compiled is None]
        progress = self.session.progress
        progress.stage("compile", total=len(waiting))

        def step(index: int, source: str = "") -> None:
            progress.step(f"candidate {waiting[index] + 1}{source}")

        def keep(index: int, judged: Judged) -> None:
            self.candidates[waiting[index]] = judged
            if judged.status != OK:
                progress.note(f"candidate {waiting[index] + 1} dropped: {judged.status}")

        compile_candidates(
            self.session.traced,
            [self.candidates[i] for i in waiting],
            workers=self.session.options.workers,
            time_limit_seconds=self._compile_limit_seconds,
            on_start=step,
            on_known=lambda index: step(index, ", from the cache"),
            on_result=keep,
            note=progress.note,
        )

    @property
    def _compile_limit_seconds(self) -> float:
        return compile_limit_seconds(len(self.session.graph.ops))

    def _search_compile_options(self) -> None:
        if self.session.options.compile_options == "search":
            OptionRefinement(self.session, self.candidates, self._compile_limit_seconds).run()

    def _time(self) -> None:
        """Time the candidates that can still win."""
        able = [i for i, candidate in enumerate(self.candidates) if candidate.status == OK]
        if not able:
            return
        programs = [self.candidates[i].traced or self.session.traced for i in able]
        for program in {id(each): each for each in programs}.values():
            self._time_these(program, [i for i, own in zip(able, programs, strict=True) if own is program])

    def _time_these(self, traced: Traced, able: Sequence[int]) -> None:
        """Time candidates of one program; what they compute is compared with that program, not sharded."""
        session = self.session
        session.progress.stage("time")
        judged = time_candidates(
            traced,
            [self.candidates[i] for i in able],
            cpu_devices=None if session.on_attached_devices else session.slice_.n_chips,
            platform=_PLATFORMS[session.slice_.chip.kind],
            seed=session.options.seed,
            time_limit_seconds=_TIMING_SECONDS,
            on_progress=session.progress.step,
        )
        for index, result in zip(able, judged, strict=True):
            self.candidates[index] = result
            if result.status != OK:
                session.progress.note(f"candidate {index + 1} disqualified: {result.status}")


def compile_limit_seconds(n_ops: int) -> float:
    """Return how long the compile of a program of so many ops, loop bodies counted once, may take."""
    return min(max(_COMPILE_SECONDS, n_ops * _COMPILE_SECONDS_PER_OP), _MOST_COMPILE_SECONDS)


def shortfall_bytes(candidates: Sequence[Judged]) -> float | None:
    """How much more HBM than predicted the leanest candidate needs; None unless all are out of memory."""
    sizes = []
    for candidate in candidates:
        compiled = candidate.compiled
        if compiled is None or compiled.status != "out of memory" or compiled.hbm_bytes_per_chip is None:
            return None
        sizes.append(compiled.hbm_bytes_per_chip - candidate.plan.predicted.hbm_bytes_per_chip)
    return float(max(min(sizes), 0) + _MARGIN_BYTES)
