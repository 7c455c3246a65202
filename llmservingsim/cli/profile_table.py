"""What was found of a profile bundle, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from llmservingsim.latency.check import Finding

_PIPE_COLUMNS = 160


def print_findings(title: str, findings: Sequence[Finding], *, is_subject_known: bool) -> None:
    """Print a row per operator, and below the table what a person should look at."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_COLUMNS)
    console.print(title, markup=False, soft_wrap=True)
    table = Table("operator", "points", "covers")
    for head in ("left out: mean", "p95", "multilinear", "falls", "outliers", "FLOP/s", "bandwidth"):
        table.add_column(head, justify="right")
    for found in findings:
        table.add_row(
            found.operator,
            str(found.points),
            found.covers,
            _percent(found.left_out_mean, 2),
            _percent(found.left_out_p95, 1),
            _percent(found.multilinear_mean, 2),
            str(found.falls),
            str(found.outliers),
            _percent(found.peak_flops, 0),
            _percent(found.peak_bandwidth, 0),
        )
    console.print(table)
    if not is_subject_known:
        console.print("model and device are not known, so nothing is held against peaks: state --model and --hardware")
    for found in findings:
        for problem in found.problems:
            console.print(f"note: {problem}", markup=False, soft_wrap=True)


def _percent(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f} %"
