"""The time series: rates over each interval, states at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from llmservingsim.errors import ConfigError
from llmservingsim.instance import Instance
from llmservingsim.report.records import Sample
from llmservingsim.units import NS_PER_S, format_time

_ROWS_MAX = 10_000_000


class _Totals(NamedTuple):
    """Sums over the instances of a scope."""

    prompt: int
    generated: int
    running: int
    waiting: int
    used_bytes: int
    total_bytes: int
    queried: int
    hit: int


class _Held(NamedTuple):
    """What a scope has in memories beside those of the devices; None where that does not apply."""

    cpu_bytes: int | None = None
    cxl_bytes: int | None = None


class HeldMemory(Protocol):
    """Knows what lies in the memories beside those of the devices."""

    def held_bytes(self, tier: Literal["cpu", "cxl"], node: int | None = None) -> int | None:
        """Return what is there now, of one node or of all; None if nobody uses that memory."""
        ...


class Sampler:
    """Samples every instance, node and the cluster once per interval.

    An interval is (start, end]: what happens exactly at its end still belongs to it, so an interval is closed when
    the clock moves past its end.

    Args:
        instances: Of the system.
        interval_ns: Length of an interval.
        memories: Beside those of the devices.
    """

    def __init__(self, instances: Sequence[Instance], interval_ns: int, memories: HeldMemory | None = None) -> None:
        self.samples: list[Sample] = []
        self.generated_tokens = 0
        self.next_ns = interval_ns + 1
        self._interval_ns = interval_ns
        self._instances = instances
        self._memories = memories
        self._prompt = [0] * len(instances)
        self._generated = [0] * len(instances)

    def count(self, instance: int, prompt_tokens: int, generated_tokens: int) -> None:
        """Add the tokens of a batch that ended."""
        self._prompt[instance] += prompt_tokens
        self._generated[instance] += generated_tokens
        self.generated_tokens += generated_tokens

    def sample_until(self, now_ns: int) -> None:
        """Close every interval whose end lies before ``now_ns``.

        Raises:
            ConfigError: If these are more than any memory or reader could take.
        """
        rows = len(self.samples) + (now_ns - self.next_ns) // self._interval_ns * len(self._instances)
        if rows > _ROWS_MAX:
            raise ConfigError(
                f"timeseries_interval: at {format_time(now_ns)} of simulated time the time series would exceed "
                f"{_ROWS_MAX:,} rows; expected a longer interval, or a trace whose arrivals count from 0"
            )
        while self.next_ns <= now_ns:
            self._sample(self.next_ns - 1)
            self.next_ns += self._interval_ns

    def close(self, now_ns: int) -> None:
        """Close the last, perhaps shorter, interval; its rates are still per whole interval."""
        if now_ns > self.next_ns - 1 - self._interval_ns:
            self._sample(self.next_ns - 1)

    def _sample(self, end_ns: int) -> None:
        """Write a row per instance, node and cluster, and start the next interval."""
        rows = [self._totals(i) for i in self._instances]
        self._write(end_ns, "cluster", rows, self._held(None))
        for node in sorted({i.node for i in self._instances}):
            of_node = [row for i, row in zip(self._instances, rows, strict=True) if i.node == node]
            self._write(end_ns, f"node:{node}", of_node, self._held(node))
        for i, row in zip(self._instances, rows, strict=True):
            self._write(end_ns, f"instance:{i.index}", [row], _Held())
        self._prompt = [0] * len(self._instances)
        self._generated = [0] * len(self._instances)

    def _totals(self, instance: Instance) -> _Totals:
        engine = instance.engine
        devices = len(instance.ranks)
        used = 0 if instance.phase == "stopped" else instance.memory.used_bytes(engine.kv.pool.num_filled)
        return _Totals(
            prompt=self._prompt[instance.index],
            generated=self._generated[instance.index],
            running=engine.num_running,
            waiting=engine.num_waiting,
            used_bytes=devices * used,
            total_bytes=devices * instance.memory.total_bytes,
            queried=engine.kv.queried_tokens,
            hit=engine.kv.hit_tokens,
        )

    def _held(self, node: int | None) -> _Held:
        """Bytes in host memories and in the CXL pool, of a node or of all."""
        if self._memories is None:
            return _Held()
        return _Held(self._memories.held_bytes("cpu", node), self._memories.held_bytes("cxl", node))

    def _write(self, end_ns: int, scope: str, rows: Sequence[_Totals], held: _Held) -> None:
        total = _Totals(*(sum(column) for column in zip(*rows, strict=True)))
        seconds = self._interval_ns / NS_PER_S
        self.samples.append(
            Sample(
                time_s=end_ns / NS_PER_S,
                scope=scope,
                prompt_tokens_per_s=total.prompt / seconds,
                generation_tokens_per_s=total.generated / seconds,
                running=total.running,
                waiting=total.waiting,
                npu_memory_bytes=total.used_bytes,
                npu_memory_pct=round(100 * total.used_bytes / total.total_bytes, 3),
                cpu_memory_bytes=held.cpu_bytes,
                cxl_memory_bytes=held.cxl_bytes,
                prefix_hit_pct=round(100 * total.hit / total.queried, 3) if total.queried else None,
                power_w=None,
            )
        )
