"""Recorded expert routing: histograms and the routes of single tokens."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ConfigError
from llmservingsim.trace.experts.router import ExpertGeometry, Floats

_COLUMNS = ["layer", "expert", "tokens"]


def read_histogram(path: Path, geometry: ExpertGeometry) -> Floats:
    """Read how many tokens visited each expert, shape ``[layers, experts]``; experts that are not listed had none.

    Raises:
        ConfigError: If the file is missing or malformed, or a layer has too few experts with tokens.
    """
    row_of = {layer: row for row, layer in enumerate(geometry.layers)}
    found = np.zeros(geometry.shape)
    with _open(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != _COLUMNS:
            raise ConfigError(f"{path}:1: expected the columns {','.join(_COLUMNS)}, got {','.join(header)!r}")
        for cells in reader:
            try:
                layer, expert, tokens = int(cells[0]), int(cells[1]), float(cells[2])
            except (ValueError, IndexError):
                layer, expert, tokens = -1, -1, -1.0
            if layer not in row_of or not 0 <= expert < geometry.num_experts or not 0 <= tokens < np.inf:
                raise ConfigError(
                    f"{path}:{reader.line_num}: expected a layer of {_span(geometry.layers)}, an expert from 0 to "
                    f"{geometry.num_experts - 1} and a number of tokens, got {','.join(cells)!r}"
                )
            found[row_of[layer], expert] += tokens
    for layer, row in row_of.items():
        visited = np.count_nonzero(found[row])
        if visited < geometry.experts_per_token:
            raise ConfigError(
                f"{path}: layer {layer} has {visited} experts with tokens; expected at least "
                f"{geometry.experts_per_token}, which is what each token visits"
            )
    return found


def read_routes(path: Path, geometry: ExpertGeometry) -> NDArray[np.int64]:
    """Read the experts of every token in every layer, shape ``[tokens, layers, experts per token]``.

    Raises:
        ConfigError: If the file is missing or malformed.
    """
    expected = (len(geometry.layers), geometry.experts_per_token)
    routes = _load(path)
    if routes.ndim != 3 or routes.shape[1:] != expected or not len(routes):
        raise ConfigError(
            f"{path}: expected an array of [tokens, {expected[0]} layers, {expected[1]} experts], got {routes.shape}"
        )
    ordered = np.sort(routes, axis=2)
    is_wrong = (ordered < 0) | (ordered >= geometry.num_experts)
    is_wrong[:, :, 1:] |= ordered[:, :, 1:] == ordered[:, :, :-1]
    if is_wrong.any():
        token, row, _ = np.argwhere(is_wrong)[0].tolist()
        raise ConfigError(
            f"{path}: token {token}, layer {geometry.layers[row]}: expected {expected[1]} different experts from 0 to "
            f"{geometry.num_experts - 1}, got {routes[token, row].tolist()}"
        )
    return routes


def _load(path: Path) -> NDArray[np.int64]:
    if path.suffix == ".npy":
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        if not np.issubdtype(found.dtype, np.integer):
            raise ConfigError(f"{path}: expected whole numbers, got {found.dtype}")
        return np.asarray(found, dtype=np.int64)
    tokens: list[NDArray[np.int64]] = []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            token = _token(line)
            if token is None or (tokens and token.shape != tokens[0].shape):
                raise ConfigError(
                    f"{path}:{number}: expected a list of layers, each a list of experts, got {line.strip()!r}"
                )
            tokens.append(token)
    return np.array(tokens, dtype=np.int64)


def _token(line: str) -> NDArray[np.int64] | None:
    """The experts of one token, shape ``[layers, k]``; None if the line is something else."""
    try:
        found = np.array(json.loads(line))
    except ValueError:  # no JSON, or lists of different lengths
        return None
    return found if found.ndim == 2 and np.issubdtype(found.dtype, np.integer) else None


def _open(path: Path) -> TextIO:
    try:
        return path.open(newline="", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _span(layers: tuple[int, ...]) -> str:
    return f"{layers[0]} to {layers[-1]}" if layers else "none"
