import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from autoshard.compiled.collectives import executed_collectives
from autoshard.compiled.hlo import Shape, element_bytes, parse_module, parse_shapes
from autoshard.compiled.hlo_brackets import split_top_level
from autoshard.compiled.hlo_loops import trip_count
from autoshard.compiled.hlo_traffic import moved_bytes
from autoshard.compiled.replica_groups import axes_of_groups, parse_groups, parse_pairs, varying_axes
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import MeshAxis, TorusMesh, native_mesh
from autoshard.errors import CompileError

SAMPLES = Path(__file__).parents[2] / "assets" / "hlo"
MIB = 2**20

LOOP = """HloModule loop, is_scheduled=true, num_partitions=4

%body (state: (s32[], bf16[8], s32[])) -> (s32[], bf16[8], s32[]) {
  %state = (s32[]{:T(128)}, bf16[8]{0}, s32[]) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %copied = s32[] copy(%count)
  %step = s32[] constant(STEP)
  %next = s32[] add(%copied, %step)
  %data = bf16[8]{0} get-tuple-element(%state), index=1
  %bound = s32[] get-tuple-element(%state), index=2
  ROOT %out = (s32[]{:T(128)}, bf16[8]{0}, /*index=2*/s32[]) tuple(%next, %data, /*index=2*/%bound)
}

%condition (state.1: (s32[], bf16[8], s32[])) -> pred[] {
  %state.1 = (s32[], bf16[8]{0}, s32[]) parameter(0)
  %count.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = LIMIT
  ROOT %compare = pred[] compare(%count.1, %limit), direction=DIRECTION
}

ENTRY %main (x: bf16[8]) -> bf16[8] {
  %x = bf16[8]{0} parameter(0)
  %start = s32[] constant(START)
  %end = s32[] constant(12)
  %init = (s32[], bf16[8]{0}, s32[]) tuple(%start, %x, %end)
  %loop = (s32[], bf16[8]{0}, s32[]) while(%init), condition=%condition, body=%body
  ROOT %result = bf16[8]{0} get-tuple-element(%loop), index=1
}
"""
FIXED = "s32[] constant(8)"
CARRIED = "s32[] get-tuple-element(%state.1), index=2"


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.hlo").read_text()


def test_shapes_carry_memory_space_and_count_bytes_of_small_types() -> None:
    text = "(bf16[512,64]{0,1:T(8,128)(2,1)S(3)}, /*index=1*/s4[6]{0}, (pred[3], token[]), f8e4m3fn[10])"
    assert parse_shapes(text) == (
        Shape("bf16", (512, 64), 3),
        Shape("s4", (6,)),
        Shape("pred", (3,)),
        Shape("token", ()),
        Shape("f8e4m3fn", (10,)),
    )
    assert [shape.nbytes for shape in parse_shapes(text)] == [65536, 3, 3, 0, 10]


@pytest.mark.parametrize(
    ("dtype", "expected"), [("f32", 4), ("c64", 8), ("u2", 0.25), ("f8e5m2", 1), ("pred", 1)]
)
def test_element_bytes(dtype: str, expected: float) -> None:
    assert element_bytes(dtype) == expected


def test_commas_in_brackets_and_quotes_do_not_split() -> None:
    assert split_top_level('a={1,2}, b=f(x,y), c="p,q"') == ["a={1,2}", " b=f(x,y)", ' c="p,q"']


def test_an_unknown_instruction_is_parsed_like_any_other() -> None:
    module = parse_module(
        "HloModule m\n\nENTRY %main (a: f32[4]) -> f32[4] {\n"
        "  %a = f32[4]{0} parameter(0)\n"
        "  ROOT %odd.1 = f32[4]{0:T(256)} warp-drive(%a), mood={happy, {1,2}}, "
        'metadata={op_name="jit(f)/x[y=1,z=\\"q\\"]" stack_frame_id=3}, '
        'backend_config={"window_config":{"estimated_cycles":"619"}}\n}\n'
    )
    (_, odd) = module.computations["main"].instructions
    assert (odd.name, odd.opcode, odd.operands, odd.cycles, odd.is_root) == (
        "odd.1",
        "warp-drive",
        ("a",),
        619,
        True,
    )
    assert odd.attributes == {"mood": "{happy, {1,2}}"}
    assert odd.op_name == 'jit(f)/x[y=1,z=\\"q\\"]'
    assert module.n_partitions == 1


