"""Write anew what commands and programs print on the pages, where that has changed.

    python tests/tidy/refresh_pages.py [PAGE]...

A line that is no longer printed is replaced by the printed line that is most like it; the text around is for a person
to read again. Pages whose printed lines all stand are left as they are.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from test_docs import DATA, REPOSITORY, RUNNABLE, Block, blocks_of, commands_of, relative, tell


def main() -> None:
    """Refresh all pages, or those that are named."""
    named = [Path(word).resolve() for word in sys.argv[1:]]
    for page in named or RUNNABLE:
        text = page.read_text()
        fresh = refreshed(page, text)
        if fresh != text:
            page.write_text(fresh)
            sys.stdout.write(f"{relative(page)}\n")


def refreshed(page: Path, text: str) -> str:
    """Return a page with the lines that its blocks print today."""
    with tempfile.TemporaryDirectory() as name:
        desk = Path(name)
        (desk / "inputs").symlink_to(REPOSITORY / "inputs")
        for folder in ("profiles", "models", "clusters", "workloads"):
            (desk / folder).symlink_to(DATA / folder)
        os.chdir(desk)
        os.environ["COLUMNS"] = "80"
        sys.path.insert(0, name)
        try:
            for old, new in replaced_blocks(page, blocks_of(text), desk):
                text = text.replace(old, new, 1)
        finally:
            sys.path.remove(name)
            for module in [m for m, loaded in sys.modules.items() if name in str(getattr(loaded, "__file__", None))]:
                del sys.modules[module]
    return text


def replaced_blocks(page: Path, blocks: list[Block], desk: Path) -> list[tuple[str, str]]:
    """Run the blocks of a page; return those whose printed lines changed, before and after."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed, found = "", []
    for block in blocks:
        fresh = block.text
        if block.file is not None:
            (desk / block.file).write_text(block.text)
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.text, relative(page), "exec"), names)
            printed = out.getvalue()
        elif block.kind == "text" and printed:
            fresh = "\n".join(matched(block.text.splitlines(), printed)) + "\n"
            printed = ""
        elif block.kind == "console":
            for words, expected in commands_of(block.text):
                old, new = "\n".join(expected), "\n".join(matched(expected, call(words)))
                fresh = fresh.replace(old, new, 1) if old else fresh
        if fresh != block.text:
            found.append((block.text, fresh))
    return found


def call(words: list[str]) -> str:
    """Return what a command prints."""
    from llmservingsim.cli.main import main as command

    sys.argv = ["llmservingsim", *words]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        command()
    return out.getvalue()


def matched(expected: list[str], actual: str) -> list[str]:
    """Return the lines of the page as they are printed today: those most alike, in the same order."""
    lines = actual.splitlines()
    told = [tell(line) for line in lines]
    wanted = [k for k, line in enumerate(expected) if line.strip() not in ("", "...")]
    best = np.zeros((len(wanted) + 1, len(lines) + 1))
    for i, k in enumerate(wanted, 1):
        for j, line in enumerate(told, 1):
            like = 2.0 if tell(expected[k]) == line else difflib.SequenceMatcher(None, expected[k], line).ratio()
            best[i, j] = max(best[i - 1, j - 1] + like, best[i, j - 1], best[i - 1, j])
    result = list(expected)
    i, j = len(wanted), len(lines)
    while i and j:
        if best[i, j] == best[i, j - 1]:
            j -= 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            if tell(expected[wanted[i]]) != told[j]:
                result[wanted[i]] = lines[j].rstrip()
    return result


if __name__ == "__main__":
    main()
