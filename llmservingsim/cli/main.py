"""The command ``llmservingsim`` and how its errors reach the user."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from llmservingsim.cli import astra_group, catalog, config, profile, run, workload
from llmservingsim.errors import LLMServingSimError

app = typer.Typer(
    name="llmservingsim",
    help="Simulate LLM serving: what a cluster would do before anyone buys it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("catalog")(catalog.catalog)
app.add_typer(astra_group.app, name="astra")
app.add_typer(config.app, name="config")
app.add_typer(profile.app, name="profile")
app.add_typer(workload.app, name="workload")


def main() -> None:
    """Run the command line; an error raised on purpose becomes one message and an exit code.

    Modules in the working directory can be named as ``module:Class``, as with ``python -m``.
    """
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except LLMServingSimError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader, head for example, has gone
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a file that cannot be written, say; its name stands in the message
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
