"""Records become metrics, CSV and JSON; this room never prints."""

from llmservingsim.report.autoscaling import summarise_scaling
from llmservingsim.report.breakdown import Measured
from llmservingsim.report.energy import EnergyReport, summarise_energy
from llmservingsim.report.recorder import Recorder
from llmservingsim.report.records import RequestRecord, Sample
from llmservingsim.report.request_metrics import RequestDetails, RequestMetrics
from llmservingsim.report.request_table import RequestTable
from llmservingsim.report.result import SimulationResult
from llmservingsim.report.slo import Attainment, Slos
from llmservingsim.report.summary import Moved, Provenance, summarise
from llmservingsim.report.write import write_results

__all__ = [
    "Attainment",
    "EnergyReport",
    "Measured",
    "Moved",
    "Provenance",
    "Recorder",
    "RequestDetails",
    "RequestMetrics",
    "RequestRecord",
    "RequestTable",
    "Sample",
    "SimulationResult",
    "Slos",
    "summarise",
    "summarise_energy",
    "summarise_scaling",
    "write_results",
]
