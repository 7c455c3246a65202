"""The container of a Chakra file: records, each behind its length as a base-128 varint."""

from __future__ import annotations

from pathlib import Path

from llmservingsim.errors import TraceError

_LENGTH_BYTES_MAX = 5


def trace_file(prefix: Path, rank: int) -> Path:
    """Return the file of a rank."""
    return Path(f"{prefix}.{rank}.et")


def frame(payload: bytes) -> bytes:
    """Return ``payload`` behind its length, as a file holds it."""
    length = len(payload)
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + payload


def split(data: bytes, path: Path) -> list[bytes]:
    """Split the content of a file into its records, each still behind its length.

    Args:
        data: The whole file.
        path: Its name, for messages.

    Raises:
        TraceError: A length or a record ends before its time, or a length has more than five bytes.
    """
    if data.startswith(b"\x1f\x8b"):
        raise TraceError(f"{path}: is compressed with gzip; expected a plain Chakra trace (unpack it first)")
    records: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        begin, length = at, data[at]
        at += 1
        if length > 0x7F:
            length, at = _long_length(data, begin, len(records) + 1, path)
        if at + length > end:
            raise TraceError(
                f"{path}: record {len(records) + 1} is truncated: expected {length} bytes at offset {at}, "
                f"the file has {end - at}"
            )
        at += length
        records.append(data[begin:at])
    return records


def _long_length(data: bytes, at: int, record: int, path: Path) -> tuple[int, int]:
    """Decode a length of several bytes; return it and the offset behind it."""
    length = 0
    for i, byte in enumerate(data[at : at + _LENGTH_BYTES_MAX]):
        length |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return length, at + i + 1
    if len(data) - at < _LENGTH_BYTES_MAX:
        raise TraceError(f"{path}: the length of record {record} is truncated: the file ends inside its varint")
    raise TraceError(
        f"{path}: the length of record {record} is a varint of more than {_LENGTH_BYTES_MAX} bytes; "
        "expected a Chakra trace of uncompressed, length-delimited records"
    )
