"""What plans made alone would move, by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.cost.traffic import copy_seconds
from autoshard.phases.apart import moving_apart
from autoshard.phases.joint_search import Links
from autoshard.phases.matching import Handed
from autoshard.phases.phase import Phase
from autoshard.plan import Plan
from autoshard.tuning import run_session
from tests.autoshard.phases.test_held import B, E, F, session

MESH = native_mesh(parse_slice("v5e:4x4"))


def copied(nbytes: float) -> float:
    """Time to write and read so many bytes on a chip."""
    return float(copy_seconds(np.array([nbytes]), MESH.slice.chip)[0])


def made(*pins: str, mesh: str = "native") -> Plan:
    own = session(pins)
    return run_session(replace(own, options=replace(own.options, mesh=mesh, top_k=1)), 0.0).plan


def moved(plans: Sequence[Plan], links: Links) -> float | None:
    return moving_apart([Phase(f"phase{n}", session(), 1.0) for n in range(len(plans))], plans, links)


def test_plans_that_agree_move_nothing() -> None:
    plans = [made("w=;x,y"), made("w=;x,y")]
    assert moved(plans, Links(("w",), ())) == 0


def test_a_weight_is_gathered_from_one_layout_to_another() -> None:
    plans = [made("w=;x,y"), made("w=;")]
    nbytes = 4.0 * E * F
    gather = collective_seconds(Kind.ALL_GATHER, nbytes, (0, 1), MESH)
    assert moved(plans, Links(("w",), ())) == pytest.approx(gather + copied(nbytes))


def test_what_is_sliced_only_costs_its_copy() -> None:
    plans = [made("w=;"), made("w=;x,y")]
    assert moved(plans, Links(("w",), ())) == pytest.approx(copied(4.0 * E * F / 16))


def test_a_handover_between_plans_made_alone_is_moved_too() -> None:
    """`x` [b, e] taken over rows: what is left whole is sliced."""
    plans = [made("result:result=;"), made("x=x,y;")]
    links = Links((), (Handed(0, "result", 1, "x"), Handed(1, "result", 1, "x")))
    assert moved(plans, links) == pytest.approx(copied(4.0 * B * E / 16))


def test_plans_on_different_meshes_cannot_be_compared() -> None:
    one = made("w=;x,y")
    other = Plan(**{**{f: getattr(one, f) for f in one.__struct_fields__}, "mesh_axes": one.mesh_axes[::-1]})
    assert moved([one, other], Links(("w",), ())) is None
