"""The JSONL trace format of LLMServingSim 2.0, and the keys ``priority``, ``model``, ``abort_after_ns`` that we add.

A line is a request or a session::

    {"input_toks": 3, "output_toks": 2, "arrival_time_ns": 0, "input_tok_ids": [5, 6, 7], "output_tok_ids": [8, 9]}
    {"session_id": "a", "arrival_time_ns": 10, "sub_requests": [{"input_toks": 3, "output_toks": 2,
     "tool_duration_ns": 500}, {"input_toks": 9, "output_toks": 4}]}

Lines are sorted by arrival. A sub-request has no arrival: call ``k + 1`` arrives when call ``k`` has finished and
then its tool has run for ``tool_duration_ns``. Token ids drive the prefix cache; they may be given for the prompt
alone, and a call without prompt ids takes no part in it.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Annotated

import msgspec
from msgspec import Meta

from llmservingsim.errors import WorkloadError, nearest
from llmservingsim.strict import explain
from llmservingsim.workload.protocol import Session
from llmservingsim.workload.request import RequestSpec

_COUNTED_BYTES_MAX = 64 * 2**20
_CHUNK_BYTES = 2**20

_Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_TimeNs = Annotated[int, Meta(ge=0, le=2**62)]
_PatienceNs = Annotated[int, Meta(ge=1, le=2**62)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    input_toks: _Tokens
    output_toks: _Tokens
    arrival_time_ns: _TimeNs
    input_tok_ids: tuple[_TokenId, ...] | None = None
    output_tok_ids: tuple[_TokenId, ...] | None = None
    priority: int = 0
    model: str | None = None
    abort_after_ns: _PatienceNs | None = None


class _SubRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    input_toks: _Tokens
    output_toks: _Tokens
    tool_duration_ns: _TimeNs = 0
    input_tok_ids: tuple[_TokenId, ...] | None = None
    output_tok_ids: tuple[_TokenId, ...] | None = None
    abort_after_ns: _PatienceNs | None = None


class _Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    arrival_time_ns: _TimeNs
    sub_requests: Annotated[tuple[_SubRequest, ...], Meta(min_length=1)]
    session_id: str | int | None = None
    priority: int = 0
    model: str | None = None


_request_decoder = msgspec.json.Decoder(_Request)
_session_decoder = msgspec.json.Decoder(_Session)


def read_jsonl(path: str | PathLike[str]) -> Iterator[RequestSpec | Session]:
    """Yield the requests and sessions of a trace, one line at a time; ``.gz`` is unpacked on the way.

    Raises:
        WorkloadError: If the file is missing, unreadable, empty or wrong, with the line where it is.
    """
    path = Path(path)
    next_id = last_ns = 0
    for number, line in _lines(path):
        where = f"{path}:{number}"
        item = _parse(line, where, next_id)
        if item.arrival_ns < last_ns:
            raise WorkloadError(
                f"{where}: arrival_time_ns falls from {last_ns} to {item.arrival_ns}; "
                "the file must be sorted by arrival_time_ns"
            )
        last_ns = item.arrival_ns
        next_id += 1 if isinstance(item, RequestSpec) else len(item.calls)
        yield item
    if next_id == 0:
        raise WorkloadError(f"{path}: holds no request; expected a line of JSON for each")


def iter_requests(path: str | PathLike[str]) -> Iterator[RequestSpec]:
    """Yield every call of a trace in file order; the calls of a session carry the session's arrival."""
    for item in read_jsonl(path):
        if isinstance(item, RequestSpec):
            yield item
        else:
            yield from item.calls


def write_jsonl(items: Iterable[RequestSpec | Session], path: str | PathLike[str]) -> int:
    """Write requests and sessions, sorted by arrival, as a trace and return how many calls there were.

    The same items give the same bytes, packed (``.gz``) or not.

    Raises:
        WorkloadError: If an item cannot be written so that it reads back as it is: a request belongs to a session,
            the calls of a session differ in what it states once, an item arrives before the one above it, or token ids
            do not fit the lengths.
    """
    count = last_ns = 0
    encoder = msgspec.json.Encoder()
    try:
        with Path(path).open("wb") as file, _packed(file, str(path)) as out:
            for item in items:
                if item.arrival_ns < last_ns:
                    raise WorkloadError(
                        f"{_name(item)} arrives at {item.arrival_ns}, after one at {last_ns}; expected them sorted"
                    )
                last_ns = item.arrival_ns
                line = _to_line(item) if isinstance(item, RequestSpec) else _to_session_line(item)
                out.write(encoder.encode(line) + b"\n")
                count += len(line.sub_requests) if isinstance(line, _Session) else 1
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be written: {error}") from error
    return count


