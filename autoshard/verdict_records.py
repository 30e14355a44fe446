"""What the tiers say of a plan and of those that were behind it, as a plan file holds it.

Times are seconds of a whole step, `*_per_chip` counts are for one chip.
"""

from __future__ import annotations

from autoshard.plan_records import CostRecord
from autoshard.record import Record


class Prediction(Record, frozen=True, kw_only=True):
    """What the analytical model says of the whole step (tier 0).

    Attributes:
        seconds: predicted time of a step.
        lower_bound_seconds: proven: by this model, no plan of the searched space is faster.
        gap: relative distance between the two.
        compute_seconds: time of the matrix units, all trips.
        hbm_seconds: time of the HBM traffic, all trips.
        ici_seconds: time of the collectives and copies, all trips.
        exposed_ici_fraction: the part of `ici_seconds` that the model does not hide behind other work.
        hbm_bytes_per_chip: peak memory.
        hbm_by_kind: the same by kind (arguments, results, ...).
        hbm_limit_bytes: what a chip has for the program, or the less that the user allowed.
        flops_per_chip: floating-point operations of the einsums, all trips.
        tokens: how many tokens a step handles, where it is known.
        cost: `seconds` by its parts, all trips; None in older plans.
    """

    seconds: float
    lower_bound_seconds: float
    gap: float
    compute_seconds: float
    hbm_seconds: float
    ici_seconds: float
    exposed_ici_fraction: float
    hbm_bytes_per_chip: int
    hbm_by_kind: dict[str, int]
    hbm_limit_bytes: int
    flops_per_chip: float
    tokens: int | None = None
    cost: CostRecord | None = None


class Estimate(Record, frozen=True, kw_only=True):
    """What the real compiler says of the compiled step (tier 2)."""

    seconds: float
    hbm_bytes_per_chip: int
    compute_seconds: float
    ici_seconds: float


class Measurement(Record, frozen=True, kw_only=True):
    """What the attached devices say (tier 3): median step time of `runs` runs, and its spread."""

    seconds: float
    spread_seconds: float
    runs: int
    device_kind: str


class RunnerUp(Record, frozen=True, kw_only=True):
    """A candidate that did not win, with what every tier said of it (None where a tier did not run)."""

    summary: str
    predicted_seconds: float
    estimated_seconds: float | None = None
    measured_seconds: float | None = None
    hbm_bytes_per_chip: int | None = None
    status: str


class CombinationRecord(Record, frozen=True, kw_only=True):
    """One combination of choices (`autoshard.choices`) as the analytical model sees it at its best plan.

    Attributes:
        values: the value of each choice.
        predicted_seconds: predicted step time; None where there is no plan.
        hbm_bytes_per_chip: predicted peak memory; where nothing fits, what is needed at least.
        status: "ok", or why there is no time: slower than others, does not fit, cannot be traced.
    """

    values: dict[str, str | int | bool | None]
    predicted_seconds: float | None = None
    hbm_bytes_per_chip: int | None = None
    status: str


class Versions(Record, frozen=True, kw_only=True):
    """The versions that the plan was made with; `libtpu` is None where the TPU compiler was not there."""

    jax: str
    jaxlib: str
    libtpu: str | None = None
    autoshard: str
