"""Every reduced case computes under the chosen plan and under random ones what it computes on one device.

A case runs where its library is installed (`python -m bench.zoo_venvs`); `-k hf` runs those of one library.
Compiled code is not optimised by LLVM here, which halves the time; `bench.zoo` has it as users do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.models import zoo
from tests.models.case import Case
from tests.models.numerics_check import RANDOM_PLANS, check_case, failures

UNOPTIMISED = {"xla_backend_optimization_level": 0}


def _every_case() -> Iterator[Any]:
    """The cases of what is installed; for every other library the reason why it has none."""
    installed = zoo.installed()
    for name, library in zoo.LIBRARIES.items():
        if name in installed:
            yield from (pytest.param(case, id=case.name) for case in zoo.cases(name))
        else:
            reason = f"`{library.package}` is not installed, or not for this Python: group `{library.group}`"
            yield pytest.param(None, id=name, marks=pytest.mark.skip(reason))


@pytest.mark.parametrize("case", list(_every_case()))
def test_a_planned_program_computes_what_the_program_computes(case: Case) -> None:
    checks = check_case(case, compiler_options=UNOPTIMISED)
    assert len(checks) == 1 + RANDOM_PLANS
    assert failures(checks) == {}
