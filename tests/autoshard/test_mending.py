"""The command that makes a plan again, word by word."""

import shlex

import msgspec

from autoshard.commands.wishes import add_hbm_limit
from autoshard.matching import mismatch
from autoshard.mending import mend_command
from autoshard.plan import Plan
from autoshard.plan_records import PhaseRecord, TogetherRecord


def with_(plan: Plan, **changes: object) -> Plan:
    return msgspec.structs.replace(plan, **changes)


def named(plan: Plan, target: str | None, inputs: str | None = None) -> Plan:
    return with_(plan, function=msgspec.structs.replace(plan.function, target=target, inputs=inputs))


def test_a_plan_by_itself(plan: Plan) -> None:
    single = named(plan, "my model.py:step", "my model.py:inputs")
    assert mend_command(single, "plans/p.json") == (
        "autoshard tune 'my model.py:step' --inputs 'my model.py:inputs' --slice v4:4x4x4 -o plans/p.json"
    )
    assert mend_command(named(plan, None)).startswith(f"autoshard tune MODULE_OR_FILE:{plan.function.name} ")


def test_what_the_user_asked_for_is_asked_again(plan: Plan) -> None:
    asked = with_(
        named(plan, "m.py:f"),
        pins=("params/w=;x",),
        forbidden=("x=y;*", "y=any"),
        hbm_limit_bytes=round(4.7 * 2**30),
        padding="never",
        kept=("params/w=;x",),
    )
    words = shlex.split(mend_command(asked))
    assert words[2:9] == ["m.py:f", "--slice", "v4:4x4x4", "--pin", "params/w=;x", "--forbid", "x=y;*"]
    assert words[9:11] == ["--forbid", "y=any"]
    assert words[-6:] == ["--padding", "never", "--shardings", "keep", "-o", "PLAN"]
    import argparse

    parser = argparse.ArgumentParser()
    add_hbm_limit(parser)
    assert round(parser.parse_args(words[11:13]).hbm_limit) == round(4.7 * 2**30)


def test_phases_are_named_all_of_them_with_what_they_share(plan: Plan) -> None:
    together = TogetherRecord(
        phases=(PhaseRecord(name="prefill", target="m.py:prefill"), PhaseRecord(name="f", target="m.py:f")),
        share=("params",),
        handover=("cache=1",),
        weights=(1.0, 64.0),
        pins=("params/wo=x;",),
    )
    phase = with_(named(plan, "m.py:f"), together=together, pins=("params/wo=x;", "params/wi=;x"))
    assert mend_command(phase, "plans/serve.f.json") == (
        "autoshard tune m.py:prefill m.py:f --share params --handover cache=1 --weights 1,64 "
        "--slice v4:4x4x4 --pin 'params/wo=x;' -o plans/serve.json"
    )
    assert mend_command(phase, "renamed.json").endswith(" -o renamed.json")


def test_the_error_of_a_plan_that_does_not_fit_has_the_command(plan: Plan) -> None:
    error = mismatch(named(plan, "m.py:f"), "argument `x` is missing")
    assert str(error).endswith("Make it again with: autoshard tune m.py:f --slice v4:4x4x4 -o PLAN")
