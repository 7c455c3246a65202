"""Run files: what is read, what is refused, and how overrides reach a leaf."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmservingsim.config import NetworkSpec, RunSpec, apply_overrides, json_schema, load_run
from llmservingsim.errors import ConfigError

DATA: dict[str, Any] = {"nodes": [{"instances": [{"model": "m", "hardware": "H100"}]}], "seed": 3}
YAML = "nodes:\n  - instances:\n      - {model: m, hardware: H100}\nseed: 3\n"
TOML = 'seed = 3\n[[nodes]]\n[[nodes.instances]]\nmodel = "m"\nhardware = "H100"\n'


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def message(tmp_path: Path, text: str, name: str = "run.yaml") -> str:
    """What loading the file raises, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load_run(write(tmp_path, text, name))
    return str(caught.value).replace(f"{tmp_path}/", "")


def overridden(*overrides: str) -> RunSpec:
    return apply_overrides(msgspec.convert(DATA, RunSpec), overrides)


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        overridden(*overrides)
    return str(caught.value)


def test_yaml_toml_and_json_say_the_same(tmp_path: Path) -> None:
    files = {"a.yaml": YAML, "a.yml": YAML, "a.toml": TOML, "a.json": json.dumps(DATA)}
    specs = [load_run(write(tmp_path, text, name)) for name, text in files.items()]
    assert specs == [(msgspec.convert(DATA, RunSpec), [])] * 4
    assert specs[0][0].seed == 3


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    for text, name in ((YAML, "a.yaml"), (TOML, "a.toml"), (json.dumps(DATA), "a.json")):
        assert load_run(write(tmp_path, "\ufeff" + text, name))[0] == msgspec.convert(DATA, RunSpec)


def test_yaml_sections_may_be_shared_and_merged(tmp_path: Path) -> None:
    """An alias stands for one section in two places and a key beside ``<<`` overrides the merged one: no duplicates."""
    text = """
nodes:
  - instances:
      - &one {model: meta-llama/Llama-3.1-8B, hardware: H100}
      - &two {<<: *one, hardware: A100}
      - {<<: *two, hardware: H200}
      - *one
"""
    instances = load_run(write(tmp_path, text))[0].nodes[0].instances
    assert [i.hardware for i in instances] == ["H100", "A100", "H200", "H100"]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("nodes: [\n  - a: {", "run.yaml", "run.yaml: line 2, column 3: broken YAML: expected the node content"),
        ("nodes: \x00", "run.yaml", "run.yaml: broken YAML: unacceptable character"),
        ('{"nodes": [}', "run.json", "run.json: Expecting value: line 1 column 12"),
        ("nodes = [\n", "run.toml", "run.toml: Invalid value (at end of document)"),
        (YAML, "run.ini", "run.ini: expected a file that ends in .json, .toml, .yaml, .yml"),
        ("", "run.yaml", "run.yaml: expected keys and their values, 'nodes' among them, got None"),
        ("[1, 2]", "run.json", "run.json: expected keys and their values, 'nodes' among them, got [1, 2]"),
        ("seed: 1\nseed: 2", "run.yaml", "line 2, column 1: broken YAML: the key 'seed' stands twice in one section"),
        ('{"seed": 1, "seed": 2}', "run.json", "run.json: the key 'seed' stands twice in one section"),
        ("[" * 100_000, "run.json", "run.json: is nested too deeply"),
        ("[" * 5_000, "run.yaml", "run.yaml: is nested too deeply"),
        ("seed: 1", "run.yaml", "run.yaml: the section lacks the key 'nodes'"),
        ("nodes: []", "run.yaml", "run.yaml: nodes: expected array of length >= 1, got []"),
        (YAML + "sed: 1\n", "run.yaml", "run.yaml: unknown key 'sed' in a section (did you mean 'seed'?)"),
        (
            YAML + "serving: {max_num_seq: 1}\n",
            "run.yaml",
            "serving: unknown key 'max_num_seq' in a section (did you mean",
        ),
        (YAML + "serving: {max_num_seqs: 0}\n", "run.yaml", "serving.max_num_seqs: expected int >= 1, got 0"),
        (YAML.replace("H100", "H100, tp: 2"), "run.yaml", "nodes[0].instances[0]: unknown key 'tp'"),
        (YAML + "network: {bandwidth: 900GBps}\n", "run.yaml", "network: bandwidth: 'GBps' is no unit of bandwidth"),
        (YAML + "network: {bandwidth: 0GB/s}\n", "run.yaml", "network: bandwidth: expected more than 0, got '0GB/s'"),
        (YAML + "network: {latency: 5}\n", "run.yaml", "network.latency: expected str | array | null, got 5"),
        (
            YAML + "timeseries_interval: 2 parsecs\n",
            "run.yaml",
            "run.yaml: timeseries_interval: 'parsecs' is no unit of time",
        ),
        (YAML + "timeseries_interval: 0s\n", "run.yaml", "timeseries_interval: expected more than 0, got '0s'"),
        (YAML + "slo: {ttft: 500ps}\n", "run.yaml", "slo: ttft: 'ps' is no unit of time (did you mean"),
        (YAML.replace("H100", "H100, memory_size: 24"), "run.yaml", "memory_size: expected str | null, got 24"),
        (
            YAML.replace("H100", "H100, memory_size: 24Gb"),
            "run.yaml",
            "instances[0]: memory_size: 'Gb' is no unit of size",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_the_way_out(
    tmp_path: Path, text: str, name: str, said: str
) -> None:
    found = message(tmp_path, text, name)
    assert name in found
    assert said in found
    assert "\n" not in found


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"nodes: \xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.yaml: 'utf-8' codec can't decode byte 0xff"):
        load_run(path)


