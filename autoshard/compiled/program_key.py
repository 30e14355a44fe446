"""A name for a compile: equal for equal programs under equal compilers, different for anything else.

The name is a hash of the program, the slice, the mesh, the options and the versions of the compiler. The
bytes of an exported program are no good for it: every operation's location holds the whole stack of Python
calls, down to the script, the test or the notebook that asked for the plan. So the program is hashed as
StableHLO text in which each location keeps its name and the frames inside of autoshard's first one: the
model's own lines and those of the libraries that it calls. They count, as the compiler's answer has them.
The slices that JAX puts around the body of a loop are functions that it traces once in a process: their
locations are those of whoever first lowered a loop over such arrays, so inside of them no frame counts.

Grammar of locations: https://mlir.llvm.org/docs/Dialects/Builtin/#location-attributes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from autoshard.compiled.answer import ANSWER_FORMAT
from autoshard.cost.slices import Slice
from autoshard.programs import Program
from autoshard.topology import compiler_environment

_MACHINERY = f'"{Path(__file__).resolve().parents[1]}/'
"""How the place of a frame of autoshard begins."""
_DEFINITION = re.compile(r"^#(loc\d*) = loc\((.*)\)$\n?", re.MULTILINE)
_REFERENCE = re.compile(r"#(loc\d*)\b")
_CALL_SITE = re.compile(r"callsite\(#loc\d* at #loc\d*\)")
_PRIVATE_FUNCTION = re.compile(
    r"^  func\.func private .*?(?=^  \} loc\(#(loc\d*)\)$)", re.MULTILINE | re.DOTALL
)
_DEFINED_IN = re.compile(r'"jit:"\(#(loc\d*)\)')
_AROUND_A_BODY = re.compile(r'"(?:[^"]*/)?while/(?:body|cond)/jit"\(')
"""The place of a function that is called in a loop, but by none of its equations."""
_DIGEST_DIGITS = 32
_PACKAGES = ("jax", "jaxlib", "libtpu", "libtpu-nightly")
_COMPILER_PREFIXES = ("JAX_", "LIBTPU_", "TPU_", "XLA_")
"""Environment variables that begin so can change what the compiler does."""


@dataclass(frozen=True, slots=True)
class _Location:
    """A digest of a location's names and frames, and whether these end at a frame of autoshard."""

    digest: str
    ends: bool


def program_key(program: Program, slice_: Slice) -> str:
    """Return the name of the compile of a program for a slice, 64 hexadecimal digits.

    The chip's measured or specified speeds are no part of it: the compiler does not know them.
    """
    facts = {
        "format": ANSWER_FORMAT,
        "program": canonical_text(program),
        "donated": program.donated,
        "mesh": program.mesh_axes,
        "platform": program.platform,
        "enable_x64": program.enable_x64,
        "options": sorted(program.compiler_options.items()),
        "as_written": program.as_written,
        "slice": (slice_.name, slice_.topology, slice_.num_slices, slice_.wraps),
        "versions": [(name, _version(name)) for name in _PACKAGES],
        "environment": _compiler_variables({**os.environ, **compiler_environment()}),
    }
    return hashlib.sha256(msgspec.msgpack.encode(facts)).hexdigest()


def canonical_text(program: Program) -> str | bytes:
    """Return the program as text that does not depend on who asked for it.

    A program that this JAX cannot print stands for itself, with its bytes.
    """
    import jax

    try:
        text = str(jax.export.deserialize(bytearray(program.serialised)).mlir_module())
    except Exception:  # what is wrong with it is for the compiler to say
        return program.serialised
    return without_callers(text)


def without_callers(text: str) -> str:
    """Return a module's text with a digest in the place of every location, autoshard's callers left out."""
    definitions = {match[1]: match[2] for match in _DEFINITION.finditer(text)}
    known: dict[str, _Location] = {}
    digests = {name: _located(name, definitions, known).digest for name in definitions}
    body = _DEFINITION.sub("", text)
    body = _PRIVATE_FUNCTION.sub(lambda match: _without_frames(match, definitions), body)
    return _REFERENCE.sub(lambda match: digests.get(match[1], match[0]), body)


def _without_frames(function: re.Match[str], definitions: Mapping[str, str]) -> str:
    """The text of a private function; of one around a loop's body the locations are their names alone."""
    defined = _DEFINED_IN.fullmatch(definitions.get(function[1], ""))
    if defined is None or not _AROUND_A_BODY.match(definitions.get(defined[1], "")):
        return function[0]
    return _REFERENCE.sub(
        lambda match: _digest(_REFERENCE.sub("#", definitions.get(match[1], match[1]))), function[0]
    )


def _located(name: str, definitions: Mapping[str, str], known: dict[str, _Location]) -> _Location:
    if name not in known:
        known[name] = _location(definitions.get(name, name), definitions, known)
    return known[name]


def _location(definition: str, definitions: Mapping[str, str], known: dict[str, _Location]) -> _Location:
    references = [_located(each, definitions, known) for each in _REFERENCE.findall(definition)]
    if _CALL_SITE.fullmatch(definition):
        inner, outer = references
        return inner if inner.ends else _Location(_digest(inner.digest, outer.digest), outer.ends)
    if definition.startswith(_MACHINERY):
        return _Location("", ends=True)
    named = _REFERENCE.sub("#", definition)
    return _Location(
        _digest(named, *(each.digest for each in references)), any(each.ends for each in references)
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGEST_DIGITS]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _compiler_variables(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in environment.items() if name.startswith(_COMPILER_PREFIXES))
