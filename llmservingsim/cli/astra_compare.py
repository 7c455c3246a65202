"""``llmservingsim astra compare``: our answer and a stock ASTRA-sim's to the same inputs, rank by rank."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from llmservingsim.backend.astra import RankResult
from llmservingsim.backend.astra_binary import TIMEOUT_S, AstraSimBinary, parse_results, require_ranks
from llmservingsim.cli.astra import astra
from llmservingsim.errors import AstraSimError, ConfigError

OTHER_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of the command that let it hand on what it does not know."""

_PIPE_COLUMNS = 200

Binary = Annotated[Path | None, typer.Option(help="Your ASTRA-sim executable.")]
Output = Annotated[Path | None, typer.Option(help="Instead of running one: what it printed for these inputs.")]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds that the run may take.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")]


class Comparison(NamedTuple):
    """A rank's times here and there, in nanoseconds."""

    rank: int
    finish_ns: int
    astra_finish_ns: int
    exposed_comm_ns: int
    astra_exposed_comm_ns: int

    @property
    def is_equal(self) -> bool:
        """Whether both agree to the nanosecond."""
        return self.finish_ns == self.astra_finish_ns and self.exposed_comm_ns == self.astra_exposed_comm_ns


def compare(
    context: typer.Context,
    astra_binary: Binary = None,
    astra_output: Output = None,
    astra_timeout: Timeout = TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Compare with a stock ASTRA-sim on the same inputs, rank by rank; exit code 1 if any rank differs.

    Takes the options of `astra` beside its own and hands them on, to the binary as --name=value. Both take compute
    durations from duration_micros, as a stock ASTRA-sim reads them.
    """
    if astra_binary is not None and astra_output is None:
        binary = AstraSimBinary(astra_binary, astra_timeout)
        ours, theirs = _ours(context.args), binary.run(_options(context.args))
    elif astra_output is not None and astra_binary is None:
        ours, theirs = _ours(context.args), _read(astra_output)
    else:
        raise ConfigError("expected --astra-binary PATH or --astra-output FILE, one of them")
    require_ranks(theirs, [result.rank for result in ours], str(astra_binary or astra_output))
    compared = [Comparison(o.rank, o[1], t[1], o[2], t[2]) for o, t in zip(ours, theirs, strict=True)]
    _print(compared, as_json=as_json)
    if not all(rank.is_equal for rank in compared):
        raise typer.Exit(1)


def _ours(arguments: Sequence[str]) -> list[RankResult]:
    """Run our command on the arguments; return its results in ascending order of ranks."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(astra)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        typer.main.get_command(command).main(
            [*arguments, "--whole-microseconds", "--json"], "llmservingsim astra", standalone_mode=False
        )
    ranks = msgspec.json.decode(printed.getvalue())["ranks"]
    return sorted(RankResult(rank["rank"], rank["finish_ns"], rank["exposed_comm_ns"]) for rank in ranks)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Read ``--name value``, ``--name=value`` and ``--name``, which is true, as ASTRA-sim's options."""
    options: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument.removeprefix("--").partition("=")
            options[name] = value or "true"
        else:
            options[name] = argument
    return options


def _read(path: Path) -> list[RankResult]:
    try:
        return parse_results(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise AstraSimError(f"--astra-output {path}: {error.strerror}") from error


def _print(compared: Sequence[Comparison], *, as_json: bool) -> None:
    differing = sum(not rank.is_equal for rank in compared)
    if as_json:
        ranks = [rank._asdict() for rank in compared]
        print(msgspec.json.encode({"ranks": ranks, "differing_ranks": differing}).decode())
        return
    titles = ("rank", "finish ns", "ASTRA-sim", "difference", "exposed ns", "ASTRA-sim", "difference")
    table = Table(*(Column(title, justify="right", overflow="fold") for title in titles))
    for rank in compared:
        pairs = (rank.finish_ns, rank.astra_finish_ns), (rank.exposed_comm_ns, rank.astra_exposed_comm_ns)
        cells = [f"{value:,}" for ours, theirs in pairs for value in (ours, theirs, ours - theirs)]
        table.add_row(str(rank.rank), *cells)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_COLUMNS)
    console.print(table)
    console.print(f"{differing} of {len(compared)} ranks differ" if differing else f"all {len(compared)} ranks equal")
