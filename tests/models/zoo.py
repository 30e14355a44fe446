"""The zoo: which module of this folder has the cases of which library, and where that library works.

A library is installed by its optional group of pyproject.toml, such as `zoo-hf`, best into an environment of
its own: `python -m bench.zoo_venvs`. Its module is imported when its cases are asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass

from tests.models.case import Case


@dataclass(frozen=True, slots=True)
class Library:
    """One library of models.

    Attributes:
        name: What its cases' names begin with.
        module: The module of this folder that has its cases.
        package: What can be imported where it is installed.
        pythons: Minor versions of Python 3 that it works on, the preferred one first.
    """

    name: str
    module: str
    package: str
    pythons: tuple[int, ...] = (11, 12)

    @property
    def group(self) -> str:
        """Its optional group of pyproject.toml."""
        return f"zoo-{self.name}"


LIBRARIES = {
    library.name: library
    for library in (
        Library("hf", "hf_flax", "transformers.modeling_flax_utils"),  # gone in transformers 5
        Library("tunix", "tunix_nnx", "tunix"),
        Library("penzai", "penzai_models", "penzai"),
        Library("levanter", "levanter_eqx", "levanter", pythons=(11,)),  # uses what JAX 0.11 removed
        Library("equimo", "equimo_vit", "equimo"),
        Library("gemma", "gemma_linen", "gemma"),
        Library("keras", "keras_models", "keras_hub"),
        Library("maxtext", "maxtext_models", "maxtext", pythons=(12,)),  # needs JAX 0.11.1
    )
}


def library_of(name: str) -> str:
    """Name of the library that a case belongs to: "hf" of "hf.llama3_70b.decode".

    Raises:
        KeyError: There is none.
    """
    head = name.partition(".")[0]
    if head not in LIBRARIES:
        raise KeyError(f"`{name}` is of no library of the zoo: {', '.join(LIBRARIES)}")
    return head


def cases(library: str) -> tuple[Case, ...]:
    """The cases of one library, which has to be installed."""
    found: tuple[Case, ...] = importlib.import_module(f"tests.models.{LIBRARIES[library].module}").cases()
    return found


def find(name: str) -> Case:
    """The case of this name; its library has to be installed.

    Raises:
        KeyError: There is none.
    """
    known = {case.name: case for case in cases(library_of(name))}
    if name not in known:
        raise KeyError(f"`{name}` is no case of the zoo: {', '.join(known)}")
    return known[name]


def installed() -> tuple[str, ...]:
    """Names of the libraries that are installed in this environment and work on its Python."""
    minor = sys.version_info.minor
    return tuple(name for name, each in LIBRARIES.items() if minor in each.pythons and _exists(each.package))


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False
