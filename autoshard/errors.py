"""Every error that autoshard raises on purpose.

Each class also inherits the builtin that a caller would expect, and each message says what was wrong, what
was expected and what to do::

    AutoshardError
    ├── UnknownChipError(ValueError)     a chip that is not in the table
    ├── SliceError(ValueError)           a slice text or a topology that cannot exist
    ├── ProfileError(ValueError)         a chip profile that cannot be read, written or believed
    ├── CalibrationError(RuntimeError)   the attached devices cannot be measured
    ├── TargetError(ValueError)          MODULE:FUNCTION or its inputs cannot be loaded
    ├── OptionError(ValueError)          an option that is not known, or a number out of its range
    ├── TraceError(ValueError)           the function cannot be traced, or its jaxpr cannot be planned
    ├── SearchError(RuntimeError)        the search gave up although a plan may exist
    │   └── PinError                     a pin that matches nothing, or asks for what is not possible
    ├── InfeasibleError(ValueError)      no plan fits the memory of a chip
    ├── CompileError(RuntimeError)       the real compiler refused a candidate
    └── PlanError(ValueError)            a plan file that cannot be read, written or understood
        └── PlanMismatchError            a sound plan, but for another function, other shapes or another slice
"""

from autoshard.cost.errors import AutoshardError, ProfileError, SliceError, UnknownChipError
from autoshard.search.errors import PinError, SearchError

__all__ = [
    "AutoshardError",
    "CalibrationError",
    "CompileError",
    "InfeasibleError",
    "OptionError",
    "PinError",
    "PlanError",
    "PlanMismatchError",
    "ProfileError",
    "SearchError",
    "SliceError",
    "TargetError",
    "TraceError",
    "UnknownChipError",
]


class TargetError(AutoshardError, ValueError):
    """A target `MODULE_OR_FILE:FUNCTION`, or the function that gives its inputs, cannot be loaded."""


class OptionError(AutoshardError, ValueError):
    """An option has a value that is not known, or a number that is out of its range."""


class TraceError(AutoshardError, ValueError):
    """The function cannot be traced, or its jaxpr holds something that no plan can express."""


class InfeasibleError(AutoshardError, ValueError):
    """No plan of this function fits the memory of the slice's chips."""


class CompileError(AutoshardError, RuntimeError):
    """The real compiler refused a candidate for a reason other than memory."""


class CalibrationError(AutoshardError, RuntimeError):
    """Devices could not be measured, or what was measured makes no sense."""


class PlanError(AutoshardError, ValueError):
    """A plan file cannot be read, written or understood."""


class PlanMismatchError(PlanError):
    """A sound plan that was made for another function, other shapes or another slice."""
