"""The reader and the timeline on one program as four generations of chips and two versions of JAX compile it.

The program is that of `tests/assets/hlo_generations/make.py`: two scanned layers on eight chips; x of 2 chips
splits batch and resting weights, the other axes together, 4 chips, split heads, feed-forward and the resting
stream.
"""

import lzma
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from autoshard.compiled.chrome_trace import chrome_trace
from autoshard.compiled.collectives import executed_collectives
from autoshard.compiled.hlo import parse_module
from autoshard.compiled.hlo_loops import trip_count
from autoshard.compiled.hlo_metadata import stack_of
from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, native_mesh

SAMPLES = sorted((Path(__file__).parents[2] / "assets" / "hlo_generations").glob("*.hlo.xz"))
LAYERS, BATCH, LENGTH, MODEL, HIDDEN, HEADS, HEAD = 2, 8, 256, 1024, 4096, 16, 128
MIB = 2**20
FEED_FORWARD_BYTES = MODEL * HIDDEN // 4 * 2  # up or down, gathered over x: bf16
ATTENTION_BYTES = MODEL * HEADS * HEAD // 4 * 2  # q, k, v or o, likewise
STREAM_BYTES = BATCH // 2 * LENGTH * MODEL * 2  # gathered over the other axes: bf16
PARTIAL_SUM_BYTES = BATCH // 2 * LENGTH * MODEL * 4  # of a layer's end, before it is scattered: float32
MEAN_BYTES = BATCH // 2 * LENGTH * 4  # of the norm: float32
ROLLED_BYTES = BATCH // 2 * LENGTH * MODEL // 4 * 2  # the resting stream: bf16


@pytest.fixture(params=SAMPLES, ids=lambda path: path.name.removesuffix(".hlo.xz"))
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def text(path: Path) -> str:
    return lzma.decompress(path.read_bytes()).decode()


@pytest.fixture
def mesh(path: Path) -> TorusMesh:
    return native_mesh(parse_slice(path.name.split(".")[0].replace("-", ":", 1)))


def test_every_generation_and_both_versions_are_there() -> None:
    chips = ("v4-2x2x2", "v5e-2x4", "v5p-2x2x2", "v6e-2x4")
    versions = ("0.10.2", "0.12.0.1")
    assert [path.name for path in SAMPLES] == [
        f"{chip}.jax-{version}.hlo.xz" for chip in chips for version in versions
    ]


def test_the_whole_text_is_read(text: str) -> None:
    module = parse_module(text)
    assert module.n_partitions == 8
    instructions = list(chain.from_iterable(each.instructions for each in module.computations.values()))
    assert len(instructions) == len(re.findall(r"^\s+(?:ROOT )?%\S+ = ", text, re.MULTILINE))
    assert sum(each.cycles is not None for each in instructions) == text.count('"estimated_cycles"')
    for computation in module.computations.values():
        for each in computation.instructions:
            assert set(each.operands) <= set(computation.by_name)
            assert len(module.called_by(each)) == len(each.called)


def test_the_loop_over_layers_runs_twice(text: str) -> None:
    module = parse_module(text)
    trips = [
        trip_count(each, computation, module)
        for computation in module.computations.values()
        for each in computation.instructions
        if each.opcode == "while"
    ]
    assert trips == [LAYERS]


def test_the_collectives_are_those_of_the_program(text: str, mesh: TorusMesh) -> None:
    first, *others = mesh.names
    timeline = estimate_timeline(text, mesh)
    found = Counter((each.kind, each.axes, each.bytes_per_chip) for each in timeline.collectives)
    rest = tuple(others)
    assert found == {
        ("all-gather", (first,), FEED_FORWARD_BYTES): 2,
        ("all-gather", (first,), ATTENTION_BYTES): 4,
        ("all-gather", rest, STREAM_BYTES): 1,
        ("all-reduce", rest, MEAN_BYTES): 1,
        ("collective-permute", (first,), ROLLED_BYTES): 1,
        ("reduce-scatter", rest, PARTIAL_SUM_BYTES): 1,
    }
    assert {each.trips for each in timeline.collectives} == {LAYERS}
    assert all(each.exact for each in timeline.collectives)
    assert timeline.unknown_loops == ()


