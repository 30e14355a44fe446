import sysconfig
from pathlib import Path

import jax
import pytest

import autoshard
from autoshard.audit.attribution import Attributed, attributed, label_of
from autoshard.audit.attribution_source import own_lines, short
from autoshard.compiled.hlo import parse_module
from autoshard.compiled.hlo_metadata import Position
from autoshard.compiled.timeline import estimate_timeline
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import TorusMesh, native_mesh

MESH: TorusMesh = native_mesh(parse_slice("v5e:2x4"))
MODEL = Position("/home/me/model.py", 27, "layer")

ASSETS = Path(__file__).parents[2] / "assets"
SAMPLES = ASSETS / "hlo"
PROGRAM = (ASSETS / "audit" / "combined.hlo").read_text()


@pytest.fixture(scope="module")
def found() -> dict[str, list[Attributed]]:
    module = parse_module(PROGRAM)
    parts: dict[str, list[Attributed]] = {}
    for each in attributed(module, estimate_timeline(module, MESH).collectives):
        parts.setdefault(each.name, []).append(each)
    return parts


def test_a_combined_collective_is_split_over_what_it_reduces(found: dict[str, list[Attributed]]) -> None:
    parts = found["both"]
    assert [part.bytes_per_chip for part in parts] == [8 * 64 * 2, 8 * 32 * 2]
    assert [part.op for part in parts] == ["attention/be,eq->bq", "attention/be,ek->bk"]
    assert [part.marks[0] for part in parts] == ["4.1", "4.2"]
    assert parts[0].seconds == pytest.approx(2 * parts[1].seconds)
    assert parts[0].axes == ("x",)
    assert [part.tensor for part in parts] == ["bf16[8,64]", "bf16[8,32]"]


def test_so_is_one_inside_of_a_fusion(found: dict[str, list[Attributed]]) -> None:
    parts = found["scattered"]
    assert [part.kind for part in parts] == ["reduce-scatter"] * 2
    assert [part.op for part in parts] == ["attention/be,eq->bq", "attention/be,ek->bk"]
    assert parts[0].stack == (Position("/home/me/model.py", 27),)


def test_a_nameless_one_has_the_name_of_what_reads_it(found: dict[str, list[Attributed]]) -> None:
    (part,) = found["nameless"]
    assert (part.op, part.neighbour, part.marks) == ("ffn/be,ef->bf", True, ())
    assert part.bytes_per_chip == 64 * 64 * 2
    assert part.tensor == "bf16[64,64]"


@pytest.mark.parametrize(
    ("sample", "slice_name", "wanted"),
    [
        (
            "v4_mlp_decode",
            "v4:4x4x4",
            {
                ("all-reduce", "reduce_sum", 16),
                ("reduce-scatter", "be,ef->bf", 18),
                ("all-gather", "mul", 20),
            },
        ),
        ("v4_windowed_permute", "v4:4x4x4", {("collective-permute", "btf,fe->bte", 11)}),
        ("v5e_two_slices", "2*v5e:2x2", {("all-reduce", "dot_general.grad", 20), ("all-gather", "sub", 21)}),
    ],
)
def test_stored_programs_name_their_operations_and_lines(
    sample: str, slice_name: str, wanted: set[tuple[str, str, int]]
) -> None:
    module = parse_module((SAMPLES / f"{sample}.hlo").read_text())
    timeline = estimate_timeline(module, native_mesh(parse_slice(slice_name)))
    found = attributed(module, timeline.collectives)
    assert all(each.op and each.stack and each.stack[0].file == "model.py" for each in found)
    assert wanted <= {(each.kind, each.op, each.stack[0].line) for each in found}
    assert sum(each.total_bytes for each in found) == pytest.approx(
        sum(each.bytes_per_chip * each.trips for each in timeline.collectives)
    )


@pytest.mark.parametrize(
    ("op_name", "label"),
    [
        ("jit(step)/while/body/closed_call/ffn/be,ef->bf/dot_general", "ffn/be,ef->bf"),
        ("jit(step)/attention/plan.3.4/reshape", "attention/reshape"),
        ("jit(f)/jit(_take)/gather", "gather"),
        ("jit(f)/transpose(jvp(ffn))/be,ef->bf/dot_general", "ffn/be,ef->bf.grad"),
        ("jit(f)/cond/branch_1_fun/mul", "mul"),
        ("jit(f)/while/body", ""),
        ("", ""),
    ],
)
def test_a_label_is_the_users_part_of_an_op_name(op_name: str, label: str) -> None:
    assert label_of(op_name) == label


def test_own_lines_are_those_inside_of_the_call_to_autoshard() -> None:
    inside = Position(f"{Path(autoshard.__file__).parent}/applying.py", 3)
    machinery = Position(f"{Path(jax.__file__).parent}/_src/pjit.py", 9)
    outside = Position("/home/me/tune_it.py", 5)
    assert own_lines([machinery, MODEL, MODEL, inside, outside]) == (MODEL,)
    assert own_lines([inside, outside]) == ()
    assert short(MODEL) == "model.py:27"


def test_lines_of_libraries_count_where_there_are_no_others() -> None:
    library = Position(f"{sysconfig.get_paths()['purelib']}/flax/linear.py", 11)
    assert own_lines([library, MODEL]) == (MODEL,)
    assert own_lines([library]) == (library,)
