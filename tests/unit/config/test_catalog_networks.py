"""The catalogue of networks: every value has a source, every entry builds, names are forgiving."""

import pytest

from llmservingsim.backend.topologies import build_network, parse_topology
from llmservingsim.config.catalog import NetworkEntry, catalogued_networks, find_accelerator, find_network
from llmservingsim.errors import ConfigError
from llmservingsim.units import parse_bandwidth

ENTRIES = pytest.mark.parametrize("entry", catalogued_networks().values(), ids=lambda entry: entry.name)


@ENTRIES
def test_every_value_of_an_entry_has_a_source(entry: NetworkEntry) -> None:
    assert set(entry.values()) == set(entry.source)
    assert all(entry.source.values())


@ENTRIES
def test_every_entry_builds(entry: NetworkEntry) -> None:
    assert build_network(parse_topology(entry.topology, entry.name)).npus > 1


@pytest.mark.parametrize(
    ("name", "accelerator"), [("DGX-A100", "A100"), ("DGX-H100", "H100"), ("DGX-H200", "H200"), ("DGX-B200", "B200")]
)
def test_a_node_has_the_links_of_its_accelerator(name: str, accelerator: str) -> None:
    topology, device = find_network(name).topology, find_accelerator(accelerator)
    assert parse_bandwidth(topology["bandwidth"]) == device.link_bandwidth
    assert topology["efficiency"] == device.efficiency.link


def test_a_mesh_of_mi300x_has_the_links_of_its_accelerator() -> None:
    """Seven links of 64 GB/s are 448."""
    assert (
        7 * parse_bandwidth(find_network("MI300X-8").topology["bandwidth"]) == find_accelerator("MI300X").link_bandwidth
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("dgx h100", "DGX-H100"), ("HGX_H200", "DGX-H100"), ("tpu v4 4x4x4", "TPU-v4-4x4x4")]
)
def test_aliases_spaces_and_case_lead_to_the_same_entry(name: str, expected: str) -> None:
    assert find_network(name).name == expected


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"network 'DGX-H101' is not in the catalogue \(did you mean 'DGX-H100'\?\)"):
        find_network("DGX-H101")
