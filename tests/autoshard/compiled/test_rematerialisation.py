from autoshard.compiled.rematerialisation import parse_warning, rematerialised_in

HELD = "{devices=[2,1,4]<=[2,2,2]T(1,0,2) last_tile_dim_replicate}"
WANTED = "{devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate}"
LOG = (
    "W1121 15:31:05.268902   28128 spmd_partitioner.cc:654] [SPMD] Involuntary full rematerialization. "
    f"The compiler cannot go from sharding {HELD} to {WANTED} efficiently for HLO operation "
    f"%sharding_constraint.90 = f32[188,784]{{1,0}} copy(%mul.91), sharding={HELD}, metadata={{op_name="
    '"jit(many)/sharding_constraint" stack_frame_id=4}. As the last resort, SPMD will replicate the tensor.\n'
    "W1121 15:31:05.1 llo_module.h:502] The log function has NOT been set for the LloModule.\n"
)


def test_a_warning_says_which_tensor_is_replicated_between_which_shardings() -> None:
    (text,) = rematerialised_in(LOG)
    found = parse_warning(text)
    assert found.tensor == "f32[188,784]"
    assert found.held == HELD
    assert found.wanted == WANTED
    assert found.op_name == "jit(many)/sharding_constraint"
    assert "last resort" not in text


def test_a_warning_in_other_words_is_kept_as_it_is() -> None:
    (text,) = rematerialised_in("W Involuntary full rematerialization. ...\n")
    assert text == "Involuntary full rematerialization. ..."
    assert parse_warning(text).held == ""


def test_other_logs_have_none() -> None:
    assert rematerialised_in("") == ()