def count_requests(path: str | PathLike[str]) -> int | None:
    """Count the calls of a trace below 64 MB without decoding it; None for larger, packed and special files."""
    path = Path(path)
    if path.suffix == ".gz" or not path.is_file() or path.stat().st_size >= _COUNTED_BYTES_MAX:
        return None
    key, count, tail = b'"input_toks"', 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            chunk = tail + chunk
            count += chunk.count(key)
            tail = chunk[-len(key) + 1 :]
    return count


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of every line that is not blank."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line and not line.isspace():
                    yield number, line
    except FileNotFoundError as error:
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WorkloadError(f"{path}: no such workload file{nearest(path.name, names)}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from error


def _parse(line: bytes, where: str, next_id: int) -> RequestSpec | Session:
    is_session = b'"sub_requests"' in line or b'"session_id"' in line
    try:
        if is_session:
            return _to_session(_session_decoder.decode(line), where, next_id)
        return _to_request(_request_decoder.decode(line), where, next_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkloadError(f"{where}: {explain(line, error, *_known(is_session, error))}") from error


def _known(is_session: bool, error: Exception) -> tuple[str, tuple[str, ...]]:
    """Return what msgspec was reading and the keys that it may have."""
    if not is_session:
        return "request", (*_Request.__struct_fields__, "sub_requests")
    if "`$.sub_requests[" in str(error):
        return "sub-request", _SubRequest.__struct_fields__
    return "session", _Session.__struct_fields__


def _to_request(line: _Request, where: str, request_id: int) -> RequestSpec:
    return RequestSpec(
        request_id=request_id,
        arrival_ns=line.arrival_time_ns,
        prompt_tokens=line.input_toks,
        output_tokens=line.output_toks,
        token_ids=_token_ids(line, where),
        priority=line.priority,
        model=line.model,
        abort_after_ns=line.abort_after_ns,
    )


def _to_session(line: _Session, where: str, first_id: int) -> Session:
    calls = tuple(
        RequestSpec(
            request_id=first_id + k,
            arrival_ns=line.arrival_time_ns,
            prompt_tokens=call.input_toks,
            output_tokens=call.output_toks,
            token_ids=_token_ids(call, f"{where}: sub_requests[{k}]"),
            session_id=f"session-{first_id}" if line.session_id is None else str(line.session_id),
            priority=line.priority,
            model=line.model,
            abort_after_ns=call.abort_after_ns,
        )
        for k, call in enumerate(line.sub_requests)
    )
    return Session(calls, tuple(call.tool_duration_ns for call in line.sub_requests))


def _token_ids(call: _Request | _SubRequest, where: str) -> tuple[int, ...] | None:
    """Join prompt and output ids after a look at their numbers."""
    prompt, output = call.input_tok_ids, call.output_tok_ids
    if prompt is not None and len(prompt) != call.input_toks:
        raise WorkloadError(f"{where}: input_tok_ids has {len(prompt)} ids but input_toks is {call.input_toks}")
    if output is not None and len(output) != call.output_toks:
        raise WorkloadError(f"{where}: output_tok_ids has {len(output)} ids but output_toks is {call.output_toks}")
    return prompt + output if prompt is not None and output is not None else prompt


def _name(item: RequestSpec | Session) -> str:
    return f"request {(item if isinstance(item, RequestSpec) else item.calls[0]).request_id}"


def _to_line(request: RequestSpec) -> _Request:
    if request.session_id is not None:
        session = request.session_id
        raise WorkloadError(f"{_name(request)} belongs to session {session!r}; expected requests of no session")
    prompt_ids, output_ids = _split(request)
    return _Request(
        input_toks=request.prompt_tokens,
        output_toks=request.output_tokens,
        arrival_time_ns=request.arrival_ns,
        input_tok_ids=prompt_ids,
        output_tok_ids=output_ids,
        priority=request.priority,
        model=request.model,
        abort_after_ns=request.abort_after_ns,
    )


def _to_session_line(session: Session) -> _Session:
    first = session.calls[0]
    for call in session.calls:
        for key in ("session_id", "priority", "model"):
            value = getattr(call, key)
            if value != getattr(first, key) or (key == "session_id" and value is None):
                raise WorkloadError(f"request {call.request_id}: {key}: expected one for the session, got {value!r}")
    ids = map(_split, session.calls)
    return _Session(
        arrival_time_ns=session.arrival_ns,
        sub_requests=tuple(
            _SubRequest(call.prompt_tokens, call.output_tokens, pause_ns, *call_ids, call.abort_after_ns)
            for call, pause_ns, call_ids in zip(session.calls, session.tool_durations_ns, ids, strict=True)
        ),
        session_id=first.session_id,
        priority=first.priority,
        model=first.model,
    )


def _split(call: RequestSpec) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return the token ids of prompt and output after a look at their number."""
    ids, prompt = call.token_ids, call.prompt_tokens
    if ids is None:
        return None, None
    if len(ids) not in (prompt, prompt + call.output_tokens):
        expected = f"expected {prompt} (prompt) or {prompt + call.output_tokens} (prompt and output)"
        raise WorkloadError(f"request {call.request_id} has {len(ids)} token ids; {expected}")
    return ids[:prompt], None if len(ids) == prompt else ids[prompt:]


@contextmanager
def _packed(file: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """Pack what is written if the path says so, with no name and no time in the header."""
    if not path.endswith(".gz"):
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield packed  # type: ignore[misc]
