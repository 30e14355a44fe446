import pytest

from autoshard.errors import OptionError
from autoshard.phases.matching import Handed, Signature, handed_over, shared_arguments

PREFILL = Signature(
    "prefill",
    {"params/wi": "bfloat16[8,16]", "params/wo": "bfloat16[16,8]", "tokens": "int32[4,32]"},
    {"result/0": "float32[4,99]", "result/1/keys": "bfloat16[4,32,8]", "result/1/values": "bfloat16[4,32,8]"},
)
DECODE = Signature(
    "decode",
    {
        "params/wi": "bfloat16[8,16]",
        "params/wo": "bfloat16[16,8]",
        "cache/keys": "bfloat16[4,32,8]",
        "cache/values": "bfloat16[4,32,8]",
        "tokens": "int32[4]",
    },
    {"result/0": "float32[4,99]", "result/1/keys": "bfloat16[4,32,8]", "result/1/values": "bfloat16[4,32,8]"},
)
KEYS = Handed(0, "result/1/keys", 1, "cache/keys")
VALUES = Handed(0, "result/1/values", 1, "cache/values")


def changed(signature: Signature, **types: str) -> Signature:
    """A signature with arguments of other types; none for an empty one."""
    renamed = {name.replace("__", "/"): text for name, text in types.items()}
    arguments = {**signature.arguments, **renamed}
    return Signature(
        signature.name, {name: text for name, text in arguments.items() if text}, signature.results
    )


def refused(share: str = "", handover: str = "", *phases: Signature) -> str:
    with pytest.raises(OptionError) as caught:
        shared_arguments([share], phases) if share else handed_over([handover], phases)
    return str(caught.value)


# ---- what is shared


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["params"], ("params/wi", "params/wo")),
        (["params/*"], ("params/wi", "params/wo")),
        (["params/wo"], ("params/wo",)),
        (["params/wo", "params/wi", "params"], ("params/wi", "params/wo")),
        ([], ()),
    ],
)
def test_a_pattern_names_arguments_and_what_is_under_them(patterns: list[str], expected: tuple[str]) -> None:
    assert shared_arguments(patterns, [PREFILL, DECODE]) == expected


def test_a_name_pattern_of_a_plan_names_its_arguments() -> None:
    layers = Signature("f", {f"layers/{n}/w": "float32[2]" for n in range(4)}, {})
    assert shared_arguments(["layers/{1..2}"], [layers, layers]) == ("layers/1/w", "layers/2/w")


def test_what_names_nothing_is_refused_with_what_there_is() -> None:
    message = refused("parms", "", PREFILL, DECODE)
    assert "--share parms names no argument of `prefill`: its arguments are `params`, `tokens`" in message


def test_other_types_are_refused_by_path() -> None:
    message = refused("params", "", PREFILL, changed(DECODE, params__wo="int8[16,8]"))
    assert "`params/wo` is bfloat16[16,8] in `prefill` and int8[16,8] in `decode`" in message


@pytest.mark.parametrize("without", [PREFILL, DECODE])
def test_what_one_phase_lacks_is_refused_by_path(without: Signature) -> None:
    phases = [changed(each, params__wo="") if each is without else each for each in (PREFILL, DECODE)]
    other = DECODE if without is PREFILL else PREFILL
    message = refused("params", "", *phases)
    assert f"`params/wo` is an argument of `{other.name}` and not of `{without.name}`" in message


# ---- what is handed over


def test_a_handover_is_found_by_path_and_type() -> None:
    lone = Signature(DECODE.name, DECODE.arguments, {"result": "float32[4,99]"})
    assert handed_over(["cache"], [PREFILL, lone]) == (KEYS, VALUES)


def test_what_a_phase_gives_back_it_hands_to_itself() -> None:
    own = tuple(Handed(1, each.result, 1, each.argument) for each in (KEYS, VALUES))
    assert set(handed_over(["cache"], [PREFILL, DECODE])) == {KEYS, VALUES, *own}


def test_a_single_array_is_found_by_its_type() -> None:
    first = Signature("first", {}, {"result/0": "float32[2]", "result/1": "float32[3]"})
    second = Signature("second", {"state": "float32[3]"}, {"result": "float32[1]"})
    assert handed_over(["state"], [first, second]) == (Handed(0, "result/1", 1, "state"),)


TWICE = Signature("twice", {}, {"result/0": "float32[3]", "result/1": "float32[3]"})
STATE = Signature("second", {"state": "float32[3]"}, {})


def test_several_results_that_suit_have_to_be_told_apart() -> None:
    message = refused("", "state", TWICE, STATE)
    assert "several results of `twice` suit `state`; say which: `state=0`, `state=1`" in message


@pytest.mark.parametrize("place", ["1", "result/1"])
def test_the_place_of_a_result_can_be_said(place: str) -> None:
    assert handed_over([f"state={place}"], [TWICE, STATE]) == (Handed(0, "result/1", 1, "state"),)


def test_a_place_that_is_not_there_is_refused() -> None:
    message = refused("", "state=2", TWICE, STATE)
    assert "`twice` has no result `result/2` for `state`; its results are `result/0`, `result/1`" in message


def test_a_place_of_another_type_is_refused() -> None:
    message = refused("", "cache=1", PREFILL, changed(DECODE, cache__keys="bfloat16[4,96,8]"))
    assert "`result/1/keys` of `prefill` is bfloat16[4,32,8]" in message
    assert "`cache/keys` of `decode` is bfloat16[4,96,8]" in message


def test_a_cache_of_another_context_is_refused_with_both_types() -> None:
    longer = changed(DECODE, cache__keys="bfloat16[4,96,8]", cache__values="bfloat16[4,96,8]")
    message = refused("", "cache", PREFILL, longer)
    assert "`cache/keys` is bfloat16[4,96,8], and in `prefill` `result/1/keys` is bfloat16[4,32,8]" in message


def test_a_handover_that_names_nothing_is_refused() -> None:
    assert "--handover kv names no argument of `decode`" in refused("", "kv", PREFILL, DECODE)
