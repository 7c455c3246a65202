"""``llmservingsim config``: show, check and describe run files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from llmservingsim.api import find_libraries, folder_of, load_spec
from llmservingsim.cli.run import Config, Hardware, Models, Overrides, Profiles
from llmservingsim.config import json_schema
from llmservingsim.resolve import resolve
from llmservingsim.units import format_size

app = typer.Typer(help="Show, check and describe run files.", no_args_is_help=True)


@app.command()
def show(config: Config, overrides: Overrides = []) -> None:
    """Print a run file as the simulator reads it: imported, overridden, defaults filled in."""
    spec, _ = load_spec(config, overrides)
    print(msgspec.json.format(msgspec.json.encode(spec), indent=2).decode())


@app.command()
def check(
    config: Config,
    overrides: Overrides = [],
    profiles: Profiles = [],
    models: Models = [],
    hardware: Hardware = [],
) -> None:
    """Look up everything that a run file names, and print what each instance would have."""
    spec, notes = load_spec(config, overrides)
    system = resolve(spec, find_libraries(profiles, models, hardware, folder_of(config)))
    for instance in system.instances:
        memory = instance.memory
        tokens = memory.num_blocks * instance.engine.config.block_size
        latency: Mapping[str, Any] = instance.builder.source.provenance()
        source = latency.get("source", "own")
        print(f"instance {instance.index}: {instance.model} on {len(instance.ranks)} device(s), {source} latencies")
        print(
            f"  KV cache: {memory.num_blocks:,} blocks, {tokens:,} tokens, {format_size(memory.block_bytes)} per block"
        )
        for label, key in (
            ("timed by the roofline", "roofline_operators"),
            ("rows without use", "unused_rows"),
            ("fitted to", "fitted_to"),
        ):
            if names := latency.get(key):
                print(f"  {label}: {', '.join(names)}")
        for label, size in memory.capacity.rows() if memory.capacity is not None else ():
            print(f"  {label:<32}{format_size(size):>14}")
    for claim in system.memories.claims:
        print(f"{system.memories.name(claim.place)}: {format_size(claim.num_bytes)} for {claim.what}")
    for note in notes:
        print(f"note: {note}")
    print(f"{config}: ok")


@app.command()
def schema(output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None) -> None:
    """Print the JSON schema of a run file."""
    text = msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
