"""autoshard: choose, prove and commit the shardings of any JAX Transformer.

Names are loaded when they are first used, so that `import autoshard` does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoshard.applying import apply as apply
    from autoshard.decorator import jit as jit
    from autoshard.errors import AutoshardError as AutoshardError
    from autoshard.errors import CompileError as CompileError
    from autoshard.errors import InfeasibleError as InfeasibleError
    from autoshard.errors import OptionError as OptionError
    from autoshard.errors import PlanError as PlanError
    from autoshard.errors import PlanMismatchError as PlanMismatchError
    from autoshard.errors import SliceError as SliceError
    from autoshard.errors import TargetError as TargetError
    from autoshard.errors import TraceError as TraceError
    from autoshard.errors import UnknownChipError as UnknownChipError
    from autoshard.phases.tuning import tune_phases as tune_phases
    from autoshard.plan import Plan as Plan
    from autoshard.plan import load_plan as load_plan
    from autoshard.tuning import tune as tune

__version__ = "0.1.0"

# A module must not have the name of a function here: importing it would hide the function.
_HOME = {
    "AutoshardError": "autoshard.errors",
    "CompileError": "autoshard.errors",
    "InfeasibleError": "autoshard.errors",
    "OptionError": "autoshard.errors",
    "Plan": "autoshard.plan",
    "PlanError": "autoshard.errors",
    "PlanMismatchError": "autoshard.errors",
    "SliceError": "autoshard.errors",
    "TargetError": "autoshard.errors",
    "TraceError": "autoshard.errors",
    "UnknownChipError": "autoshard.errors",
    "apply": "autoshard.applying",
    "jit": "autoshard.decorator",
    "load_plan": "autoshard.plan",
    "tune": "autoshard.tuning",
    "tune_phases": "autoshard.phases.tuning",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module `autoshard` has no attribute `{name}`")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOME})
