"""Ways to spoil the files of ``llmservingsim astra``: their bytes, their values, the nodes and attributes of traces."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from llmservingsim.errors import TraceError
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra.records import frame, split

ALGORITHMS = ("ring", "direct", "halvingDoubling", "doubleBinaryTree", "oneRing", "direct2", "oneDirect", "direct99999")
TOPOLOGIES = ("Ring", "FullyConnected", "Switch")
ATTRIBUTES = [
    "comm_size",
    "comm_type",
    "comm_src",
    "comm_dst",
    "comm_tag",
    "comm_priority",
    "pg_name",
    "involved_dim",
    "num_ops",
    "tensor_size",
    "tensor_loc",
    "tensor_device",
    "tensor_channel",
    "is_cpu_op",
    "inputs",
    "outputs",
    "llmservingsim.duration_ns",
]
ARABIC_ONE = "\N{ARABIC-INDIC DIGIT ONE}"
WORDS = [*"012'/.", "", "7", "-1", "trace", "no\nsuch", "a\0b", "..", "\u00e9" * 300, ARABIC_ONE, "9" * 5000, "x:y"]
POWERS = (2**24, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64)
NUMBERS = [*range(-1, 6), -(2**63), *POWERS, 2**24 + 1, 2**31 - 1, 2**63 - 1]
HUGE = (10**30, 10**400, -(10**400))
FRACTIONS = (0.5, -0.5, 1e-300, 1e18, 1e300, 3.4e38)
CHUNKS_MOST = 64
"""More, where they are allowed, are work and no failure."""


def _bomb(first: str, then: str, levels: int) -> str:
    """Return a YAML list in which every entry holds eight times the one before; ``then`` says how."""
    rows = [f"&a0 {first}", *(f"&a{i} {then.format(', '.join([f'*a{i - 1}'] * 8))}" for i in range(1, levels))]
    return f"[{', '.join(rows)}]"


# What a value of a JSON or a YAML file can be that json.dumps does not write.
DEEP = "[" * 20_000
JSON_TEXTS = ["NaN", "1e999", "9" * 5000, "-0.0", '"\\ud800"', DEEP, '{"a": 1, "a": 2}', "nul", "/* */ 1"]
YAML_TEXTS = [
    ".nan",
    ".inf",
    "-.inf",
    "[1, .nan]",
    "2001-99-99",
    "2001-01-01",
    "!!timestamp x",
    "!!int ''",
    "!!float abc",
    "!!bool x",
    "!!binary x",
    "!!python/object:os.system x",
    "&a [*a]",
    "*nowhere",
    "{<<: 5}",
    "{[1]: 2}",
    "1:60:60",
    "!!set {1}",
    "!!omap [1]",
    "!!pairs [1]",
    *("? a", "{1.5: 2, null: 3}", "0x" + "f" * 5000, "9" * 5000, '"\\ud800"', "\t", DEEP),
    *(_bomb("[1]", "[{}]", 9), _bomb("{p: 1, q: 2}", "{{<<: [{}]}}", 12)),
]
GROUP_TEXTS = [
    *("junk", "[", "{}", "[{}]", "[1]", "null", "{[]: 1}", "{1: {}}", "'\\d'", "[['a']]", "b'x'", "(" * 100),
    *("9" * 5000, DEEP, "-" * 20_000 + "1", '{"pg_name": null}', '{"pg_name": ' + "9" * 5000 + "}"),
    *(
        f'[{{"pg_name": "1", "ranks": {ranks}}}]'
        for ranks in ("[0]", "[0, 1]", "[0, 0]", "[-1]", "3", f"[0, {10**20}]")
    ),
    '[\'{"pg_name": "1", "ranks": [1, 0]}\']',
    json.dumps([{"pg_name": str(i), "ranks": [0, i]} for i in range(1, 3000)]),
]


def spoil(files: dict[str, bytes], rng: random.Random) -> None:
    """Spoil one thing in one file."""
    name = rng.choice([*files, "system.json", "network.yml", "memory.json"])
    content = files.get(name)
    if content is None or rng.random() < 0.02:
        files.pop(name, None)
    elif rng.random() < 0.1:
        files[name] = spoil_bytes(content, rng)
    elif name.endswith(".et"):
        files[name] = _spoil_trace(content, rng)
    else:
        files[name] = _spoil_document(content, rng, YAML_TEXTS if name.endswith(".yml") else JSON_TEXTS)


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert, repeat, or replace bytes."""
    a, b = sorted(rng.randint(0, len(content)) for _ in range(2))
    junk = rng.randbytes(rng.randint(1, 12))
    return rng.choice(
        (
            content[:a],
            content[a:],
            content[:a] + content[b:],
            content[:a] + junk + content[a:],
            content[:a] + junk + content[a + len(junk) :],
            content[:b] + content[a:],
            content[:a] + b"\xff" * rng.randint(1, 11) + content[a:],
            junk,
            b"",
            b"\x1f\x8b" + content,
        )
    )


