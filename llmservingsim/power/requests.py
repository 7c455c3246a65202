"""Whose energy it was: a batch's goes to the prompt chunks and the decodes in it, and so to requests.

A batch with both is split in the ratio of the times that its prompt tokens alone and its decodes alone would take. The
run itself tells these: its batches with nothing else in them, by their number of tokens or of sequences, linear between
two numbers that occurred. Within its part every prompt token, and every sequence, pays the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.activity import Activity
from llmservingsim.power.curve import Floats, Ints

Bools = NDArray[np.bool_]

_RUN = 3


class Asked(NamedTuple):
    """The requests that ended, in any order.

    Attributes:
        request_id: Of each.
        engine: Instance that gave it tokens, -1 for none.
        runs: Its batches there, as ``first, last, step`` each (`llmservingsim.serving.batch_log`); None for none.
    """

    request_id: Sequence[int]
    engine: Sequence[int]
    runs: Sequence[array[int] | None]


class Batches(NamedTuple):
    """Energy of the batches of all instances, one instance after another; shapes ``[batches]``.

    Attributes:
        start: Number of each instance's first batch, and the end.
        prompt_j: Of a prompt token.
        decode_j: Of a sequence that computed one token.
        prompt_tokens, decodes: How many there were.
        dummy_j: Of computations without a batch, by instance.
    """

    start: Ints
    prompt_j: Floats
    decode_j: Floats
    prompt_tokens: Ints
    decodes: Ints
    dummy_j: Floats


class Attribution(NamedTuple):
    """Energy by what it was for, in joules.

    Attributes:
        request_j: Of each request, shape ``[requests]``.
        prefill_j, decode_j, dummy_j: By instance.
        lost_j: Of all instances, within these: whose result nobody got; dummies, work that a preemption voided, and
            requests that had not ended.
    """

    request_j: Floats
    prefill_j: Floats
    decode_j: Floats
    dummy_j: Floats
    lost_j: float


def attribute(
    stages: Sequence[tuple[int, Activity, Floats]], chunks: Sequence[array[int]], asked: Asked
) -> Attribution:
    """Share out what graphs cost.

    Args:
        stages: Instance, activity and energy of each graph, shape ``[graphs]``, of every pipeline stage.
        chunks: Of each instance, ``request, batch, tokens`` of what was no undisturbed decode, one after another; a
            sequence that computed one token counts as a decode.
        asked: Who shares.
    """
    batches = batch_energy(stages, len(chunks))
    members = _Members(batches, asked)
    request_j = members.decode_j()
    prompt_left = batches.prompt_tokens.astype(np.float64)
    decodes_left = batches.decodes - members.counts()
    for instance, log in enumerate(chunks):
        identity, index, tokens = np.array(log, dtype=np.int64).reshape(-1, _RUN).T
        known = members.rows_of(identity)
        exists = (known >= 0) & (index < batches.start[instance + 1] - batches.start[instance])
        row, batch, tokens = known[exists], index[exists] + batches.start[instance], tokens[exists]
        is_prompt = tokens > 1
        was_counted = members.has(row, batch)
        costs = np.where(is_prompt, tokens * batches.prompt_j[batch], batches.decode_j[batch])
        costs -= was_counted * batches.decode_j[batch]
        request_j += np.bincount(row, costs, len(request_j))
        prompt_left -= np.bincount(batch, is_prompt * tokens, len(prompt_left))
        decodes_left = decodes_left - np.bincount(batch, ~is_prompt * 1.0 - was_counted, len(prompt_left))
    by_instance = [slice(*batches.start[i : i + 2]) for i in range(len(chunks))]
    prefill, decode = batches.prompt_j * batches.prompt_tokens, batches.decode_j * batches.decodes
    lost_j = float((prompt_left * batches.prompt_j).sum() + (decodes_left * batches.decode_j).sum())
    return Attribution(
        request_j,
        np.array([prefill[part].sum() for part in by_instance]),
        np.array([decode[part].sum() for part in by_instance]),
        batches.dummy_j,
        lost_j + float(batches.dummy_j.sum()),
    )


def batch_energy(stages: Sequence[tuple[int, Activity, Floats]], num_instances: int) -> Batches:
    """Add up the stages of every batch, and split it; rows without tokens are dummies."""
    counts = np.zeros(num_instances, dtype=np.int64)
    dummy_j = np.zeros(num_instances)
    for instance, activity, _ in stages:
        counts[instance] = max(counts[instance], np.count_nonzero(activity.prompt_tokens + activity.decodes))
    start = np.concatenate([[0], np.cumsum(counts)])
    prompt, decode = np.zeros(start[-1]), np.zeros(start[-1])
    tokens, sequences = np.zeros(start[-1], dtype=np.int64), np.zeros(start[-1], dtype=np.int64)
    for instance, activity, joules in stages:
        is_real = (activity.prompt_tokens + activity.decodes) > 0
        dummy_j[instance] += joules[~is_real].sum()
        own = Activity(*(column[is_real] for column in activity))
        part = slice(start[instance], start[instance] + len(own.begin_ns))
        share = prompt_share(own)
        prompt[part] += joules[is_real] * share
        decode[part] += joules[is_real] * (1 - share)
        tokens[part], sequences[part] = own.prompt_tokens, own.decodes
    return Batches(start, prompt / np.maximum(tokens, 1), decode / np.maximum(sequences, 1), tokens, sequences, dummy_j)


def prompt_share(activity: Activity) -> Floats:
    """Return the part of each batch that is its prompt tokens', in [0, 1]; nobody's batch is in ``activity``."""
    tokens, decodes = activity.prompt_tokens, activity.decodes
    spent = activity.end_ns - activity.begin_ns
    of_prompt = _expected(tokens, spent, (decodes == 0) & (tokens > 0))
    of_decodes = _expected(decodes, spent, tokens == 0)
    if of_prompt is None or of_decodes is None:
        of_prompt, of_decodes = tokens.astype(np.float64), decodes.astype(np.float64)
    both = of_prompt + of_decodes
    return np.where(decodes == 0, 1.0, np.where(tokens == 0, 0.0, of_prompt / np.where(both > 0, both, 1.0)))


def _expected(amount: Ints, spent_ns: Ints, alone: Bools) -> Floats | None:
    """Time that an amount takes alone: the mean where it occurred, linear between, in proportion beyond the largest."""
    if not (spent_ns[alone] > 0).any():
        return None
    known, at = np.unique(amount[alone], return_inverse=True)
    mean = np.bincount(at, spent_ns[alone]) / np.bincount(at)
    return np.asarray(np.interp(amount, known, mean) * np.maximum(amount / known[-1], 1.0), dtype=np.float64)


class _Members:
    """Which request had a token from which batch, without a list of tokens.

    Args:
        batches: Of all instances.
        asked: The requests.
    """

    def __init__(self, batches: Batches, asked: Asked) -> None:
        self._batches = batches
        self._ids = np.array(asked.request_id, dtype=np.int64)
        self._order = np.argsort(self._ids, kind="stable")
        flat, lengths = array("q"), []
        for runs in asked.runs:
            lengths.append(0 if runs is None else len(runs) // _RUN)
            flat.extend(runs or ())
        first, last, step = np.array(flat, dtype=np.int64).reshape(-1, _RUN).T
        self._owner = np.repeat(np.arange(len(lengths)), np.array(lengths, dtype=np.int64))
        begin = batches.start[np.array(asked.engine, dtype=np.int64)[self._owner]]
        self._first, self._last, self._step = first + begin, last + begin, np.maximum(step, 1)
        self._is_dense = step <= 1
        self._wide = self._widely_spaced()

    def rows_of(self, request_ids: Ints) -> Ints:
        """Return the row of each request, -1 for one that has not ended."""
        if not len(self._ids):
            return np.full(len(request_ids), -1)
        at = self._order[np.minimum(np.searchsorted(self._ids, request_ids, sorter=self._order), len(self._ids) - 1)]
        return np.where(self._ids[at] == request_ids, at, -1)

    def decode_j(self) -> Floats:
        """Return what each request owes if every batch that gave it a token counted it as one sequence."""
        until = np.concatenate([[0.0], np.cumsum(self._batches.decode_j)])
        dense = self._is_dense
        spent = until[self._last[dense] + 1] - until[self._first[dense]]
        owners, batches = self._wide
        count = len(self._ids)
        one_by_one = np.bincount(owners, self._batches.decode_j[batches], count)
        return np.asarray(np.bincount(self._owner[dense], spent, count) + one_by_one, dtype=np.float64)

    def counts(self) -> Floats:
        """Return how many requests had a token from each batch."""
        size = len(self._batches.decode_j)
        begun = np.bincount(self._first[self._is_dense], minlength=size + 1)
        ended = np.bincount(self._last[self._is_dense] + 1, minlength=size + 1)
        found = np.cumsum(begun - ended)[:size] + np.bincount(self._wide[1], minlength=size)
        return found.astype(np.float64)

    def has(self, rows: Ints, batches: Ints) -> Bools:
        """Tell whether each of some requests had a token from a batch."""
        if not len(self._owner):
            return np.zeros(len(rows), dtype=bool)
        width = len(self._batches.decode_j) + 1
        at = np.searchsorted(self._owner * width + self._first, rows * width + batches, side="right") - 1
        at = np.maximum(at, 0)
        is_within = (self._owner[at] == rows) & (self._first[at] <= batches) & (batches <= self._last[at])
        return np.asarray(is_within & ((batches - self._first[at]) % self._step[at] == 0), dtype=np.bool_)

    def _widely_spaced(self) -> tuple[Ints, Ints]:
        """Owners and batches of runs whose batches are no neighbours, one by one."""
        wide = ~self._is_dense
        first, step = self._first[wide], self._step[wide]
        counts = (self._last[wide] - first) // step + 1
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self._owner[wide], counts), np.repeat(first, counts) + within * np.repeat(step, counts)
