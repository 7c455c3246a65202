"""What a simulation returns to a program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmservingsim.report.records import RequestRecord, Sample
from llmservingsim.report.request_metrics import RequestDetails, RequestMetrics
from llmservingsim.report.transfers import exposed_ms, stall_ms
from llmservingsim.report.write import write_metrics, write_results, write_transfers
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
        details: Works out `request_metrics`.
    """

    requests: list[RequestRecord]
    timeseries: list[Sample]
    summary: dict[str, Any]
    transfers: list[TransferRecord] = field(default_factory=list)
    details: RequestDetails | None = None

    @property
    def request_metrics(self) -> list[RequestMetrics]:
        """Where the time of each request went, and its own inter-token times; by request id."""
        return self.details.rows() if self.details is not None else []

    def write(self, directory: str | Path) -> list[Path]:
        """Write the tables and summary.json, kv_transfers.csv if KV crossed; return their paths."""
        written = write_results(Path(directory), self.requests, self.timeseries, self.summary)
        if self.details is not None:
            written.append(write_metrics(Path(directory), self.details.columns))
        return [*written, write_transfers(Path(directory), self.transfers)] if self.transfers else written

    def requests_frame(self) -> pd.DataFrame:
        """Return the requests as a pandas DataFrame, with the columns of request_metrics.csv (needs pandas)."""
        import pandas as pd

        frame = pd.DataFrame(
            [msgspec.structs.asdict(r) for r in self.requests], columns=RequestRecord.__struct_fields__
        )
        measured = pd.DataFrame(self.details.columns if self.details is not None else {})
        return pd.concat([frame, measured[[key for key in measured if key not in frame]]], axis=1)

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
