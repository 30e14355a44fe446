"""Find what a command line names, `MODULE_OR_FILE:FUNCTION` and the function that gives its inputs, or what a
Python call names.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from autoshard.choices import Choices, Value, checked_choices, with_static_names
from autoshard.decorator import PlannedFunction
from autoshard.errors import OptionError, TargetError
from autoshard.jit_options import TRACE_OPTIONS, keyword_parameters

_OTHER_JIT_OPTIONS = ("keep_unused", "inline", "compiler_options")
_FORM = "expected MODULE_OR_FILE:FUNCTION, such as `model.py:decode` or `package.model:decode`"


@dataclass(frozen=True, slots=True)
class Target:
    """A function to plan.

    Attributes:
        text: What the user wrote.
        inputs_text: What the user wrote for the inputs, or None when the decorator names them.
        function: The undecorated function.
        name: Its name.
        arguments: The abstract arguments.
        jit_options: Keyword arguments given to the decorator.
        keywords: The abstract arguments that are passed by keyword, and the values of choices once they are
            bound.
        choices: The values of each choice (`autoshard.choices`) that is not bound.
    """

    text: str
    inputs_text: str | None
    function: Callable[..., Any]
    name: str
    arguments: tuple[Any, ...]
    jit_options: dict[str, Any]
    keywords: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, tuple[Value, ...]] = field(default_factory=dict)

    def choosing(self, choices: Choices) -> Target:
        """The target with these choices, which override those of the same names.

        Raises:
            OptionError: One is no keyword argument of the function, or has values that a plan cannot hold.
        """
        return replace(self, choices=checked_choices({**self.choices, **choices}, self.function))

    def bound(self, values: Mapping[str, Value]) -> Target:
        """The target with these values as static keyword arguments."""
        return replace(
            self,
            jit_options=with_static_names(self.jit_options, tuple(values)),
            keywords={**self.keywords, **values},
            choices={name: each for name, each in self.choices.items() if name not in values},
        )


def load_target(text: str, inputs: str | None = None) -> Target:
    """Load a function and its abstract arguments.

    Raises:
        TargetError: The module, the function or the inputs cannot be found, or the inputs function fails.
    """
    found = load_object(text)
    function, options, own_inputs, choices = found, {}, None, {}
    if isinstance(found, PlannedFunction):
        function, options, own_inputs = found.function, found.jit_options, found.inputs
        choices = found.choices
    if not callable(function):
        raise TargetError(f"`{text}` is a {type(found).__name__}, not a function")
    make_inputs = load_object(inputs) if inputs is not None else own_inputs
    if make_inputs is None:
        raise TargetError(
            f"`{text}` has no inputs: give --inputs MODULE_OR_FILE:FUNCTION, a function that returns the "
            "abstract arguments (a tuple of jax.ShapeDtypeStruct pytrees), or decorate it with "
            "@autoshard.jit(inputs=...)"
        )
    name = text.rpartition(":")[2]
    arguments = call_inputs(make_inputs, inputs or f"inputs of {text}")
    return Target(text, inputs, function, name, arguments, options, choices=choices)


def target_of(fn: Callable[..., Any], args: Sequence[Any], jit_options: Mapping[str, Any]) -> Target:
    """The target that a Python call of `tune` names."""
    options, choices = dict(jit_options), {}
    if isinstance(fn, PlannedFunction):
        options, choices = {**fn.jit_options, **options}, fn.choices
        if not args and fn.inputs is not None:
            args = call_inputs(fn.inputs, "inputs of the decorator")
        fn = fn.function
    known = {*TRACE_OPTIONS, *_OTHER_JIT_OPTIONS}
    named = [name for name in keyword_parameters(fn) if name in options and name not in known]
    keywords = {name: options.pop(name) for name in named}
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(
            f"tune() does not know the options {unknown}; of `jax.jit` it knows {list(TRACE_OPTIONS)}"
        )
    given = {name: (keywords.pop(name),) for name in choices if name in keywords}
    return Target("", None, fn, _name_of(fn), tuple(args), options, keywords, {**choices, **given})


def _name_of(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", None)
    return str(name or "function")


def call_inputs(make_inputs: Callable[[], Any], label: str) -> tuple[Any, ...]:
    """Call an inputs function; a single argument, a namedtuple too, may be returned without a tuple."""
    try:
        arguments = make_inputs()
    except Exception as error:
        raise TargetError(f"`{label}` failed: {type(error).__name__}: {error}") from error
    return tuple(arguments) if type(arguments) in (tuple, list) else (arguments,)


def load_object(text: str) -> Any:
    """Load `MODULE_OR_FILE:NAME`; NAME may have dots."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(f"`{text}` is not a target: {_FORM}")
    module = _load_file(Path(place)) if place.endswith(".py") or "/" in place else _load_module(place)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise TargetError(f"`{place}` has no `{name}`; it has: {', '.join(_public(module))}") from error


def _public(module: ModuleType) -> Sequence[str]:
    own = [
        n
        for n, v in vars(module).items()
        if callable(v) and not n.startswith("_") and getattr(v, "__module__", None) == module.__name__
    ]
    return own or ["no functions"]


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise TargetError(f"`{name}` cannot be imported: {error}") from error
        raise TargetError(
            f"there is no module `{name}` (looked in the working directory and the installed packages)"
        ) from error
    except Exception as error:
        raise TargetError(f"`{name}` cannot be imported: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"there is no file `{path}`: {_FORM}")
    resolved = path.resolve()
    name = _module_name(resolved)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None:
        raise TargetError(f"`{path}` is not a Python file: {_FORM}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(resolved.parent) not in sys.path:
        sys.path.insert(0, str(resolved.parent))
    try:
        # From the source, never from cached bytecode: that is stale when a file is edited within a second.
        exec(compile(resolved.read_bytes(), str(resolved), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise TargetError(f"`{path}` cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _module_name(path: Path) -> str:
    """The stem, so that it is one module with what others import; told apart where that is another file."""
    existing = sys.modules.get(path.stem)
    if existing is None or getattr(existing, "__file__", None) == str(path):
        return path.stem
    return f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
