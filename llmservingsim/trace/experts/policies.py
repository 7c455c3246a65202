"""The built-in expert routers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ConfigError
from llmservingsim.trace.experts.files import read_histogram, read_routes
from llmservingsim.trace.experts.router import ExpertGeometry, ExpertSplit, Floats

_POOL_TOKENS = 2**14


class BalancedRouter:
    """Every token visits k of E experts, all choices alike: what is expected.

    An expert has ``tokens * k / E`` pairs and gets none with probability ``(1 - k/E) ** tokens``.
    """

    def __init__(self, geometry: ExpertGeometry) -> None:
        self._shape = geometry.shape
        self._share = geometry.experts_per_token / geometry.num_experts

    def split(self, tokens: int) -> ExpertSplit:
        """Return the expectation."""
        return ExpertSplit(np.broadcast_to(tokens * self._share, self._shape), is_expectation=True)

    def shares(self) -> Floats:
        """Return equal shares."""
        return np.ones(self._shape)


class RandomRouter:
    """Every token visits k of E experts, all choices alike: drawn.

    A pool of tokens chooses once. An iteration takes, for every layer, a stretch of the pool that begins anywhere, and
    renames the experts by turning the circle of their numbers, so that a draw costs the same however many tokens there
    are, and no expert is preferred.
    """

    def __init__(self, geometry: ExpertGeometry) -> None:
        self._geometry = geometry
        self._random = np.random.default_rng(geometry.seed)
        count, k = geometry.num_experts, geometry.experts_per_token
        chosen = np.argpartition(self._random.random((_POOL_TOKENS, count)), k - 1, axis=1)[:, :k]
        visits = np.zeros((_POOL_TOKENS + 1, count), dtype=np.int32)
        np.put_along_axis(visits[1:], chosen, 1, axis=1)
        self._until = np.cumsum(visits, axis=0, dtype=np.int32)
        """Visits of the pool's tokens before a position, shape ``[positions, experts]``."""

    def split(self, tokens: int) -> ExpertSplit:
        """Draw the next iteration."""
        layers, count = self._geometry.shape
        rounds, rest = divmod(tokens, _POOL_TOKENS)
        start = self._random.integers(_POOL_TOKENS, size=layers)
        end = start + rest
        visits = self._until[end % _POOL_TOKENS] - self._until[start]
        visits += (rounds + (end[:, None] >= _POOL_TOKENS)) * self._until[-1]
        turned = (np.arange(count) + self._random.integers(count, size=(layers, 1))) % count
        return ExpertSplit(np.take_along_axis(visits, turned, axis=1))

    def shares(self) -> Floats:
        """Return equal shares."""
        return np.ones(self._geometry.shape)


class RoundRobinRouter:
    """Tokens take experts in turn; a layer goes on where the one before ended, an iteration begins with expert 0."""

    def __init__(self, geometry: ExpertGeometry) -> None:
        self._geometry = geometry

    def split(self, tokens: int) -> ExpertSplit:
        """Deal the pairs out."""
        layers, count = self._geometry.shape
        pairs = tokens * self._geometry.experts_per_token
        first = np.arange(layers)[:, None] * pairs % count
        return ExpertSplit(pairs // count + ((np.arange(count) - first) % count < pairs % count))

    def shares(self) -> Floats:
        """Return equal shares."""
        return np.ones(self._geometry.shape)


class SkewedRouter:
    """Some experts are more popular than others: what is expected.

    Args:
        geometry: Of the model.
        exponent: Of Zipf's law: the n-th most popular expert has a share proportional to ``n ** -exponent``. Which one
            is the n-th is drawn for every layer.
        path: A measured histogram instead, CSV with the columns layer, expert, tokens.

    Raises:
        ConfigError: If the exponent is negative, both are given, or the file is wrong.
    """

    def __init__(self, geometry: ExpertGeometry, exponent: float | None = None, path: Path | str | None = None) -> None:
        if exponent is not None and path is not None:
            raise ConfigError("experts.options: expected either exponent or path, got both")
        if path is not None:
            self._shares = read_histogram(Path(path), geometry)
        else:
            self._shares = _zipf(geometry, 1.0 if exponent is None else exponent)
        self._visits = visit_shares(self._shares, geometry.experts_per_token)

    def split(self, tokens: int) -> ExpertSplit:
        """Return the expectation."""
        return ExpertSplit(tokens * self._visits, is_expectation=True)

    def shares(self) -> Floats:
        """Return the share of tokens that visit each expert."""
        return self._visits


class ReplayedRouter:
    """Tokens go where recorded ones went, in the order of the file, which begins again at its end.

    Args:
        geometry: Of the model.
        path: The experts of every token in every layer: a ``.npy`` array of shape ``[tokens, layers, k]``, or
            ``.jsonl`` with a token per line, a list of layers of k experts.
    """

    def __init__(self, geometry: ExpertGeometry, path: Path | str) -> None:
        self._geometry = geometry
        self._routes = read_routes(Path(path), geometry)
        self._next = 0

    def split(self, tokens: int) -> ExpertSplit:
        """Take the next tokens."""
        taken = np.arange(self._next, self._next + tokens) % len(self._routes)
        self._next = (self._next + tokens) % len(self._routes)
        return ExpertSplit(self._count(self._routes[taken]))

    def shares(self) -> Floats:
        """Return the visits of the whole recording."""
        return self._count(self._routes).astype(np.float64)

    def _count(self, routes: NDArray[np.int64]) -> NDArray[np.int64]:
        layers, count = self._geometry.shape
        places = routes + np.arange(layers)[:, None] * count
        return np.bincount(places.ravel(), minlength=layers * count).reshape(layers, count)


EXPERT_ROUTERS: dict[str, Callable[..., Any]] = {
    "balanced": BalancedRouter,
    "random": RandomRouter,
    "round_robin": RoundRobinRouter,
    "skewed": SkewedRouter,
    "replayed": ReplayedRouter,
}


def visit_shares(shares: Floats, experts_per_token: int) -> Floats:
    """Return how likely a token visits each expert: ``k * share``, at most 1; what is cut off goes to the others."""
    visits = experts_per_token * shares / shares.sum(axis=1, keepdims=True)
    full = np.zeros(visits.shape, dtype=bool)
    while (visits > 1).any():
        full |= visits > 1
        others = np.where(full, 0.0, shares)
        left = experts_per_token - full.sum(axis=1, keepdims=True)
        visits = np.where(full, 1.0, left * others / np.maximum(others.sum(axis=1, keepdims=True), 1e-300))
    return np.asarray(visits)


def _zipf(geometry: ExpertGeometry, exponent: float) -> Floats:
    if not 0 <= exponent < 100:
        raise ConfigError(f"experts.options.exponent: expected a number from 0 to below 100, got {exponent!r}")
    by_rank = np.arange(1, geometry.num_experts + 1) ** -float(exponent)
    random = np.random.default_rng(geometry.seed)
    return np.stack([random.permutation(by_rank) for _ in geometry.layers])
