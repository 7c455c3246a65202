"""Make the profile bundles that ship with the simulator; needs the extra ``aiconfigurator``.

    python scripts/ship_bundles.py

Every bundle says in its ``meta.yaml`` where each number comes from.
"""

from __future__ import annotations

from pathlib import Path

from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ProfileError
from llmservingsim.latency import (
    KernelDatabase,
    MeasuredKernels,
    bundle_name,
    system_of,
)
from llmservingsim.latency.freeze import write_bundle, write_collectives
from llmservingsim.model import ParallelLayout

SHIPPED = Path(__file__).parents[1] / "llmservingsim" / "profiles"
HARDWARE = ("A100", "H100", "H200", "B200", "RTXPRO6000")
MODELS = {
    "meta-llama/Llama-3.1-8B": (1, 2, 4),
    "meta-llama/Llama-3.1-70B": (1, 2, 4, 8, 16),
    "Qwen/Qwen3-32B": (1, 2, 4, 8),
    "Qwen/Qwen3-30B-A3B": (1, 2, 4),
}


def main() -> None:
    """Write all bundles; say what the database does not have."""
    for hardware in HARDWARE:
        accelerator = find_accelerator(hardware)
        database = KernelDatabase(system_of(accelerator.name))
        for model, degrees in MODELS.items():
            found = find_model(model)
            for tp in degrees:
                folder = SHIPPED / accelerator.name / bundle_name(found, tp)
                try:
                    kernels = MeasuredKernels(database, found, ParallelLayout(tp), whole_experts=True)
                    write_bundle(kernels.operators(), accelerator, folder)
                    print(folder.relative_to(SHIPPED))
                except ProfileError as error:
                    print(f"left out: {error}")
        write_collectives(database, SHIPPED / accelerator.name / "collectives.csv")


if __name__ == "__main__":
    main()
