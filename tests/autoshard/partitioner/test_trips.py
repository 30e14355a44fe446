from autoshard.partitioner.partitioned import Block, PartitionedOp
from autoshard.partitioner.trips import constants_of, trip_count

START, STOP, STEP, COUNTER, OUTER, TEST, NEXT = range(7)


def loop(direction: str = "LT", grows_by: int = STEP) -> PartitionedOp:
    """``i = START; while i < STOP: i = i + STEP``, on constants of the function around it."""
    compare = PartitionedOp("stablehlo.compare", (COUNTER, STOP), (TEST,), direction=direction)
    condition = Block((COUNTER,), (compare, PartitionedOp("stablehlo.return", (TEST,), ())))
    grow = PartitionedOp("stablehlo.add", (COUNTER, grows_by), (NEXT,))
    body = Block((COUNTER,), (grow, PartitionedOp("stablehlo.return", (NEXT,), ())))
    return PartitionedOp("stablehlo.while", (START,), (OUTER,), blocks=(condition, body))


def trips(start: int, stop: int, step: int, direction: str = "LT") -> int | None:
    return trip_count(loop(direction), {START: start, STOP: stop, STEP: step})


def test_a_counter_with_a_step_of_one() -> None:
    assert trips(0, 118, 1) == 118
    assert trips(2, 7, 1) == 5


def test_a_last_part_of_a_step_is_a_trip() -> None:
    assert trips(0, 7, 3) == 3
    assert trips(0, 6, 3) == 2


def test_a_stop_that_is_included() -> None:
    assert trips(0, 6, 3, "LE") == 3


def test_a_loop_that_never_runs() -> None:
    assert trips(5, 5, 1) == 0
    assert trips(7, 5, 1) == 0


def test_loops_that_cannot_be_read() -> None:
    assert trips(7, 0, -1, "GT") is None
    assert trips(0, 7, 0) is None
    assert trip_count(loop(), {START: 0, STEP: 1}) is None
    assert trip_count(loop(), {STOP: 7, STEP: 1}) is None
    assert trip_count(loop(), {START: 0, STOP: 7}) is None


def test_constants_are_found_at_any_depth() -> None:
    constant = PartitionedOp("sdy.constant", (), (7,), number=118)
    inner = PartitionedOp("stablehlo.while", (), (), blocks=(Block((), (constant,)), Block((), ())))
    assert constants_of([Block((), (inner,))]) == {7: 118}