def _spoil_document(content: bytes, rng: random.Random, texts: Sequence[str]) -> bytes:
    """Put something unexpected at one place of a JSON or YAML file."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # spoilt before
        return spoil_bytes(content, rng)
    places = _places(document)
    if not places:
        return spoil_bytes(content, rng)
    holder, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(WORDS)] = holder[key]
    elif kind == 2:
        holder[key] = "@raw@"
        return json.dumps(document).replace('"@raw@"', rng.choice(texts)).encode(errors="surrogatepass")
    else:
        holder[key] = _junk(rng, holder[key])
        if key == "preferred-dataset-splits" and holder[key] in NUMBERS and 0 < holder[key] < 2**24:
            holder[key] = min(holder[key], CHUNKS_MOST)
    try:
        return json.dumps(document).encode()
    except ValueError:  # Python writes no number of more than 4300 digits
        return b"{}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys: Sequence[Any] = (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def _junk(rng: random.Random, value: Any) -> Any:
    return rng.choice(
        (
            rng.choice(NUMBERS),
            rng.choice((*HUGE, *FRACTIONS)),
            rng.choice(WORDS),
            rng.choice((None, True, False, [], {}, [[]], {"a": []})),
            [value],
            [value] * rng.choice((2, 33, 3000)),
            rng.choice((*ALGORITHMS, *TOPOLOGIES, "PER_NODE_MEMORY_EXPANSION", "package.module:Class")),
        )
    )


def _spoil_trace(content: bytes, rng: random.Random) -> bytes:
    """Change a trace of records, one node or one attribute, or the bytes of one record."""
    try:
        records = [payload(record) for record in split(content, Path("trace"))]
        nodes = [et.Node.FromString(record) for record in records[1:]]
    except (TraceError, DecodeError):  # spoilt before
        return spoil_bytes(content, rng)
    if not nodes:
        return spoil_bytes(content, rng)
    i = rng.randrange(len(nodes))
    change = rng.choice((_spoil_list, _spoil_node, _spoil_node, _spoil_attribute, _spoil_attribute, _spoil_wire))
    if change is _spoil_wire:
        wire = [node.SerializeToString(deterministic=True) for node in nodes]
        wire[i] = _spoil_wire(wire[i], rng)
        return b"".join(map(frame, [records[0], *wire]))
    if change is _spoil_list:
        _spoil_list(nodes, i, rng)
    else:
        change(nodes[i], nodes, rng)
    wire = [node.SerializeToString(deterministic=True) for node in nodes]
    return b"".join(map(frame, [records[0], *wire]))


def payload(record: bytes) -> bytes:
    """Return a record without its length."""
    at = 0
    while record[at] > 0x7F:
        at += 1
    return record[at + 1 :]


def _spoil_list(nodes: list[et.Node], i: int, rng: random.Random) -> None:
    copy = et.Node.FromString(nodes[i].SerializeToString())
    kind = rng.randrange(5)
    if kind == 0:
        del nodes[i]
    elif kind == 1:
        nodes.append(copy)
    elif kind == 2:
        rng.shuffle(nodes)
    elif kind == 3:
        copy.id = rng.choice((0, 2**31, 2**63, 2**64 - 1))
        nodes.append(copy)
    else:
        for k in range(300):
            nodes.append(et.Node(id=1000 + k, name=copy.name, type=copy.type, attr=copy.attr, data_deps=[copy.id]))


def _spoil_node(node: et.Node, nodes: Sequence[et.Node], rng: random.Random) -> None:
    numbers = [n for n in NUMBERS if 0 <= n < 2**64]
    ids = [other.id for other in nodes]
    changes: tuple[Callable[[], Any], ...] = (
        lambda: setattr(node, "id", rng.choice((*numbers, *ids))),
        lambda: setattr(node, "name", rng.choice(WORDS)),
        lambda: setattr(node, "type", rng.choice((*range(10), 99, -1, 2**31 - 1))),
        lambda: setattr(node, "duration_micros", rng.choice((*numbers, 2**63 // 1000, 10**15, 2**61))),
        lambda: node.data_deps.append(rng.choice((*numbers, *ids, node.id))),
        lambda: node.ctrl_deps.append(rng.choice((*numbers, *ids, node.id))),
        lambda: node.data_deps.extend([rng.choice(ids)] * 1000),
        lambda: _define_groups(node, rng),
        lambda: _define_groups(node, rng),
    )
    rng.choice(changes)()


def _define_groups(node: et.Node, rng: random.Random) -> None:
    node.type = et.METADATA
    node.inputs.values = rng.choice(GROUP_TEXTS)


def _spoil_attribute(node: et.Node, _: Sequence[et.Node], rng: random.Random) -> None:
    """Give an attribute of a known name a value of any type, or drop it."""
    known = [attribute.name for attribute in node.attr]
    name = rng.choice((*ATTRIBUTES, *known, *known, *known))
    if rng.random() < 0.7:
        kept = [attribute for attribute in node.attr if attribute.name != name]
        del node.attr[:]
        node.attr.extend(kept)
    if rng.random() < 0.05:
        return
    attribute = node.attr.add(name=name)
    number = rng.choice(NUMBERS)
    kind = rng.choice(("integer", "integer", "integer", "text", "float", "list", "none"))
    if kind == "integer" and number < 0:
        attribute.int64_val = number
    elif kind == "integer":
        attribute.uint64_val = number % 2**64
    elif kind == "text":
        attribute.string_val = rng.choice(WORDS)
    elif kind == "float":
        attribute.double_val = rng.choice((*FRACTIONS, float("nan"), float("inf")))
    elif kind == "list" and name in ("inputs", "outputs"):
        attribute.string_list.values.extend(
            rng.choices(("t", "100", "9" * 30, "9" * 5000, "²", *WORDS), k=rng.randint(0, 4))
        )
    elif kind == "list":
        attribute.bool_list.values.extend(rng.choices((True, False), k=rng.choice((0, 1, 2, 40, 5000))))


def _spoil_wire(payload: bytes, rng: random.Random) -> bytes:
    """Add a field of any number and wire type, or spoil the bytes of a record that keeps its length's promise."""
    if rng.random() < 0.5:
        return spoil_bytes(payload, rng)
    tag = bytes([rng.randrange(1, 12) << 3 | rng.randrange(8)])
    return (
        payload
        + tag
        + rng.choice((b"", b"\0", b"\x80" * 9 + b"\x01", b"\xff" * 9 + b"\x01", b"\xff" * 12, rng.randbytes(8)))
    )
