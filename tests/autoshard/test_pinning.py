import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard.cost.slices import parse_slice
from autoshard.errors import InfeasibleError
from autoshard.explain import explain
from autoshard.explain_text import to_text
from autoshard.mesh_study import mesh_label, meshes_to_try
from autoshard.pin_text import EINSUM, RESULT, PinText, parse_ban, parse_pin
from autoshard.pinning import meshes_with_axes
from autoshard.plan import Plan
from autoshard.search.errors import PinError

LAYERS, B, E, F = 3, 16, 64, 256


def model(params: Any, x: jax.Array) -> dict[str, jax.Array]:
    def layer(x: jax.Array, w: Any) -> tuple[jax.Array, None]:
        hidden = jnp.tanh(jnp.einsum("be,ef->bf", x, w["up"]))
        return x + jnp.einsum("bf,fe->be", hidden, w["down"]), None

    return {"y": jax.lax.scan(layer, x, params["layers"])[0]}


def arguments(b: int = B, e: int = E, f: int = F) -> tuple[Any, jax.ShapeDtypeStruct]:
    layers = {
        "up": jax.ShapeDtypeStruct((LAYERS, e, f), "float32"),
        "down": jax.ShapeDtypeStruct((LAYERS, f, e), "float32"),
    }
    return {"layers": layers}, jax.ShapeDtypeStruct((b, e), "float32")


def tuned(
    *pins: str, slice_name: str = "v5e:2x4", mesh: str = "native", sizes: Sequence[int] = (), **options: Any
) -> Plan:
    return autoshard.tune(
        model, *arguments(*sizes), slice=slice_name, mesh=mesh, refine="none", top_k=1, pins=pins, **options
    )


def refused(*pins: str, **options: Any) -> str:
    with pytest.raises(PinError) as caught:
        tuned(*pins, **options)
    return str(caught.value)


# ---- the text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/*/w=;x;y,z", ("", "a/*/w", (";x;y,z",), None)),
        ("result:1/keys = x;;", (RESULT, "1/keys", ("x;;",), None)),
        ("scale=", ("", "scale", ("",), None)),
        ("einsum:ble,ef->blf=;;x | * -> ;;y,z", (EINSUM, "ble,ef->blf", (";;x", None), ";;y,z")),
        ("einsum:wi=* | x;", (EINSUM, "wi", (None, "x;"), None)),
        ("einsum:wi=;x", (EINSUM, "wi", (";x",), None)),
        ("einsum:wi=-> ;x", (EINSUM, "wi", (), ";x")),
        ("einsum:wi=* -> *", (EINSUM, "wi", (None,), None)),
    ],
)
def test_a_pin_is_a_pattern_and_specs(text: str, expected: tuple[Any, ...]) -> None:
    assert parse_pin(text) == PinText(text, *expected)


def test_the_axes_of_a_pin() -> None:
    assert parse_pin("einsum:wi=;;x | *-> ;y0,z").axes == {"x", "y0", "z"}
    assert parse_pin("wi=;;").axes == frozenset()


@pytest.mark.parametrize("text", ["", "wi", "=x;y", "result:=x"])
def test_what_is_no_pin_is_refused_before_anything_else(text: str) -> None:
    assert "is not a pin: expected PATTERN=SPEC" in refused(text)


def test_stars_and_bars_are_for_einsums() -> None:
    assert "are for pins of `einsum:NAME`" in refused("params/layers/up=*")


# ---- what it does to the plan


def test_a_pinned_argument_has_its_layout() -> None:
    free = tuned().arguments["params/layers/up"].spec
    wanted = next(spec for spec in (";x,y;", ";;x,y") if spec != free)
    plan = tuned(f"params/layers/up={wanted}")
    assert plan.arguments["params/layers/up"].spec == wanted
    assert plan.predicted_seconds >= tuned().predicted_seconds


def test_a_pattern_pins_all_that_it_matches() -> None:
    plan = tuned("params/*=;x;y")
    assert {plan.arguments[f"params/layers/{name}"].spec for name in ("up", "down")} == {";x;y"}


def test_a_pinned_result_has_its_layout() -> None:
    for name, spec in (("y", "x;y"), ("result/y", "y;x"), ("*", "x,y;")):
        assert tuned(f"result:{name}={spec}").results["result/y"].spec == spec


def test_a_pinned_einsum_reads_and_leaves_what_it_is_told() -> None:
    (up, _) = tuned("einsum:layers/up=;x | x;y -> ;y").einsums
    assert up.layout.startswith("BE_x,E_xF_y->BF_y")
    (up, _) = tuned("einsum:layers/up=* | * -> x,y;").einsums
    assert up.layout == "B_xyE,EF->B_xyF"


