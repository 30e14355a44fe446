"""Published step times of training dense decoders on TPU, and their plans.

`data/train_steps.csv` has one row per measured configuration, each with its public source. Rows with a text
in `left_out` are kept to say what is not compared and why. They are device times of MaxText's shard-mode
study (4 v5p chips; models resized), and recipes and READMEs of full-size models. What the traced program
(`bench.train_models`) does not have, in all models: norms of queries and keys, norms after a block, soft caps
and attention windows (Gemma, Qwen); offloading to the host.

A row's layouts are pinned as its sharding says (`bench.train_pins`). There is no limit of memory: it ran.

Where attention ran as a flash kernel, the scores never leave the chip: of what stands in the kernel's scope
only the matrix unit's time is priced, all else of it is left out.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

from autoshard.cost.chips import Chip
from autoshard.mesh_solving import pinned_problem, solve_mesh
from autoshard.mesh_study import meshes_to_try
from autoshard.progress import Progress
from autoshard.search.graph import OpKind
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import open_session
from bench import train_models
from bench.fixed_plan import NOTHING, FixedPlan, Seconds, fix
from bench.train_models import KERNEL, Activation, Config, Remat
from bench.train_pins import Parallelism, pins_of

DATA = Path(__file__).parent / "data" / "train_steps.csv"
NO_LIMIT = float("-inf")
"""Headroom with which every plan fits."""
_LINE = 3
"""Depths from which on two stand for all."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is run: rows with equal settings are measurements of the same thing.

    Attributes:
        slice_name: The slice.
        config: The model's shapes.
        batch: Sequences of all chips together.
        length: Tokens of each.
        parallel: How it is laid out.
        flash: Whether attention is a kernel that keeps the scores on chip.
    """

    slice_name: str
    config: Config
    batch: int
    length: int
    parallel: Parallelism
    flash: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One measured configuration.

    Attributes:
        name: Its key in the file.
        family: Model and chip: what errors are averaged over.
        setting: What was run.
        sharding: The layout's name in the source.
        seconds: Published time of a step.
        note: What to know of it.
    """

    name: str
    family: str
    setting: Setting
    sharding: str
    seconds: float
    note: str

    @property
    def chip_name(self) -> str:
        """The chip that it ran on."""
        return self.setting.slice_name.partition(":")[0]

    @property
    def config(self) -> Config:
        """The model's shapes."""
        return self.setting.config


