"""The ``power`` section of a node in cluster files of LLMServingSim 2.0.

Its documentation gives ``standby_duration`` in nanoseconds, but the program counts seconds, and its files mean seconds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from llmservingsim.config.power_spec import (
    AcceleratorPowerSpec,
    CpuPowerSpec,
    DramPowerSpec,
    LinkPowerSpec,
    NicPowerSpec,
    NodePowerSpec,
    StoragePowerSpec,
)

Amount = Annotated[float, Meta(ge=0, le=1e12)]
Number = Annotated[int, Meta(ge=0, le=2**16)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the section's parts."""


class _Npu(_Strict, frozen=True, kw_only=True):
    idle_power: Amount
    standby_power: Amount
    active_power: Amount
    standby_duration: Amount = 0


class _Cpu(_Strict, frozen=True, kw_only=True):
    idle_power: Amount
    active_power: Amount
    util: Annotated[float, Meta(ge=0, le=1)] = 0


class _Dram(_Strict, frozen=True, kw_only=True):
    dimm_size: Annotated[float, Meta(gt=0, le=1e12)]
    idle_power: Amount
    energy_per_bit: Amount = 0


class _Link(_Strict, frozen=True, kw_only=True):
    num_links: Number = 1
    idle_power: Amount
    energy_per_bit: Amount = 0


class _Nic(_Strict, frozen=True, kw_only=True):
    num_nics: Number = 1
    idle_power: Amount


class _Storage(_Strict, frozen=True, kw_only=True):
    num_devices: Number = 1
    idle_power: Amount


class PeerPower(_Strict, frozen=True, kw_only=True):
    """The section as it stands there; W, GB (2^30 bytes), pJ, seconds."""

    base_node_power: Amount | None = None
    npu: dict[str, _Npu] = {}
    cpu: _Cpu | None = None
    dram: _Dram | None = None
    link: _Link | None = None
    nic: _Nic | None = None
    storage: _Storage | None = None


def import_power(peer: PeerPower) -> NodePowerSpec:
    """Turn the section into ours."""
    cpu, dram, link, nic, storage = peer.cpu, peer.dram, peer.link, peer.nic, peer.storage
    return NodePowerSpec(
        base=_watts(peer.base_node_power) if peer.base_node_power is not None else None,
        accelerators={name: _accelerator(npu) for name, npu in peer.npu.items()},
        cpu=CpuPowerSpec(idle=_watts(cpu.idle_power), active=_watts(cpu.active_power), utilisation=cpu.util)
        if cpu
        else None,
        dram=DramPowerSpec(
            idle=_watts(dram.idle_power), dimm_size=f"{dram.dimm_size}GiB", energy_per_bit=_per_bit(dram.energy_per_bit)
        )
        if dram
        else None,
        link=LinkPowerSpec(
            idle=_watts(link.idle_power), count=link.num_links, energy_per_bit=_per_bit(link.energy_per_bit)
        )
        if link
        else None,
        nic=NicPowerSpec(idle=_watts(nic.idle_power), count=nic.num_nics) if nic else None,
        storage=StoragePowerSpec(idle=_watts(storage.idle_power), count=storage.num_devices) if storage else None,
    )


def _accelerator(npu: _Npu) -> AcceleratorPowerSpec:
    return AcceleratorPowerSpec(
        idle=_watts(npu.idle_power),
        standby=_watts(npu.standby_power),
        active=_watts(npu.active_power),
        standby_duration=f"{npu.standby_duration}s",
    )


def _watts(value: float) -> str:
    return f"{value}W"


def _per_bit(value: float) -> str:
    return f"{value}pJ/bit"
