from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.collectives import Kind, collective_seconds
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, native_mesh
from autoshard.permute_routing import permute_seconds

SAMPLES = Path(__file__).parents[2] / "assets" / "hlo"
MESH = native_mesh(parse_slice("v4:4x4x4"))
CHIP = MESH.slice.chip
MIB = 2**20


def config(cycles: int) -> str:
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


def program(*lines: str, more: str = "") -> str:
    """A program over 64 partitions whose entry runs `lines` after a parameter %p of 1 MiB."""
    body = "\n".join(f"  {line}" for line in ("%p = bf16[512,1024]{1,0} parameter(0)", *lines))
    header = "ENTRY %main (p: bf16[512,1024]) -> bf16[512,1024]"
    return f"HloModule m, num_partitions=64\n{more}\n{header} {{\n{body}\n}}\n"


def compute(name: str, cycles: int) -> str:
    return f"%{name} = bf16[512,1024]{{1,0}} fusion(%p), kind=kLoop, calls=%f, {config(cycles)}"


def permute(name: str, step: int) -> tuple[str, str]:
    """Start and done of a permute by `step` chips along z, the ring of partitions 4k .. 4k+3."""
    pairs = ",".join(f"{{{i},{i // 4 * 4 + (i + step) % 4}}}" for i in range(64))
    shapes = "(bf16[512,1024]{1,0}, bf16[512,1024]{1,0}, u32[], u32[])"
    return (
        f"%{name} = {shapes} collective-permute-start(%p), source_target_pairs={{{pairs}}}",
        f"%{name}.done = bf16[512,1024]{{1,0}} collective-permute-done(%{name})",
    )


GATHER = "%g = bf16[2048,1024]{1,0} all-gather(%p), replica_groups=[16,4]<=[64], dimensions={0}"
GATHER_SECONDS = collective_seconds(Kind.ALL_GATHER, 4.0 * MIB, (2,), MESH)
PERMUTE_SECONDS = CHIP.collective_base_seconds + CHIP.hop_seconds + MIB / CHIP.link_bytes_per_second


def test_compute_is_cycles_over_the_clock() -> None:
    timeline = estimate_timeline(program(compute("a", 1000), compute("b", 50)), MESH)
    assert timeline.seconds == timeline.compute_seconds == pytest.approx(1050 / CHIP.clock_hz)
    assert timeline.collectives == ()


def test_a_synchronous_collective_stops_the_schedule() -> None:
    timeline = estimate_timeline(program(compute("a", 1000), GATHER), MESH)
    assert timeline.seconds == pytest.approx(1000 / CHIP.clock_hz + GATHER_SECONDS)
    assert timeline.exposed_collective_seconds == timeline.collective_seconds == pytest.approx(GATHER_SECONDS)
    (gather,) = timeline.collectives
    assert (gather.kind, gather.axes, gather.exact, gather.bytes_per_chip) == (
        "all-gather",
        ("z",),
        True,
        4 * MIB,
    )


@pytest.mark.parametrize("cycles", [0, 10_000, 10_000_000])
def test_an_asynchronous_permute_hides_behind_compute(cycles: int) -> None:
    start, done = permute("r", 1)
    timeline = estimate_timeline(program(start, compute("a", cycles), done), MESH)
    hidden_behind = cycles / CHIP.clock_hz
    assert timeline.collective_seconds == pytest.approx(PERMUTE_SECONDS)
    assert timeline.exposed_collective_seconds == pytest.approx(max(0.0, PERMUTE_SECONDS - hidden_behind))
    assert timeline.seconds == pytest.approx(max(hidden_behind, PERMUTE_SECONDS))


@pytest.mark.parametrize(("second_step", "expected"), [(-1, PERMUTE_SECONDS), (1, 2 * PERMUTE_SECONDS)])
def test_permutes_share_links_only_in_one_direction(second_step: int, expected: float) -> None:
    (start, done), (other_start, other_done) = permute("r", 1), permute("l", second_step)
    timeline = estimate_timeline(program(start, other_start, done, other_done), MESH)
    assert timeline.seconds == pytest.approx(expected)
    assert timeline.collective_seconds == pytest.approx(2 * PERMUTE_SECONDS)


