"""Every file of a bundle in every kind of damage: one clear error that names the file, and the line if there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import older_bundle
import pytest
from synthetic_bundle import batch, decode_us, write_bundle, write_csv, write_skew

from llmservingsim.backend.measured import read_measured
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource, OlderBundleSource
from llmservingsim.latency.check import check_bundle
from llmservingsim.model import ParallelLayout

Open = Callable[[Path], object]
Damage = Callable[[bytes], bytes]


def cell(column: str, text: str) -> Damage:
    """Replace the cell of the third line in the first of the columns that the file has."""

    def damage(data: bytes) -> bytes:
        header, second, third, *rest = data.split(b"\n")
        place = next(header.split(b",").index(name) for name in COLUMNS[column] if name in header.split(b","))
        cells = third.split(b",")
        cells[place] = text.encode()
        return b"\n".join([header, second, b",".join(cells), *rest])

    return damage


COLUMNS = {
    "time": (b"time_us", b"t_skew_us", b"latency(ns)", b"time_stats.attn_decode.mean"),
    "size": (b"tokens", b"sequences", b"n_decode", b"n", b"prefill_chunk", b"input", b"kv_cache_size", b"size_bytes"),
}


def again(data: bytes) -> bytes:
    """Repeat the third line with another time."""
    return data + cell("time", "77")(data).split(b"\n")[2] + b"\n"


def without_end(data: bytes) -> bytes:
    """Cut in the middle of a number in the last line."""
    return data.rstrip(b"\n")[:-1]


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", ":1: "),
    "header only": (lambda data: data.split(b"\n")[0] + b"\n", ""),
    "wrong header": (lambda data: b"a,b,c\n" + data.partition(b"\n")[2], ":1: "),
    "no header": (lambda data: data.partition(b"\n")[2], ":1: "),
    "cut after a cell": (lambda data: data.rstrip(b"\n").rpartition(b",")[0] + b"\n", ":{last}: "),
    "cut in a number": (without_end, ":{last}: "),
    "garbage": (lambda _: bytes(range(256)) * 8, ":"),
    "NUL bytes": (lambda data: data[:-6] + b"\0" * 5 + b"\n", ":{last}: "),
    "Latin-1": (lambda data: data.replace(b"\n", b"\n\xe9", 2)[:-1] + b"\n", ":2: "),
    "too many cells": (lambda data: data.replace(b"\n", b"\nx,", 2).replace(b"\nx,", b"\n", 1), ":3: "),
    "too few cells": (lambda data: b"\n".join([*data.split(b"\n")[:2], b"1", *data.split(b"\n")[3:]]), ":3: "),
    "an endless cell": (lambda data: data + b'"' + b"9" * 200_000 + b'",1,1,1,1\n', ":"),
    **{
        f"time {text}": (cell("time", text), ":3: ") for text in ("nan", "inf", "-1", "0", "fast", "", "1e400", "1e300")
    },
    **{f"size {text}": (cell("size", text), ":3: ") for text in ("nan", "inf", "-1", "8.5", "many", "")},
    "size of many digits": (cell("size", "9" * 5000), ":3: "),
    "two times": (again, ":{next}: "),
}

MAY_WORK = {
    ("skew.csv", "header only"),  # nothing was measured, which is said in the summary
    ("skew.csv", "two times"),  # a fit to all rows
    ("skew.csv", "size 8.5"),
    ("attention.csv v0", "two times"),  # the mean counts
    ("collectives.csv", "two times"),
    ("collectives.csv", "cut in a number"),  # people write such files too, and some leave the last line open
    ("collectives.csv", "time 0"),
}
"""Where damage does no harm."""


def bundle(folder: Path) -> Path:
    """A bundle with experts and uneven decodes."""
    made = write_bundle(folder)
    rows = [(n, a, 10 + n + a) for n, a in product((1, 8, 64), (1, 8))]
    write_csv(made / "moe.csv", "tokens,activated_experts,time_us", rows)
    skewed = [(n, big, 500.0, 3 * decode_us(n, big)) for n, big in product((8, 64), (1024, 4096))]
    write_skew(made, skewed, lambda n, kv: 3 * decode_us(n, kv))
    return made


def apart(folder: Path) -> Path:
    """A bundle whose chunks and decodes were measured apart."""
    made = write_bundle(folder)
    write_csv(
        made / "attention.csv",
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us",
        [(0, 0, n, kv, decode_us(n, kv)) for n, kv in product((1, 8, 64), (16, 1024))],
    )
    write_csv(
        made / "prefills.csv",
        "prefills,prefill_chunk,kv_prefill,time_us",
        [(n, q, 0, 5 + n * q / 10) for n, q in product((1, 4), (16, 64, 512))],
    )
    (made / "meta.yaml").write_text("tiles_per_decode: 1.0\n")
    return made


def collectives(folder: Path) -> Path:
    write_csv(
        folder / "collectives.csv",
        "collective,ranks,size_bytes,time_us",
        [("all_reduce", 2, size, 5 + size / 1000) for size in (1024, 4096, 65536)],
    )
    return folder


def older(folder: Path) -> Path:
    return older_bundle.write_older_bundle(folder / "tp1")


def open_bundle(folder: Path) -> object:
    return BundleSource(folder, experts_per_token=1 if (folder / "moe.csv").exists() else 0)


def open_older(folder: Path) -> object:
    return OlderBundleSource(folder, find_model("meta-llama/Llama-3.1-8B"), ParallelLayout(), find_accelerator("H100"))


def open_collectives(folder: Path) -> object:
    return read_measured([folder / "collectives.csv"])


FILES: dict[str, tuple[Callable[[Path], Path], tuple[Open, ...]]] = {
    **dict.fromkeys(
        ("dense.csv", "per_sequence.csv", "attention.csv", "moe.csv", "skew.csv"), (bundle, (open_bundle, check_bundle))
    ),
    "prefills.csv": (apart, (open_bundle, check_bundle)),
    "layers.csv": (older, (open_older,)),
    "attention.csv v0": (older, (open_older,)),
    "collectives.csv": (collectives, (open_collectives,)),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole bundle for each file."""
    return {name: make(tmp_path_factory.mktemp("sound")) for name, (make, _) in FILES.items()}


