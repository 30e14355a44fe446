"""Which arrays phases share, and which one hands over to the next: patterns looked up in their paths.

`--share params` names the argument `params` of every phase, or all arrays under it; a glob or a name pattern
of a plan does as well (`params/layers/*`, `layers/{0..79}/w`).  All phases must have the same arrays of those
names, of the same types.

`--handover cache` names arguments of a phase that are results of the phase before it.  A result has no name
of its own but its place, so it is found by the type and by the path below what is named: `cache/keys` and
`cache/values` are `result/1/keys` and `result/1/values` where no other place of the result has both.
`--handover cache=1` says the place.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autoshard.errors import OptionError
from autoshard.name_patterns import expand_name
from autoshard.trace import Traced

_ROOT = "result"
_NEAR = 3


@dataclass(frozen=True, slots=True)
class Signature:
    """What a phase is called, and its arrays: types by path, donated buffers left aside."""

    name: str
    arguments: Mapping[str, str]
    results: Mapping[str, str]

    @staticmethod
    def of(name: str, traced: Traced) -> Signature:
        """The signature of a traced function."""
        return Signature(name, traced.argument_types, traced.result_types)


@dataclass(frozen=True, slots=True)
class Handed:
    """A result of one phase (a position in the phases) that is an argument of another, both by path."""

    source: int
    result: str
    target: int
    argument: str


def shared_arguments(patterns: Sequence[str], phases: Sequence[Signature]) -> tuple[str, ...]:
    """Paths of the arguments that all phases share, in the order of the first phase.

    Raises:
        OptionError: a pattern names nothing, or what it names differs between phases.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        named = [_named(pattern, phase.arguments) for phase in phases]
        for phase, names in zip(phases, named, strict=True):
            if not names:
                raise _nothing(f"--share {pattern}", pattern, phase)
        _require_same(pattern, phases, named)
        found |= dict.fromkeys(named[0])
    return tuple(name for name in phases[0].arguments if name in found)


def handed_over(patterns: Sequence[str], phases: Sequence[Signature]) -> tuple[Handed, ...]:
    """What each phase hands over to the next, and a phase to its own next run.

    A phase that gives back what it takes (a decode step its cache) hands it on from run to run as well.

    Raises:
        OptionError: a pattern names nothing, or no result or several suit what it names.
    """
    found: dict[Handed, None] = {}
    for pattern in patterns:
        wanted, _, place = pattern.partition("=")
        for target in range(1, len(phases)):
            names = _named(wanted, phases[target].arguments)
            if not names:
                raise _nothing(f"--handover {pattern}", wanted, phases[target])
            results = _results(pattern, place, names, phases[target - 1], phases[target])
            found |= {Handed(target - 1, results[name], target, name): None for name in names}
            again = _roots(_below(names), phases[target].arguments, phases[target].results)
            if len(again) == 1:
                own = _under(again[0], _below(names))
                found |= {Handed(target, own[name], target, name): None for name in names}
    return tuple(found)


def _named(pattern: str, names: Mapping[str, str]) -> list[str]:
    """The paths that a pattern names, or that lie under what it names."""
    globs = expand_name(pattern)
    return [
        name
        for name in names
        if any(
            name == glob
            or name.startswith(f"{glob}/")
            or fnmatchcase(name, glob)
            or fnmatchcase(name, f"{glob}/*")
            for glob in globs
        )
    ]


def _require_same(pattern: str, phases: Sequence[Signature], named: Sequence[Sequence[str]]) -> None:
    """Raise where two phases differ in what a pattern names."""
    first, names = phases[0], named[0]
    for phase, others in zip(phases[1:], named[1:], strict=True):
        for name in [*names, *others]:
            has, had = phase.arguments.get(name), first.arguments.get(name)
            if has is None or had is None:
                owner, other = (first, phase) if has is None else (phase, first)
                raise OptionError(
                    f"--share {pattern}: `{name}` is an argument of `{owner.name}` and not of "
                    f"`{other.name}`{_near(name, other.arguments)}; phases can share what has one path in "
                    "all of them: name the arguments alike, or share fewer"
                )
            if has != had:
                raise OptionError(
                    f"--share {pattern}: `{name}` is {had} in `{first.name}` and {has} in `{phase.name}`; "
                    "what is shared must have one shape and dtype"
                )