def test_a_device_order_belongs_to_its_replica_groups() -> None:
    # As libtpu 0.0.42 writes it.
    module = parse_module(
        "HloModule m\n\nENTRY %main (a: f32[4]) -> f32[4] {\n  %a = f32[4]{0} parameter(0)\n"
        "  ROOT %sum = f32[4]{0} all-reduce(%a), channel_id=1, replica_groups=mesh['axis_0'=1,'axis_1'=8], "
        "device_ids=([2,4]T(1,0)) {'axis_1'}, use_global_device_ids=true, to_apply=%add\n}\n"
    )
    attributes = module.computations["main"].instructions[1].attributes
    assert attributes["replica_groups"] == "mesh['axis_0'=1,'axis_1'=8], device_ids=([2,4]T(1,0)) {'axis_1'}"
    assert attributes["use_global_device_ids"] == "true"


def test_text_without_an_entry_is_refused() -> None:
    with pytest.raises(CompileError, match="no ENTRY"):
        parse_module("module @jit_f {}")


@pytest.mark.parametrize("name", [path.stem for path in sorted(SAMPLES.glob("*.hlo"))])
def test_stored_programs_parse_without_loss(name: str) -> None:
    text = sample(name)
    module = parse_module(text)
    instructions = list(chain.from_iterable(each.instructions for each in module.computations.values()))
    assert len(instructions) == len(re.findall(r"^\s+(?:ROOT )?%\S+ = ", text, re.MULTILINE))
    assert sum(each.cycles is not None for each in instructions) == text.count('"estimated_cycles"')
    for computation in module.computations.values():
        assert sum(each.is_root for each in computation.instructions) == 1
        for each in computation.instructions:
            assert set(each.operands) <= set(computation.by_name)
            assert len(module.called_by(each)) == len(each.called)


def test_collectives_of_a_v4_program_under_scan() -> None:
    """An 8-layer scan over 4x4x4 chips; activations of 512x1024 bf16 are 1 MiB per chip."""
    found = [
        (each.kind.value, each.bytes_per_chip, each.group_size, each.role, trips)
        for each, trips in executed_collectives(parse_module(sample("v4_mlp_decode")))
    ]
    assert found == [
        ("all-reduce", 512 * 4, 64, "whole", 8),
        ("all-gather", MIB, 16, "whole", 8),
        ("reduce-scatter", MIB, 4, "whole", 8),
        ("all-reduce", 512 * 2, 4, "whole", 8),
        ("all-gather", MIB, 4, "whole", 8),
        ("reduce-scatter", MIB, 16, "whole", 8),
    ]


def test_an_asynchronous_fusion_and_its_carriers_count_once() -> None:
    found = executed_collectives(parse_module(sample("v5e_async_gather")))
    starts = [each for each, _ in found if each.role == "start"]
    assert Counter(each.kind.value for each, _ in found) == {"all-gather": 6, "all-reduce": 3}
    assert len(starts) == len({each.key for each in starts}) == 3
    assert {trips for _, trips in found} == {4}


def test_windowed_permutes_count_inner_loop_times_outer_loop() -> None:
    found = executed_collectives(parse_module(sample("v4_windowed_permute")))
    permutes = [(each, trips) for each, trips in found if each.kind.value == "collective-permute"]
    assert [trips for _, trips in permutes] == [
        16,
        16,
        16,
        16,
        4,
    ]  # 4 layers; 4 turns of 2 steps in the ring of 16
    assert {each.bytes_per_chip for each, _ in permutes} == {8 * 128 * 2048 * 2}
    assert {len(each.pairs) for each, _ in permutes} == {64}


def test_transfers_between_slices_pair_send_with_receive() -> None:
    found = executed_collectives(parse_module(sample("v5e_two_slices")))
    across = [(each.kind.value, each.bytes_per_chip) for each, _ in found if each.between_slices]
    assert across == [("all-reduce", 2048 * 8 * 128 * 2), ("all-reduce", 128 * 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("{}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=2,'c'=2] {'c','a'}", ((0, 4, 1, 5), (2, 6, 3, 7))),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=2,'b'=4], device_ids=([2,4]<=[4,2]T(1,0)) {'b'}", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("mesh['a'=1,'b'=8], device_ids=([2,4]T(1,0)) {'b'}", ((0, 4, 1, 5, 2, 6, 3, 7),)),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
    ],
)
def test_replica_groups_in_every_syntax(text: str, expected: tuple[tuple[int, ...], ...]) -> None:
    assert parse_groups(text, n_partitions=8) == expected


def test_unknown_replica_groups_are_refused() -> None:
    with pytest.raises(CompileError, match="syntax"):
        parse_groups("groups(8)", n_partitions=8)


def test_source_target_pairs() -> None:
    assert parse_pairs("{{0,1},{1,0}}") == ((0, 1), (1, 0))
    assert parse_pairs("{}") == ()


