import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.numerics import all_finite, compare, make_input, make_inputs, tolerance_of

FLOATS = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]


def test_matrices_are_normals_that_keep_the_scale_of_what_they_multiply() -> None:
    w = make_input((1024, 4096), np.dtype("float32"), seed=1)
    assert w.dtype == np.float32
    assert w.std() == pytest.approx(1 / 64, rel=0.01)
    assert abs(w.mean()) < 1e-3
    assert len({row.tobytes() for row in w}) == 1024  # longer than the period, and no two rows are equal


def test_vectors_and_scalars_are_positive() -> None:
    for shape in ((), (1000,)):
        values = np.asarray(make_input(shape, np.dtype(ml_dtypes.bfloat16), seed=2), dtype=np.float32)
        assert values.min() >= 0.5
        assert values.max() <= 1.0


def test_non_negative_matrices_keep_the_scale_as_well() -> None:
    w = make_input((256, 256), np.dtype("float32"), seed=1, non_negative=True)
    assert w.min() >= 0
    assert w.mean() == pytest.approx(np.sqrt(2 / np.pi) / 256, rel=0.02)


@given(bound=st.integers(1, 1000), dtype=st.sampled_from(["int32", "uint8", "int64", "int8"]))
def test_integers_stay_within_their_bound(bound: int, dtype: str) -> None:
    values = make_input((500,), np.dtype(dtype), seed=3, integer_bound=bound)
    assert values.dtype == dtype
    assert 0 <= values.min() <= values.max() < bound


def test_integers_of_four_bits_stay_within_their_type() -> None:
    values = make_input((500,), np.dtype(ml_dtypes.int4), seed=3, integer_bound=50_000).astype(np.int32)
    assert (values.min(), values.max()) == (0, 7)


def test_keys_are_typed_and_seeded() -> None:
    dtype = jax.random.key(0, impl="rbg").dtype
    keys = make_input((2, 3), dtype, seed=5)
    assert (keys.shape, keys.dtype) == ((2, 3), dtype)
    assert len(np.unique(jax.random.key_data(keys).reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_inputs(shape: tuple[int, ...]) -> None:
    assert make_input(shape, np.dtype("float32"), seed=0).shape == shape


def test_equal_seeds_give_equal_inputs_and_arguments_differ() -> None:
    arguments = [jax.ShapeDtypeStruct((4, 4), np.dtype("float32"))] * 2
    first, again, other = make_inputs(arguments, 1), make_inputs(arguments, 1), make_inputs(arguments, 2)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


def test_the_coarsest_float_sets_the_tolerance() -> None:
    assert tolerance_of(["int32", "bool"]) == 0
    assert tolerance_of(["float32", "int32"]) == 1e-3
    assert tolerance_of(["float32", "bfloat16", "key<fry>"]) == 5e-2
    assert tolerance_of(["complex64"]) == 1e-3
    assert tolerance_of(["float8_e4m3fn", "float32"]) > tolerance_of(["bfloat16"])


@given(
    dtype=st.sampled_from(FLOATS),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 100),
)
def test_an_error_is_relative_to_the_outputs_magnitude(
    dtype: np.dtype[np.generic], scale: float, share: float, seed: int
) -> None:
    """One element is off by `share` of the largest one."""
    expected = (np.random.default_rng(seed).normal(size=(4, 5)) * scale).astype(dtype)
    actual = expected.astype(np.float64)
    actual[1, 2] += share * np.abs(actual).max()
    actual = actual.astype(dtype)
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    exact = difference / np.abs(expected.astype(np.float64)).max()
    found = compare([actual], [expected], ["y"], tolerance=0.1)
    assert found.max_error == pytest.approx(exact, rel=1e-12)
    assert found.agrees == (exact <= 0.1)


def test_the_worst_output_is_named() -> None:
    good, bad = np.ones(4, "float32"), np.array([1, 1, 1, 1.5], "float32")
    found = compare([good, bad, good + 1e-6], [good, good, good], ["a", "b['w']", "c"], tolerance=1e-3)
    assert not found.agrees
    assert (found.worst_path, found.max_error) == ("b['w']", 0.5)
    assert "b['w'] is off by 0.5" in found.detail


def test_rounding_noise_in_a_vanishing_output_is_no_mismatch() -> None:
    """A gradient that is zero in theory: noise of 1e-9 beside outputs of size 1."""
    noise = np.array([1e-9, -2e-9])
    assert compare([np.ones(3), noise], [np.ones(3), -noise], ["loss", "g"], tolerance=1e-3).agrees
    assert not compare([noise], [-noise], ["g"], tolerance=1e-3).agrees


def test_a_value_that_is_not_finite_must_be_so_on_both_sides() -> None:
    nan, one = np.array([np.nan, 1.0]), np.ones(2)
    assert compare([nan], [nan], ["y"], tolerance=1e-3).agrees
    assert not compare([nan], [one], ["y"], tolerance=1e-3).agrees
    assert not compare([one], [nan], ["y"], tolerance=1e-3).agrees
    assert all_finite([one, np.arange(3)])
    assert not all_finite([one, nan])


def test_integers_are_exact_unless_they_come_from_coarse_floats() -> None:
    wanted = np.arange(8)
    flipped = np.where(wanted == 3, 5, wanted)
    assert not compare([flipped], [wanted], ["t"], tolerance=1e-3).agrees
    assert compare([flipped], [wanted], ["t"], tolerance=5e-2).agrees
    assert not compare([wanted[::-1]], [wanted], ["t"], tolerance=5e-2).agrees


@pytest.mark.parametrize("other", [np.ones((2, 2), "float32"), np.ones(3, "float16")])
def test_another_shape_or_type_is_a_mismatch(other: np.ndarray) -> None:
    assert "expected float32[3]" in compare([other], [np.ones(3, "float32")], ["y"], tolerance=1.0).detail


def test_a_missing_output_is_a_mismatch() -> None:
    assert not compare([], [np.ones(3)], ["y"], tolerance=1.0).agrees
