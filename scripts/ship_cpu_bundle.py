"""Measure the CPU bundle that ships with the simulator; needs the extra ``profiler`` and a machine of two calm cores.

    python scripts/ship_cpu_bundle.py [--budget 8m]

The journal stays in ``out/``, where a second run goes on with it; the tables are copied into the package.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "llmservingsim" / "profiles"
MEASURED = REPOSITORY / "out" / "cpu-bundle"
HARDWARE, MODEL = "CPU-2core", "HuggingFaceTB/SmolLM2-135M"
LIMITS = ("--max-num-seqs", "32", "--max-num-batched-tokens", "512", "--max-model-len", "2048")
MOST_BYTES = 200_000


def main() -> None:
    """Measure and copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="8m")
    options = parser.parse_args()
    command = ("profile", "run", MODEL, "--hardware", HARDWARE, "--threads", "2", "--budget", options.budget)
    subprocess.run([sys.executable, "-m", "llmservingsim", *command, "-o", str(MEASURED), *LIMITS], check=True)
    folder = next((MEASURED / HARDWARE / MODEL).glob("*/tp1"))
    target = SHIPPED / folder.relative_to(MEASURED)
    target.mkdir(parents=True, exist_ok=True)
    files = [path for path in folder.iterdir() if path.suffix in (".csv", ".yaml")]
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        sys.exit(f"{size} bytes are more than the {MOST_BYTES} that may ship")
    for path in files:
        shutil.copy(path, target)
        print((target / path.name).relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
