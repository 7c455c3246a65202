"""Writes the reference pages from the code: ``python -m llmservingsim.cli.reference docs/reference``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import typer

from llmservingsim.backend.topologies import TOPOLOGY_KINDS
from llmservingsim.cli.main import app
from llmservingsim.cli.markdown import literal, table
from llmservingsim.cli.reference_catalog import catalog_page
from llmservingsim.config import (
    InstanceSpec,
    RunSpec,
    ServingSpec,
    json_schema,
)
from llmservingsim.config.catalog import (
    find_accelerator,
)
from llmservingsim.defaults import with_vllm_defaults
from llmservingsim.serving.routing import ROUTERS
from llmservingsim.workload import (
    ArrivalSpec,
    EmpiricalLength,
    FixedLength,
    GeneratorSpec,
    LognormalLength,
    PairedLength,
    PrefixSpec,
    PresetLength,
    UniformLength,
)

_COMMAND = "python -m llmservingsim.cli.reference docs/reference"
_NOTICE = f"<!-- Written by `{_COMMAND}`. Edit the docstrings, then run it again. -->\n"
_SCALARS: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    dict: "section",
}


def _sections(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """A section, then those that its keys and its bases name, each with its own behind it."""
    found = [struct]
    inner = [base for base in struct.__mro__[1:] if isinstance(base, type(struct)) and base.__struct_fields__]
    for hint in get_type_hints(struct, include_extras=True).values():
        inner += _structs(hint)
    for section in inner:
        found += [below for below in _sections(section) if below not in found]
    return list(dict.fromkeys(found))


def _structs(hint: Any) -> list[type[msgspec.Struct]]:
    """The structs in a type annotation."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [found for argument in get_args(hint) for found in _structs(argument)]


_RUN_SECTIONS = tuple(_sections(RunSpec))
_ROUTER_SECTIONS = tuple(dict.fromkeys(r.Options for r in ROUTERS.values() if hasattr(r, "Options")))
_LENGTHS = (FixedLength, UniformLength, LognormalLength, EmpiricalLength, PairedLength, PresetLength)
_GENERATOR_SECTIONS = (GeneratorSpec, ArrivalSpec, PrefixSpec, *_LENGTHS)
_LARGE, _SMALL = "H100", "RTX4090"
_MACHINE_MAX = 2**31 - 1
_MISSING = (msgspec.NODEFAULT, msgspec.UNSET)


def write_reference(folder: Path) -> list[Path]:
    """Write the pages into ``folder``, creating it; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "configuration.md": configuration_page(),
        "cli.md": cli_page(),
        "catalog.md": catalog_page(_NOTICE),
        "run.schema.json": msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n",
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def configuration_page() -> str:
    """Every section and key of a run file, and of a generated workload."""
    parts = [_NOTICE, "# Configuration\n"]
    parts.append(
        "A run file is YAML, TOML or JSON with the keys of [RunSpec](#runspec). An unknown key is an error. Quantities "
        'carry their unit: `"900GB/s"`, `"2us"`, `"80GiB"`. `--set a.b=c` overrides one leaf; entries of lists are '
        "counted from 0, as in `nodes.0.instances.0.hardware`. `llmservingsim config show` prints a file with every "
        "key, and [run.schema.json](run.schema.json) is its JSON schema.\n"
    )
    parts += [_section(struct) for struct in _RUN_SECTIONS]
    parts.append(
        "# Router options\n\nWhat may stand beside `policy` under `router`; [Routing](../concepts/routing.md) has the "
        f"rules. The policies are {_one_of(ROUTERS)}; those that are not below have no options.\n"
    )
    parts += [_section(struct) for struct in _ROUTER_SECTIONS]
    parts.append(
        "# Topology files\n\nA file that `network.topology` names: YAML, TOML or JSON with the keys of one of these "
        "kinds; [Topologies](../topologies.md) shows some.\n"
    )
    parts += [_section(struct) for struct in TOPOLOGY_KINDS]
    parts.append(
        "# Generated workloads\n\nFrom Python a workload can be drawn from a `GeneratorSpec`; the options of "
        "[`llmservingsim workload generate`](cli.md#llmservingsim-workload-generate) are the same keys. A length is a "
        f"section with the key `distribution`: {_one_of(_tag(length) for length in _LENGTHS)}.\n"
    )
    parts += [_section(struct) for struct in _GENERATOR_SECTIONS]
    return "\n".join(parts)


def _section(struct: type[msgspec.Struct]) -> str:
    """A heading, what the docstring says, and a row per key that no base with a section of its own has."""
    base = struct.__base__ if struct.__base__ in _RUN_SECTIONS else None
    inherited = set(base.__struct_fields__) if base is not None else set()
    hints = get_type_hints(struct, include_extras=True)
    words = _attributes(struct)
    rows = [
        (f"`{field.name}`", _kind(hints[field.name]), _default(struct, field), words.get(field.name, ""))
        for field in msgspec.structs.fields(struct)
        if field.name not in inherited
    ]
    lead = _lead(struct)
    tag = struct.__struct_config__.tag
    if tag is not None:
        lead = f"`{struct.__struct_config__.tag_field}: {tag}`. {lead}"
    if base is not None:
        lead += f"\n\nIts keys, and those of [{base.__name__}](#{base.__name__.lower()}):"
    keys = table(("key", "value", "default", "meaning"), rows) if rows else "It has no key of its own.\n"
    return f"## {struct.__name__}\n\n{lead}\n\n{keys}"


def _tag(struct: type[msgspec.Struct]) -> str:
    return str(struct.__struct_config__.tag)


def _lead(documented: Any) -> str:
    """The docstring above its Google sections, as Markdown."""
    text = inspect.getdoc(documented) or ""
    return _markdown(re.split(r"\n(?:Attributes|Args|Raises|Returns):\n", text)[0].strip())


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _attributes(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Key -> its words in the docstring's Attributes section, base classes included."""
    found: dict[str, str] = {}
    for parent in reversed(struct.__mro__):
        section = re.search(r"\nAttributes:\n((?:[ \t].*\n?|\n)+)", (inspect.getdoc(parent) or "") + "\n")
        for entry in re.split(r"\n(?=    \S)", section[1].rstrip()) if section else ():
            names, _, words = entry.strip().partition(":")
            found |= dict.fromkeys((name.strip() for name in names.split(",")), _markdown(" ".join(words.split())))
    return found


