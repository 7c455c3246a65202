"""What a profile shows while it measures, and what it says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmservingsim.profiler import Progress, Session

_UNCALM = 0.02


class ShotProgress:
    """A line per degree with the time that is left, and a summary.

    Args:
        enabled: Show nothing otherwise.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._console: Any = None
        self._bar: Any = None
        if enabled:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._console = Console(stderr=True)
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[state]}"),
                console=self._console,
                transient=True,
                disable=not self._console.is_terminal,
            )

    def follow(self, session: Session, title: str) -> bool:
        """Measure; return whether nobody interrupted."""
        known = len(session.journal.entries)
        if known:
            self._say(
                f"{title}: {known} shots are measured already, {session.journal.seconds:.0f} s of the budget spent"
            )
        try:
            if self._bar is None:
                for _ in session.run():
                    pass
            else:
                self._draw(session, Path(title).name)
        except KeyboardInterrupt:
            self._say("stopped; what was measured is kept, and the same command goes on")
            return False
        return True

    def _draw(self, session: Session, title: str) -> None:
        """Measure, and redraw the line after every shot."""
        with self._bar:
            task = self._bar.add_task(title, total=session.goal.budget_s, state="")
            for progress in session.run():
                self._bar.update(task, completed=min(progress.spent_s, progress.budget_s), state=_state(progress))
            self._bar.remove_task(task)

    def tell_end(self, session: Session, folder: Path) -> None:
        """Say what was reached."""
        journal = session.journal
        noises = sorted(entry.noise for entry in journal)
        self._say(f"{folder}: {len(journal.entries)} shots in {journal.seconds:.0f} s, {_reached(session)}")
        median = noises[len(noises) // 2]
        self._say(f"noise: {median:.1%} at the median, {noises[-1]:.1%} at most" + _advice(median))

    def _say(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _reached(session: Session) -> str:
    if session.error is None:
        return "the grid is coarse: a larger --budget goes on from here" if session.is_coarse else "on a coarse grid"
    if session.error <= session.goal.error:
        return f"error of interpolation within {session.goal.error:.1%}"
    return f"error of interpolation {session.error:.1%}: a larger --budget lessens it"


def _advice(noise: float) -> str:
    return "; the device is busy with other work, or its clock moves" if noise > _UNCALM else ""


def _state(progress: Progress) -> str:
    shots = f"{progress.done} shots, {progress.planned} planned at first"
    error = "" if progress.error is None else f", error {progress.error:.1%}"
    return f"{shots}{error}, noise {progress.noise:.1%}, at most {progress.left_s:.0f} s left; {progress.shot}"
