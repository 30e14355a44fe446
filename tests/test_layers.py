"""Imports run one way: autoshard -> search -> cost, and JAX stays in autoshard."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"cost": {"autoshard.cost"}, "search": {"autoshard.search", "autoshard.cost"}}
JAX = {"jax", "jaxlib", "libtpu", "flax"}
FILES = [(layer, path) for layer in sorted(ALLOWED) for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(source: str) -> Iterator[str]:
    """Every imported module, wherever in the file the import stands; a relative import starts with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def faults(layer: str, source: str) -> list[str]:
    """The imports that `layer` may not have."""
    found = []
    for name in imported(source):
        head, _, rest = name.partition(".")
        package = f"autoshard.{rest.split('.')[0]}" if rest else head
        foreign = head == "autoshard" and package not in ALLOWED[layer]
        if foreign or head in JAX or head in ("", "cost", "search"):
            found.append(name)
    return found


@pytest.mark.parametrize(("layer", "path"), FILES, ids=[f"{layer}/{path.name}" for layer, path in FILES])
def test_a_lower_layer_imports_nothing_from_above(layer: str, path: Path) -> None:
    assert faults(layer, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("cost", "import jax"),
        ("cost", "def f():\n    from jax.numpy import sum"),
        ("cost", "import autoshard"),
        ("cost", "from autoshard.search.network import Network"),
        ("cost", "from autoshard import plan"),
        ("search", "import jaxlib.mlir"),
        ("search", "from autoshard.plan import Plan"),
        ("search", "from cost.chips import chip"),
        ("search", "from .network import Network"),
    ],
)
def test_a_wrong_import_would_be_found(layer: str, source: str) -> None:
    assert len(faults(layer, source)) == 1


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("cost", "import numpy as np\nfrom autoshard.cost.chips import chip"),
        ("search", "from autoshard.cost import chips\nfrom autoshard.search.network import Network"),
    ],
)
def test_a_right_import_is_let_through(layer: str, source: str) -> None:
    assert faults(layer, source) == []


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_lower_layer_runs_without_jax(layer: str) -> None:
    modules = [
        f"autoshard.{layer}.{path.stem}" for name, path in FILES if name == layer and path.stem != "__init__"
    ]
    code = f"import sys, autoshard.{layer}, {', '.join(modules)}; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "jax was imported"


def test_importing_the_package_does_not_import_jax() -> None:
    code = "import sys, autoshard, autoshard.cli; dir(autoshard); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