def test_a_permute_without_a_done_is_waited_for_at_the_end() -> None:
    start, _ = permute("r", 1)
    assert estimate_timeline(program(start), MESH).seconds == pytest.approx(PERMUTE_SECONDS)


LOOP = """
%body (s: (s32[], bf16[512,1024])) -> (s32[], bf16[512,1024]) {
  %s = (s32[], bf16[512,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %n = s32[] add(%i, %one)
  %x = bf16[512,1024]{1,0} get-tuple-element(%s), index=1
  %ar = bf16[512,1024]{1,0} all-reduce(%x), replica_groups={}, to_apply=%sum
  %y = bf16[512,1024]{1,0} fusion(%ar), kind=kLoop, calls=%f, CONFIG
  ROOT %t = (s32[], bf16[512,1024]{1,0}) tuple(%n, %y)
}

%condition (s: (s32[], bf16[512,1024])) -> pred[] {
  %s.1 = (s32[], bf16[512,1024]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %bound = s32[] LIMIT
  ROOT %c = pred[] compare(%i.1, %bound), direction=LT
}
""".replace("CONFIG", config(300))
ENTER = (
    "%zero = s32[] constant(0)",
    "%init = (s32[], bf16[512,1024]{1,0}) tuple(%zero, %p)",
    "%w = (s32[], bf16[512,1024]{1,0}) while(%init), condition=%condition, body=%body",
)


def test_a_loop_counts_as_often_as_it_runs() -> None:
    timeline = estimate_timeline(program(*ENTER, more=LOOP.replace("LIMIT", "constant(7)")), MESH)
    once = collective_seconds(Kind.ALL_REDUCE, float(MIB), (0, 1, 2), MESH)
    assert timeline.compute_seconds == pytest.approx(7 * 300 / CHIP.clock_hz)
    assert timeline.collective_seconds == pytest.approx(7 * once)
    assert timeline.filled_seconds < 1e-9  # the counter's four bytes
    assert [(each.trips, each.axes) for each in timeline.collectives] == [(7, ("x", "y", "z"))]
    assert timeline.unknown_loops == ()


def test_a_loop_of_unknown_length_counts_once_and_is_named() -> None:
    timeline = estimate_timeline(program(*ENTER, more=LOOP.replace("LIMIT", "multiply(%i.1, %i.1)")), MESH)
    assert timeline.compute_seconds == pytest.approx(300 / CHIP.clock_hz)
    assert timeline.unknown_loops == ("w",)


def test_an_instruction_without_cycles_is_filled_from_its_bytes() -> None:
    timeline = estimate_timeline(program("%c = bf16[512,1024]{1,0} copy(%p)"), MESH)
    streamed = CHIP.hbm_bytes_per_second * CHIP.hbm_streaming_fraction
    assert timeline.filled_seconds == timeline.seconds == pytest.approx(2 * MIB / streamed)


def test_a_copy_to_on_chip_memory_runs_beside_compute() -> None:
    start = "%c = (bf16[512,1024]{1,0:S(1)}, bf16[512,1024]{1,0}, u32[]{:S(2)}) copy-start(%p)"
    done = "%d = bf16[512,1024]{1,0:S(1)} copy-done(%c)"
    copy_seconds = MIB / (CHIP.hbm_bytes_per_second * CHIP.hbm_streaming_fraction)
    beside = estimate_timeline(program(start, compute("a", 10_000_000), done), MESH)
    alone = estimate_timeline(program(start, done), MESH)
    assert beside.filled_seconds == 0
    assert alone.filled_seconds == pytest.approx(copy_seconds)


