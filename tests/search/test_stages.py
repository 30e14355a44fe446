"""Chains of specs, one collective per step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.search.ordering import Spec
from autoshard.search.stages import OpenSum, closing, closings, stages

X, Y, Z = 0, 1, 2
N_AXES = 4


def test_nothing_to_do() -> None:
    assert stages(((X,), (Y,)), ((X,), (Y,))) == ()


def test_a_weight_is_gathered_dim_by_dim() -> None:
    assert stages(((X,), (Y, Z)), ((), ())) == (((), (Y, Z)), ((), ()))


def test_an_open_sum_is_closed_before_axes_move() -> None:
    # Open over y; y is to shard dim 0, x moves from dim 0 to dim 1.
    assert stages(((X,), ()), ((Y,), (X,)), OpenSum((Y,))) == (((X, Y), ()), ((Y,), (X,)))


def test_an_open_sum_that_ends_replicated_is_closed_where_it_is() -> None:
    assert stages(((X,), ()), ((X,), ()), OpenSum((Y,))) == (((X,), ()),)
    assert stages(((X,), ()), ((), ()), OpenSum((Y,))) == (((X,), ()), ((), ()))


def test_slice_move_and_gather_are_three_steps() -> None:
    have, want = ((X,), (Y,)), ((Z,), (X,))
    assert stages(have, want) == (((X, Z), (Y,)), ((Z,), (Y, X)), ((Z,), (X,)))
    assert closing(have, want) == ((X, Z), (Y,))


def test_minor_axes_leave_first_so_that_blocks_stay() -> None:
    have, want = ((), (), (X, Y, Z)), ((Y, X), (Z,), ())
    assert stages(have, want) == (((), (Z,), (X, Y)), want)


def test_axes_leave_a_dim_before_others_come() -> None:
    have, want = ((X,), (Y,), ()), ((), (X,), (Y,))
    assert stages(have, want) == (((X,), (), (Y,)), want)


def test_axes_come_in_the_order_wanted() -> None:
    have, want = ((X,), (Y,), ()), ((), (), (Y, X))
    assert stages(have, want) == (((X,), (), (Y,)), want)


def test_what_stays_is_not_moved_behind_what_is_gathered() -> None:
    assert stages(((X, Y, Z), ()), ((X,), (Z,))) == (((X, Y), (Z,)), ((X,), (Z,)))


def test_another_order_is_a_step_of_its_own() -> None:
    assert stages(((X, Y),), ((Y, X),)) == (((Y, X),),)


def test_specs_of_different_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        stages(((X,), ()), ((X,),))


@st.composite
def _specs(draw: st.DrawFn) -> tuple[Spec, Spec, OpenSum]:
    """Two specs of one tensor, and a sum over axes that the first leaves free."""
    rank = draw(st.integers(1, 3))

    def spec() -> Spec:
        dims: list[list[int]] = [[] for _ in range(rank + 1)]
        for axis in draw(st.permutations(range(N_AXES))):
            dims[draw(st.integers(0, rank))].append(axis)
        return tuple(tuple(dim) for dim in dims[:rank])

    have, want = spec(), spec()
    free = [axis for axis in range(N_AXES) if all(axis not in dim for dim in have)]
    open_axes = tuple(axis for axis in free if draw(st.booleans()))
    return have, want, OpenSum(open_axes, tuple(axis for axis in free if axis not in open_axes))


def _dims(spec: Spec) -> dict[int, int]:
    return {axis: number for number, dim in enumerate(spec) for axis in dim}


@given(_specs())
def test_a_chain_ends_at_the_target_and_changes_one_kind_of_thing_at_a_time(
    case: tuple[Spec, Spec, OpenSum],
) -> None:
    have, want, open_sum = case
    chain = stages(have, want, open_sum)
    assert bool(chain) == (have != want or bool(open_sum.axes))
    assert (chain[-1] if chain else have) == want
    order = []
    for number, (old, new) in enumerate(itertools.pairwise((have, *chain))):
        before, after = _dims(old), _dims(new)
        assert sum(len(dim) for dim in new) == len(after)  # no axis twice
        kinds = {
            "close": set(after) - set(before) or (number == 0 and open_sum.axes),
            "move": {axis for axis in before if axis in after and before[axis] != after[axis]},
            "gather": set(before) - set(after),
        }
        happened = [kind for kind, axes in kinds.items() if axes]
        assert len(happened) <= 1
        assert len({before[axis] for axis in kinds["gather"] or ()}) <= 1  # of one dim
        order += [list(kinds).index(kind) for kind in happened]
    assert order == sorted(order)


def test_beside_idle_axes_a_sum_is_closed_whole_first() -> None:
    made, want = ((Y,), ()), ((Y, Z, X), (3,))
    assert closings(made, want, OpenSum((3,), idle_axes=(X, Z))) == (made, want)
    assert closings(made, ((Y,), (3,)), OpenSum((3,), idle_axes=(X, Z))) == (made, ((Y,), (3,)))
    assert closings(made, ((Y, Z), ()), OpenSum((3,), idle_axes=(X, Z))) == (made, ((Y, Z), ()))
    assert closings(made, made, OpenSum((3,), idle_axes=(X, Z))) == (made,)


def test_a_scatter_over_a_batch_dim_beside_another_sum_is_two_steps() -> None:
    made, want, both = ((X,), ()), ((X, Y), (Z,)), OpenSum((Y, Z), batch_dims=(0,))
    assert closings(made, want, both) == (((X,), (Z,)), want)
    assert closings(made, ((X, Y), ()), both) == (made, ((X, Y), ()))
    assert closings(made, want, OpenSum((Y, Z))) == (want,)  # no batch dim
    whole = closings(made, ((X, Y), ()), OpenSum((Y,), batch_dims=(0,)))
    assert whole == (((X, Y), ()),)  # all of the sum goes there
    assert closings(((), ()), ((Y,), (Z,)), both) == (((Y,), (Z,)),)


def test_other_sums_are_closed_in_one_step() -> None:
    assert closings(((Z, X), ()), ((Z, X), (Y,)), OpenSum((Y,))) == (((Z, X), (Y,)),)
    assert closings(((), ()), ((Z, X), ()), OpenSum(idle_axes=(X, Y, Z))) == (((Z, X), ()),)  # none is open
