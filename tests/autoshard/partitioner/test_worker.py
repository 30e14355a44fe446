from collections.abc import Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh
from autoshard.partitioner import worker as propagation_worker
from autoshard.partitioner.partitioned import AxisPart, Tensor
from autoshard.partitioner.propagation import RESHARD, Found, Propagated
from autoshard.partitioner.worker import (
    PropagationAnswer,
    PropagationResult,
    propagate_all,
    stablehlo_of,
)
from autoshard.programs import Program, abstract_mesh, export_program
from autoshard.workers import Outcome

SLICE = parse_slice("v5e:2x4")
MESH = native_mesh(SLICE)
B, K, N = 16, 64, 32


def program(platform: str = "tpu") -> Program:
    """A matmul whose contracted dim is split over y, on a result that is whole."""
    mesh = abstract_mesh(MESH.axes)

    def shaped(*shape: int, spec: Sequence[str | None]) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    return export_program(
        jnp.matmul,
        (shaped(B, K, spec=(None, "y")), shaped(K, N, spec=("y", None))),
        platform=platform,
        mesh_axes=MESH.axes,
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


@pytest.fixture(scope="module")
def results() -> list[PropagationResult]:
    """Two sound programs, one that is none, and one whose module aborts Shardy: it has no function."""
    sound, seen = program(), list[int]()

    def artifact_of(each: Program) -> bytes:
        return b"" if each.serialised == b"aborts" else stablehlo_of(each)

    broken = [msgspec.structs.replace(sound, serialised=text) for text in (b"no program", b"aborts")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagation_worker, "stablehlo_of", artifact_of)
        found = propagate_all([sound, *broken, program("cpu")], SLICE, on_result=lambda i, _: seen.append(i))
    assert sorted(seen) == [0, 1, 2, 3]
    return found


@pytest.mark.parametrize("index", [0, 3], ids=["tpu", "cpu"])
def test_a_sound_program_has_its_collectives_priced(results: list[PropagationResult], index: int) -> None:
    result = results[index]
    assert (result.status, result.detail, result.unknown_loops) == ("ok", "", ())
    (reduce,) = result.collectives
    nbytes = B * N * 4
    assert (reduce.kind, reduce.axes, reduce.bytes_per_chip) == ("all-reduce", ("y",), nbytes)
    assert result.seconds == reduce.seconds == collective_seconds(Kind.ALL_REDUCE, nbytes, (1,), MESH)
    assert result.total_bytes == nbytes
    assert result.seconds_taken is not None
    assert result.seconds_taken > 0


def test_a_program_that_cannot_be_read_costs_itself(results: list[PropagationResult]) -> None:
    assert results[1].status == "failed"
    assert results[1].detail.startswith("no exported program: ")
    assert results[1].seconds is None


def test_a_module_that_aborts_the_passes_costs_itself(results: list[PropagationResult]) -> None:
    assert results[2].status == "crashed"
    assert "SIGABRT" in results[2].detail
    assert results[2].collectives == ()


def test_where_the_pass_that_names_collectives_aborts_they_are_derived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The candidate is tried without that pass, and its result says why."""
    split = ((AxisPart("y", 1, 4),), ())
    reshard = Found(
        RESHARD, (), (), (), 1024.0, Tensor((B, K), 4, split), Tensor((B, K), 4, ((), ())), 5, "op", "a.py:1"
    )
    answer = PropagationAnswer(propagated=Propagated((reshard,), ()), seconds_taken=0.01)
    tried: list[bool] = []

    def outcomes(artifacts: dict[int, bytes], to_collectives: bool, *_: object) -> Generator[Any, None, None]:
        tried.append(to_collectives)
        for index in artifacts:
            if to_collectives:
                yield index, Outcome(index, "crashed", b"", "ended by SIGABRT", "", "")
            else:
                yield index, Outcome(index, "ok", msgspec.msgpack.encode(answer), "", "", "")

    monkeypatch.setattr(propagation_worker, "_outcomes", outcomes)
    (result,) = propagate_all([program()], SLICE)
    assert tried == [True, False]
    assert (result.status, result.detail) == (
        "ok",
        "collectives of reshards are derived: ended by SIGABRT",
    )
    (gather,) = result.collectives
    assert (gather.kind, gather.axes, gather.bytes_per_chip) == ("all-gather", ("y",), B * K * 4)
    assert (gather.trips, gather.derived) == (5, True)


def test_a_candidate_out_of_time_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def outcomes(artifacts: dict[int, bytes], *_: object) -> Generator[Any, None, None]:
        for index in artifacts:
            tried.append(index)
            yield index, Outcome(index, "timed out", b"", "no answer within 60 s", "", "")

    monkeypatch.setattr(propagation_worker, "_outcomes", outcomes)
    (result,) = propagate_all([program()], SLICE)
    assert (result.status, result.detail) == ("timed out", "no answer within 60 s")
    assert tried == [0]


def test_no_programs_start_no_child() -> None:
    assert propagate_all([], SLICE) == []
