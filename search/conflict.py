"""Of many demands that cannot hold together, a few that cannot: what to tell the user.

Demands are added in order until they fail: the last one added is part of a conflict. With it set aside as
given, the next part is sought among those before it, until what is set aside fails by itself. Each part takes
log2(n) tests (Junker, QuickXplain: Preferred Explanations and Relaxations, AAAI 2004, in its plain form).
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def conflict(demands: Sequence[T], holds: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return demands that fail together, in their order; without any one of them the others hold.

    Args:
        demands: What fails together.
        holds: Whether some of the demands hold together; what fails still fails with more of them.
    """
    found: list[T] = []
    while holds(found):
        end = bisect_left(range(len(demands) + 1), True, key=lambda n: not holds([*found, *demands[:n]]))
        found, demands = [demands[end - 1], *found], demands[: end - 1]
    return found
