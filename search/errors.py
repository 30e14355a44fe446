"""What the solvers raise when there is nothing to return."""

from autoshard.cost.errors import AutoshardError


class NoSolutionError(AutoshardError, ValueError):
    """Every assignment of the network costs infinity.

    Attributes:
        variable: name of a variable all of whose labels are forbidden, or "" where no single one is known.
    """

    def __init__(self, message: str, variable: str = "") -> None:
        super().__init__(message)
        self.variable = variable


class SearchError(AutoshardError, RuntimeError):
    """The search gave up although a plan may exist; says what to change."""


class PinError(SearchError):
    """A pin that cannot hold: says which, what it asks for, and what there is instead."""


class TimeLimitError(AutoshardError, TimeoutError):
    """The time limit passed before any feasible assignment was found; there may still be one."""


class NotWorthError(SearchError):
    """No plan of a problem is as fast as the caller wants.

    Attributes:
        bound_seconds: a proven lower bound on the step time of its plans.
    """

    def __init__(self, bound_seconds: float, worth_seconds: float) -> None:
        super().__init__(
            f"no plan is faster than {bound_seconds:.6g} s, and {worth_seconds:.6g} s are wanted; search "
            "another mesh"
        )
        self.bound_seconds = bound_seconds


class BudgetError(AutoshardError, ValueError):
    """No assignment keeps within the budgets.

    Attributes:
        row: name of the budget row.
        minimum_use: a proven lower bound on what any assignment uses of it.
        limit: what the caller allows of it.
    """

    def __init__(self, message: str, *, row: str, minimum_use: float, limit: float) -> None:
        super().__init__(message)
        self.row = row
        self.minimum_use = minimum_use
        self.limit = limit
