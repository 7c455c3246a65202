"""Name -> implementation: a built-in, an installed entry point, or ``package.module:Class``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from llmservingsim.errors import PluginError, UserError, nearest, one_of


def find_plugin(kind: str, name: str, builtins: Mapping[str, Any]) -> Any:
    """Return the implementation called ``name``.

    Args:
        kind: The extension point, such as ``"router"``. Entry points are looked up in the group
            ``llmservingsim.<kind>``.
        name: A key of ``builtins``, the name of an entry point, or ``package.module:Class``.
        builtins: What ships with the simulator.

    Raises:
        PluginError: If nothing answers to the name, or if importing it fails.
    """
    if name in builtins:
        return builtins[name]
    if ":" in name:
        return _load_dotted(kind, name)
    installed = {entry.name: entry for entry in entry_points(group=f"llmservingsim.{kind}")}
    if name in installed:
        try:
            return installed[name].load()
        except (ImportError, AttributeError) as error:
            value = installed[name].value
            raise PluginError(f"{kind}: cannot load the entry point {name!r}, {value!r}: {error}") from error
    known = {*builtins, *installed}
    raise PluginError(
        f"{kind}: {name!r} is unknown{nearest(name, known)}; "
        f"expected one of {one_of(known)}, or your own class as 'package.module:Class'"
    )


def make_plugin(
    kind: str,
    name: str,
    builtins: Mapping[str, Any],
    arguments: Sequence[Any],
    methods: Sequence[str],
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Build the implementation called ``name`` and check that it has the methods that will be called.

    Args:
        kind: The extension point.
        name: As `find_plugin` takes it.
        builtins: What ships with the simulator.
        arguments: What it is built from.
        methods: What it must have.
        options: Keyword arguments that the user wrote.

    Raises:
        PluginError: If it is not found, does not take the arguments, or lacks a method.
    """
    make = find_plugin(kind, name, builtins)
    try:
        made = make(*arguments, **(options or {}))
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        given = f"options {one_of(options)}" if options else f"{len(arguments)} arguments"
        raise PluginError(f"{kind}: {name!r} cannot be built from {given}: {error}") from error
    for method in methods:
        if not callable(getattr(made, method, None)):
            raise PluginError(f"{kind}: {name!r} has no method {method!r}; expected {one_of(methods)}")
    return made


def _load_dotted(kind: str, name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise PluginError(f"{kind}: expected 'package.module:Class', got {name!r}")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise PluginError(f"{kind}: cannot import {module_name!r} of {name!r}: {error}") from error
    if not hasattr(module, attribute):
        raise PluginError(f"{kind}: module {module_name!r} has no {attribute!r}{nearest(attribute, vars(module))}")
    return getattr(module, attribute)
