"""The cases of `bench.audit`: both examples, prefill and decode, four generations, 8 to 64 chips."""

from __future__ import annotations

from dataclasses import dataclass

TOP_K = 3
"""Plans of a case that are audited: the best by the model."""


@dataclass(frozen=True, slots=True)
class Case:
    """A function of an example and a slice."""

    target: str
    slice: str

    @property
    def name(self) -> str:
        """Such as `palm.decode_62b v5e:4x4`."""
        file, _, function = self.target.partition(":")
        return f"{file.removeprefix('examples/').removesuffix('.py')}.{function} {self.slice}"


def _cases(target: str, *slices: str) -> list[Case]:
    return [Case(f"examples/{target}", each) for each in slices]


CASES = (
    *_cases("palm.py:decode_540b", "v4:4x4x4", "v5p:2x4x4"),
    *_cases("palm.py:decode_62b", "v5e:4x4", "v6e:4x8"),
    *_cases("palm.py:prefill_62b", "v4:2x4x4", "v6e:4x4"),
    *_cases("palm.py:prefill_8b", "v5e:2x4"),
    *_cases("palm.py:prefill_540b", "v5p:4x4x4"),
    *_cases("llama.py:decode_70b", "v4:2x2x4", "v5p:2x2x2", "v6e:4x8"),
    *_cases("llama.py:decode_8b", "v5e:2x4"),
    *_cases("llama.py:prefill_70b", "v4:2x2x4", "v5p:2x2x4", "v6e:4x8"),
    *_cases("llama.py:prefill_8b", "v5e:4x4"),
)
