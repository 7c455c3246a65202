"""A stock ASTRA-sim that the user built: run it on files, read what it prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmservingsim.backend.astra import RankResult
from llmservingsim.errors import AstraSimError

TIMEOUT_S = 600.0
"""How long one run of the binary may take if nothing else is said."""

_FINISHED = re.compile(r"sys\[(\d+)\] finished, (\d+) cycles, exposed communication (\d+) cycles\.")
_LAST_LINES = 5
_UINT64 = 2**64


class AstraSimBinary:
    """An executable with ASTRA-sim's command line, such as ``AstraSim_Analytical_Congestion_Unaware``.

    Args:
        path: The executable, or its name on ``PATH``.
        timeout_s: How long one run may take.

    Raises:
        AstraSimError: If there is no such file or it cannot be executed.
    """

    def __init__(self, path: str | Path, timeout_s: float = TIMEOUT_S) -> None:
        found = shutil.which(path)
        if found is None:
            why = "cannot be executed" if Path(path).is_file() else "no such file"
            raise AstraSimError(
                f"ASTRA-sim binary {path}: {why}; expected the executable of an ASTRA-sim that you built "
                "(docs/cross-check.md says how)"
            )
        self.path = Path(found).absolute()
        self._timeout_s = timeout_s

    def run(self, options: Mapping[str, object]) -> list[RankResult]:
        """Run with ``--name=value`` for each option; return what the ranks that finished took, in ascending order.

        The log folder is a temporary one unless the options name one.

        Raises:
            AstraSimError: If it does not start, ends with an error, or takes too long.
        """
        with tempfile.TemporaryDirectory(prefix="llmservingsim-") as scratch:
            given = {"logging-folder": Path(scratch) / "log", **options}
            command = [str(self.path), *(f"--{name}={value}" for name, value in given.items())]
            try:
                done = subprocess.run(
                    command, capture_output=True, timeout=self._timeout_s, text=True, errors="replace", check=False
                )
            except subprocess.TimeoutExpired as late:
                raise AstraSimError(
                    f"{self.path} did not end within {self._timeout_s:g} s; allow more with --astra-timeout"
                ) from late
            except OSError as error:
                raise AstraSimError(f"{self.path} cannot be run: {error.strerror or error}") from error
        if done.returncode != 0:
            raise AstraSimError(
                f"{self.path} ended with exit code {done.returncode}{_last_lines(done.stderr or done.stdout)}"
            )
        return parse_results(done.stdout)


def parse_results(text: str) -> list[RankResult]:
    """Return the results in ASTRA-sim's output, whatever its logger puts around them, ascending by rank.

    The last line of a rank counts. Exposed communication is an unsigned difference there; one that wrapped becomes
    negative again.
    """
    found = {}
    for rank, finish, exposed in _FINISHED.findall(text):
        wrapped = int(exposed) >= _UINT64 // 2
        found[int(rank)] = RankResult(int(rank), int(finish), int(exposed) - (_UINT64 if wrapped else 0))
    return [found[rank] for rank in sorted(found)]


def require_ranks(results: Iterable[RankResult], ranks: Iterable[int], source: str | Path) -> None:
    """Raise AstraSimError if ``results`` of ``source`` are not those of exactly these ranks."""
    expected, found = set(ranks), {result.rank for result in results}
    for what, wrong in (("never finished", expected - found), ("are not in the traces", found - expected)):
        if wrong:
            shown = ", ".join(map(str, sorted(wrong)[:8])) + (", ..." if len(wrong) > 8 else "")
            raise AstraSimError(f"{source}: of {len(expected)} ranks expected, ranks {shown} {what}")


def _last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    return "\n  ".join([":", *lines]) if lines else ", silently"
