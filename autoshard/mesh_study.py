"""Which mesh: an Optuna study over the ways to cut a slice's torus dims into mesh axes.

The mesh is not a graph problem: each torus dim of size n may be one axis or an ordered list of factors of
n. Each trial solves the whole graph problem on one mesh; its value is the predicted step time. The meshes
are few, so they are tried in order rather than sampled; what the study gives is memory: with a storage URL
any number of processes share it, and a killed run goes on where it stopped.

Of the ranking only the first meshes are of use. A mesh whose proven lower bound is above the time of the last
of them known is pruned: it cannot come among them, whichever are tried first and by whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from autoshard.cost.slices import Slice
from autoshard.cost.torus import TorusMesh, mesh_factorisations
from autoshard.search.errors import NotWorthError
from autoshard.studies import Given, open_study
from autoshard.units import format_seconds

AUTO_AXES = 3
"""Axes of a mesh that is tried by default: more make a search slow before they make a plan better."""
SEARCH_AXES = 4
_MOST_AXES = 8
_DOES_NOT_FIT = float("inf")
_MESH, _BOUND = "mesh", "bound_seconds"


@dataclass(frozen=True, slots=True)
class Tried:
    """A mesh that can hold the program: its best predicted step time, and the proven lower bound there."""

    mesh: TorusMesh
    seconds: float
    bound_seconds: float


Score = Callable[[TorusMesh, float], tuple[float, float] | None]
"""Best predicted step time on a mesh and its lower bound, both in seconds; None where nothing fits.

May raise `NotWorthError` where the bound is above the seconds given.
"""


def mesh_label(mesh: TorusMesh) -> str:
    """A readable, unique name of a mesh of its slice, such as "x=4 y=4 z=4"."""
    return " ".join(f"{axis.name}={axis.size}" for axis in mesh.axes)


def meshes_to_try(slice_: Slice, choice: str) -> tuple[TorusMesh, ...]:
    """The meshes for `--mesh native`, `auto` or `search`; the native one first."""
    native = mesh_factorisations(slice_, max_axes=_MOST_AXES)[0]
    if choice == "native":
        return (native,)
    limit = max(AUTO_AXES if choice == "auto" else SEARCH_AXES, len(native.axes))
    return (native, *(mesh for mesh in mesh_factorisations(slice_, max_axes=limit) if mesh != native))


def best_meshes(
    meshes: Sequence[TorusMesh],
    score: Score,
    *,
    study_name: str,
    trials: int,
    storage: str | None,
    wanted: int = 1,
    on_trial: Callable[[str], None] = lambda _: None,
    on_pruned: Callable[[str], None] = lambda _: None,
) -> list[Tried]:
    """Return the meshes that were tried and can hold the program, best first.

    The first `wanted` of them are always the same; meshes that cannot come among them may be missing.

    Args:
        meshes: The choices, the native one first.
        score: Prices a mesh.
        study_name: Names the study in the storage; it must tell apart what has other meshes or other prices.
        trials: Most meshes to try, those already in the storage included.
        storage: Storage URL (`autoshard.studies`), None for memory.
        wanted: How many of the best meshes are of use.
        on_trial: Told the label of each mesh before it is tried.
        on_pruned: Told in words which mesh is pruned, and why.

    Raises:
        AutoshardError: The storage cannot be opened.
    """
    by_label = {mesh_label(mesh): mesh for mesh in meshes}
    study = open_study(study_name, storage)
    first = list(by_label)[:trials]
    # First what nobody has begun, then what another worker has begun and may have died over.
    for done_with in (_BEGUN, _DONE):
        for label in first:
            if label not in _labels(study, done_with):
                on_trial(label)
                worth_seconds = _worth_seconds(_ranked(study, by_label), wanted)
                bound_seconds = _try(study, by_label, label, score, worth_seconds)
                if bound_seconds is not None:
                    on_pruned(
                        f"mesh {label} is pruned: no plan on it is faster than "
                        f"{format_seconds(bound_seconds)}, and {format_seconds(worth_seconds)} are known"
                    )
    return _ranked(study, by_label)


_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_BEGUN = (*_DONE, TrialState.RUNNING)


def _worth_seconds(ranked: Sequence[Tried], wanted: int) -> float:
    """The step time above which a mesh is not among the `wanted` best."""
    return ranked[wanted - 1].seconds if len(ranked) >= wanted else float("inf")


def _labels(study: optuna.Study, states: tuple[TrialState, ...]) -> set[str]:
    return {str(trial.params.get(_MESH)) for trial in study.get_trials(deepcopy=False, states=states)}


def _try(
    study: optuna.Study, meshes: Mapping[str, TorusMesh], label: str, score: Score, worth_seconds: float
) -> float | None:
    """Run one trial; one that an error or Ctrl-C ends is marked as failed, and will be tried again.

    Returns:
        The lower bound for which the mesh was pruned; None where it was not.
    """
    study.sampler = Given({_MESH: label})
    trial = study.ask({_MESH: optuna.distributions.CategoricalDistribution(list(meshes))})
    try:
        found = score(meshes[label], worth_seconds)
    except NotWorthError as error:
        trial.set_user_attr(_BOUND, error.bound_seconds)
        study.tell(trial, state=TrialState.PRUNED)
        return error.bound_seconds
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    if found is not None:
        trial.set_user_attr(_BOUND, found[1])
    study.tell(trial, _DOES_NOT_FIT if found is None else found[0])
    return None


def _ranked(study: optuna.Study, by_label: dict[str, TorusMesh]) -> list[Tried]:
    """What fits, fastest first, and among equals in the order of the choices; each mesh once."""
    order = {label: place for place, label in enumerate(by_label)}
    tried: dict[str, Tried] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        label = str(trial.params.get(_MESH))
        if label in by_label and trial.value is not None and trial.value < _DOES_NOT_FIT:
            tried[label] = Tried(by_label[label], trial.value, float(trial.user_attrs[_BOUND]))
    return [tried[label] for label in sorted(tried, key=lambda label: (tried[label].seconds, order[label]))]
