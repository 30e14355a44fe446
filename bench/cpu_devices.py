"""Predicted against measured step times on eight CPU devices, and whether the winner computes what it should.

Run from the repository's root on a quiet machine: ``python -m bench.cpu_devices [--top-k K]``.

Tiny models of the examples are tuned for `cpu:8` by the command line and every candidate is timed. The order
that the model predicts is compared with the measured one by Kendall's tau: 1 is the same order, 0 is chance.
The winner then runs under `autoshard.jit` on eight devices, and its outputs are compared with those of the
undecorated function on one; a candidate with wrong outputs has lost before, and its status says so.

What this cannot show: the eight devices share the cores and the memory of one host, and steps of such small
models take less time than the devices need to meet each other. It tests the path, not the model of a TPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # both must stand before JAX starts
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)

import jax
import numpy as np
from scipy.stats import kendalltau

import autoshard
from examples import llama, palm

ROOT = Path(__file__).resolve().parent.parent
CASES = tuple((model, phase) for model in (palm, llama) for phase in ("decode_tiny", "prefill_tiny"))
TOLERANCE = 2.0**-5  # of the largest output: bfloat16 has 8 bits, and sums are taken in another order


def main() -> None:
    """Tune, time and check each case."""
    parser = argparse.ArgumentParser(description="predicted against measured on eight CPU devices")
    parser.add_argument("--top-k", type=int, default=5, help="candidates to time (default: 5)")
    top_k = parser.parse_args().top_k
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before the first run")
    verdicts = [show(model, name, top_k) for model, name in CASES]
    print(
        f"\n{sum(same for same, _ in verdicts)} of {len(verdicts)} winners equal the unsharded function; "
        f"Kendall's tau of predicted and measured: {', '.join(f'{tau:.2f}' for _, tau in verdicts)}"
    )


def show(model: Any, name: str, top_k: int) -> tuple[bool, float]:
    """Print one case; returns whether the winner is right, and Kendall's tau."""
    target = f"examples/{Path(model.__file__).name}:{name}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        candidates = tune(target, path, top_k)
        error = largest_error(getattr(model, name), model, path)
    print(f"\n{target} on cpu:8")
    print(f"    {'predicted':>11}{'measured':>11}  status, layouts")
    for each in candidates:
        times = _ms(each["predicted_seconds"]) + _ms(each["measured_seconds"])
        print(f"    {times}  {each['status']}, {each['summary']}")
    tau = order_agreement(candidates)
    print(f"    Kendall's tau {tau:.2f}; largest error of the winner {error:.2e} of the largest output")
    return error <= TOLERANCE, tau


def tune(target: str, path: Path, top_k: int) -> list[dict[str, Any]]:
    """Tune by the command line; returns the candidates, the fastest measured first."""
    command = [sys.executable, "-m", "autoshard.cli", "tune", target, "--slice", "cpu:8", "--refine", "time"]
    options = ["--top-k", str(top_k), "--quiet", "--format", "json", "-o", str(path)]
    done = subprocess.run([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    candidates: list[dict[str, Any]] = json.loads(done.stdout)["candidates"]
    return candidates


def order_agreement(candidates: list[dict[str, Any]]) -> float:
    """Kendall's tau of predicted and measured times; NaN with fewer than two timed candidates."""
    timed = [each for each in candidates if each["measured_seconds"] is not None]
    columns = [[each[key] for each in timed] for key in ("predicted_seconds", "measured_seconds")]
    found: Any = kendalltau(*columns)
    return float(found.statistic)


def largest_error(planned: Any, model: Any, path: Path) -> float:
    """Largest difference of an output under the plan on eight devices from the unsharded one, relative."""
    arguments = real_inputs(planned, model)
    expected = jax.tree.leaves(jax.jit(planned.function)(*arguments))
    actual = jax.tree.leaves(autoshard.jit(planned.function, plan=path)(*arguments))
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(actual, expected, strict=True)
    ]
    return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)) for a, b in pairs)


def real_inputs(planned: Any, model: Any) -> tuple[Any, ...]:
    """Random parameters and tokens in the shapes of the abstract inputs."""
    _, *rest = planned.inputs()
    random = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> Any:
        whole = np.issubdtype(leaf.dtype, np.integer)
        values = random.integers(0, 16, leaf.shape) if whole else random.standard_normal(leaf.shape)
        return jax.numpy.asarray(values, leaf.dtype)

    return model.init_params(model.TINY), *jax.tree.map(fill, rest)


def _ms(seconds: float | None) -> str:
    return f"{'-':>11}" if seconds is None else f"{seconds * 1e3:>8.3f} ms"


if __name__ == "__main__":
    main()
