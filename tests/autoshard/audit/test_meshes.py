import pytest

from autoshard.audit.meshes import laid_out, parse_mesh
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis
from autoshard.errors import OptionError


def test_a_mesh_is_read_outermost_axis_first() -> None:
    assert list(parse_mesh("data=2,model=4").items()) == [("data", 2), ("model", 4)]
    assert parse_mesh("a=1, b=8") == {"a": 1, "b": 8}


@pytest.mark.parametrize("text", ["data", "data=", "data=0", "2=4", "a=2,a=4", "a=2;b=4"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="data=2,model=4"):
        parse_mesh(text)


@pytest.mark.parametrize(
    ("sizes", "slice_name", "axes"),
    [
        ({"d": 2, "m": 4}, "v5e:2x4", [("d", 2, 0, 1), ("m", 4, 1, 1)]),
        ({"d": 4, "m": 2}, "v5e:2x4", [("d", 4, 1, 1), ("m", 2, 0, 1)]),  # whole dims, in the other order
        ({"d": 1, "m": 8}, "v5e:2x4", [("m", 2, 0, 1), ("m", 4, 1, 1)]),
        ({"d": 2, "m": 8}, "v5e:4x4", [("d", 2, 0, 2), ("m", 2, 0, 1), ("m", 4, 1, 1)]),
        ({"s": 2, "d": 2, "m": 2}, "2*v5e:2x2", [("s", 2, -1, 1), ("d", 2, 0, 1), ("m", 2, 1, 1)]),
    ],
)
def test_axes_lie_on_whole_torus_dims_where_they_can(
    sizes: dict[str, int], slice_name: str, axes: list[tuple[str, int, int, int]]
) -> None:
    assert laid_out(sizes, parse_slice(slice_name)) == tuple(MeshAxis(*axis) for axis in axes)


def test_a_mesh_of_another_size_is_refused() -> None:
    with pytest.raises(OptionError, match="has 8 chips, and v5e:4x4 has 16"):
        laid_out({"d": 8}, parse_slice("v5e:4x4"))


def test_so_is_one_that_does_not_divide_the_torus() -> None:
    with pytest.raises(OptionError, match="cannot be laid"):
        laid_out({"a": 64, "b": 9}, parse_slice("v5p:4x12x12"))
