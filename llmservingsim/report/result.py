"""What a simulation returns to a program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmservingsim.report.records import RequestRecord, Sample
from llmservingsim.report.transfers import exposed_ms, stall_ms
from llmservingsim.report.write import write_results, write_transfers
from llmservingsim.transfer import TransferRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """A finished run.

    Attributes:
        requests: One record per request, by request id.
        timeseries: One sample per interval and scope.
        summary: What summary.json holds.
        transfers: One record per KV cache that crossed between instances, by request id.
    """

    requests: list[RequestRecord]
    timeseries: list[Sample]
    summary: dict[str, Any]
    transfers: list[TransferRecord] = field(default_factory=list)

    def write(self, directory: str | Path) -> list[Path]:
        """Write requests.csv, timeseries.csv, summary.json and, if KV crossed, kv_transfers.csv; return their paths."""
        written = write_results(Path(directory), self.requests, self.timeseries, self.summary)
        return [*written, write_transfers(Path(directory), self.transfers)] if self.transfers else written

    def requests_frame(self) -> pd.DataFrame:
        """Return the requests as a pandas DataFrame, with ttft_ms, tpot_ms and e2e_ms (needs pandas)."""
        import pandas as pd

        frame = pd.DataFrame(
            [msgspec.structs.asdict(r) for r in self.requests], columns=RequestRecord.__struct_fields__
        )
        for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
            frame[metric] = [getattr(r, metric) for r in self.requests]
        return frame

    def transfers_frame(self) -> pd.DataFrame:
        """Return the KV caches that crossed as a pandas DataFrame, with stall_ms and exposed_ms (needs pandas)."""
        import pandas as pd

        frame = pd.DataFrame(self.transfers, columns=TransferRecord._fields)
        frame["stall_ms"] = [stall_ms(r) for r in self.transfers]
        frame["exposed_ms"] = [exposed_ms(r) for r in self.transfers]
        return frame

    def timeseries_frame(self) -> pd.DataFrame:
        """Return the time series as a pandas DataFrame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame([msgspec.structs.asdict(s) for s in self.timeseries], columns=Sample.__struct_fields__)