def test_groups_map_back_to_mesh_axes() -> None:
    mesh = native_mesh(parse_slice("v4:4x4x4"))
    rows = parse_groups("[4,16]<=[64]", 64)
    columns = parse_groups("[16,4]<=[4,16]T(1,0)", 64)
    assert axes_of_groups(rows, mesh) == (1, 2)
    assert axes_of_groups(columns, mesh) == (0,)
    assert axes_of_groups(parse_groups("{}", 64), mesh) == (0, 1, 2)
    assert axes_of_groups(tuple((i,) for i in range(64)), mesh) == ()


def test_groups_that_are_half_an_axis_have_no_exact_axes() -> None:
    mesh = native_mesh(parse_slice("v5e:4x4"))
    halves = parse_groups("[8,2]<=[16]", 16)
    assert axes_of_groups(halves, mesh) is None
    assert varying_axes(halves, mesh) == (1,)


def test_groups_that_are_one_factor_of_a_torus_dim() -> None:
    slice_ = parse_slice("v5e:4x4")
    axes = (MeshAxis("x", 4, 0, 1), MeshAxis("y0", 2, 1, 2), MeshAxis("y1", 2, 1, 1))
    assert axes_of_groups(parse_groups("[8,2]<=[16]", 16), TorusMesh(slice_, axes)) == (2,)


@pytest.mark.parametrize(
    ("start", "step", "limit", "direction", "expected"),
    [
        (0, 1, FIXED, "LT", 8),
        (0, 2, FIXED, "LT", 4),
        (3, 2, FIXED, "LT", 3),
        (0, 1, FIXED, "LE", 9),
        (9, -1, FIXED, "GT", 1),
        (0, 1, CARRIED, "LT", 12),
        (8, 1, FIXED, "LT", 0),
        (0, 1, "s32[] multiply(%count.1, %count.1)", "LT", None),
        (0, 0, FIXED, "LT", None),
    ],
)
def test_trip_count(start: int, step: int, limit: str, direction: str, expected: int | None) -> None:
    text = LOOP.replace("STEP", str(step)).replace("DIRECTION", direction)
    module = parse_module(text.replace("LIMIT", limit).replace("START", str(start)))
    main = module.computations["main"]
    assert trip_count(main.by_name["loop"], main, module) == expected


def test_an_update_in_place_moves_its_update_only() -> None:
    module = parse_module(
        """HloModule m

%fused (cache: bf16[64,1024], new: bf16[1,1024], i: s32[]) -> bf16[64,1024] {
  %cache = bf16[64,1024]{1,0} parameter(0)
  %new = bf16[1,1024]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %update = bf16[64,1024]{1,0} dynamic-update-slice(%cache, %new, %i, %zero)
}

ENTRY %main (a: bf16[64,1024], b: bf16[1,1024], c: s32[], v: bf16[1,1024]) -> bf16[64,1024] {
  %a = bf16[64,1024]{1,0} parameter(0)
  %b = bf16[1,1024]{1,0} parameter(1)
  %c = s32[] parameter(2)
  %v = bf16[1,1024]{1,0:S(1)} parameter(3)
  %zero.1 = s32[] constant(0)
  %plain = bf16[64,1024]{1,0} dynamic-update-slice(%a, %b, %c, %zero.1)
  %fusion = bf16[64,1024]{1,0} fusion(%plain, %b, %c), kind=kLoop, calls=%fused
  %on_chip = bf16[64,1024]{1,0} fusion(%plain, %v, %c), kind=kLoop, calls=%fused
  %row = bf16[1,1024]{1,0} dynamic-slice(%fusion, %c, %zero.1), dynamic_slice_sizes={1,1024}
  %kernel = bf16[1,1024]{1,0} custom-call(%row), custom_call_target="k", backend_config=COST
  ROOT %copy = bf16[64,1024]{1,0} copy(%fusion)
}
""".replace("COST", '{"cost_estimate":{"flops":7,"bytes_accessed":12345}}')
    )
    main = module.computations["main"]
    moved = {name: moved_bytes(main.by_name[name], main, module) for name in main.by_name}
    assert moved["plain"] == 2 * 2048
    assert moved["fusion"] == 2048 + 2048 + 4  # the update is read and written, the index read
    assert moved["on_chip"] == 2048 + 4  # the update is read from on-chip memory
    assert moved["row"] == 2 * 2048
    assert moved["kernel"] == 12345
    assert moved["copy"] == 2 * 64 * 2048
    assert moved["a"] == moved["zero.1"] == 0
