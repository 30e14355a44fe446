"""Layouts that people use, as pins: a rule fixes the big matrices and what their einsums read.

With a first mesh axis `a`, the others `t`, all of them `n`, for a matrix that reads the model's width e
[layers, e, out] and one that gives it back [layers, in, e]; activations are [b, l, e]:

* tensor parallel: out and in over n (Megatron: Shoeybi et al. 2019, arXiv:1909.08053); of a decode step also
  with the cache over n by sequences (Pope et al. 2022, arXiv:2211.05102, section 3.3)
* 2D weight-stationary: e over a, out and in over t (Pope et al., section 3.2.2)
* weight-gathered: stored like 2D; read whole over n, or only over a, by as many groups of sequences
  (section 3.2.3)
* FSDP: the matrices' rows over n, read whole by n groups of sequences (Zhao et al. 2023, arXiv:2304.11277),
  or over a beside tensor parallelism over t
* data parallel: matrices whole on every chip, n groups of sequences
* sequence parallel: matrices whole when read, tokens of a sequence over n

All else is left to the search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoshard.pinning import resolve
from autoshard.search.errors import BudgetError, NoSolutionError, PinError
from autoshard.search.pins import pinned
from autoshard.search.planner import Candidate, search_plans
from bench.fidelity_cases import Study

WIDENING = ("wq", "w_gate", "w_up")
NARROWING = ("wo", "w_down")


@dataclass(frozen=True, slots=True)
class Rule:
    """One layout of people, spec texts; "" replicates.

    Attributes:
        name: Its usual name.
        stored: [e, out] of a widening matrix at rest; a narrowing one is its transpose.
        read: The same when an einsum reads it.
        tokens: [b, l] of the activations that meet it; None leaves all activations free.
        cache: Batch dim of the cache; None leaves it free.
    """

    name: str
    stored: tuple[str, str]
    read: tuple[str, str]
    tokens: tuple[str, str] | None = None
    cache: str | None = None


def rules(axes: tuple[str, ...], phase: str) -> tuple[Rule, ...]:
    """The rules for a mesh and a phase."""
    first, rest, every = axes[0], ",".join(axes[1:]), ",".join(axes)
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
    return tuple(found)


def hand_plans(study: Study) -> Iterator[tuple[str, Candidate]]:
    """The best plan of every rule that is possible and fits, by the rule's name."""
    traced, graph, mesh = study.traced, study.problem.graph, study.mesh
    ranks = {n: len(a.shape) for n, a in zip(traced.argument_names, traced.in_avals, strict=True)}
    for rule in rules(mesh.names, study.case.phase):
        pins = tuple(pin_texts(rule, ranks))
        try:
            problem = pinned(study.problem, resolve(pins, traced, graph, mesh))
            outcome = search_plans(problem, study.limit_bytes)
        except (PinError, BudgetError, NoSolutionError):
            continue
        yield rule.name, outcome.candidates[0]


def pin_texts(rule: Rule, arguments: Mapping[str, int]) -> Iterator[str]:
    """The pins of a rule, for arguments (their ranks by name) that are named as in the examples."""
    for name in (*WIDENING, *NARROWING):
        matrix = f"layers/{name}/int8" if f"params/layers/{name}/int8" in arguments else f"layers/{name}"
        turn = 1 if name in WIDENING else -1
        yield f"*{matrix}=;{';'.join(rule.stored[::turn])}"
        yield f"einsum:{matrix}={_activation(rule, name)}|{';'.join(rule.read[::turn])}"
    if rule.cache is not None:
        rank = arguments["cache/keys"]
        yield from (f"cache/{part}=;{rule.cache}{';' * (rank - 2)}" for part in ("keys", "values"))


def _activation(rule: Rule, name: str) -> str:
    """What an einsum reads beside the matrix: its tokens, and its width as the matrix is cut."""
    if rule.tokens is None:
        return "*"
    width = rule.read[0] if name in WIDENING else rule.read[1]
    return ";".join((*rule.tokens, width))
