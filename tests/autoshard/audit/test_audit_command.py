from pathlib import Path

import pytest

from autoshard.cli import main

MODEL = Path(__file__).parents[2] / "assets" / "audit" / "planted.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.py:step"], "give --slice"),
        (["plan.json", "--slice", "v5e:2x4"], "is for a slice already"),
        (["plan.json", "--mesh", "x=2"], "--mesh goes with a function"),
        (["plan.json", "--inputs", "model.py:inputs"], "--inputs goes with a function"),
        (["missing.json"], "missing.json"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["-0.1", "1.5", "five"])
def test_a_threshold_is_a_fraction(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "plan.json", "--threshold", text])
    assert "a fraction from 0 to 1" in capsys.readouterr().err


def test_help_says_the_default_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    assert "0.05" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mesh", "message"),
    [("x=8", "--mesh is not the mesh of the function's own shardings"), ("8", "data=2,model=4")],
)
def test_the_mesh_must_be_that_of_the_shardings(
    mesh: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("libtpu")
    inputs = f"{MODEL}:mlp_inputs"
    asked = ["audit", f"{MODEL}:sound", "--inputs", inputs, "--slice", "v5e:2x4", "--mesh", mesh]
    assert main(asked) == 2
    assert message in capsys.readouterr().err
