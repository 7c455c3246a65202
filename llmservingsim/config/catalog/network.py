"""Networks by name, each number with its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import msgspec

from llmservingsim.errors import ConfigError, nearest, one_of


class NetworkEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node, a cluster or a slice that people own or rent.

    Attributes:
        description: What it is, in a sentence.
        topology: As in a topology file, see `docs/topologies.md`.
        source: Key path in ``topology`` -> where its value comes from.
    """

    name: str
    description: str
    topology: dict[str, Any]
    aliases: tuple[str, ...] = ()
    source: dict[str, str] = {}

    def values(self) -> Iterator[str]:
        """Yield the key path of every value in ``topology``, lists as one value, except ``kind``."""
        return _paths(self.topology, "")


def find_network(name: str) -> NetworkEntry:
    """Return the network called ``name``, aliases included; case, spaces, dashes and underscores do not matter.

    Raises:
        ConfigError: Nothing answers to the name.
    """
    known = catalogued_networks()
    by_key = {_fold(alias): entry for entry in known.values() for alias in (*entry.aliases, entry.name)}
    found = by_key.get(_fold(name))
    if found is None:
        raise ConfigError(
            f"network {name!r} is not in the catalogue{nearest(name, known)}; expected one of {one_of(known, 24)}"
        )
    return found


@cache
def catalogued_networks() -> Mapping[str, NetworkEntry]:
    """The networks that ship with the simulator, by name."""
    text = files(__package__).joinpath("networks.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return MappingProxyType(
        {name: msgspec.convert({**table, "name": name}, NetworkEntry) for name, table in tables.items()}
    )


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _paths(section: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{key}.")
        elif key != "kind":
            yield above + key
