"""Matrix-vector products on one channel of a memory that computes.

A matrix of N rows (outputs) and K columns (inputs) lies in the banks of a channel, outputs spread over its units. All
units work in lock step on one command, as in HBM-PIM (Lee et al., ISCA 2021), GDDR6-AiM (Lee et al., ISSCC 2022) and
Newton (He et al., MICRO 2020), from which the phases are taken:

- *Read.* A unit needs ``A = outputs per unit * ceil(K * bytes / access bytes)`` column accesses. One takes as long as
  the bank or the MACs need for m input vectors, the longer of both::

      t(m) = max(ceil(m / vectors_per_read) * interval, m * values per access / (MACs * clock))

- *Rows.* Units beside banks wait while all banks close their row and open the next one. That is once per
  ``S = banks_per_unit * page / access`` accesses and takes, with ``a`` banks opened at once,
  ``stagger + tRP + max(tRCD, tRAS - S t(1))``, ``stagger = (ceil(banks / a) - 1) * tFAW``. A unit in the controller
  reads from other banks meanwhile. An access then takes ``max(t, period / S)``, where ``period`` is
  ``max(tRCD + page t / access + tRP, tRAS + tRP, ceil(banks / a) * tFAW)``, and only the first row is waited for.
  All vectors that the buffer holds use an open row; for the next ones, rows are opened again.
- *Operands.* Inputs are broadcast and results read out over the channel's bus, which a unit in the controller does not
  need. Where the inputs exceed the buffer, or the outputs the accumulators, either partial results are read out for
  each filling of the buffer, or inputs are sent again for each filling of the accumulators, whichever is less.
- *Refresh* stops all banks for tRFC every tREFI: everything takes ``1 / (1 - tRFC / tREFI)`` times as long.

Timings have JEDEC's meaning (JESD79-4, JESD209-5, JESD235, JESD250).
"""

from __future__ import annotations

from typing import NamedTuple

from llmservingsim.config.catalog import PimSpec
from llmservingsim.units import NS_PER_S


class Operands(NamedTuple):
    """Bytes over a channel's bus."""

    broadcast: float
    read_out: float


class Channel:
    """Times the phases of matrix-vector products; times are nanoseconds as fractions, refresh not included."""

    def __init__(self, spec: PimSpec) -> None:
        self.spec = spec
        tck = spec.tck_ns
        activations = -(-spec.banks // spec.banks_per_activate)
        self._stagger_ns = (activations - 1) * spec.tfaw * tck
        self._least_period_ns = max((spec.tras + spec.trp) * tck, activations * spec.tfaw * tck)
        self._close_and_open_ns = (spec.trcd + spec.trp) * tck
        self.accesses_per_row = spec.page_bytes // spec.access_bytes
        self.bus_ns_per_byte = 0.0 if self.in_controller else NS_PER_S / spec.channel_bandwidth
        self.refresh = 1 / (1 - spec.trfc / spec.trefi)

    @property
    def in_controller(self) -> bool:
        """Whether the units see the bus, and not the banks."""
        return self.spec.unit_place == "controller"

    @property
    def accesses_per_round(self) -> int:
        """Column accesses that a unit does before its banks need other rows."""
        return self.spec.banks_per_unit * self.accesses_per_row

    def access_ns(self, vectors: int, element_bytes: float) -> float:
        """Return the time of a column access whose data are multiplied with so many vectors."""
        spec = self.spec
        reads_ns = -(-vectors // spec.vectors_per_read) * spec.access_interval_ns
        macs = vectors * spec.access_bytes / element_bytes
        time_ns = max(reads_ns, macs / (spec.macs_per_unit * spec.unit_clock) * NS_PER_S)
        if not self.in_controller:
            return time_ns
        row_ns = self._close_and_open_ns + self.accesses_per_row * time_ns
        return max(time_ns, max(row_ns, self._least_period_ns) / self.accesses_per_round)

    def open_ns(self, element_bytes: float) -> float:
        """Return how long units wait whenever their banks change rows; in the controller only for the first row."""
        spec = self.spec
        if self.in_controller:
            return self._close_and_open_ns
        shortest_ns = self.accesses_per_round * self.access_ns(1, element_bytes)
        return (
            self._stagger_ns
            + spec.trp * spec.tck_ns
            + max(spec.trcd * spec.tck_ns, spec.tras * spec.tck_ns - shortest_ns)
        )

    def turnaround_ns(self) -> float:
        """Return what the bus waits until inputs are in and results are out: CWL and CL."""
        return 0.0 if self.in_controller else (self.spec.cwl + self.spec.cl) * self.spec.tck_ns

    def operand_ns(self, operands: Operands) -> float:
        """Return how long operands occupy the bus."""
        return (operands.broadcast + operands.read_out) * self.bus_ns_per_byte

    def operands(self, input_bytes: int, output_bytes: int, outputs_per_unit: int, vectors: int) -> Operands:
        """Return what a product of a matrix and ``vectors`` vectors moves over the bus.

        Args:
            input_bytes: Of one vector, on this channel.
            output_bytes: Of its result, on this channel.
            outputs_per_unit: Results of one vector in one unit.
            vectors: How many.
        """
        held = min(vectors, self.spec.vectors_per_read)
        fillings = -(-input_bytes * held // self.spec.buffer_bytes)
        tiles = -(-outputs_per_unit * held // self.spec.accumulators)
        partial = Operands(vectors * input_bytes, vectors * output_bytes * fillings)
        again = Operands(vectors * input_bytes * tiles, vectors * output_bytes)
        return min(partial, again, key=sum)
