"""``llmservingsim astra``: a group of which the command ``run`` may be left unsaid."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from llmservingsim.cli.astra import astra
from llmservingsim.cli.astra_compare import OTHER_OPTIONS, compare


class RunByDefault(TyperGroup):
    """Options behind the group's own name are those of its command ``run``, as in ``astra --congestion unaware``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` in front of options that belong to it."""
        if args and args[0].startswith("--") and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RunByDefault,
    no_args_is_help=True,
    help="Run Chakra traces as ASTRA-sim does, or compare with it. The word `run` may be left out.",
)
app.command("run")(astra)
app.command("compare", context_settings=OTHER_OPTIONS)(compare)
