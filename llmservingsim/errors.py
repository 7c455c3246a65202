"""Every error this project raises on purpose.

::

    LLMServingSimError
    |-- UserError                 the input is wrong; the CLI prints it without a traceback, exit code 2
    |   |-- ConfigError           a key, value or unit of the configuration
    |   |-- WorkloadError         a line of a request trace
    |   |-- ModelError            a model description
    |   |-- ProfileError          a profile bundle or another latency table
    |   |-- CapacityError         the model does not fit the memory it was given
    |   |-- TraceError            a Chakra execution trace, or a network or system file that goes with it
    |   |-- PluginError           a name that is no built-in, entry point or dotted path
    |   `-- AstraSimError         a stock ASTRA-sim that was to be run is missing, failed or did not answer
    `-- SimulationError           the run cannot go on; exit code 1
        |-- DeadlockError         nothing runs, nothing will arrive, and somebody still waits
        `-- InvariantError        a law of the simulator is broken: a bug, please report it

A message names the place (file, line or key path), says what was expected and, where there is one, the nearest
valid choice.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LLMServingSimError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class UserError(LLMServingSimError):
    """The input is wrong and the message says how to mend it."""

    exit_code = 2


class ConfigError(UserError):
    """A key, value or unit of the configuration is wrong."""


class WorkloadError(UserError):
    """A line of a request trace is wrong."""


class ModelError(UserError):
    """A model description is missing, incomplete or contradicts itself."""


class ProfileError(UserError):
    """A profile bundle or another latency table is missing or broken."""


class CapacityError(UserError):
    """The model does not fit the memory it was given."""


class TraceError(UserError):
    """A Chakra execution trace, or a file that goes with it, cannot be read."""


class PluginError(UserError):
    """A name is neither a built-in, nor an entry point, nor a dotted path to a class."""


class AstraSimError(UserError):
    """A stock ASTRA-sim that was to be run is missing, failed or did not answer."""


class SimulationError(LLMServingSimError):
    """The run cannot go on."""


class DeadlockError(SimulationError):
    """Nothing runs, nothing will arrive, and somebody still waits; the message lists who and for what."""


class InvariantError(SimulationError):
    """A law of the simulator is broken. This is a bug."""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put the key path ``place`` in front of the message of every `UserError` raised inside."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{place}: {error}") from error.__cause__


def shown(value: object, limit: int = 200) -> str:
    """Return ``repr(value)`` for a message, its end cut off; deep, long and shared parts cost nothing."""
    shortener = reprlib.Repr()
    shortener.maxlevel = shortener.maxlist = shortener.maxtuple = shortener.maxdict = 4
    shortener.maxstring = shortener.maxother = shortener.maxlong = limit
    try:
        return cut(shortener.repr(value), limit)
    except ValueError:  # Python writes out no integer of more than 4300 digits
        return f"{type(value).__name__} of more digits than can be shown"


def cut(text: str, limit: int = 200) -> str:
    """Return a text that came from a file as one line of limited length, for a message."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return line if len(line) <= limit else f"{line[:limit]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or an empty string."""
    by_folded = {k.casefold(): k for k in known}
    match = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return f" (did you mean {by_folded[match[0]]!r}?)" if match else ""


def one_of(known: Iterable[str], limit: int = 12) -> str:
    """List the allowed values for a message, shortened when there are many."""
    names = sorted(known)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
