"""What a command line names: files, modules, attributes, inputs; and every way in which it can be wrong."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from autoshard.errors import TargetError
from autoshard.targets import call_inputs, load_object, load_target

MODEL = """
from typing import NamedTuple

import jax
import autoshard

class State(NamedTuple):
    w: object

class Namespace:
    @staticmethod
    def step(x):
        return x * 3

def plain(w, x):
    return x @ w

def inputs():
    return jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((8, 64), "float32")

def one():
    return jax.ShapeDtypeStruct((8, 64), "float32")

def one_state():
    return State(jax.ShapeDtypeStruct((8, 64), "float32"))

def failing():
    raise RuntimeError("no such config")

decorated = autoshard.jit(plain, plan="p.json", inputs=inputs, donate_argnums=(1,))
bare = autoshard.jit(plain)
number = 3
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules loaded by a test are gone after it, and the working directory is the test's."""
    before, paths = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.path[:] = paths


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(text: str = MODEL, path: str = "target_model.py") -> str:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        importlib.invalidate_caches()
        return path

    return write


def shapes(arguments: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(arguments)]


# ---- what can be named


def test_a_decorated_function_of_a_file(write: Callable[..., str]) -> None:
    target = load_target(f"{write()}:decorated")
    assert (target.text, target.inputs_text, target.name) == ("target_model.py:decorated", None, "decorated")
    assert target.function.__name__ == "plain"
    assert shapes(target.arguments) == [(64, 64), (8, 64)]
    assert target.jit_options == {"donate_argnums": (1,)}


def test_a_plain_function_with_inputs(write: Callable[..., str]) -> None:
    path = write()
    target = load_target(f"{path}:plain", f"{path}:inputs")
    assert (target.inputs_text, target.jit_options) == ("target_model.py:inputs", {})
    assert shapes(target.arguments) == [(64, 64), (8, 64)]


def test_inputs_given_win_over_the_decorators(write: Callable[..., str]) -> None:
    path = write()
    assert shapes(load_target(f"{path}:decorated", f"{path}:one").arguments) == [(8, 64)]


def test_a_module_in_the_working_directory_or_a_package(write: Callable[..., str]) -> None:
    write()
    write("", "target_package/__init__.py")
    write(MODEL, "target_package/model.py")
    assert load_target("target_model:decorated").name == "decorated"
    assert load_target("target_package.model:decorated").name == "decorated"


def test_an_attribute_of_an_attribute(write: Callable[..., str]) -> None:
    assert load_object(f"{write()}:Namespace.step")(14) == 42


def test_a_file_loads_once_and_is_one_module_with_what_it_is_to_others(write: Callable[..., str]) -> None:
    path = write()
    first = load_object(f"{path}:plain")
    assert load_object(f"./{path}:plain") is first
    assert load_object("target_model:plain") is first


def test_files_of_one_name_in_two_folders_are_told_apart(write: Callable[..., str]) -> None:
    paths = [write(f"def which():\n    return {i}\n", f"folder{i}/target_twin.py") for i in range(3)]
    assert [load_object(f"{path}:which")() for path in (*paths, *paths)] == [0, 1, 2, 0, 1, 2]


def test_a_file_named_as_an_installed_module_does_not_hide_it(write: Callable[..., str]) -> None:
    import json

    assert load_object(f"{write('def dumps():' + chr(10) + '    return 42', 'json.py')}:dumps")() == 42
    assert sys.modules["json"] is json


def test_a_file_imports_its_neighbours(write: Callable[..., str]) -> None:
    write("answer = 42\n", "lib/target_neighbour.py")
    path = write(
        "import target_neighbour\ndef fn():\n    return target_neighbour.answer\n", "lib/target_main.py"
    )
    assert load_object(f"{path}:fn")() == 42


def test_a_single_argument_needs_no_tuple_even_where_it_is_a_namedtuple(write: Callable[..., str]) -> None:
    path = write()
    for name in ("one", "one_state"):
        arguments = call_inputs(load_object(f"{path}:{name}"), name)
        assert len(arguments) == 1
        assert shapes(arguments) == [(8, 64)]
    assert call_inputs(lambda: [1, 2], "list") == (1, 2)


# ---- what can be wrong


@pytest.mark.parametrize("text", ["model.py", "model.py:", ":plain", "plain"])
def test_not_a_target(text: str) -> None:
    with pytest.raises(TargetError, match="is not a target: expected MODULE_OR_FILE:FUNCTION"):
        load_object(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.py:plain", "there is no file `missing.py`"),
        ("no_such_module:plain", "there is no module `no_such_module`"),
        ("target_model.no_such:plain", "there is no module `target_model.no_such`"),
        ("target_model.py:plian", r"`target_model.py` has no `plian`; it has: .*plain, inputs"),
        ("target_model:plian", r"`target_model` has no `plian`; it has: .*plain, inputs"),
        ("target_model.py:number", "`target_model.py:number` is a int, not a function"),
        ("target_model.py:plain", "has no inputs: give --inputs MODULE_OR_FILE:FUNCTION"),
        ("target_model.py:bare", "has no inputs"),
    ],
)
def test_targets_that_cannot_be_loaded(text: str, message: str, write: Callable[..., str]) -> None:
    write()
    with pytest.raises(TargetError, match=message):
        load_target(text)


def test_inputs_that_fail_are_named_with_the_cause(write: Callable[..., str]) -> None:
    path = write()
    with pytest.raises(TargetError, match=r"`target_model.py:failing` failed: RuntimeError: no such config"):
        load_target(f"{path}:plain", f"{path}:failing")


@pytest.mark.parametrize("place", ["target_broken.py", "target_broken"])
def test_a_module_that_fails_is_named_with_the_cause(place: str, write: Callable[..., str]) -> None:
    write("import no_such_dependency\n", "target_broken.py")
    with pytest.raises(TargetError, match=r"`target_broken.*` cannot be .*no_such_dependency"):
        load_object(f"{place}:fn")
    assert "target_broken" not in sys.modules


def test_a_dependency_whose_name_begins_the_modules_name(write: Callable[..., str]) -> None:
    """`target_bro` missing inside `target_broken` is not `target_broken` missing."""
    write("import target_bro\n", "target_broken.py")
    with pytest.raises(TargetError, match="cannot be imported: No module named 'target_bro'"):
        load_object("target_broken:fn")


def test_a_file_with_a_syntax_error(write: Callable[..., str]) -> None:
    with pytest.raises(TargetError, match="cannot be loaded: SyntaxError"):
        load_object(f"{write('def broken(:', 'target_syntax.py')}:fn")
