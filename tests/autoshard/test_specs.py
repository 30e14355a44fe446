import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from autoshard.errors import PlanError
from autoshard.specs import (
    Spec,
    format_spec,
    format_type,
    normalise,
    parse_spec,
    parse_type,
    to_partition_spec,
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A spec of rank 0 to 5 that uses every axis at most once."""
    axes = draw(st.lists(st.sampled_from(["x", "y", "z", "dcn", "x0", "data_1"]), unique=True))
    rank = draw(st.integers(1 if axes else 0, 5))
    dims: list[list[str]] = [[] for _ in range(rank)]
    for axis in axes:
        dims[draw(st.integers(0, rank - 1))].append(axis)
    return tuple(map(tuple, dims))


def test_a_spec_is_one_short_text() -> None:
    assert format_spec(normalise(P("x", ("y", "z")), 3)) == "x;y,z;"
    assert format_spec(normalise(P(), 2)) == ";"
    assert format_spec(normalise(P(), 0)) == ""
    assert format_spec(normalise(P(), 1)) == ""


def test_the_empty_text_is_told_apart_by_rank() -> None:
    assert parse_spec("", 0) == ()
    assert parse_spec("", 1) == ((),)


@pytest.mark.parametrize("spelling", [P("x"), P("x", None), P(("x",)), ("x",), ["x", None], [["x"], ()]])
def test_all_spellings_of_one_sharding_are_one_spec(spelling: object) -> None:
    if isinstance(spelling, list):
        spelling = [entry or None for entry in spelling]
    assert normalise(spelling, 2) == (("x",), ())  # type: ignore[arg-type]


def test_partition_spec_has_full_rank() -> None:
    assert to_partition_spec((("x",), ("y", "z"), ())) == P("x", ("y", "z"), None)


@given(specs())
def test_specs_round_trip_through_text_and_partition_spec(spec: Spec) -> None:
    assert parse_spec(format_spec(spec), len(spec)) == spec
    assert normalise(to_partition_spec(spec), len(spec)) == spec


@pytest.mark.parametrize(
    ("text", "rank", "message"),
    [
        ("x;y", 3, "names 2 dims .* rank 3"),
        ("x", 0, "names 1 dims .* rank 0"),
        ("x;x", 2, "`x` is used twice in `x;x`"),
        ("x,;", 2, "`` cannot name a mesh axis"),
        ("x y;", 2, "`x y` cannot name a mesh axis"),
    ],
)
def test_a_bad_spec_text_is_refused(text: str, rank: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_spec(text, rank)


@pytest.mark.parametrize(
    ("spec", "rank", "message"),
    [
        (P("x", "y"), 1, "names 2 dims, but the array has rank 1"),
        (P("x", ("y", "x")), 2, "`x` is used twice"),
        (P("x", unreduced=frozenset({"y"})), 1, "unreduced axes"),
        (P(P.UNCONSTRAINED), 1, "does not shard a dim"),
        ([3], 1, "`3` does not shard a dim"),
    ],
)
def test_a_sharding_that_no_plan_can_hold_is_refused(spec: P, rank: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        normalise(spec, rank)


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("bfloat16[32,4096]", "bfloat16", (32, 4096)),
        ("float32[]", "float32", ()),
        ("key<fry>[2]", "key<fry>", (2,)),
        ("int8[0]", "int8", (0,)),
    ],
)
def test_types_round_trip(text: str, dtype: str, shape: tuple[int, ...]) -> None:
    assert parse_type(text) == (dtype, shape)
    assert format_type(dtype, shape) == text


@pytest.mark.parametrize("text", ["bfloat16", "[3]", "f32[3,]", "f32[-1]", "f32[3] ", "f32[3][4]"])
def test_a_bad_type_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="is not an array type"):
        parse_type(text)
