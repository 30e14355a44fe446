"""What all tests share: eight CPU devices, and one plan."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["AUTOSHARD_CACHE"] = "off"  # a test that wants the cache of compiles gives it a folder
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

from autoshard.plan import Plan, load_plan  # the environment must stand before JAX can start

PLANS = Path(__file__).parent / "assets" / "plans"


@pytest.fixture
def plan_path() -> Path:
    """A plan file of schema 1, as autoshard 0.1.0 writes it. It is kept for ever."""
    return PLANS / "decode.v4-4x4x4.schema-1.json"


@pytest.fixture
def plan(plan_path: Path) -> Plan:
    """The plan in `plan_path`."""
    return load_plan(plan_path)
