"""The section ``cost`` of the run file: prices."""

from __future__ import annotations

import msgspec

from llmservingsim.config.quantities import QuantityError, Share

Prices = float | dict[str, float]
"""One for every device, or one per accelerator as ``hardware`` names it."""


class RentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that are paid by the hour. `docs/concepts/cost.md` has the formulas.

    Attributes:
        device_per_hour: Of a device, or per accelerator; by default that of its catalogue entry.
        node_per_hour: Of a node beside its devices: host, memory, drives.
    """

    device_per_hour: Prices | None = None
    node_per_hour: float = 0.0

    def __post_init__(self) -> None:
        _check_prices(self, "device_per_hour", "node_per_hour")


class OwnSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that were bought, and are paid off over the hours in which they are used.

    Attributes:
        device: Purchase price of a device, or per accelerator; by default that of its catalogue entry.
        node: Purchase price of a node beside its devices.
        amortisation_years: After which they are worth nothing.
        utilisation: Share of that time in which somebody uses them.
        hosting_per_node_hour: Space, cooling, network, staff, of each node and every hour.
    """

    device: Prices | None = None
    node: float = 0.0
    amortisation_years: float = 4.0
    utilisation: Share = 1.0
    hosting_per_node_hour: float = 0.0

    def __post_init__(self) -> None:
        _check_prices(self, "device", "node", "hosting_per_node_hour")
        if not self.amortisation_years > 0:
            raise QuantityError(f"amortisation_years: expected more than 0, got {self.amortisation_years:g}")


class CostSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the run costs. Devices are rented, at the catalogue's prices, unless the section says otherwise.

    Attributes:
        rent: Prices of devices that are rented.
        own: Prices of devices that were bought; not beside ``rent``.
        energy_per_kwh: Price of the energy that the run took, times ``power.pue``, where it is known; by default it
            is part of the rest.
        currency: A label. Prices of the catalogue are in USD.
    """

    rent: RentSpec | None = None
    own: OwnSpec | None = None
    energy_per_kwh: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        _check_prices(self, "energy_per_kwh")
        if self.rent is not None and self.own is not None:
            raise QuantityError("own: devices are rented or owned; expected 'rent' or 'own', got both")


def _check_prices(section: msgspec.Struct, *keys: str) -> None:
    for key in keys:
        stated = getattr(section, key)
        each = stated.items() if isinstance(stated, dict) else [(None, stated)]
        for name, price in each:
            if price is not None and not 0 <= price < float("inf"):
                place = key if name is None else f"{key}.{name}"
                raise QuantityError(f"{place}: expected a price of at least 0, got {price:g}")