@dataclass(frozen=True, slots=True)
class Program:
    """A traced step under its plan.

    Attributes:
        plan: All that is priced as it stands.
        kernel: What a flash kernel does instead.
    """

    plan: FixedPlan
    kernel: FixedPlan

    def price(self, chip: Chip | None = None) -> Seconds:
        """Predict it, on the table's chip or another."""
        compute = self.kernel.price(chip).compute
        return self.plan.price(chip) + Seconds(compute, compute, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """A row with what it is priced by: settings, and the share of each in the price; it may be negative."""

    row: Row
    shares: tuple[tuple[Setting, float], ...]

    def price(self, chip: Chip | None = None) -> Seconds:
        """Predict the step, on the table's chip or another."""
        return sum((program(setting).price(chip) * share for setting, share in self.shares), NOTHING)


@cache
def read_rows() -> tuple[tuple[Row, ...], tuple[tuple[str, str], ...]]:
    """The rows to compare; and name and reason of those left out."""
    with DATA.open() as lines:
        rows = list(csv.DictReader(lines))
    used = tuple(_row(row) for row in rows if not row["left_out"])
    return used, tuple((row["id"], row["left_out"]) for row in rows if row["left_out"])


def _row(row: dict[str, str]) -> Row:
    config = Config(
        layers=int(row["layers"]),
        d_model=int(row["d_model"]),
        d_ff=int(row["d_ff"]),
        heads=int(row["heads"]),
        kv_heads=int(row["kv_heads"]),
        d_head=int(row["d_head"]),
        vocab=int(row["vocab"]),
        activation=cast(Activation, row["activation"]),
        tied=row["tied"] == "1",
        remat=cast(Remat, row["remat"]),
        causal_blocks=int(row["causal_blocks"]),
    )
    parallel = Parallelism(row["data"], row["fsdp"], row["tensor"])
    setting = Setting(
        row["slice"], config, int(row["batch"]), int(row["length"]), parallel, row["attention"] == "flash"
    )
    return Row(row["id"], row["family"], setting, row["sharding"], float(row["seconds"]), row["note"])


def planned(row: Row) -> Planned:
    """The row with the best plans that keep to its sharding."""
    shares = depth_shares(row.config.layers, _depths(_at_depth(row.setting, 0)))
    found = tuple((_at_depth(row.setting, depth), share) for depth, share in shares.items())
    for setting, _ in found:
        program(setting)
    return Planned(row, found)


def depth_shares(layers: int, depths: Sequence[int]) -> dict[int, float]:
    """Of which depths a price is made: of its own, or the line through the first and the last of several.

    A step of scanned layers costs so much, and so much for each layer: where a source measured three depths
    or more, the plans of two tell the others.
    """
    first, last = min(depths, default=layers), max(depths, default=layers)
    if len(depths) < _LINE or layers in (first, last):
        return {layers: 1.0}
    rest = (layers - first) / (last - first)
    return {first: 1.0 - rest, last: rest}


@cache
def _depths(setting: Setting) -> tuple[int, ...]:
    """The depths that were measured of a setting, its own being 0."""
    used, _ = read_rows()
    return tuple({row.config.layers for row in used if _at_depth(row.setting, 0) == setting})


def _at_depth(setting: Setting, layers: int) -> Setting:
    return replace(setting, config=replace(setting.config, layers=layers))


def prices(steps: Sequence[Planned]) -> Callable[[Chip], list[float]]:
    """What predicts these steps on any chip; a program that several need is priced once."""
    settings = dict.fromkeys(setting for step in steps for setting, _ in step.shares)

    def price(chip: Chip) -> list[float]:
        seconds = {setting: program(setting).price(chip).whole for setting in settings}
        return [sum(seconds[setting] * share for setting, share in step.shares) for step in steps]

    return price


@cache
def program(setting: Setting) -> Program:
    """The step of a setting under the best plan that keeps to its sharding."""
    plan = _solved(setting)
    inside = [setting.flash and KERNEL in run.op.scope for run in plan.runs]
    outside = tuple(run for run, is_in in zip(plan.runs, inside, strict=True) if not is_in)
    einsums = tuple(
        run for run, is_in in zip(plan.runs, inside, strict=True) if is_in and run.op.kind is OpKind.EINSUM
    )
    return Program(replace(plan, runs=outside), replace(plan, runs=einsums, moves=(), permute_seconds=0.0))


def _solved(setting: Setting) -> FixedPlan:
    function = functools.partial(train_models.train_step, config=setting.config)
    arguments = train_models.train_inputs(setting.config, setting.batch, setting.length)
    target = Target("", None, function, "step", arguments, {"donate_argnames": ("params", "moments")})
    options = Options(setting.slice_name, refine="none", top_k=1, mesh="native")
    session = open_session(target, options, Progress(quiet=True))
    pins = pins_of(session.graph, setting.config, setting.parallel)
    session = replace(session, options=replace(options, pins=pins))
    (mesh,) = meshes_to_try(session.slice_, "native")
    solved = solve_mesh(session, mesh, headroom_bytes=NO_LIMIT)
    if solved is None:
        pinned_problem(session, mesh)  # raises, with its reason, a pin that cannot hold
        raise RuntimeError(f"no plan of {setting} even without a limit of memory")
    return fix(solved.problem, solved.outcome.candidates[0].labels)
