"""The published step times of Pope et al. 2022 (arXiv:2211.05102), and the programs that they are of.

`data/published_times.csv` holds tables 2, 3 and D.2 as printed, and figures 1, 6 and 7 as read out of the
vector graphics. What a time covers differs:

* the figures time eight layers, divided and multiplied by the number of layers: embedding, unembedding and
  sampling are not in them (`covers` is "layers"), the tables have whole steps ("step");
* decode in tables 2 and 3 is 64 steps at a context of 2048, in table D.2 8 steps after 20 tokens; the figures
  give one step. MT-NLG's times are of one prefill and 8 steps together (phase "total").

Figure 1 does not name layouts, section 4.1 does: decode is always weight-stationary 2D, a prefill is that or
weight-gathered by its number of tokens; figure 7 has both. The figure's smallest batches (up to 4 sequences)
are taken to be stationary, its large ones (64 and more) gathered. Some of its points give the batch per chip
and not the number of chips: they are taken to be of 64 chips, as the labelled ones next to them
(`chips_assumed`). PaLM 540B's 48 heads are padded to the number of chips, 64 at least, as in the released
code.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import mtnlg
from examples import palm

DATA = Path(__file__).parent / "data" / "published_times.csv"
CONFIGS = {"PaLM 540B": palm.PALM_540B, "PaLM 62B": palm.PALM_62B, "MT-NLG 530B": mtnlg.MTNLG_530B}
SLICES = {
    8: "v4:2x2x2",
    16: "v4:2x4x2",
    32: "v4:4x2x4",
    64: "v4:4x4x4",
    128: "v4:8x4x4",
    256: "v4:4x8x8",
}
"""Shape of each slice, x first: x shards d_model in the paper's layouts (`make_mesh`, released code)."""
_ROOT = "params/"
_INPUT_TOKENS = 20
"""Prompt of table D.2's scenario."""


@dataclass(frozen=True, slots=True)
class Point:
    """One published time.

    Attributes:
        source: Table or figure.
        model: Name of the model.
        weights: Number format of the weights.
        phase: prefill, decode, or total: a prefill and then `steps` decode steps.
        chips: TPU v4 chips.
        batch: Sequences.
        length: Tokens of each: the prompt of a prefill, the context of a decode step.
        layout: The paper's name of the feed-forward's layout; "" where it does not say.
        covers: "layers" or "step".
        steps: Decode steps in `seconds`.
        seconds: Published time.
        chips_assumed: Whether the number of chips is our guess.
    """

    source: str
    model: str
    weights: str
    phase: str
    chips: int
    batch: int
    length: int
    layout: str
    covers: str
    steps: int
    seconds: float
    chips_assumed: bool

    @property
    def family(self) -> str:
        """What errors are averaged over: phase, number format, and kind of source."""
        kind = "MT-NLG " if self.model.startswith("MT-NLG") else ""
        return f"{kind}{self.phase} {self.weights} {self.source.split()[0]}"

    @property
    def slice_name(self) -> str:
        """The slice of v4 chips."""
        return SLICES[self.chips]


@dataclass(frozen=True, slots=True)
class Program:
    """A part of a published time: a program that runs `count` times.

    Attributes:
        function: What is traced.
        inputs: Makes its abstract arguments.
        donated: Names of donated arguments.
        slice_name: The slice.
        pins: The layouts that the paper fixes (`autoshard.pinning`).
        count: How often it runs in the published time.
    """

    function: Callable[..., Any]
    inputs: Callable[[], tuple[Any, ...]]
    donated: tuple[str, ...]
    slice_name: str
    pins: tuple[str, ...]
    count: int


def read_points() -> tuple[Point, ...]:
    """All published points, in the order of the file."""
    with DATA.open() as lines:
        return tuple(_point(row) for row in csv.DictReader(lines))


def _point(row: dict[str, str]) -> Point:
    return Point(
        source=row["source"],
        model=row["model"],
        weights=row["weights"],
        phase=row["phase"],
        chips=int(row["chips"]),
        batch=int(row["batch"]),
        length=int(row["length"]),
        layout=row["layout"],
        covers=row["covers"],
        steps=int(row["steps"]),
        seconds=float(row["seconds"]),
        chips_assumed=row["chips_assumed"] == "yes",
    )


def config_of(point: Point) -> palm.Config:
    """The model's shapes on so many chips."""
    config = CONFIGS[point.model]
    heads = max(config.heads, point.chips) if point.model == "PaLM 540B" else config.heads
    return replace(config, heads=heads, weight_dtype=point.weights)


def programs_of(point: Point) -> tuple[Program, ...]:
    """The programs whose times add up to a published one."""
    phases = ("prefill", "decode") if point.phase == "total" else (point.phase,)
    return tuple(_program(point, phase) for phase in phases)


def _program(point: Point, phase: str) -> Program:
    module = mtnlg if point.model.startswith("MT-NLG") else palm
    config = config_of(point)
    pins = layout_pins(point.layout, tuple(module.matrix_shapes(config)), config.weight_dtype == "int8")
    if phase == "decode":
        function, inputs = module.decode_target(config, point.batch, point.length)
        return Program(function, inputs, ("cache",), point.slice_name, pins, point.steps)
    length = _INPUT_TOKENS if point.phase == "total" else point.length
    function, inputs = module.prefill_target(config, point.batch, length)
    return Program(function, inputs, (), point.slice_name, pins, 1)


_ACTIVATIONS_AND_WEIGHTS = {
    "WS 1D": {"in": (";;", ";x,y,z", ";x,y,z"), "out": (";;x,y,z", "x,y,z;", "x,y,z;")},
    "WS 2D": {"in": (";;x", "x;y,z", "x;y,z"), "out": (";;y,z", "y,z;x", "y,z;x")},
    "WG XYZ": {"in": ("x,y,z;;", ";", "x;y,z"), "out": ("x,y,z;;", ";", "y,z;x")},
}
"""By layout, into d_ff and out of it: what an einsum reads of activations [b, l, e] and weight, and the
weight at rest (section 3.2: EF_xyz; E_xF_yz; stored E_xF_yz and gathered over all chips)."""


@cache
def layout_pins(layout: str, matrices: tuple[str, ...], quantised: bool) -> tuple[str, ...]:
    """Pins for the feed-forward's matrices among `matrices`; none where the paper names no layout."""
    pins = []
    for name in matrices if layout else ():
        if not name.startswith("w_"):
            continue
        activations, read, rest = _ACTIVATIONS_AND_WEIGHTS[layout]["out" if name == "w_down" else "in"]
        path = f"params/layers/{name}" + ("/int8" if quantised else "")
        pins += [f"{path}=;{rest}", f"einsum:{path.removeprefix(_ROOT)}={activations} | {read}"]
    return tuple(pins)
