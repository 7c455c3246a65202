"""Write the cycles of a model's matrix products on weight-stationary systolic arrays, as a latency table.

A product of M rows, inner size K and N columns takes on an array of R rows and C columns

    (2 R + C + M - 2) * ceil(K / R) * ceil(N / C)  cycles

because each tile of weights is loaded (R), and M rows stream through and drain (R + C + M - 2) before the next tile
follows. That is the analytical model of SCALE-Sim: Samajdar et al., "A Systematic Methodology for Characterizing
Scalability of DNN Accelerators using SCALE-Sim", ISPASS 2020. Tiles are spread evenly over several arrays. Memory
stalls are left out.

    python scripts/systolic_latency_table.py meta-llama/Llama-3.2-1B inputs/latency/systolic-128.csv
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec, find_model

TOKENS = (1, 16, 64, 128, 256, 512, 1024, 2048)
DECODES = tuple(product((1, 16, 64, 256), (128, 1024, 4096, 16384)))
CHUNKS = tuple(product((16, 128, 512, 2048), (0, 1024, 4096)))


class Arrays(NamedTuple):
    """So many arrays of so many rows and columns."""

    count: int
    rows: int
    columns: int

    def cycles(self, m: int, k: int, n: int, times: int = 1) -> int:
        """Return the cycles of ``times`` products of ``m x k`` by ``k x n``."""
        tiles = times * -(-k // self.rows) * -(-n // self.columns)
        return (2 * self.rows + self.columns + m - 2) * -(-tiles // self.count)


def rows(model: ModelSpec, arrays: Arrays) -> Iterator[tuple[str, int, int, int | str, int]]:
    """Yield (operator, tokens, sequences, kv, cycles)."""
    hidden, width, vocab = model.hidden_size, model.intermediate_size, model.vocab_size
    query, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    products = {"q": (hidden, query), "k": (hidden, kv), "v": (hidden, kv), "o": (query, hidden)}
    products |= {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden), "head": (hidden, vocab)}
    for name, (k, n) in products.items():
        for tokens in TOKENS:
            yield name, tokens, tokens, "", arrays.cycles(tokens, k, n)
    group = model.num_heads // model.num_kv_heads
    shapes = [(n, n, length) for n, length in DECODES] + [(q, 1, q + past) for q, past in CHUNKS]
    for tokens, sequences, length in shapes:
        queries, times = tokens // sequences * group, sequences * model.num_kv_heads
        yield "scores", tokens, sequences, length, arrays.cycles(queries, model.head_dim, length, times)
        yield "values", tokens, sequences, length, arrays.cycles(queries, length, model.head_dim, times)


def main() -> None:
    """Write the table that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--arrays", type=int, nargs=3, default=(8, 128, 128), metavar=("COUNT", "ROWS", "COLUMNS"))
    options = parser.parse_args()
    with options.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("Layer", "Tokens", "Sequences", "KV", "Cycles"))
        writer.writerows(rows(find_model(options.model), Arrays(*options.arrays)))


if __name__ == "__main__":
    main()