def test_all_syntaxes_of_replica_groups_are_there_and_mean_these_axes(text: str) -> None:
    groups = re.findall(r"replica_groups=(\S{8})", text)
    assert {"{{" if each.startswith("{{") else each[:1] for each in groups} == {"{{", "[", "m"}
    sizes = {
        tuple(map(len, each.groups)) for each, _ in executed_collectives(parse_module(text)) if each.groups
    }
    assert sizes == {(2, 2, 2, 2), (4, 4)}


def test_what_is_asynchronous_is_paired(text: str, path: Path, mesh: TorusMesh) -> None:
    timeline = estimate_timeline(text, mesh)
    asynchronous = Counter(each.kind for each in timeline.collectives if each.asynchronous)
    gathers = {"v4": 7, "v5e": 3, "v5p": 0, "v6e": 7}[path.name.split("-")[0]]
    assert asynchronous == Counter({"collective-permute": 1, "all-gather": gathers})
    module = parse_module(text)
    opcodes = Counter(each.opcode for c in module.computations.values() for each in c.instructions)
    for start in ("copy", "slice", "collective-permute"):
        assert opcodes[f"{start}-start"] == opcodes[f"{start}-done"]


def test_the_time_adds_up_and_is_above_the_rooflines(text: str, mesh: TorusMesh) -> None:
    timeline = estimate_timeline(text, mesh)
    assert timeline.seconds == pytest.approx(
        timeline.compute_seconds + timeline.filled_seconds + timeline.exposed_collective_seconds
    )
    tokens, weights = BATCH * LENGTH, 4 * MODEL * HEADS * HEAD + 2 * MODEL * HIDDEN
    attention_flops = 2 * 2 * BATCH * HEADS * LENGTH * LENGTH * HEAD
    flops_per_chip = LAYERS * (2 * tokens * weights + attention_flops) / 8
    assert timeline.compute_seconds > flops_per_chip / mesh.slice.chip.peak("bfloat16")
    assert timeline.filled_seconds < 0.02 * timeline.seconds
    assert timeline.exposed_collective_seconds <= timeline.collective_seconds * (1 + 1e-9)


def test_the_chips_with_faster_cores_and_links_are_faster() -> None:
    """v4 over v5p, and v5e over v6e: the same topology, more of everything."""
    seconds = {}
    for path in SAMPLES:
        name = path.name.split(".")[0].replace("-", ":", 1)
        text = lzma.decompress(path.read_bytes()).decode()
        seconds[path.name] = estimate_timeline(text, native_mesh(parse_slice(name))).seconds
    for slow, fast in (("v4", "v5p"), ("v5e", "v6e")):
        assert max(s for n, s in seconds.items() if n.startswith(f"{fast}-")) < min(
            s for n, s in seconds.items() if n.startswith(f"{slow}-")
        )


def test_instructions_lead_back_to_their_lines(text: str) -> None:
    module = parse_module(text)
    products = [
        each
        for computation in module.computations.values()
        for each in computation.instructions
        if each.op_name.endswith("/ffn/blf,fe->ble/dot_general")
    ]
    assert products
    stacks = [stack_of(each.metadata, module.frames) for each in products]
    assert {stack[0].file for stack in stacks} == {"make.py"}
    source = (SAMPLES[0].parent / "make.py").read_text().splitlines()
    assert {source[stack[0].line - 1].strip() for stack in stacks} == {
        'fed = jnp.einsum("blf,fe->ble", hidden, whole["down"])'
    }


def test_the_trace_shows_both_layers(text: str, mesh: TorusMesh) -> None:
    events = chrome_trace(text, mesh, "forward")["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    scatters = [each for each in slices if each["args"].get("collective") == "reduce-scatter"]
    on_links = {each["ts"] for each in scatters if each["cat"] == "links"}
    assert len(on_links) == LAYERS
    assert all(each["args"]["einsum"] == "blf,fe->ble" for each in scatters)
    assert all(each["args"]["source"].startswith("make.py:") for each in scatters)
