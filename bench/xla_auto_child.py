"""Compile one function of an example file as XLA's auto-sharding wants it: a script of its own, on plain JAX.

``python xla_auto_child.py REQUEST.json ANSWER.json`` runs under the JAX that still has `AUTO`, or, with the
shardings that `AUTO` chose written into the request, under another one. The example's decorator does nothing
here. Standard output stays empty; the answer has the shardings, the seconds, the bytes and the schedule.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    described = topologies.get_topology_desc(request["topology"], "tpu", **request["topology_options"])
    devices: list[Any] = sorted(described.devices, key=lambda device: (tuple(device.coords), device.id))
    mesh = Mesh(np.array(devices).reshape(list(request["mesh"].values())), tuple(request["mesh"]))
    function, arguments, donated = load_example(Path(request["file"]), request["function"])
    into, out = shardings(request, mesh)
    jitted = jax.jit(function, in_shardings=into, out_shardings=out, donate_argnames=donated)
    lowered = jitted.lower(*arguments)
    started = time.perf_counter()
    compiled = lowered.compile(compiler_options=request["options"])
    memory: Any = compiled.memory_analysis()
    answer = {
        "seconds": time.perf_counter() - started,
        "arguments": [written(each) for each in jax.tree.leaves(compiled.input_shardings[0])],
        "results": [written(each) for each in jax.tree.leaves(compiled.output_shardings)],
        "hbm_bytes": memory.peak_memory_in_bytes,
        "text": compiled.as_text(),
    }
    Path(sys.argv[2]).write_text(json.dumps(answer))


def load_example(path: Path, name: str) -> tuple[Any, tuple[Any, ...], tuple[str, ...]]:
    """The function, its abstract arguments and the names of what it donates."""

    def jit(**options: Any) -> Any:
        return lambda function: (function, options)

    stand_in = types.ModuleType("autoshard")
    stand_in.jit = jit  # type: ignore[attr-defined]
    sys.modules["autoshard"] = stand_in
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function, options = getattr(module, name)
    return function, options["inputs"](), tuple(options.get("donate_argnames", ()))


def shardings(request: dict[str, Any], mesh: Mesh) -> tuple[Any, Any]:
    """What to give `jax.jit`: `AUTO`, or the shardings of the request."""
    if request["arguments"] is None:
        from jax.experimental.pjit import AUTO  # type: ignore[attr-defined]

        return AUTO(mesh), AUTO(mesh)
    function, arguments, _ = load_example(Path(request["file"]), request["function"])
    results = jax.eval_shape(function, *arguments)
    return placed(arguments, request["arguments"], mesh), placed(results, request["results"], mesh)


def placed(tree: Any, specs: list[list[Any]], mesh: Mesh) -> Any:
    """A tree of shardings like a tree of arrays."""
    made = [
        NamedSharding(mesh, PartitionSpec(*(None if entry is None else tuple(entry) for entry in spec)))
        for spec in specs
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), made)


def written(sharding: Any) -> list[Any]:
    """Per dim the mesh axes, None where there are none."""
    return [
        None if entry is None else [entry] if isinstance(entry, str) else list(entry)
        for entry in sharding.spec
    ]


if __name__ == "__main__":
    main()
