"""Reshards: each transition by hand, stages and their bytes, table against the itemised list."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.errors import LayoutError
from autoshard.cost.layouts import UNREDUCED, enumerate_layouts
from autoshard.cost.reshard import reshard_collectives, reshard_law, reshard_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, mesh_factorisations, native_mesh

CUBE = native_mesh(parse_slice("v4:4x4x4"))
TEXTS = ["v4:4x4x4", "v4:2x4x4", "v5e:4x8", "2*v5e:4x4", "h100:8", "v5e:1x1"]
MESHES = [mesh for text in TEXTS for mesh in mesh_factorisations(parse_slice(text), max_axes=4)]
R, U = -1, -2


def layout(*entries: int) -> np.ndarray:
    return np.array(entries, dtype=np.int8)


def found(
    source: tuple[int, ...], target: tuple[int, ...], nbytes: float = 64e6
) -> list[tuple[Kind, str, float]]:
    collectives = reshard_collectives(layout(*source), layout(*target), nbytes, CUBE)
    return [(c.kind, "".join(c.axes), c.bytes_per_chip) for c in collectives]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((R, R, R), (R, R, R), []),
        ((0, 1, 1), (0, 1, 1), []),
        ((U, 0, U), (U, 0, U), []),
        ((R, R, 0), (1, 2, 0), []),  # a slice is free
        ((0, R, R), (R, R, R), [(Kind.ALL_GATHER, "x", 64e6)]),
        ((0, 0, R), (R, R, R), [(Kind.ALL_GATHER, "xy", 64e6)]),
        # Two dims are two gathers, the one over fewer axes first.
        ((0, 0, 1), (R, 0, R), [(Kind.ALL_GATHER, "x", 4e6), (Kind.ALL_GATHER, "z", 16e6)]),
        ((0, 0, 1), (R, R, R), [(Kind.ALL_GATHER, "z", 4e6), (Kind.ALL_GATHER, "xy", 64e6)]),
        ((0, R, R), (1, R, R), [(Kind.ALL_TO_ALL, "x", 16e6)]),
        ((0, 1, R), (1, 0, R), [(Kind.ALL_TO_ALL, "xy", 4e6)]),
        ((U, R, R), (R, R, R), [(Kind.ALL_REDUCE, "x", 64e6)]),
        ((U, 0, R), (1, 0, R), [(Kind.REDUCE_SCATTER, "x", 16e6)]),
        ((U, U, 0), (1, 1, 0), [(Kind.REDUCE_SCATTER, "xy", 16e6)]),
    ],
)
def test_each_transition(
    source: tuple[int, ...], target: tuple[int, ...], expected: list[tuple[Kind, str, float]]
) -> None:
    assert found(source, target) == expected


def test_stages_come_in_order_with_fewer_bytes_each() -> None:
    # z shards it: 16 MB; scatter of 16 MB on x leaves 4 MB; then 4 MB are all-reduced on y.
    assert found((U, U, 1), (0, R, 1)) == [(Kind.REDUCE_SCATTER, "x", 16e6), (Kind.ALL_REDUCE, "y", 16e6 / 4)]
    # A slice waits until the sum is closed, a move does not wait for it: 64 MB, then 4 MB.
    assert found((U, R, 0), (R, 1, 1)) == [(Kind.ALL_REDUCE, "x", 16e6), (Kind.ALL_TO_ALL, "z", 4e6)]
    # Scatter on x leaves 1 MB of 64 (y and z shard it); all-to-all on y; all-gather on z puts out 4 MB.
    assert found((U, 0, 1), (2, 2, R)) == [
        (Kind.REDUCE_SCATTER, "x", 4e6),
        (Kind.ALL_TO_ALL, "y", 1e6),
        (Kind.ALL_GATHER, "z", 4e6),
    ]


def test_seconds_by_hand() -> None:
    (gather,) = reshard_collectives(layout(0, R, R), layout(R, R, R), 64e6, CUBE)
    expected = pytest.approx(0.1e-6 + 2 * 2.5e-6 + 48e6 / 90e9)
    assert (gather.kind, gather.axes, gather.bytes_per_chip) == (Kind.ALL_GATHER, ("x",), 64e6)
    assert gather.seconds == expected
    assert reshard_seconds(layout(0, R, R)[None], layout(R, R, R)[None], 64e6, CUBE)[0, 0] == expected


@pytest.mark.parametrize(
    ("target", "possible"),
    [
        ((U, U, 0, R), True),
        ((U, U, 0, 1), True),  # sliced
        ((U, R, 0, R), False),  # partly summed
        ((U, U, 1, R), False),  # moved
        ((U, U, R, R), False),  # gathered
        ((R, R, R, R), True),
    ],
)
def test_a_sum_that_stays_open_is_left_alone_but_for_slices(target: tuple[int, ...], possible: bool) -> None:
    mesh = next(mesh for mesh in MESHES if len(mesh.axes) == 4 and min(mesh.shape) > 1)
    source = layout(U, U, 0, R)
    seconds = reshard_seconds(source[None], layout(*target)[None], 1e6, mesh)[0, 0]
    assert np.isfinite(seconds) == possible
    if not possible:
        with pytest.raises(LayoutError, match="stays open"):
            reshard_collectives(source, layout(*target), 1e6, mesh)


def test_nothing_becomes_unreduced() -> None:
    source, target = layout(0, R, R), layout(0, U, R)
    assert reshard_seconds(source[None], target[None], 1.0, CUBE)[0, 0] == np.inf
    with pytest.raises(LayoutError, match="mesh axis 'y' cannot become unreduced"):
        reshard_collectives(source, target, 1.0, CUBE)


def test_staying_is_free_and_only_slices_are_free() -> None:
    layouts = enumerate_layouts((64, 64, 64), CUBE, unreduced=True)
    seconds = reshard_seconds(layouts, layouts, 64e6, CUBE)
    same_or_sliced = (layouts[:, None] == layouts[None]) | ((layouts[:, None] == R) & (layouts[None] >= 0))
    assert ((seconds == 0) == same_or_sliced.all(axis=2)).all()
    impossible = [[is_impossible(source, target) for target in layouts] for source in layouts]
    assert (np.isinf(seconds) == impossible).all()


def test_law_serves_tensors_of_any_size() -> None:
    layouts = enumerate_layouts((64, 64), CUBE, unreduced=True)
    law = reshard_law(layouts, layouts, CUBE)
    for nbytes in (0.0, 1e3, 1e9):
        assert (law.seconds(nbytes) == reshard_seconds(layouts, layouts, nbytes, CUBE)).all()


def test_source_and_target_may_differ_in_number_and_be_empty() -> None:
    layouts = enumerate_layouts((64, 64), CUBE)
    assert reshard_seconds(layouts[:5], layouts, 1.0, CUBE).shape == (5, len(layouts))
    assert reshard_seconds(layouts[:0], layouts, 1.0, CUBE).shape == (0, len(layouts))


@st.composite
def reshards(draw: st.DrawFn) -> tuple[TorusMesh, np.ndarray, np.ndarray, float]:
    mesh = draw(st.sampled_from(MESHES))
    entry = st.integers(UNREDUCED, 3)
    rows = st.lists(st.tuples(*[entry] * len(mesh.axes)), min_size=1, max_size=4)
    nbytes = draw(st.floats(1, 1e13))
    return mesh, np.array(draw(rows), dtype=np.int8), np.array(draw(rows), dtype=np.int8), nbytes


@given(reshards())
def test_table_equals_the_sum_of_the_itemised_collectives(
    case: tuple[TorusMesh, np.ndarray, np.ndarray, float],
) -> None:
    mesh, sources, targets, nbytes = case
    seconds = reshard_seconds(sources, targets, nbytes, mesh)
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            assert seconds[i, j] == pytest.approx(itemised(source, target, nbytes, mesh), rel=1e-9)


def is_impossible(source: np.ndarray, target: np.ndarray) -> bool:
    changed = source != target
    opened = (changed & (target == UNREDUCED)).any()
    return bool(opened or ((target == UNREDUCED).any() and (changed & (source != R)).any()))


def itemised(source: np.ndarray, target: np.ndarray, nbytes: float, mesh: TorusMesh) -> float:
    if is_impossible(source, target):
        return math.inf
    return sum(collective.seconds for collective in reshard_collectives(source, target, nbytes, mesh))


@given(reshards())
def test_time_grows_with_bytes_and_is_never_negative(
    case: tuple[TorusMesh, np.ndarray, np.ndarray, float],
) -> None:
    mesh, sources, targets, nbytes = case
    seconds = reshard_seconds(sources, targets, nbytes, mesh)
    assert (seconds >= 0).all()
    assert (reshard_seconds(sources, targets, 2 * nbytes, mesh) >= seconds).all()


@given(reshards())
def test_one_axis_alone_is_its_collective(case: tuple[TorusMesh, np.ndarray, np.ndarray, float]) -> None:
    mesh, _, _, nbytes = case
    for axis, size in enumerate(mesh.shape):
        sharded, whole = layout(*[R] * len(mesh.axes)), layout(*[R] * len(mesh.axes))
        sharded[axis] = 0
        seconds = reshard_seconds(sharded[None], whole[None], nbytes, mesh)[0, 0]
        expected = collective_seconds(Kind.ALL_GATHER, nbytes, (axis,), mesh) if size > 1 else 0.0
        assert seconds == pytest.approx(expected)
