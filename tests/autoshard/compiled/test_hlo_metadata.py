from autoshard.compiled.hlo import parse_module
from autoshard.compiled.hlo_metadata import Frames, Position, op_name_of, parse_frames, stack_of

TABLES = """FileNames
1 "/home/me/model.py"
2 "/home/me/run.py"

FunctionNames
1 "layer"
2 "<module>"

FileLocations
1 {file_name_id=1 function_name_id=1 line=27 end_line=27 column=4 end_column=9}
2 {file_name_id=2 function_name_id=2 line=8}

StackFrames
1 {file_location_id=2 parent_frame_id=NONE}
2 {file_location_id=1 parent_frame_id=CALLER}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %y = f32[8]{0} negate(%x), metadata={op_name="jit(f)/ffn/neg" stack_frame_id=2}
}
"""
LAYER, RUN = Position("/home/me/model.py", 27, "layer"), Position("/home/me/run.py", 8, "<module>")


def tables(none: int, caller: int) -> list[str]:
    return TABLES.replace("NONE", str(none)).replace("CALLER", str(caller)).splitlines()


def test_a_stack_goes_from_the_innermost_line_to_its_callers() -> None:
    assert parse_frames(tables(none=0, caller=1)).stack(2) == (LAYER, RUN)


def test_callers_that_are_printed_one_too_high_are_read_alike() -> None:
    assert parse_frames(tables(none=1, caller=2)).stack(2) == (LAYER, RUN)


def test_a_frame_that_calls_itself_ends() -> None:
    frames = Frames({1: LAYER}, {1: 1})
    assert set(frames.stack(1)) == {LAYER}


def test_a_module_knows_the_lines_of_its_instructions() -> None:
    module = parse_module("\n".join(tables(none=0, caller=1)))
    root = module.computations[module.entry].root
    assert root.op_name == "jit(f)/ffn/neg"
    assert stack_of(root.metadata, module.frames) == (LAYER, RUN)


def test_file_and_line_may_stand_in_the_metadata_itself() -> None:
    metadata = '{op_name="jit(f)/a \\"b\\"" source_file="/home/me/model.py" source_line=27}'
    assert stack_of(metadata, Frames()) == (Position("/home/me/model.py", 27),)
    assert op_name_of(metadata) == 'jit(f)/a \\"b\\"'


def test_what_is_not_known_has_no_lines() -> None:
    assert stack_of("", Frames()) == ()
    assert stack_of('{op_name="x" stack_frame_id=9}', parse_frames(tables(none=0, caller=1))) == ()
    assert parse_frames(["HloModule m", "ENTRY %e () -> f32[] {"]) == Frames()
