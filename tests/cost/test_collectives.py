"""Collectives: by hand, against the scaling book, against a count of the bytes on every link."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import chip
from autoshard.cost.collectives import Kind, collective_law, collective_seconds, stage_laws
from autoshard.cost.slices import Slice, parse_slice
from autoshard.cost.torus import MeshAxis, TorusMesh, mesh_factorisations, native_mesh

CUBE = native_mesh(parse_slice("v4:4x4x4"))
LINK = 45e9
TEXTS = ["v4:4x4x4", "v4:2x2x4", "v5e:4x8", "v5e:16x16", "2*v5e:4x4", "h100:8", "2*h100:4", "cpu:4"]
MESHES = [mesh for text in TEXTS for mesh in mesh_factorisations(parse_slice(text), max_axes=4)]


@st.composite
def mesh_and_axes(draw: st.DrawFn) -> tuple[TorusMesh, tuple[int, ...]]:
    mesh = draw(st.sampled_from(MESHES))
    axes = draw(st.sets(st.sampled_from(range(len(mesh.axes))), min_size=1))
    return mesh, tuple(sorted(axes))


def link_seconds(kind: Kind, axes: tuple[int, ...], mesh: TorusMesh, n_bytes: float) -> float:
    """The time without latency."""
    return n_bytes * collective_law(kind, axes, mesh).seconds_per_byte


def test_all_gather_on_a_ring_uses_both_directions() -> None:
    assert link_seconds(Kind.ALL_GATHER, (0,), CUBE, 4e6) == pytest.approx(3e6 / (2 * LINK))


def full_bandwidth(slice_name: str) -> TorusMesh:
    """The native mesh on a chip whose joint torus dims reach the sum of their links, as the paper assumes."""
    real = parse_slice(slice_name)
    ideal = real.chip.with_values("assumed", "the paper's sum of all links", joint_dim_fraction=1.0)
    return native_mesh(dataclasses.replace(real, chip=ideal))


def test_bandwidths_of_torus_dims_add_to_the_paper_s_270() -> None:
    cube = full_bandwidth("v4:4x4x4")
    assert link_seconds(Kind.ALL_GATHER, (0, 1, 2), cube, 64e6) == pytest.approx(63e6 / 270e9)
    assert link_seconds(Kind.REDUCE_SCATTER, (1, 2), cube, 16e6) == pytest.approx(15e6 / 180e9)


def test_links_beyond_one_ring_count_in_part() -> None:
    # Three ring dims of v4 are six links of 45e9; two make a ring, the other four count by 0.15.
    seconds = link_seconds(Kind.ALL_GATHER, (0, 1, 2), CUBE, 64e6)
    assert seconds == pytest.approx(63e6 / ((2 + 0.15 * 4) * LINK))
    # A 2x2 square of one link per dim is itself a ring of four: nothing is lost.
    square = native_mesh(parse_slice("v5e:2x2"))
    assert link_seconds(Kind.ALL_GATHER, (0, 1), square, 4e6) == pytest.approx(3e6 / (2 * LINK))


def test_all_reduce_is_reduce_scatter_and_all_gather() -> None:
    assert link_seconds(Kind.ALL_REDUCE, (0,), CUBE, 4e6) == pytest.approx(2 * 3e6 / (2 * LINK))


def test_line_is_limited_by_its_end() -> None:
    # Scaling book, sharding quiz 2: AllGather_Y of bf16[2048, 8192] on v5e 8x4 without wraparound: 560 us.
    mesh = native_mesh(parse_slice("v5e:8x4"))
    assert link_seconds(Kind.ALL_GATHER, (1,), mesh, 2 * 2048 * 8192) == pytest.approx(560e-6, rel=0.01)


def test_scaling_book_all_gathers_on_v4() -> None:
    # Sharding.md question 2: bf16[B=1024, D=4096] on 4x4x4, 23 us over X and 46 us over X and Y; the book
    # takes (K-1)/K as 1, we do not.
    over_x = link_seconds(Kind.ALL_GATHER, (0,), CUBE, 2 * 1024 * 4096 / 4)
    over_xy = link_seconds(Kind.ALL_GATHER, (0, 1), full_bandwidth("v4:4x4x4"), 2 * 1024 * 4096)
    assert over_x / (3 / 4) == pytest.approx(23e-6, rel=0.02)
    assert over_xy / (15 / 16) == pytest.approx(46e-6, rel=0.02)


def test_all_to_all_is_a_quarter_of_the_all_gather_on_a_ring_and_half_on_a_line() -> None:
    # Of the same array of 16 MB: all-gather puts out 16 MB per chip, all-to-all takes in 1 MB per chip. The
    # book's unidirectional ring has the bandwidth of our line, W = one link.
    ring, line = native_mesh(parse_slice("v5e:1x16")), native_mesh(parse_slice("v6e:1x8"))
    gather = link_seconds(Kind.ALL_GATHER, (0,), ring, 16e6) * 16 / 15
    assert link_seconds(Kind.ALL_TO_ALL, (0,), ring, 1e6) == pytest.approx(gather / 4)
    gather = link_seconds(Kind.ALL_GATHER, (0,), line, 16e6) * 8 / 7
    assert link_seconds(Kind.ALL_TO_ALL, (0,), line, 2e6) == pytest.approx(gather / 4)


def test_all_to_all_over_several_dims_takes_as_long_as_the_slowest() -> None:
    mesh = native_mesh(parse_slice("v5e:2x16"))
    alone = [link_seconds(Kind.ALL_TO_ALL, (axis,), mesh, 1e6) for axis in (0, 1)]
    assert alone == [pytest.approx(0.5e6 / LINK), pytest.approx(2e6 / LINK)]
    assert link_seconds(Kind.ALL_TO_ALL, (0, 1), mesh, 1e6) == pytest.approx(max(alone))


def test_permute_moves_all_bytes_over_one_link() -> None:
    assert link_seconds(Kind.COLLECTIVE_PERMUTE, (0,), CUBE, 1e6) == pytest.approx(1e6 / LINK)


def test_strided_axis_shares_its_links() -> None:
    # x of 4 as x0 (stride 2) and x1 (stride 1) on a ring: x0 goes around, two groups share each link; x1 is a
    # line of two. Together they are the ring again.
    split = next(m for m in mesh_factorisations(parse_slice("v4:4x4x4")) if "x0" in m.names)
    x0, x1 = split.names.index("x0"), split.names.index("x1")
    assert link_seconds(Kind.ALL_GATHER, (x0,), split, 2e6) == pytest.approx(1e6 / (2 * LINK / 2))
    assert link_seconds(Kind.ALL_GATHER, (x1,), split, 2e6) == pytest.approx(1e6 / LINK)
    for kind in Kind:
        if kind is not Kind.COLLECTIVE_PERMUTE:
            assert collective_law(kind, (x0, x1), split) == collective_law(kind, (0,), CUBE)


def test_a_slow_dim_bounds_a_gather_over_a_fast_one() -> None:
    # y0 has stride 8: 1/8 link per group on each of two ways. The pair of chips that agree in y0 must get
    # half of the output over their y0 links: D/4 each, 8 link-loads over 2 ways, whatever x does.
    mesh = TorusMesh(
        parse_slice("v5e:2x16"), (MeshAxis("x", 2, 0, 1), MeshAxis("y0", 2, 1, 8), MeshAxis("y1", 8, 1, 1))
    )
    assert link_seconds(Kind.ALL_GATHER, (0, 1), mesh, 1e6) == pytest.approx(0.25e6 * 8 / 2 / LINK)


def test_axes_that_do_not_continue_each_other_take_turns() -> None:
    mesh = next(m for m in mesh_factorisations(parse_slice("v5e:8x1")) if m.shape == (2, 2, 2))
    # Stride 4 first: D/2 put out, D/4 came over 1/4 link; then D/2 over one link.
    assert link_seconds(Kind.ALL_GATHER, (0, 2), mesh, 1e6) == pytest.approx((0.25e6 * 4 + 0.5e6) / LINK)


def test_latency_by_hand() -> None:
    base, hop = 0.1e-6, 2.5e-6
    # Ring of 4: 2 hops; all three dims 6; all-reduce goes twice.
    assert collective_seconds(Kind.ALL_GATHER, 0.0, (0,), CUBE) == pytest.approx(base + 2 * hop)
    assert collective_seconds(Kind.ALL_GATHER, 0.0, (0, 1, 2), CUBE) == pytest.approx(base + 6 * hop)
    assert collective_seconds(Kind.ALL_REDUCE, 0.0, (0,), CUBE) == pytest.approx(base + 4 * hop)
    # Line of 8: 7 hops, and v5e's own base.
    line = native_mesh(parse_slice("v5e:8x1"))
    assert collective_seconds(Kind.ALL_TO_ALL, 0.0, (0,), line) == pytest.approx(3.5e-6 + 7 * 1.5e-6)


def test_published_permute_latencies() -> None:
    # One hop of ppermute: 4.45 us on v5p, where all-gathers were fitted, 5.65 us on v6e.
    for text, seconds in (("v5p:2x2x1", 4.45e-6), ("v6e:2x4", 5.65e-6)):
        mesh = native_mesh(parse_slice(text))
        assert collective_seconds(Kind.COLLECTIVE_PERMUTE, 0.0, (0,), mesh) == pytest.approx(seconds)
        assert collective_seconds(Kind.COLLECTIVE_PERMUTE, 2.0**26, (0,), mesh) == pytest.approx(
            780e-6, rel=0.05
        )


def test_published_all_gathers_on_v5p() -> None:
    # AI-Hypercomputer/maxtext shard_mode_performance.md, 2x2x1: 16.8, 131 and 622 MB of output.
    mesh = native_mesh(parse_slice("v5p:2x2x1"))
    for nbytes, seconds in (
        (4 * 1024 * 2048 * 2, 75.2e-6),
        (2048 * 32000 * 2, 600e-6),
        (2048 * 151936 * 2, 3068e-6),
    ):
        assert collective_seconds(Kind.ALL_GATHER, float(nbytes), (0, 1), mesh) == pytest.approx(
            seconds, rel=0.16
        )


def test_switch_gives_every_group_the_whole_port() -> None:
    mesh = next(m for m in mesh_factorisations(parse_slice("h100:8")) if m.shape == (2, 4))
    for axes, size in (((0,), 2), ((1,), 4), ((0, 1), 8)):
        expected = 1e6 * (size - 1) / size / 450e9
        assert link_seconds(Kind.ALL_GATHER, axes, mesh, 1e6) == pytest.approx(expected)
        assert link_seconds(Kind.ALL_TO_ALL, axes, mesh, 1e6) == pytest.approx(expected)
        assert link_seconds(Kind.ALL_REDUCE, axes, mesh, 1e6) == pytest.approx(2 * expected)


def test_dcn_carries_only_each_chip_s_share() -> None:
    mesh = native_mesh(parse_slice("2*v5e:4x4"))
    inside = link_seconds(Kind.ALL_REDUCE, (1, 2), mesh, 16e6)
    assert link_seconds(Kind.ALL_REDUCE, (0,), mesh, 16e6) == pytest.approx(16e6 / 3.125e9)
    assert link_seconds(Kind.ALL_REDUCE, (0, 1, 2), mesh, 16e6) == pytest.approx(inside + 1e6 / 3.125e9)
    assert link_seconds(Kind.ALL_TO_ALL, (0,), mesh, 16e6) == pytest.approx(8e6 / 3.125e9)


def test_collectives_over_slices_and_torus_by_hand() -> None:
    # Two slices of 16 chips, 16 MB per chip as each kind counts them. In a slice of lines of 4, gather and
    # scatter are what they are alone; across, each chip has 1/16 of D, and the other slice half of that.
    mesh = native_mesh(parse_slice("2*v5e:4x4"))
    whole = (0, 1, 2)
    for kind in (Kind.ALL_GATHER, Kind.REDUCE_SCATTER):
        in_slice = link_seconds(kind, (1, 2), mesh, 16e6)
        assert in_slice == pytest.approx(15e6 / (2 * LINK))
        assert link_seconds(kind, whole, mesh, 16e6) == pytest.approx(in_slice + 0.5e6 / 3.125e9)
    # All-to-all: half of D is for the other slice; the other stage is the slice's own all-to-all of D.
    in_slice = link_seconds(Kind.ALL_TO_ALL, (1, 2), mesh, 16e6)
    assert link_seconds(Kind.ALL_TO_ALL, whole, mesh, 16e6) == pytest.approx(in_slice + 8e6 / 3.125e9)
    # A permute goes straight across.
    assert link_seconds(Kind.COLLECTIVE_PERMUTE, whole, mesh, 16e6) == pytest.approx(16e6 / 3.125e9)
    latency = collective_seconds(Kind.ALL_GATHER, 0.0, whole, mesh)
    assert latency == pytest.approx(3.5e-6 + 6 * 1.5e-6 + 1e-5)


def test_gpus_of_several_domains_by_hand() -> None:
    # Eight domains of 8: NVLink at 450e9, then 1/8 of the bytes per GPU at 50e9 to seven other domains.
    mesh = native_mesh(parse_slice("h100:64"))
    nvlink, network = 64e6 * 7 / 8 / 450e9, 8e6 * 7 / 8 / 50e9
    assert link_seconds(Kind.ALL_GATHER, (0, 1), mesh, 64e6) == pytest.approx(nvlink + network)
    assert link_seconds(Kind.ALL_REDUCE, (0, 1), mesh, 64e6) == pytest.approx(2 * (nvlink + network))
    assert link_seconds(Kind.ALL_REDUCE, (0,), mesh, 8e6) == pytest.approx(2 * network)
    assert link_seconds(Kind.ALL_TO_ALL, (0, 1), mesh, 64e6) == pytest.approx(nvlink + 64e6 * 7 / 8 / 50e9)


@given(mesh_and_axes(), st.sampled_from(list(Kind)))
def test_stages_add_up_to_the_collective(where: tuple[TorusMesh, tuple[int, ...]], kind: Kind) -> None:
    mesh, axes = where
    on_slice, across = stage_laws(kind, axes, mesh)
    law = collective_law(kind, axes, mesh)
    assert law.latency_seconds == on_slice.latency_seconds + across.latency_seconds
    assert law.seconds_per_byte == on_slice.seconds_per_byte + across.seconds_per_byte
    assert (across.seconds_per_byte > 0) == any(mesh.axes[i].name == "dcn" for i in axes)


@given(mesh_and_axes())
def test_a_ragged_all_to_all_is_an_all_to_all_of_its_bytes(where: tuple[TorusMesh, tuple[int, ...]]) -> None:
    mesh, axes = where
    dense = collective_law(Kind.ALL_TO_ALL, axes, mesh)
    assert collective_law(Kind.RAGGED_ALL_TO_ALL, axes, mesh) == dense


def test_axes_of_size_one_and_no_axes_cost_nothing() -> None:
    single = native_mesh(parse_slice("v5e:1x1"))
    for kind in Kind:
        assert collective_seconds(kind, 1e9, (0,), single) == 0.0
        assert collective_seconds(kind, 1e9, (), CUBE) == 0.0


def test_times_are_vectorised_over_bytes() -> None:
    n_bytes = np.array([0.0, 1e6, 2e9])
    together = collective_seconds(Kind.ALL_TO_ALL, n_bytes, (0, 2), CUBE)
    assert together.tolist() == [collective_seconds(Kind.ALL_TO_ALL, float(n), (0, 2), CUBE) for n in n_bytes]


@given(mesh_and_axes(), st.sampled_from(list(Kind)), st.floats(0, 1e12), st.floats(0, 1e12))
def test_time_grows_with_bytes(
    where: tuple[TorusMesh, tuple[int, ...]], kind: Kind, fewer: float, more: float
) -> None:
    mesh, axes = where
    fewer, more = sorted((fewer, more))
    assert 0 < collective_seconds(kind, fewer, axes, mesh) <= collective_seconds(kind, more, axes, mesh)


@given(mesh_and_axes(), st.floats(0, 1e12))
def test_all_reduce_lies_between_one_and_two_reduce_scatters(
    where: tuple[TorusMesh, tuple[int, ...]], n_bytes: float
) -> None:
    mesh, axes = where
    scatter = collective_seconds(Kind.REDUCE_SCATTER, n_bytes, axes, mesh)
    gather = collective_seconds(Kind.ALL_GATHER, n_bytes, axes, mesh)
    reduce = collective_seconds(Kind.ALL_REDUCE, n_bytes, axes, mesh)
    assert scatter == gather
    assert scatter <= reduce <= (scatter + gather) * (1 + 1e-12)


@given(st.sampled_from([("v4", (8, 8, 8)), ("v5e", (8, 8)), ("v5e", (16, 16))]), st.floats(1, 1e12))
def test_more_equal_dims_gather_the_same_output_faster(
    which: tuple[str, tuple[int, ...]], n_bytes: float
) -> None:
    mesh = native_mesh(Slice(chip(which[0]), which[1]))
    seconds = [
        link_seconds(Kind.ALL_GATHER, tuple(range(count)), mesh, n_bytes)
        for count in range(1, len(mesh.axes) + 1)
    ]
    assert seconds == sorted(seconds, reverse=True)


LINES = [(size, stride, stride * size) for size in (2, 3, 4, 5) for stride in (1, 2, 3)]


@pytest.mark.parametrize(("size", "stride", "around"), LINES)
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("kind", [Kind.ALL_GATHER, Kind.ALL_TO_ALL])
def test_bytes_on_the_busiest_link_of_interleaved_groups(
    size: int, stride: int, around: int, ring: bool, kind: Kind
) -> None:
    if ring and around % 4:
        around, stride = 4 * around, 4 * stride
    slice_ = Slice(chip("v4"), (around, 4, 4)) if ring else Slice(chip("v4"), (4 * around, 1, 1))
    inner = 1 if ring else 4 * around // (size * stride)
    # On a line the groups lie in the middle of three factors; on a ring the axis goes all the way around.
    axes = (
        MeshAxis("o", inner, 0, size * stride),
        MeshAxis("a", size, 0, stride),
        MeshAxis("i", stride, 0, 1),
    )
    others = () if not ring else (MeshAxis("y", 4, 1, 1), MeshAxis("z", 4, 2, 1))
    law = collective_law(kind, (1,), TorusMesh(slice_, axes + others))
    assert law.seconds_per_byte * LINK == pytest.approx(busiest_link(kind, size, stride, ring))


def busiest_link(kind: Kind, size: int, stride: int, ring: bool) -> float:
    """Bytes on the busiest link per byte per chip, when every group routes each piece by a shortest way."""
    n_links = size * stride
    loads = np.zeros((2, n_links))
    for offset, source, target in itertools.product(range(stride), range(size), range(size)):
        for share, direction, steps in ways(source, target, size, ring):
            # In an all-gather a chip passes a piece on to the next, so only the last step of each way is new.
            first = steps - 1 if kind is Kind.ALL_GATHER else 0
            for step in range(first * stride, steps * stride):
                place = offset + source * stride + (step if direction == 0 else -1 - step)
                loads[direction, place % n_links] += share / size
    return float(loads.max())


def ways(source: int, target: int, size: int, ring: bool) -> list[tuple[float, int, int]]:
    """Share, direction and steps of the ways from source to target: both ways round when they are equal."""
    if source == target:
        return []
    if not ring:
        return [(1.0, int(target < source), abs(target - source))]
    ahead = (target - source) % size
    both = [(1.0, 0, ahead), (1.0, 1, size - ahead)]
    shortest = min(steps for _, _, steps in both)
    chosen = [way for way in both if way[2] == shortest]
    return [(1.0 / len(chosen), direction, steps) for _, direction, steps in chosen]
