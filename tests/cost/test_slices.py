"""Slices: what parses, what cannot exist and how that is said, what wraps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost.chips import CHIPS, chip
from autoshard.cost.errors import SliceError, UnknownChipError
from autoshard.cost.slices import Slice, parse_slice, slices_of
from autoshard.cost.torus import native_mesh

ALL_SLICES = [one for name in CHIPS for one in slices_of(chip(name))]


def test_parse_reads_chip_topology_and_number_of_slices() -> None:
    assert parse_slice("v4:4x4x4") == Slice(chip("v4"), (4, 4, 4))
    assert parse_slice("2*v5e:16x16") == Slice(chip("v5e"), (16, 16), 2)
    assert parse_slice("h100:8") == Slice(chip("h100"), (8,))
    assert parse_slice("2*v5e:16x16").n_chips == 512


def test_gpus_beyond_one_nvlink_domain_are_several_domains() -> None:
    assert parse_slice("h100:64") == Slice(chip("h100"), (8,), 8)
    assert parse_slice("h100:16").name == "2*h100:8"
    assert parse_slice("3*b200:16") == Slice(chip("b200"), (8,), 6)
    assert parse_slice("2*h100:4") == Slice(chip("h100"), (4,), 2)  # as it was asked for
    assert native_mesh(parse_slice("h100:64")).names == ("dcn", "x")


def test_slices_of_gpus_go_on_in_domains() -> None:
    sizes = [one.n_chips for one in slices_of(chip("h200"))]
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert [one.n_chips for one in slices_of(chip("cpu"))][-1] == 64


@given(st.sampled_from(ALL_SLICES), st.integers(1, 5))
def test_names_parse_back(one: Slice, count: int) -> None:
    several = Slice(one.chip, one.topology, count)
    assert parse_slice(several.name) == several


@pytest.mark.parametrize("name", CHIPS)
def test_slices_of_a_chip_grow(name: str) -> None:
    sizes = [one.n_chips for one in slices_of(chip(name))]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1


@pytest.mark.parametrize(
    ("text", "wraps"),
    [
        ("v4:4x4x4", (True, True, True)),
        ("v5p:4x8x12", (True, True, True)),
        ("v4:2x4x4", (False, False, False)),
        ("v4:2x2x1", (False, False, False)),
        ("v5e:16x16", (True, True)),
        ("v5e:8x16", (False, True)),
        ("v6e:8x8", (False, False)),
        ("v2:16x16", (True, True)),
        ("v3:16x32", (False, True)),
        ("v3:16x16", (False, False)),
        ("h100:8", (False,)),
    ],
)
def test_wraps(text: str, wraps: tuple[bool, ...]) -> None:
    assert parse_slice(text).wraps == wraps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e:7", r"'v5e:7' cannot exist: v5e topologies have 2 dims, this one has 1; for example 'v5e:"),
        ("v4:3x3x3", r"each dim of a v4 topology must be 1, 2 or a multiple of 4; for example 'v4:"),
        ("v5e:3x4", r"must be 1, 2, 4, 8 or 16"),
        ("v5e:32x16", r"must be 1, 2, 4, 8 or 16"),
        ("v4:16x16x20", r"at most 4096 chips, this one has 5120"),
        ("v2:32x32", r"must be 1, 2, 4, 8 or 16"),
        ("v3:32x64", r"must be 1, 2, 4, 8, 16 or 32"),
        ("h100:12", r"NVLink domain of h100 has at most 8 chips, this one has 12.*whole domains.*'h100:16'"),
        ("cpu:2048", r"cpu slices have at most 1024 chips, this one has 2048"),
        ("h100:0", r"each dim must be at least 1"),
        ("0*v4:4x4x4", r"expected at least 1 slice, got 0"),
        ("v4", r"'v4' is not a slice: expected CHIP:TOPOLOGY, such as 'v5e:4x4'"),
        ("v4:4x4x", r"is not a slice"),
        ("", r"is not a slice"),
    ],
)
def test_impossible_slices_say_the_rule_and_an_example(text: str, message: str) -> None:
    with pytest.raises(SliceError, match=message):
        parse_slice(text)


def test_the_example_of_an_error_is_a_slice() -> None:
    for name in CHIPS:
        with pytest.raises(SliceError) as info:
            Slice(chip(name), (1, 1, 1, 1))
        example = str(info.value).rsplit("'", 2)[1]
        assert parse_slice(example).chip.name == name


def test_unknown_chip_in_a_slice() -> None:
    with pytest.raises(UnknownChipError, match="unknown chip 'v9'"):
        parse_slice("v9:2x2")
