"""Records become metrics, CSV and JSON; this room never prints."""

from llmservingsim.report.recorder import Recorder
from llmservingsim.report.records import RequestRecord, Sample
from llmservingsim.report.result import SimulationResult
from llmservingsim.report.summary import Moved, Provenance, summarise
from llmservingsim.report.write import write_results

__all__ = [
    "Moved",
    "Provenance",
    "Recorder",
    "RequestRecord",
    "Sample",
    "SimulationResult",
    "summarise",
    "write_results",
]