def _default(struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> str:
    """What holds where the key is left out; options of the engine get vLLM's default."""
    if field.default_factory not in _MISSING:
        value = field.default_factory()
        return "its keys' defaults" if isinstance(value, msgspec.Struct) else f"`{value!r}`"
    if struct is ServingSpec:
        return _serving_default(field.name)
    if field.default in _MISSING:
        return "required"
    if isinstance(field.default, msgspec.Struct):
        return "its keys' defaults"
    return "-" if field.default is None else literal(field.default)


def _serving_default(key: str) -> str:
    """The default that vLLM gives an option, which may depend on the device."""
    large, small = (
        getattr(with_vllm_defaults(InstanceSpec(model="", hardware=name), find_accelerator(name)), key)
        for name in (_LARGE, _SMALL)
    )
    if large != small:
        return f"{literal(large)} on a device of at least 70 GiB that is no A100, else {literal(small)}"
    if isinstance(large, msgspec.Struct):
        return "its keys' defaults"
    return "see meaning" if large is None else literal(large)


def _kind(hint: Any) -> str:
    """Say in words what a type annotation allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        words = _kind(arguments[0]) + "".join(map(_bounds, arguments[1:]))
    elif origin is Literal:
        words = _one_of(arguments)
    elif origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(_kind(a) for a in arguments if a is not type(None)))
    elif origin in (tuple, list):
        words = f"list of {_kind(arguments[0])}"
    elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        words = f"[{hint.__name__}](#{hint.__name__.lower()})"
    elif isinstance(hint, type) and issubclass(hint, Enum):
        words = _one_of(member.value for member in hint)
    else:
        words = _SCALARS.get(origin or hint, str(hint))
    return words


def _one_of(choices: Iterable[object]) -> str:
    return " or ".join(f"`{choice}`" for choice in choices)


def _limit(bound: float | None) -> float | None:
    """Leave out bounds that only keep a number within its machine type."""
    return bound if bound is None or bound < _MACHINE_MAX else None


def _bounds(meta: Any) -> str:
    if not isinstance(meta, msgspec.Meta):
        return ""
    signs = (("at least", meta.ge), ("greater than", meta.gt), ("at most", _limit(meta.le)), ("less than", meta.lt))
    limits = [f"{word} {bound}" for word, bound in signs if bound is not None]
    if meta.min_length is not None:
        limits.append(f"{meta.min_length} or more of them")
    return f" {' and '.join(limits)}" if limits else ""


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [_NOTICE, "# Command line\n", "Exit codes: 0 done, 1 the run could not go on, 2 the input is wrong.\n"]
    parts += [_command(name, callback) for name, callback in commands(app, "llmservingsim")]
    return "\n".join(parts)


def commands(group: typer.Typer, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every command below a Typer application by its whole name."""
    for command in group.registered_commands:
        if command.callback is not None:
            yield f"{name} {command.name or command.callback.__name__}", command.callback
    for sub in group.registered_groups:
        if sub.typer_instance is not None:
            own = sub.typer_instance.registered_callback
            if own is not None and own.callback is not None:
                yield f"{name} {sub.name}", own.callback
            yield from commands(sub.typer_instance, f"{name} {sub.name}")


def _command(name: str, callback: Callable[..., Any]) -> str:
    hints = get_type_hints(callback, include_extras=True)
    usage, rows = [f"llmservingsim {name.partition(' ')[2]}"], []
    for parameter in inspect.signature(callback).parameters.values():
        if hints[parameter.name] is typer.Context:
            continue
        kind, info = get_args(hints[parameter.name])[:2]
        is_required = parameter.default is inspect.Parameter.empty
        if isinstance(info, typer.models.ArgumentInfo):
            shown = parameter.name.upper()
            usage.append(shown if is_required else f"[{shown}]")
        else:
            names = _option_names(info, parameter.name)
            shown = "`, `".join(names)
            usage += [f"{names[0]} ..."] if is_required else []
        value = f"`{info.metavar}`" if info.metavar else ("-" if kind is bool else _option_kind(kind) + _limits(info))
        rows.append((f"`{shown}`", value, _option_default(parameter), _markdown(info.help or "")))
    return f"## {name}\n\n{_lead(callback)}\n\n```text\n{' '.join(usage)} [OPTIONS]\n```\n\n" + table(
        ("argument or option", "value", "default", "meaning"), rows
    )


def _option_names(info: Any, parameter: str) -> list[str]:
    """Names as declared; inside Annotated, Typer keeps the first of them where a default would stand."""
    declared = [info.default] if isinstance(info.default, str) else []
    return [*declared, *(info.param_decls or ())] or [f"--{parameter.replace('_', '-')}"]


def _option_kind(kind: Any) -> str:
    """Say what one occurrence of an option takes."""
    return _kind(get_args(kind)[0] if get_origin(kind) is list else kind)


def _limits(info: Any) -> str:
    return f" at least {info.min}" if info.min is not None else ""


def _option_default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    return "-" if value is None or value is False or value == [] else f"`{value}`"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {_COMMAND}")
    for page in write_reference(Path(sys.argv[1])):
        print(page)
