"""Print how well attention predicts points that it has not seen, for every bundle below a directory.

Run: ``python benchmarks/attention_left_out.py [DIRECTORY]``, by default ``../shared/data/profiles``. The goal is a mean
of at most 2.5 % with each point left out, and of 3 % for uneven batches with a context length held out.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency import BundleSource
from llmservingsim.latency.bundle import read_attention
from llmservingsim.latency.points_left_out import decode_errors, mixed_errors, uneven_errors
from llmservingsim.latency.uneven import read_uneven

PROFILES = Path(__file__).parents[2] / "shared" / "data" / "profiles"
Floats = NDArray[np.float64]


def told(errors: Floats) -> str:
    """Mean and 95th percentile of the sizes of errors, in percent."""
    sizes = 100 * np.abs(errors)
    return f"{sizes.mean():5.2f} p95 {np.quantile(sizes, 0.95):5.1f}"


def print_bundle(folder: Path) -> None:
    """Print what attention.csv and skew.csv say of one bundle."""
    rows = read_attention(folder)
    decodes, mixed = decode_errors(rows[rows[:, 0] == 0][:, 2:]), mixed_errors(rows[rows[:, 0] > 0])
    together = np.concatenate([decodes, mixed])
    for name, errors in (("decodes", decodes), ("mixed", mixed), ("together", together)):
        print(f"  {name:18s} {told(errors[:, 0])}   multilinear {told(errors[:, 1])}")
    if not (folder / "skew.csv").is_file():
        return
    even = BundleSource(folder, skew="off").even_attention_us
    uneven = read_uneven(folder / "skew.csv")
    for name, kind in (("uneven decodes", uneven[:, 0] == 0), ("uneven mixed", uneven[:, 0] > 0)):
        errors = uneven_errors(uneven[kind], even)
        *inner, longest = errors.values()
        print(f"  {name:18s} {told(np.concatenate([*inner, longest]))}   but the longest {told(np.concatenate(inner))}")


def main(arguments: list[str]) -> int:
    """Print every bundle; return the exit code."""
    directory = Path(arguments[0]) if arguments else PROFILES
    folders = sorted(path.parent for path in directory.rglob("skew.csv"))
    if not folders:
        print(f"{directory}: there is no bundle with a skew.csv")
        return 2
    for folder in folders:
        print(f"{folder.relative_to(directory)}: mean error in percent")
        print_bundle(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