def test_names_of_plans_with_holes_are_expanded() -> None:
    def two(ws: list[jax.Array], x: jax.Array) -> jax.Array:
        return (x @ ws[0]) @ ws[1]

    square = jax.ShapeDtypeStruct((E, E), "float32")
    tune = functools.partial(autoshard.tune, two, [square] * 2, square, slice="v5e:2x4", refine="none")
    plan = tune(pins=["ws/{0..1}=x;y"])
    assert [plan.arguments[f"ws/{n}"].spec for n in (0, 1)] == ["x;y", "x;y"]


def test_the_plan_records_its_pins(tmp_path: Path) -> None:
    pinned, free = tuned("x=;", "einsum:layers/up=* | ;"), tuned()
    assert pinned.pins == ("x=;", "einsum:layers/up=* | ;")
    for name, plan in (("pinned", pinned), ("free", free)):
        plan.save(tmp_path / name)
        assert autoshard.load_plan(tmp_path / name) == plan
    assert '"pins": ["x=;", "einsum:layers/up=* | ;"]' in (tmp_path / "pinned").read_text()
    assert '"pins"' not in (tmp_path / "free").read_text()


# ---- meshes


def test_meshes_without_the_axes_are_skipped() -> None:
    meshes = meshes_to_try(parse_slice("cpu:8"), "auto")
    found = meshes_with_axes(meshes, ["a=x0;x1"])
    assert [mesh_label(mesh) for mesh in found] == ["x0=2 x1=4", "x0=4 x1=2", "x0=2 x1=2 x2=2"]
    assert meshes_with_axes(meshes, ["a=;"]) == meshes
    plan = tuned("params/layers/up=;x0;x1", slice_name="cpu:8", mesh="auto")
    assert [axis.name for axis in plan.mesh_axes][:2] == ["x0", "x1"]


def test_an_axis_that_no_mesh_has() -> None:
    assert refused("params/layers/up=;w;y") == (
        "`params/layers/up=;w;y` names the mesh axis `w`, which no mesh of v5e:2x4 that is tried has; their "
        "axes are x, y"
    )


def test_axes_that_no_mesh_has_together() -> None:
    assert "no mesh of cpu:8 that is tried has all of the axes ['x', 'x0']" in refused(
        "params/layers/up=;x;x0", slice_name="cpu:8", mesh="auto"
    )


def test_a_mesh_on_which_a_pin_does_not_divide_is_skipped() -> None:
    # f = 12 is divisible by 4 and not by 8: the pin holds on the meshes whose x0 is 2 or 4, all but one.
    plan = tuned("params/layers/up=;;x0", slice_name="cpu:8", mesh="auto", sizes=(B, E, 12))
    assert plan.mesh_axes[0].size in (2, 4)
    message = refused("params/layers/up=;;x", slice_name="cpu:8", mesh="auto", sizes=(B, E, 12))
    assert "dim 2 of size 12 is not divisible by 8" in message


def test_a_study_under_pins_is_another_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    plans = [
        tuned(*pins, slice_name="cpu:8", mesh="auto", storage=storage)
        for pins in ((), ("x=;",), ("x=;",), ("x=;x0",))
    ]
    assert plans[1] == plans[2]
    assert [plan.arguments["x"].spec for plan in plans[1:]] == [";", ";", ";x0"]


# ---- errors


def test_a_pattern_that_matches_nothing_names_what_is_near() -> None:
    assert refused("params/layer/up=;x;y").startswith(
        "`params/layer/up=;x;y` matches no argument: near to it are `params/layers/up`"
    )
    assert "matches no einsum: near to it are `layers/up`" in refused("einsum:up=x;y")
    assert "matches no result: near to it are `y`" in refused("result:logits=x;y")


def test_the_dim_of_stacked_layers_is_not_guessed() -> None:
    message = refused("params/layers/up=x;y")
    assert "`params/layers/up` float32[3,64,256]: Spec `x;y` names 2 dims" in message
    assert message.endswith("it is left whole by a leading `;`, as in `;x;y`.")


def test_more_operands_than_there_are() -> None:
    assert "has 3 operands, and `layers/up` (be,ef->bf) has 2" in refused("einsum:layers/up=*|*|*")


def test_a_malformed_name_pattern() -> None:
    assert "is no name pattern" in refused("params/{0..=x")


