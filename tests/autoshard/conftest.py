"""Plans that several tests apply: of the tiny examples in float32 and of a scanned MLP, on eight devices."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.mesh_search import search_candidates
from autoshard.plan import Plan
from autoshard.progress import Progress
from autoshard.targets import Target
from autoshard.tune_options import Options
from autoshard.tune_session import open_session


@dataclass(frozen=True, slots=True)
class Tuned:
    """A function with its abstract arguments and the plans that a search found for it, best first."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    plans: tuple[Plan, ...]

    def arrays(self, seed: int = 0) -> tuple[Any, ...]:
        """New concrete arguments: small normals, token ids and positions below 16."""
        rng = np.random.default_rng(seed)

        def one(aval: Any) -> jax.Array:
            if jnp.issubdtype(aval.dtype, jnp.floating):
                return jnp.asarray(rng.normal(size=aval.shape) / 8, aval.dtype)
            return jnp.asarray(rng.integers(0, 16, aval.shape), aval.dtype)

        return tuple(jax.tree.map(one, argument) for argument in self.arguments)


def plans_of(
    function: Callable[..., Any], arguments: tuple[Any, ...], top_k: int, **jit_options: Any
) -> tuple[Plan, ...]:
    """The candidates of a search on eight CPU devices."""
    target = Target("", None, function, "function", arguments, jit_options)
    session = open_session(
        target, Options("cpu:8", refine="none", top_k=top_k, trials=6), Progress(quiet=True)
    )
    return tuple(candidate.plan for candidate in search_candidates(session).candidates)


def load_example(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tuned_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def tuned_example(name: str, phase: str) -> Tuned:
    module = load_example(name)
    known = {field.name for field in fields(module.TINY)}
    wide = {field: "float32" for field in ("dtype", "weight_dtype") if field in known}
    function, inputs = getattr(module, f"{phase}_target")(replace(module.TINY, **wide), 8, 32)
    donated = {"donate_argnames": ("cache",)} if phase == "decode" else {}
    return Tuned(function, inputs(), plans_of(function, inputs(), 6, **donated))


EXAMPLES = [(name, phase) for name in ("palm", "llama") for phase in ("decode", "prefill")]


@pytest.fixture(params=EXAMPLES, ids="-".join)
def example(request: pytest.FixtureRequest) -> Tuned:
    """A tiny example."""
    return tuned_example(*request.param)


@pytest.fixture
def decode() -> Tuned:
    """The tiny Llama decode step, its cache donated."""
    return tuned_example("llama", "decode")


def mlp(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Two layers, scanned."""

    def layer(x: jax.Array, w: dict[str, Any]) -> tuple[jax.Array, None]:
        hidden = jnp.tanh(jnp.einsum("be,ef->bf", x, w["up"]))
        return x + jnp.einsum("bf,fe->be", hidden, w["down"]), None

    return jax.lax.scan(layer, x, params)[0]


@functools.cache
def tuned_mlp() -> Tuned:
    shapes = {"up": (2, 64, 256), "down": (2, 256, 64)}
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    arguments = (params, jax.ShapeDtypeStruct((16, 64), "float32"))
    return Tuned(mlp, arguments, plans_of(mlp, arguments, 6))


@pytest.fixture
def small() -> Tuned:
    """The scanned MLP."""
    return tuned_mlp()
