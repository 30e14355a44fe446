"""Layouts that people use, as pins: a rule fixes the big matrices and what their einsums read.

With mesh axes `a` (the first, or any part of them), the others `t`, all of them `n`, for a matrix that reads
the model's width e [layers, e, out] and one that gives it back [layers, in, e]; activations are [b, l, e]:

* tensor parallel: out and in over n (Megatron: Shoeybi et al. 2019, arXiv:1909.08053); of a decode step also
  with the cache over n by sequences (Pope et al. 2022, arXiv:2211.05102, section 3.3)
* 2D weight-stationary: e over a, out and in over t (Pope et al., section 3.2.2)
* weight-gathered: stored like 2D; read whole over n, or only over a, by as many groups of sequences
  (section 3.2.3)
* FSDP: the matrices' rows over n, read whole by n groups of sequences (Zhao et al. 2023, arXiv:2304.11277),
  or over a beside tensor parallelism over t
* data parallel: matrices whole on every chip, n groups of sequences
* sequence parallel: matrices whole when read, tokens of a sequence over n

Under these rules every chip has its part of each expert. With experts, there are also those that give chips
experts of their own, all of them with experts over a (Lepikhin et al. 2020, arXiv:2006.16668):

* expert and tensor parallel: experts' out and in over t, the rest of the layer tensor parallel over n
* expert parallel and FSDP: all rows of what a chip has are cut over the other axes and read whole; n groups
  of sequences outside the experts, inside them t groups
* expert, data and tensor parallel: n groups of sequences outside the experts, whose matrices are whole
  there; experts' out and in over t

All else is left to the search.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from autoshard.pinning import resolve
from autoshard.search.errors import BudgetError, NoSolutionError, PinError
from autoshard.search.pins import pinned
from autoshard.search.planner import Candidate, search_plans
from autoshard.search.problem import Problem
from bench.fidelity_cases import Study

WIDENING = ("wq", "w_gate", "w_up")
NARROWING = ("wo", "w_down")
_EXPERT_RANK, _DISPATCHED_RANK = 4, 5


@dataclass(frozen=True, slots=True)
class Split:
    """The axes of a mesh in the two parts of a rule.

    Attributes:
        first: Those that are `a` above.
        rest: All others, `t` above.
        every: Both, in the order of the mesh.
    """

    first: str
    rest: str
    every: str

    @property
    def text(self) -> str:
        """Such as "x|y,z"."""
        return f"{self.first}|{self.rest}"


@dataclass(frozen=True, slots=True)
class Experts:
    """What a rule does with the matrices of experts [x, e, out], when it is not what it does with others.

    Attributes:
        axis: Of the experts themselves, at rest and when read.
        stored: [e, out] at rest; a narrowing matrix is its transpose.
        read: The same when an einsum reads it.
        tokens: Of the sequences that meet them; None leaves the activations free.
    """

    axis: str
    stored: tuple[str, str]
    read: tuple[str, str]
    tokens: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One layout of people, spec texts; "" replicates.

    Attributes:
        name: Its usual name.
        stored: [e, out] of a widening matrix at rest; a narrowing one is its transpose.
        read: The same when an einsum reads it.
        tokens: [b, l] of the activations that meet it; None leaves all activations free.
        cache: Batch dim of the cache; None leaves it free.
        experts: What is done with matrices of experts; None cuts each of them as any other matrix.
    """

    name: str
    stored: tuple[str, str]
    read: tuple[str, str]
    tokens: tuple[str, str] | None = None
    cache: str | None = None
    experts: Experts | None = None


def splits(axes: Sequence[str]) -> tuple[Split, ...]:
    """All ways to split axes in two parts, the smaller first parts first: a single axis makes only one."""
    parts = [part for size in range(1, len(axes)) for part in itertools.combinations(axes, size)]
    every = ",".join(axes)
    return tuple(
        Split(",".join(part), ",".join(axis for axis in axes if axis not in part), every)
        for part in parts or [tuple(axes)]
    )


def rules(split: Split, phase: str, *, has_experts: bool = False) -> tuple[Rule, ...]:
    """The rules for a mesh, its axes in two parts, and a phase."""
    first, rest, every = split.first, split.rest, split.every
    found = [
        Rule("tensor parallel", ("", every), ("", every), ("", "")),
        Rule("2D weight-stationary", (first, rest), (first, rest), ("", "")),
        Rule("weight-gathered", (first, rest), ("", ""), (every, "")),
        Rule("weight-gathered over one axis", (first, rest), ("", rest), (first, "")),
        Rule("FSDP", (every, ""), ("", ""), (every, "")),
        Rule("FSDP and tensor parallel", (first, rest), ("", rest), (first, "")),
        Rule("data and tensor parallel", ("", rest), ("", rest), (first, "")),
        Rule("data parallel", ("", ""), ("", ""), (every, "")),
    ]
    if phase == "decode":
        found.append(Rule("tensor parallel, cache over batch", ("", every), ("", every), ("", ""), every))
        found.append(Rule("2D, cache over batch", (first, rest), (first, rest), ("", ""), every))
    else:
        found.append(Rule("sequence parallel", (every, ""), ("", ""), ("", every)))
        found.append(Rule("batch and sequence parallel", (first, rest), ("", ""), (first, rest)))
    return (*found, *expert_rules(split)) if has_experts else tuple(found)