def _results(
    pattern: str, place: str, names: Sequence[str], source: Signature, target: Signature
) -> dict[str, str]:
    """For each argument of a phase the result of the phase before it."""
    below = _below(names)
    if place:
        return _placed(pattern, place, below, source, target)
    roots = _roots(below, target.arguments, source.results)
    if len(roots) == 1:
        return _under(roots[0], below)
    if roots:
        places = ", ".join(f"`{pattern}={root.removeprefix(f'{_ROOT}/')}`" for root in roots)
        raise OptionError(
            f"--handover {pattern}: several results of `{source.name}` suit `{names[0]}`; say which: {places}"
        )
    raise OptionError(
        f"--handover {pattern}: no result of `{source.name}` has the shapes and dtypes that "
        f"`{target.name}` takes: {_closest(names[0], below[names[0]], source, target)}. What is handed over "
        "must agree: plan the phases for one batch and context, or name the result, as in "
        f"`--handover {pattern}=1`"
    )


def _placed(
    pattern: str, place: str, below: Mapping[str, str], source: Signature, target: Signature
) -> dict[str, str]:
    """The results at a place that the user names."""
    within = place == _ROOT or place.startswith(f"{_ROOT}/")
    root = place if within else f"{_ROOT}/{place}"
    results = _under(root, below)
    for name, result in results.items():
        has = source.results.get(result)
        if has is None:
            raise OptionError(
                f"--handover {pattern}: `{source.name}` has no result `{result}` for `{name}`; its results "
                f"are {_shown(source.results)}"
            )
        if has != target.arguments[name]:
            raise OptionError(
                f"--handover {pattern}: `{result}` of `{source.name}` is {has}, and `{name}` of "
                f"`{target.name}` is {target.arguments[name]}; what is handed over must have one shape and "
                "dtype: plan the phases for one batch and context"
            )
    return results


def _below(names: Sequence[str]) -> dict[str, str]:
    """For each path what it has below the steps that all have in common: "" for a single one."""
    steps = [name.split("/") for name in names]
    common = 0
    while all(len(each) > common and each[common] == steps[0][common] for each in steps):
        common += 1
    return {name: "/".join(each[common:]) for name, each in zip(names, steps, strict=True)}


def _under(root: str, below: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{root}/{tail}" if tail else root for name, tail in below.items()}


def _roots(below: Mapping[str, str], arguments: Mapping[str, str], results: Mapping[str, str]) -> list[str]:
    """Places of a result that have, below them, an array of its type for every argument."""
    tail = next(iter(below.values()))
    ends = [name for name in results if not tail or name.endswith(f"/{tail}")]
    roots = dict.fromkeys(name.removesuffix(f"/{tail}") if tail else name for name in ends)
    return [
        root
        for root in roots
        if all(results.get(found) == arguments[name] for name, found in _under(root, below).items())
    ]


def _closest(name: str, tail: str, source: Signature, target: Signature) -> str:
    ends = [result for result in source.results if tail and result.endswith(f"/{tail}")] or list(
        source.results
    )
    there = ", ".join(f"`{end}` is {source.results[end]}" for end in ends[:_NEAR]) or "it has no result"
    return f"`{name}` is {target.arguments[name]}, and in `{source.name}` {there}"


def _nothing(option: str, pattern: str, phase: Signature) -> OptionError:
    return OptionError(
        f"{option} names no argument of `{phase.name}`: its arguments are {_shown(phase.arguments)}"
        f"{_near(pattern, phase.arguments)}"
    )


def _shown(names: Mapping[str, str]) -> str:
    """The roots of paths, or the paths themselves where they lie under one root."""
    roots = list(dict.fromkeys(name.partition("/")[0] for name in names))
    shown = roots if len(roots) > 1 else list(names)
    more = f" and {len(shown) - 2 * _NEAR} more" if len(shown) > 2 * _NEAR else ""
    return ", ".join(f"`{name}`" for name in shown[: 2 * _NEAR]) + more


def _near(name: str, names: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, list(names), _NEAR, 0.6)
    return f" (near to it are {', '.join(f'`{each}`' for each in near)})" if near else ""