@pytest.mark.parametrize("file", FILES)
def test_a_whole_file_is_read(sound: dict[str, Path], file: str) -> None:
    for read in FILES[file][1]:
        read(sound[file])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_error_that_names_file_and_line(
    sound: dict[str, Path], tmp_path: Path, file: str, damage: str
) -> None:
    folder = Path(shutil.copytree(sound[file], tmp_path / "tp1"))
    path = folder / file.split(" ", maxsplit=1)[0]
    data = path.read_bytes()
    change, place = DAMAGES[damage]
    path.write_bytes(change(data))
    last = data.count(b"\n")
    where = place.format(last=last, next=last + 1).strip(": ")
    for read in FILES[file][1]:
        if (file, damage) in MAY_WORK:
            read(folder)
            continue
        with pytest.raises(ProfileError) as raised:
            read(folder)
        message = str(raised.value)
        assert message.startswith((f"{path}:{where}", f"{path}: line {where}")), message
        assert "\n" not in message
        assert len(message) < len(str(path)) + 500


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["missing", "a folder", "not readable"])
def test_a_file_that_is_not_there_or_is_none_is_named(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, kind: str
) -> None:
    folder = Path(shutil.copytree(sound[file], tmp_path / "tp1"))
    path = folder / file.split(" ", maxsplit=1)[0]
    if kind == "not readable":
        refuse(monkeypatch, path)
    else:
        path.unlink()
    if kind == "a folder":
        path.mkdir()
    if kind == "missing" and file in ("skew.csv", "moe.csv"):  # a bundle has them or not
        return
    for read in FILES[file][1]:
        with pytest.raises(ProfileError, match=path.name if kind != "missing" else r"\.csv") as raised:
            read(folder)
        assert "\n" not in str(raised.value)


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let the file system refuse to read a file, which it does not refuse to root."""
    for name in ("read_bytes", "read_text"):
        real = getattr(Path, name)

        def read(self: Path, *arguments: object, real: Callable[..., object] = real, **keys: object) -> object:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *arguments, **keys)

        monkeypatch.setattr(Path, name, read)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- a list\n",
        b"tiles_per_decode: many\n",
        b"tiles_per_decode: -1\n",
        b"tiles_per_decode: .nan\n",
        b"tiles_per_decode: .inf\n",
        b"tiles_per_decode: true\n",
        b"tiles_per_decode: [1\n",
        b"tiles_per_decode: \xff\n",
        b"\0" * 64,
        b"[" * 600,
        None,
    ],
)
def test_meta_that_does_not_say_how_kernels_run_together_is_named(tmp_path: Path, text: bytes | None) -> None:
    folder = apart(tmp_path)
    (folder / "meta.yaml").unlink()
    if text is None:
        (folder / "meta.yaml").mkdir()
    else:
        (folder / "meta.yaml").write_bytes(text)
    for read in (open_bundle, check_bundle):
        with pytest.raises(ProfileError, match=r"meta\.yaml") as raised:
            read(folder)
        assert "\n" not in str(raised.value)


def test_meta_that_is_missing_or_of_a_bundle_measured_together_is_not_needed(tmp_path: Path) -> None:
    folder = apart(tmp_path / "apart")
    (folder / "meta.yaml").unlink()
    together = bundle(tmp_path / "together")
    (together / "meta.yaml").write_bytes(b"\xff")
    for made in (folder, together):
        assert BundleSource(made).latency_ns("attention", batch(decodes=[100])) > 0


def test_a_row_that_returns_as_it_was_counts_once(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    for name in ("dense.csv", "attention.csv", "moe.csv"):
        path = folder / name
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, *lines[1:4], *lines[1:4]]) + "\n")
    for read in (open_bundle, check_bundle):
        read(folder)
