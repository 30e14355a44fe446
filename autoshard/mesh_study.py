"""Which mesh: Optuna over the ways to cut a slice's torus dims into mesh axes.

The mesh is not a graph problem: each torus dim of size n may be one axis or an ordered list of factors of n.  Each trial solves the whole
graph problem on one mesh; its value is the predicted step time.  With a storage URL the study is shared by any number of
processes and a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna

from autoshard.cost.slices import Slice
from autoshard.cost.torus import TorusMesh, mesh_factorisations
from autoshard.errors import AutoshardError

AUTO_AXES = 3
"""Meshes of up to this many axes are tried by default: more make a search slow before they make a plan better."""
_DOES_NOT_FIT = float("inf")


def mesh_label(mesh: TorusMesh) -> str:
    """A readable, unique name of a mesh of its slice, such as "x4.y4.z4"."""
    return ".".join(f"{axis.name}{axis.size}" for axis in mesh.axes)


def meshes_to_try(slice_: Slice, choice: str) -> tuple[TorusMesh, ...]:
    """The meshes for `--mesh native`, `auto` or `search`; the native one first."""
    if choice == "native":
        return mesh_factorisations(slice_, max_axes=len(slice_.topology) + 1)[:1]
    limit = AUTO_AXES if choice == "auto" else 4
    native = mesh_factorisations(slice_, max_axes=8)[0]
    return (native, *(m for m in mesh_factorisations(slice_, max_axes=max(limit, len(native.axes))) if m != native))


def best_meshes(
    meshes: Sequence[TorusMesh],
    score: Callable[[TorusMesh], float | None],
    *,
    study_name: str,
    trials: int,
    storage: str | None,
    seed: int,
    on_trial: Callable[[str], None] = lambda _: None,
) -> list[TorusMesh]:
    """Return the meshes that were tried and can hold the program, best first.

    Args:
        meshes: The choices, the native one first.
        score: Predicted step time on a mesh in seconds, None when nothing fits.
        study_name: Names the study in the storage.
        trials: Most trials to run, those already in the storage included.
        storage: Optuna storage URL, None for memory.
        seed: Of the sampler.
        on_trial: Told the label of each mesh before it is tried.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_label = {mesh_label(mesh): mesh for mesh in meshes}
    study = _study(study_name, storage, seed)

    def objective(trial: optuna.Trial) -> float:
        label = str(trial.suggest_categorical("mesh", list(by_label)))
        on_trial(label)
        seconds = score(by_label[label])
        return _DOES_NOT_FIT if seconds is None else seconds

    wanted = list(by_label)[:trials]
    # First what nobody has begun, then what another worker has begun and may have died over.
    for begun in (True, False):
        for label in wanted:
            if label not in _labels(study, begun_too=begun):
                study.enqueue_trial({"mesh": label})
                study.optimize(objective, n_trials=1)
    finished = [t for t in study.get_trials(deepcopy=False) if t.value is not None and t.value < _DOES_NOT_FIT]
    ranked = sorted(finished, key=lambda t: (t.value, wanted.index(t.params["mesh"]) if t.params["mesh"] in wanted else t.number))
    labels = list(dict.fromkeys(str(t.params["mesh"]) for t in ranked))
    return [by_label[label] for label in labels if label in by_label]


def _labels(study: optuna.Study, *, begun_too: bool) -> set[str]:
    """Meshes with a finished trial; with `begun_too` also those that some worker is at."""
    trials = study.get_trials(deepcopy=False)
    return {str(t.params.get("mesh")) for t in trials if t.state.is_finished() or begun_too}


def _study(name: str, storage: str | None, seed: int) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    try:
        return optuna.create_study(study_name=name, storage=storage, sampler=sampler, direction="minimize", load_if_exists=True)
    except Exception as error:
        raise AutoshardError(
            f"the study storage `{storage}` cannot be opened: {error}. Expected an Optuna URL such as sqlite:///tune.db"
        ) from error
