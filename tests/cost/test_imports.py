"""The cost model stands alone: it imports neither JAX nor the parts above it."""

import subprocess
import sys
from pathlib import Path

import autoshard.cost.chips

COST = Path(autoshard.cost.chips.__file__).resolve().parent
MODULES = sorted(f"autoshard.cost.{path.stem}" for path in COST.glob("[!_]*.py"))


def test_importing_every_module_brings_in_no_jax_and_no_search() -> None:
    code = (
        f"import {', '.join(MODULES)}, sys\n"
        "above = ('jax', 'jaxlib', 'autoshard.search')\n"
        "print([m for m in sys.modules if m in above or m.startswith('jax.')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=COST.parent
    )
    assert found.stdout.strip() == "[]"
    assert len(MODULES) >= 10
