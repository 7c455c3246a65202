"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from llmservingsim.units import format_size

_LATENCIES = (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2E", "e2e"), ("queueing", "queueing"))
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print latencies, throughput and notes of a run."""
    console = Console()
    console.print(_latency_table(summary))
    console.print(_totals_table(summary))
    for sentence in summary["limits"]["verdict"]:
        _print_line(console, sentence)
    for word, key in (("rejected", "rejections"), ("aborted", "aborts")):
        for entry in summary["requests"][key]:
            ids = ", ".join(map(str, entry["request_ids"]))
            more = ", ..." if entry["count"] > len(entry["request_ids"]) else ""
            _print_line(console, f"{word} {entry['count']}: {entry['reason']} (requests {ids}{more})")
    for instance in summary["instances"]:
        beyond = instance["latency"].get("extrapolated_shapes")
        if beyond:
            shapes = ", ".join(f"{operator} {count}" for operator, count in beyond.items())
            _print_line(console, f"instance {instance['index']}: shapes beyond the measured grid: {shapes}")
        if instance["latency"].get("source") == "calibrated":
            others = ", ".join(instance["latency"]["fitted_to"])
            told = f"latencies are not measured, but a roofline fitted to bundles of {others}"
            _print_line(console, f"instance {instance['index']}: {told}")
    for note in summary["provenance"]["notes"]:
        _print_line(console, f"note: {note}")


def _print_line(console: Console, text: str) -> None:
    """Print a text as it is; a pipe has no width to wrap it at."""
    console.print(text, markup=False, soft_wrap=not console.is_terminal)


def _latency_table(summary: Mapping[str, Any]) -> Table:
    table = Table(title="Latency in ms", title_justify="left")
    table.add_column("")
    for statistic in _STATISTICS:
        table.add_column(statistic, justify="right")
    for label, key in _LATENCIES:
        values = summary["latency_ms"][key]
        cells = [f"{values[s]:,.2f}" for s in _STATISTICS] if values else ["-"] * len(_STATISTICS)
        table.add_row(label, *cells)
    return table


def _drafts(told: Mapping[str, Any]) -> str:
    """What speculative decoding brought."""
    if not told["num_drafts"]:
        return "none verified"
    return (
        f"{100 * told['acceptance_rate']:.1f} % accepted, {told['mean_acceptance_length']:.2f} tokens per verification"
    )


def _prefix_cache(tiers: Mapping[str, Any]) -> str:
    """What was found on the device, and below it."""
    lower = [f", {found['hit_pct']:.1f} % in {tier}" for tier, found in tiers.items() if tier not in ("npu", "swap")]
    return f"{tiers['npu']['hit_pct']:.1f} % of looked-up tokens hit" + "".join(lower)


def _attainment(goodput: Mapping[str, Any]) -> str:
    """How often each limit was kept, and whether those over all requests were."""
    kept = [f"{key} {of['attainment_pct']:.1f} %" for key, of in goodput["limits"].items()]
    over_all = [
        f"{of['statistic']} {'-' if of['value_ms'] is None else format(of['value_ms'], ',.2f')} ms "
        f"{'within' if of['is_kept'] else 'above'} {of['limit']}"
        for of in goodput["percentiles"]
    ]
    return ", ".join([*kept, *over_all]) or "no limits"


def _energy(energy: Mapping[str, Any]) -> str:
    """What was spent, on average and per token; and of what nobody said what it draws."""
    told = f"{energy['total'] / 1000:,.2f} kJ"
    if energy["mean_power_w"] is not None:
        told += f", {energy['mean_power_w']:,.1f} W on average"
    if energy["per_output_token"] is not None:
        told += f", {energy['per_output_token']:,.3f} J per output token"
    if energy["carbon_g"] is not None:
        told += f", {energy['carbon_g']['total']:,.1f} gCO2e"
    unknown = sorted({part for parts in energy["absent"].values() for part in parts})
    return told + (f"; without {', '.join(unknown)}" if unknown else "")


def _cost(cost: Mapping[str, Any]) -> str:
    """What the run cost, and what a million tokens of answers did."""
    unit = cost["currency"]
    texts = [f"{cost['total']:,.4g} {unit}"]
    for key, of in (("per_million_output_tokens", "million output tokens"), ("per_good_request", "good request")):
        if cost[key] is not None:
            texts.append(f"{cost[key]:,.4g} {unit} per {of}")
    return ", ".join(texts)


def _totals_table(summary: Mapping[str, Any]) -> Table:
    requests, throughput = summary["requests"], summary["throughput"]
    table = Table.grid(padding=(0, 2))
    aborted = f", {requests['aborted']:,} aborted" if requests["aborted"] else ""
    table.add_row("requests", f"{requests['finished']:,} finished, {requests['rejected']:,} rejected{aborted}")
    table.add_row(
        "throughput",
        f"{throughput['output_tokens_per_s']:,.1f} output tok/s, "
        f"{throughput['prompt_tokens_per_s']:,.1f} prompt tok/s, {throughput['requests_per_s']:,.2f} requests/s",
    )
    if summary["goodput"] is not None:
        goodput = summary["goodput"]
        table.add_row(
            "goodput", f"{goodput['requests_per_s']:,.2f} requests/s, {goodput['attainment_pct']:.1f} % within SLO"
        )
        table.add_row("attainment", _attainment(goodput))
    for pool in summary.get("autoscaling", {}).get("pools", ()):
        active = f"{pool['mean_active']:.2f} of {pool['instances']} instances active on average"
        table.add_row("autoscaling", f"{active}, {pool['max_active']} at most")
    for instance in summary["instances"]:
        kv = instance["kv_cache"]
        blocks = f"{kv['num_gpu_blocks']:,} blocks of {format_size(kv['block_bytes'])}"
        table.add_row(
            f"instance {instance['index']}", f"{instance['latency'].get('source', 'own')} latencies, {blocks}"
        )
        if shares := instance["time_shares"]:
            told = ", ".join(f"{100 * share:.0f} % {grade}" for grade, share in shares.items() if share >= 0.005)
            table.add_row("", told)
    if "speculative_decoding" in summary:
        table.add_row("drafts", _drafts(summary["speculative_decoding"]))
    table.add_row("prefix cache", f"{_prefix_cache(summary['prefix_cache'])}, {summary['preemptions']:,} preemptions")
    if summary["energy_j"] is not None:
        table.add_row("energy", _energy(summary["energy_j"]))
    if "cost" in summary:
        table.add_row("cost", _cost(summary["cost"]))
    table.add_row(
        "time",
        f"{summary['simulated_s']:,.2f} s simulated in {summary['wall_s']:.2f} s, {summary['iterations']:,} iterations",
    )
    return table