def expert_rules(split: Split) -> tuple[Rule, ...]:
    """The rules that give chips experts of their own."""
    first, rest, every = split.first, split.rest, split.every
    cut = Experts(first, ("", rest), ("", rest))
    gathered = Experts(first, (rest, ""), ("", ""), tokens=rest)
    return (
        Rule("expert and tensor parallel", ("", every), ("", every), ("", ""), experts=cut),
        Rule("expert parallel and FSDP", (every, ""), ("", ""), (every, ""), experts=gathered),
        Rule("expert, data and tensor parallel", ("", ""), ("", ""), (every, ""), experts=cut),
    )


def hand_plans(study: Study) -> Iterator[tuple[str, Candidate]]:
    """The best plan of every rule that is possible and fits, by the rule's name."""
    split = splits(study.mesh.names)[0]
    for rule in rules(split, study.case.phase):
        with suppress(PinError, BudgetError, NoSolutionError):
            outcome = search_plans(ruled(study, rule), study.limit_bytes)
            yield rule.name, outcome.candidates[0]


def ruled(study: Study, rule: Rule) -> Problem:
    """The decision problem kept to a rule.

    Raises:
        PinError: The rule is not possible on this mesh.
        NoSolutionError: It is not possible for this program.
    """
    traced, graph = study.traced, study.problem.graph
    ranks = {n: len(a.shape) for n, a in zip(traced.argument_names, traced.in_avals, strict=True)}
    reads = {op.name: len(graph.values[op.operands[0]].shape) for op in graph.einsums}
    pins = tuple(pin_texts(rule, ranks, reads))
    return pinned(study.problem, resolve(pins, traced, graph, study.mesh))


def has_experts(study: Study) -> bool:
    """Whether the model has a mixture of experts: matrices [layers, x, in, out]."""
    names = zip(study.traced.argument_names, study.traced.in_avals, strict=True)
    return any(name.endswith("layers/w_up") and len(aval.shape) == _EXPERT_RANK for name, aval in names)


def pin_texts(rule: Rule, arguments: Mapping[str, int], reads: Mapping[str, int]) -> Iterator[str]:
    """The pins of a rule, for arguments that are named as in the examples.

    Args:
        rule: The rule.
        arguments: Ranks of the arguments by name.
        reads: Ranks of what einsums read beside the matrix, by the einsums' names.
    """
    for name in (*WIDENING, *NARROWING):
        matrix = f"layers/{name}/int8" if f"params/layers/{name}/int8" in arguments else f"layers/{name}"
        turn = 1 if name in WIDENING else -1
        if arguments.get(f"params/{matrix}") == _EXPERT_RANK:
            experts = rule.experts or _shared(rule)
            yield f"*{matrix}=;{experts.axis};{';'.join(experts.stored[::turn])}"
            read = f"{experts.axis};{';'.join(experts.read[::turn])}"
            yield f"einsum:{matrix}={_dispatched(experts, rule, name, reads[matrix])}|{read}"
        else:
            yield f"*{matrix}=;{';'.join(rule.stored[::turn])}"
            yield f"einsum:{matrix}={_activation(rule, name)}|{';'.join(rule.read[::turn])}"
    if rule.cache is not None:
        rank = arguments["cache/keys"]
        yield from (f"cache/{part}=;{rule.cache}{';' * (rank - 2)}" for part in ("keys", "values"))


def _shared(rule: Rule) -> Experts:
    """Every expert's matrices cut as any others."""
    return Experts("", rule.stored, rule.read, None if rule.tokens is None else rule.tokens[0])


def _activation(rule: Rule, name: str) -> str:
    """What an einsum reads beside the matrix: its tokens, and its width as the matrix is cut."""
    if rule.tokens is None:
        return "*"
    return ";".join((*rule.tokens, _width(rule.read, name)))


def _dispatched(experts: Experts, rule: Rule, name: str, rank: int) -> str:
    """What an einsum reads beside experts: dispatched tokens [x, b, n, c, width], or all of them.

    In the second case it is [b, l, width] that a widening einsum reads, [b, l, x, width] a narrowing one.
    """
    if experts.tokens is None:
        return "*"
    width, length = _width(experts.read, name), rule.tokens[1] if rule.tokens else ""
    if rank == _DISPATCHED_RANK:
        return ";".join((experts.axis, experts.tokens, length, "", width))
    middle = (experts.axis,) if name in NARROWING else ()
    return ";".join((experts.tokens, length, *middle, width))


def _width(read: tuple[str, str], name: str) -> str:
    return read[0] if name in WIDENING else read[1]
