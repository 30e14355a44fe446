"""The MLIR of jaxlib, which JAX does not export: the only place that imports `jaxlib.mlir`.

It needs no JAX. Loading `_jax_mlir_ext` registers Shardy's passes with MLIR's pass manager.
"""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import chlo, sdy, stablehlo
from jaxlib.mlir.passmanager import PassManager

__all__ = ["ir", "read_artifact", "run_passes", "sdy", "stablehlo"]


def read_artifact(artifact: bytes) -> Any:
    """Return the module of a portable StableHLO artifact, in a context of its own.

    Raises:
        ValueError: the bytes are no artifact that this jaxlib reads.
    """
    context, upstream = ir.Context(), ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(upstream)
    context.append_dialect_registry(upstream)
    context.load_all_available_dialects()
    for dialect in (sdy, stablehlo, chlo):
        dialect.register_dialect(context)
    with context:
        return stablehlo.deserialize_portable_artifact(context, artifact)


def run_passes(module: Any, pipeline: str) -> None:
    """Run a pass pipeline over a module, in its context.

    Raises:
        ValueError: jaxlib lacks a pass of the pipeline.
        Exception: jaxlib's error where a pass refuses the module; a pass may also end the process.
    """
    with module.context:
        PassManager.parse(pipeline).run(module.operation)