def test_what_the_pins_leave_no_room_for_says_so() -> None:
    # 2 x 12 GiB of weights fit 4 chips of 16 GiB only when they are sharded.
    sizes = (8, 2**14, 2**16)
    assert tuned(slice_name="v5e:2x2", sizes=sizes).arguments["params/layers/up"].spec != ";;"
    with pytest.raises(InfeasibleError, match="1 pin holds: without it"):
        tuned("params/*=;;", slice_name="v5e:2x2", sizes=sizes)


# ---- bans


def refused_ban(*bans: str) -> str:
    with pytest.raises(PinError) as caught:
        tuned(forbid=bans)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/*/w=x;*;y,z", ("", "a/*/w", ("x;*;y,z",), None)),
        ("result:1/keys = *;any", (RESULT, "1/keys", ("*;any",), None)),
        ("einsum:wi=* | *;y,z -> *", (EINSUM, "wi", (None, "*;y,z"), None)),
        ("einsum:wi=-> any;*", (EINSUM, "wi", (), "any;*")),
    ],
)
def test_a_ban_is_a_pattern_and_specs(text: str, expected: tuple[Any, ...]) -> None:
    assert parse_ban(text) == dataclasses.replace(PinText(text, *expected), bans=True)


def test_the_axes_of_a_ban() -> None:
    assert parse_ban("einsum:wi=*;any;x | *-> ;y0,z").axes == {"x", "y0", "z"}


def test_a_forbidden_axis_stays_off_the_dim() -> None:
    free = tuned().arguments["x"].spec.split(";")
    dim, axes = next((n, axes) for n, axes in enumerate(free) if axes)
    plan = tuned(forbid=[f"x={axes};*" if dim == 0 else f"x=*;{axes}"])
    kept = plan.arguments["x"].spec.split(";")[dim]
    assert not set(axes.split(",")) & set(kept.split(","))
    assert plan.predicted_seconds >= tuned().predicted_seconds


def test_any_keeps_a_dim_whole() -> None:
    plan = tuned(forbid=["params/*=*;any;*", "x=any;*"])
    for name in ("up", "down"):
        assert plan.arguments[f"params/layers/{name}"].spec.split(";")[1] == ""
    assert plan.arguments["x"].spec.split(";")[0] == ""


def test_a_ban_on_a_result_and_on_an_einsum() -> None:
    assert tuned(forbid=["result:y=any;*"]).results["result/y"].spec.split(";")[0] == ""
    (up, _) = tuned(forbid=["einsum:layers/up=* | *;any -> *"]).einsums
    assert "F_" not in up.layout.split("->")[0]


def test_the_plan_records_and_explains_its_bans(tmp_path: Path) -> None:
    plan = tuned(forbid=["x=x;*"])
    assert (plan.forbidden, plan.pins) == (("x=x;*",), ())
    plan.save(tmp_path / "plan.json")
    assert autoshard.load_plan(tmp_path / "plan.json") == plan
    assert "forbidden: x=x;*" in to_text(explain(plan))
    tuned().save(tmp_path / "free.json")
    assert "forbidden" not in (tmp_path / "free.json").read_text()


def test_bans_that_cannot_be_understood() -> None:
    assert "is not a ban: expected PATTERN=SPEC" in refused_ban("wi")
    assert "are for bans of `einsum:NAME`" in refused_ban("x=* | *")
    assert refused_ban("params/layer/up=*;x;*").startswith(
        "`params/layer/up=*;x;*` matches no argument: near to it are `params/layers/up`"
    )
    assert "`x=w;*` names the mesh axis `w`, which no mesh of v5e:2x4 that is tried has" in refused_ban(
        "x=w;*"
    )
    message = refused_ban("params/layers/up=x;*")
    assert "`x;*` names 2 dims (joined by `;`), but the array has rank 3" in message
    assert message.endswith("it is left free by a leading `*;`, as in `*;x;*`.")


def test_a_pin_and_a_ban_that_leave_nothing() -> None:
    assert refused("x=x;", forbid=["x=x;*"]).startswith("`x=x;*` contradicts `x=x;`")


def test_bans_without_room_say_so() -> None:
    sizes, down = (8, 2**14, 2**16), "params/layers/down=*;any;any"
    with pytest.raises(InfeasibleError, match="1 ban holds: without it"):
        tuned(slice_name="v5e:2x2", sizes=sizes, forbid=["params/*=*;any;any"])
    with pytest.raises(InfeasibleError, match="2 pins and bans hold: with fewer of them"):
        tuned("params/layers/up=;;", slice_name="v5e:2x2", sizes=sizes, forbid=[down])


def test_a_study_under_bans_is_another_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    plans = [
        tuned(slice_name="cpu:8", mesh="auto", storage=storage, forbid=bans) for bans in ((), ("x=any;any",))
    ]
    assert plans[1].arguments["x"].spec == ";"
