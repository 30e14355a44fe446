"""The mesh that a model's author wrote, laid on the torus of a slice.

A plan says which torus dim each of its axes lies on; an author's mesh only has names and sizes. Its axes are
laid out as `jax.make_mesh` would have them: each on whole torus dims where that can be, else on parts of
them, innermost axis first. So an author's axis may be several axes of the torus, which then share its name::

    data=2 model=8 on v5e:4x4     data: 2 of dim x     model: 2 of dim x, 4 of dim y
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import prod

from autoshard.cost.slices import Slice
from autoshard.cost.torus import DCN_DIM, MeshAxis
from autoshard.errors import OptionError


def parse_mesh(text: str) -> dict[str, int]:
    """Return the sizes of a mesh by axis, outermost first, from text such as ``data=2,model=4``.

    Raises:
        OptionError: it is no such text.
    """
    sizes: dict[str, int] = {}
    for part in text.replace(" ", ",").split(","):
        name, equals, size = part.partition("=")
        if not part:
            continue
        if not equals or not name.isidentifier() or not size.isdecimal() or int(size) < 1 or name in sizes:
            raise OptionError(
                f"`{text}` is no mesh: expected axis names and sizes, outermost first, as in data=2,model=4"
            )
        sizes[name] = int(size)
    return sizes


def laid_out(sizes: Mapping[str, int], slice_: Slice) -> tuple[MeshAxis, ...]:
    """Return torus axes that are, in their order, an author's axes; axes of one chip are left out.

    Args:
        sizes: Size of each axis by name, outermost first.
        slice_: The slice.

    Raises:
        OptionError: the axes have more or fewer chips than the slice, or do not divide its torus dims.
    """
    mesh = " ".join(f"{name}={size}" for name, size in sizes.items())
    if prod(sizes.values()) != slice_.n_chips:
        raise OptionError(
            f"the mesh {mesh} has {prod(sizes.values())} chips, and {slice_.name} has {slice_.n_chips}: "
            "take a slice of as many chips, or change the mesh"
        )
    dims = range(len(slice_.topology))
    layouts = [_factors(sizes, [*_slices(slice_), *_dims(order, slice_)]) for order in permutations(dims)]
    found = [layout for layout in layouts if layout is not None]
    if not found:
        raise OptionError(
            f"the mesh {mesh} cannot be laid on {slice_.name}: its axes do not divide the torus dims"
        )
    return min(found, key=len)


def _slices(slice_: Slice) -> list[tuple[int, int]]:
    return [(DCN_DIM, slice_.num_slices)] if slice_.num_slices > 1 else []


def _dims(order: Sequence[int], slice_: Slice) -> list[tuple[int, int]]:
    return [(dim, slice_.topology[dim]) for dim in order]


def _factors(sizes: Mapping[str, int], dims: Sequence[tuple[int, int]]) -> tuple[MeshAxis, ...] | None:
    """Cut axes and torus dims into common factors, innermost first; None where one divides no other."""
    axes: list[MeshAxis] = []
    rest = [(dim, size, 1) for dim, size in dims if size > 1]
    for name, size in reversed([item for item in sizes.items() if item[1] > 1]):
        left = size
        while left > 1:
            dim, chips, stride = rest.pop()
            factor = min(left, chips)
            if max(left, chips) % factor:
                return None
            axes.append(MeshAxis(name, factor, dim, stride))
            left //= factor
            if chips > factor:
                rest.append((dim, chips // factor, stride * factor))
    return tuple(reversed(axes))
