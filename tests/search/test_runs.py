"""Runs in sequences, against sequences written down by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.search.runs import LEAST_BLOCKS, LEAST_SHORT_BLOCKS, SHORT_PERIOD, Run, find_runs


def sequence(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_layers_between_embedding_and_head() -> None:
    block = "abcabdefgh"  # what is alike inside a block is no period
    assert find_runs(sequence("xy" + block * 8 + "zw")) == (Run(2, 82, 10, 2 + 10),)


def test_forward_and_backward_are_two_runs() -> None:
    forward, backward = "abcdefghij" * 7, "klmnopqrstuvwxyz" * 7
    assert find_runs(sequence(forward + "!" + backward)) == (
        Run(0, 70, 10, 10),
        Run(71, 71 + 112, 16, 71 + 16),
    )


def test_the_last_block_may_be_cut_short() -> None:
    assert find_runs(sequence("abcdefghij" * 8 + "abcd" + "!")) == (Run(0, 84, 10, 10),)


def test_alternating_layers_are_one_period() -> None:
    local, globally = "abcdefgh", "abcdEfgh"
    (run,) = find_runs(sequence((local + globally) * 8))
    assert run == Run(0, 128, 16, 0 + 16)


def test_experts_inside_layers_come_second() -> None:
    layer = "abcd" + "efgh" * 16 + "ij"
    (run,) = find_runs(sequence(layer * 10))
    assert run.period == len(layer)
    assert find_runs(sequence(layer)) == (Run(4, 68, 4, 4 + 4),)


@pytest.mark.parametrize("count", range(1, LEAST_SHORT_BLOCKS))
def test_few_blocks_are_no_run(count: int) -> None:
    assert find_runs(sequence("abcdefghij" * count)) == ()


def test_few_long_blocks_are_a_run() -> None:
    block, length = list(range(SHORT_PERIOD)), SHORT_PERIOD
    assert find_runs(block * LEAST_BLOCKS) == (Run(0, LEAST_BLOCKS * length, length, length),)
    assert find_runs(block * (LEAST_BLOCKS - 1)) == ()


def test_short_blocks_are_allowed_to_be_few() -> None:
    assert find_runs(sequence("abcabcabc")) == ()
    assert find_runs(sequence("abcdefghi" * 3), 3) == (Run(0, 27, 9, 9),)


def test_the_standing_block_keeps_what_is_alike_together() -> None:
    local, globally = "abcdefgh", "ijklmnopqrst"
    block = local * 3 + globally + local * 4  # the seven local layers are cut in two by where the run begins
    (run,) = find_runs(sequence(block * 6))
    assert (run.period, run.standing % run.period) == (len(block), len(local * 3 + globally))
    inside = sequence(block * 6)[run.standing : run.standing + run.period]
    assert find_runs(inside)[0].stop == len(local) * 7


def test_nothing_in_nothing() -> None:
    assert find_runs([]) == ()


@given(st.lists(st.integers(0, 3), max_size=120))
def test_runs_are_what_they_say(codes: list[int]) -> None:
    runs = find_runs(codes)
    array = np.array(codes, dtype=np.int64)
    assert [run.start for run in runs] == sorted(run.start for run in runs)
    for run, following in zip(runs, [*runs[1:], None], strict=False):
        assert run.start <= run.standing <= run.stop - run.period
        assert run.stop - run.start >= LEAST_SHORT_BLOCKS * run.period
        assert (array[run.start : run.stop - run.period] == array[run.start + run.period : run.stop]).all()
        assert following is None or run.stop <= following.start


@given(st.lists(st.integers(0, 9), min_size=8, max_size=30), st.integers(LEAST_SHORT_BLOCKS, 12))
def test_a_repeated_block_is_found(block: list[int], count: int) -> None:
    """However the block looks inside, no more than two of its copies are left without a run."""
    covered = sum(run.stop - run.start for run in find_runs(block * count))
    assert covered >= (count - 2) * len(block)
