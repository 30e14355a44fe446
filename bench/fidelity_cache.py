"""What the TPU compiler said of the plans, kept in one small file, so that it need not be asked again.

The file is xz-compressed JSON lines: first a line for each case (its program's fingerprint and the names of
its decisions, `bench.fidelity_labels`), then a line for each plan: its labels, and the compiler's answer
without the schedule's text. A plan's key is the hash of its program and slice, with the version of libtpu.

An estimate is `compute + filled + exposed collectives` (`autoshard.compiled.timeline`), and the last two
depend on numbers of our own: links and HBM. So every collective is kept with its kind, axes and bytes, those
that are alike in one entry, and `Answer.seconds_today` prices it anew: what was hidden behind compute stays
so long,

    seconds = compute + filled + sum of trips max(0, waited then + price today - price then),

what was hidden whole stays hidden, and permutes, which are routed link by link, keep their price. On 72
schedules, with latencies that moved the estimates by up to 27 %, this is off by at most 4.1 % (most: 1.5 %).
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from autoshard.compiled.timeline import CompiledCollective
from autoshard.compiled.worker import CompileResult
from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.torus import TorusMesh
from autoshard.errors import AutoshardError

FILE = Path(__file__).with_name("data") / "compiled_plans.jsonl.xz"
PERMUTE = "collective-permute"


class CacheError(AutoshardError):
    """A cache file that cannot be read."""


class CaseLine(msgspec.Struct, frozen=True, kw_only=True, tag="case"):
    """A case: `variables` are the names of its decisions, in the order of the codes of its plans."""

    case: str
    fingerprint: str
    variables: tuple[str, ...]


class Traffic(msgspec.Struct, frozen=True, array_like=True):
    """Collectives of a schedule that are alike; seconds are of one of them, once."""

    kind: str
    axes: str
    bytes_per_chip: float
    trips: int
    seconds: float
    exposed_seconds: float


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The compiler's answer, as `CompileResult` has it, times in seconds."""

    status: str
    hbm_bytes: int | None = None
    argument_bytes: int | None = None
    compute: float = 0.0
    filled: float = 0.0
    exposed: float = 0.0
    collectives: tuple[Traffic, ...] = ()
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the compiler took the program."""
        return self.status == "ok"

    def seconds_today(self, mesh: TorusMesh) -> float:
        """Estimated step time with the collectives at the prices of today."""
        change = sum(
            each.trips * (_exposed_today(each, mesh) - each.exposed_seconds) for each in self.collectives
        )
        return self.compute + self.filled + self.exposed + change

    def exposed_by_kind(self, mesh: TorusMesh) -> dict[str, float]:
        """Seconds of collectives that nothing hides, at the prices of today."""
        found: dict[str, float] = {}
        for each in self.collectives:
            found[each.kind] = found.get(each.kind, 0.0) + each.trips * _exposed_today(each, mesh)
        return found


class PlanLine(msgspec.Struct, frozen=True, kw_only=True, tag="plan", omit_defaults=True):
    """One plan of a case, and what the compiler said of it.

    Attributes:
        case: Name of the case.
        id: Hash of its program.
        origin: Where it comes from.
        rule: Its name, if it is a rule of people.
        codes: Its labels, in the order of the case's variables.
        libtpu: Version of the compiler.
        answer: None as long as the compiler has not been asked.
    """

    case: str
    id: str
    origin: str
    codes: str
    rule: str = ""
    libtpu: str = ""
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """Cases by name, and their plans by case and id."""

    cases: dict[str, CaseLine]
    plans: dict[tuple[str, str], PlanLine]

    def of_case(self, case: str) -> list[PlanLine]:
        """The plans of a case, in the order in which they were proposed."""
        return [plan for plan in self.plans.values() if plan.case == case]

    def labels(self, plan: PlanLine) -> dict[str, str]:
        """The labels of a plan by the names of what they decide."""
        return dict(zip(self.cases[plan.case].variables, plan.codes.split(), strict=True))


def answer_of(result: CompileResult) -> Answer:
    """What is kept of a compiler's result."""
    return Answer(
        status=result.status,
        detail="" if result.status in ("ok", "out of memory") else result.detail[:200],
        hbm_bytes=result.hbm_bytes_per_chip,
        argument_bytes=result.argument_bytes,
        compute=result.compute_seconds or 0.0,
        filled=result.filled_seconds or 0.0,
        exposed=result.exposed_collective_seconds or 0.0,
        collectives=_grouped(result.collectives),
    )


def _grouped(collectives: Iterable[CompiledCollective]) -> tuple[Traffic, ...]:
    """Those that are alike to about four digits are one entry, their trips added."""
    trips: dict[tuple[str, str, float, float, float], int] = {}
    for each in collectives:
        exposed, seconds = float(f"{each.exposed_seconds:.3e}"), float(f"{each.seconds:.4e}")
        key = (each.kind, ",".join(each.axes), each.bytes_per_chip, seconds, exposed)
        trips[key] = trips.get(key, 0) + each.trips
    return tuple(Traffic(kind, axes, size, n, s, e) for (kind, axes, size, s, e), n in trips.items())


def _exposed_today(each: Traffic, mesh: TorusMesh) -> float:
    axes = tuple(mesh.names.index(name) for name in each.axes.split(",") if name)
    if each.kind == PERMUTE or not axes or not each.exposed_seconds:
        return each.exposed_seconds
    today = collective_seconds(Kind(each.kind), each.bytes_per_chip, axes, mesh)
    return max(0.0, each.exposed_seconds + today - each.seconds)


def load(path: Path = FILE) -> Cache:
    """Read a cache; an empty one where there is no file.

    Raises:
        CacheError: The file is not a cache.
    """
    cases: dict[str, CaseLine] = {}
    plans: dict[tuple[str, str], PlanLine] = {}
    if not path.exists():
        return Cache(cases, plans)
    decoder = msgspec.json.Decoder(CaseLine | PlanLine)
    try:
        for line in lzma.decompress(path.read_bytes()).splitlines():
            known = decoder.decode(line)
            if isinstance(known, CaseLine):
                cases[known.case] = known
            else:
                plans[known.case, known.id] = known
    except (lzma.LZMAError, msgspec.DecodeError) as error:
        raise CacheError(
            f"{path} is not a cache of compiled plans: {error}; delete it and have the bench that made it "
            "make it anew (`--rebuild`)"
        ) from error
    return Cache(cases, plans)


def save(cache: Cache, path: Path = FILE) -> None:
    """Write a cache; whoever reads meanwhile sees the old file or the new one."""
    lines = [msgspec.json.encode(line) for line in (*cache.cases.values(), *cache.plans.values())]
    draft = path.with_suffix(".draft")
    draft.write_bytes(lzma.compress(b"\n".join(lines) + b"\n", preset=9))
    draft.replace(path)