def test_groups_over_half_an_axis_are_priced_as_the_whole_axis() -> None:
    line = "%g = bf16[1024,1024]{1,0} all-gather(%p), replica_groups=[32,2]<=[64], dimensions={0}"
    (gather,) = estimate_timeline(program(line), MESH).collectives
    assert (gather.axes, gather.exact, gather.bytes_per_chip) == (("z",), False, 2 * MIB)
    assert gather.seconds == pytest.approx(collective_seconds(Kind.ALL_GATHER, 2.0 * MIB, (2,), MESH))


@pytest.mark.parametrize(
    ("name", "slice_name"),
    [
        ("v4_mlp_decode", "v4:4x4x4"),
        ("v4_windowed_permute", "v4:4x4x4"),
        ("v5e_async_gather", "v5e:4x4"),
        ("v5e_two_slices", "2*v5e:2x2"),
    ],
)
def test_stored_programs_add_up(name: str, slice_name: str) -> None:
    timeline = estimate_timeline((SAMPLES / f"{name}.hlo").read_text(), native_mesh(parse_slice(slice_name)))
    parts = timeline.compute_seconds + timeline.filled_seconds + timeline.exposed_collective_seconds
    assert timeline.seconds == pytest.approx(parts)
    assert 0 < timeline.exposed_collective_seconds <= timeline.collective_seconds * (1 + 1e-9)
    assert timeline.exposed_collective_seconds == pytest.approx(
        sum(each.exposed_seconds * each.trips for each in timeline.collectives)
    )
    assert timeline.filled_seconds < 0.1 * timeline.seconds
    assert all(each.exact for each in timeline.collectives)
    assert timeline.unknown_loops == ()


def test_the_async_gathers_of_v5e_are_partly_hidden() -> None:
    mesh = native_mesh(parse_slice("v5e:4x4"))
    timeline = estimate_timeline((SAMPLES / "v5e_async_gather.hlo").read_text(), mesh)
    asynchronous = [each for each in timeline.collectives if each.asynchronous]
    assert len(asynchronous) == 3
    assert sum(each.exposed_seconds for each in asynchronous) < sum(each.seconds for each in asynchronous)


def rotation(mesh: TorusMesh, dim: int, steps: int) -> list[tuple[int, int]]:
    places = np.arange(mesh.n_chips).reshape(mesh.shape)
    return list(zip(places.ravel().tolist(), np.roll(places, -steps, dim).ravel().tolist(), strict=True))


@pytest.mark.parametrize(("steps", "hops", "load"), [(1, 1, 1), (3, 1, 1), (2, 2, 2)])
def test_a_rotation_takes_the_shorter_way_round(steps: int, hops: int, load: int) -> None:
    seconds, links = permute_seconds(rotation(MESH, 1, steps), float(MIB), MESH)
    expected = (
        CHIP.collective_base_seconds + hops * CHIP.hop_seconds + load * MIB / CHIP.link_bytes_per_second
    )
    assert seconds == pytest.approx(expected)
    assert links == {(1, -1 if steps == 3 else 1)}


def test_on_a_line_the_last_chip_sends_all_the_way_back() -> None:
    mesh = native_mesh(parse_slice("v5e:4x4"))
    chip = mesh.slice.chip
    seconds, links = permute_seconds(rotation(mesh, 0, 1), float(MIB), mesh)
    assert links == {(0, 1), (0, -1)}
    expected = chip.collective_base_seconds + 3 * chip.hop_seconds + MIB / chip.link_bytes_per_second
    assert seconds == pytest.approx(expected)


def test_a_permute_that_moves_nothing_is_free() -> None:
    assert permute_seconds([(i, i) for i in range(64)], float(MIB), MESH) == (0.0, frozenset())


@given(seed=st.integers(0, 1000), bytes_per_chip=st.floats(0, 1e9), more=st.floats(0, 1e9))
def test_a_permute_costs_no_less_for_more_bytes(seed: int, bytes_per_chip: float, more: float) -> None:
    targets = np.random.default_rng(seed).permutation(64).tolist()
    pairs = list(enumerate(targets))
    less, _ = permute_seconds(pairs, bytes_per_chip, MESH)
    assert permute_seconds(pairs, bytes_per_chip + more, MESH)[0] >= less
