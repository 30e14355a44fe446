import pytest

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis, TorusMesh, native_mesh
from autoshard.partitioner.partitioned import AxisPart, Sharding, Tensor
from autoshard.partitioner.prices import permute_pairs, priced, split_mesh
from autoshard.partitioner.propagation import RESHARD, Found

MESH = native_mesh(parse_slice("v4:4x4x4"))
X, Y, Z = (AxisPart(name, 1, 4) for name in "xyz")
MAJOR, MINOR = AxisPart("x", 1, 2), AxisPart("x", 2, 2)
SHAPE = (64, 1024)
WHOLE: Sharding = ((), ())


def found(kind: str, source: Sharding, target: Sharding, axes: tuple[AxisPart, ...] = ()) -> Found:
    """A collective of a bfloat16 tensor that runs three times."""
    before, after = (Tensor(SHAPE, 2, sharding) for sharding in (source, target))
    nbytes = (after if kind == "all-gather" else before).bytes_per_chip
    return Found(kind, axes, (), (), nbytes, before, after, 3, "op", "model.py:1")


def seconds(kind: Kind, nbytes: float, *axes: int, mesh: TorusMesh = MESH) -> float:
    return float(collective_seconds(kind, nbytes, axes, mesh))


def test_a_collective_costs_what_the_model_says() -> None:
    (gather,) = priced([found("all-gather", ((X,), ()), WHOLE, (X,))], MESH)
    assert (gather.kind, gather.axes, gather.bytes_per_chip, gather.trips) == (
        *("all-gather", ("x",)),
        *(64 * 1024 * 2, 3),
    )
    assert gather.seconds == seconds(Kind.ALL_GATHER, 64 * 1024 * 2, 0)
    assert gather.total_bytes == 3 * 64 * 1024 * 2
    assert not gather.derived


def test_axes_of_several_dims_act_as_one_group() -> None:
    (gather,) = priced([found("all-gather", ((Z,), (X,)), WHOLE, (Z, X))], MESH)
    assert gather.axes == ("x", "z")
    assert gather.seconds == seconds(Kind.ALL_GATHER, 64 * 1024 * 2, 0, 2)


def test_groups_of_chips_are_turned_into_axes() -> None:
    groups = tuple(tuple(range(4 * i, 4 * i + 4)) for i in range(16))  # z runs fastest
    reduce = found("all-reduce", WHOLE, WHOLE)
    each = Found("all-reduce", (), groups, (), 100.0, reduce.source, reduce.target, 1, "", "")
    (only,) = priced([each], MESH)
    assert only.axes == ("z",)
    assert only.seconds == seconds(Kind.ALL_REDUCE, 100.0, 2)


def test_a_part_of_an_axis_has_the_stride_of_what_is_below_it() -> None:
    finer = split_mesh(MESH, [MAJOR])
    assert finer.axes[:2] == (MeshAxis("x:(1)2", 2, 0, 2), MeshAxis("x:(2)2", 2, 0, 1))
    assert finer.names[2:] == ("y", "z")
    (far,) = priced([found("all-gather", ((MAJOR,), ()), WHOLE, (MAJOR,))], MESH)
    (near,) = priced([found("all-gather", ((MINOR,), ()), WHOLE, (MINOR,))], MESH)
    assert (far.axes, near.axes) == (("x:(1)2",), ("x:(2)2",))
    assert far.seconds == seconds(Kind.ALL_GATHER, 64 * 1024 * 2, 0, mesh=finer)
    assert far.seconds > near.seconds


def test_both_parts_of_an_axis_cost_what_the_axis_costs() -> None:
    (parts,) = priced([found("all-gather", ((MAJOR, MINOR), ()), WHOLE, (MAJOR, MINOR))], MESH)
    (axis,) = priced([found("all-gather", ((X,), ()), WHOLE, (X,))], MESH)
    assert parts.seconds == pytest.approx(axis.seconds)


def test_a_scatter_of_odd_tiles_is_priced_as_the_all_reduce_that_it_becomes() -> None:
    """1024 / 4 = 256 columns are two tiles, and stay a scatter; 1024 / 8 = 128 are one."""
    even = found("reduce-scatter", ((Y, Z), ()), ((Y, Z), (X,)), (X,))
    half, other = AxisPart("y", 1, 2), AxisPart("y", 2, 2)
    odd = found("reduce-scatter", ((other, Z), ()), ((other, Z), (X, half)), (X,))
    rows = found("reduce-scatter", ((), (Y, Z)), ((X,), (Y, Z)), (X,))
    assert [each.kind for each in priced([even, odd, rows], MESH)] == [
        *("reduce-scatter", "all-reduce", "reduce-scatter")
    ]


def test_a_new_order_of_axes_sends_each_shard_to_its_new_place() -> None:
    mesh = native_mesh(parse_slice("v5e:2x4"))
    parts = AxisPart("x", 1, 2), AxisPart("y", 1, 4)
    before, after = (Tensor((8,), 4, (order,)) for order in (parts, parts[::-1]))
    pairs = permute_pairs(before, after, mesh)
    # Chip (x, y) = 4x + y holds shard 4x + y, and is to hold shard 2y + x.
    assert sorted(pairs) == sorted((2 * y + x, 4 * x + y) for x in range(2) for y in range(4))


def test_a_permute_names_the_axes_along_which_shards_go() -> None:
    (permute,) = priced([found("collective-permute", ((X, Y), ()), ((Y, X), ()))], MESH)
    assert permute.axes == ("x", "y")
    assert permute.bytes_per_chip == 64 * 1024 * 2 / 16
    assert permute.seconds > 0


def test_a_permute_that_moves_nothing_is_left_out() -> None:
    assert priced([found("collective-permute", ((X, Y), ()), ((X, Y), ()))], MESH) == ()


def test_a_reshard_that_is_left_open_is_derived_from_both_sides() -> None:
    gather, exchange, keep, slice_ = (
        found(RESHARD, source, target)
        for source, target in [
            (((X,), ()), WHOLE),
            (((X,), ()), ((), (X,))),
            (((X, Y), ()), ((Y, X), ())),
            (WHOLE, ((X,), ())),
        ]
    )
    derived = priced([gather, exchange, keep, slice_], MESH)
    assert [(each.kind, each.axes, each.bytes_per_chip) for each in derived] == [
        ("all-gather", ("x",), 64 * 1024 * 2),
        ("all-to-all", ("x",), 64 * 1024 * 2 / 4),
    ]
    assert all(each.derived and each.trips == 3 for each in derived)