def test_a_missing_file_names_its_neighbour_and_a_folder_is_no_file(tmp_path: Path) -> None:
    write(tmp_path, YAML, "cluster.yaml")
    with pytest.raises(ConfigError, match=r"clustr\.yaml: no such file \(did you mean 'cluster\.yaml'\?\)"):
        load_run(tmp_path / "clustr.yaml")
    with pytest.raises(ConfigError, match="is a directory; expected a run file"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file$"):
        load_run(tmp_path / "no" / "run.yaml")


def test_an_override_sets_a_leaf_of_any_section() -> None:
    spec = overridden(
        "serving.max_num_seqs=64",
        "serving.latency.source=roofline",
        "nodes.0.instances.0.hardware=H200",
        "nodes.0.cpu_memory.size=64GiB",
        "nodes.0.cpu_memory.bandwidth=50GB/s",
        "slo.ttft=500ms",
        "timeseries_interval=2s",
        "network.topology=Ring",
        'router="least_loaded"',
    )
    instance = spec.nodes[0].instances[0]
    assert (spec.serving.max_num_seqs, instance.hardware, spec.timeseries_interval) == (64, "H200", "2s")
    assert spec.serving.latency is not None
    assert spec.serving.latency.source == "roofline"
    assert spec.nodes[0].cpu_memory is not None
    assert spec.nodes[0].cpu_memory.size == "64GiB"
    assert spec.slo is not None
    assert spec.slo.ttft == "500ms"
    assert (spec.network.topology, spec.router, spec.seed) == ("Ring", "least_loaded", 3)


def test_an_entry_by_name_is_added_or_changed() -> None:
    spec = overridden("power.node.accelerators.H100.idle=50W", "nodes.0.power.accelerators.H100.idle=60W")
    assert spec.power is not None
    assert spec.power.node is not None
    assert spec.power.node.accelerators["H100"].idle == "50W"
    again = apply_overrides(spec, ["power.node.accelerators.H100.active=600W", "power.node.accelerators.A100.idle=9W"])
    assert again.power is not None
    assert again.power.node is not None
    entries = again.power.node.accelerators
    assert (entries["H100"].idle, entries["H100"].active, entries["A100"].idle) == ("50W", "600W", "9W")


def test_the_last_of_two_overrides_of_a_leaf_wins() -> None:
    assert overridden("seed=4", "seed=5").seed == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("sed=1", "the run has no key 'sed' (did you mean 'seed'?); expected admission, "),
        ("serving.max_num_seq=1", "serving has no key 'max_num_seq' (did you mean 'max_num_seqs'?)"),
        ("serving.max_num_seqs=many", "serving.max_num_seqs: expected int | null, got 'many'"),
        ("serving.max_num_seqs.x=1", "serving.max_num_seqs: expected int | null, got {'x': 1}"),
        ("seed.x=1", "seed is a value, it has no key 'x'"),
        ("nodes.1.instances=1", "nodes has the entries 0 to 0, got '1'"),
        ("nodes.².instances=1", "nodes has the entries 0 to 0, got '²'"),
        ("nodes.first.instances=1", "nodes has the entries 0 to 0, got 'first'"),
        ("nodes.0.instances.0.hardwar=H200", "nodes.0.instances.0 has no key 'hardwar' (did you mean 'hardware'?)"),
        ("serving.latency.sorce=x", "serving.latency: unknown key 'sorce' in a section (did you mean 'source'?)"),
        ("nodes.0.power.accelerators.H100.idl=1W", "nodes[0].power.accelerators[...]: unknown key 'idl'"),
        ("slo.ttf=1ms", "slo: unknown key 'ttf' in a section (did you mean 'ttft'?)"),
        ("network.bandwidth=900GBps", "network: bandwidth: 'GBps' is no unit of bandwidth (did you mean 'GB/s'?)"),
    ],
)
def test_a_wrong_override_is_refused_with_its_own_words(override: str, said: str) -> None:
    found = refusal(override)
    assert found.startswith(f"--set {override}: ")
    assert said in found


def test_a_spec_made_by_a_program_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="bandwidth: 'GBps' is no unit"):
        NetworkSpec(bandwidth="900GBps")


def test_the_schema_knows_every_key_and_refuses_others() -> None:
    sections = json_schema()["$defs"]
    assert set(sections["RunSpec"]["properties"]) == set(RunSpec.__struct_fields__)
    assert all(section["additionalProperties"] is False for section in sections.values())
