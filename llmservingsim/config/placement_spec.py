"""The section of the run file that says where the weights and the KV cache of an instance lie."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.quantities import QuantityError
from llmservingsim.errors import nearest

NPU = "npu"
"""The memory of the accelerators themselves."""

_MEMORY = re.compile(r"npu|cpu|storage|cxl(:[\d ,-]{1,200})?")
_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?")


class PlacementRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something lies: ``npu``, ``cpu``, ``storage`` or the pool.

    ``cxl:<i>`` is a device of the pool, ``cxl:0-3`` the interleaved devices 0 to 3, ``cxl`` all of them.

    What a rule leaves out, a more general one says: a layer's rule comes before that of its block, and that before the
    default, which is ``npu``.

    Attributes:
        weights: The weights.
        kv_loc: Keys and values; rules of layers have no say here.
        kv_evict_loc: Keys and values that the prefix cache gives up; not used, see ``prefix_storage``.
    """

    weights: str | None = None
    kv_loc: str | None = None
    kv_evict_loc: str | None = None

    def __post_init__(self) -> None:
        for key in ("weights", "kv_loc", "kv_evict_loc"):
            name = getattr(self, key)
            if name is not None and not _MEMORY.fullmatch(name):
                known = (NPU, "cpu", "cxl", "storage")
                raise QuantityError(
                    f"{key}: {name!r} is no memory{nearest(name, known)}; expected npu, cpu, cxl, cxl:<i> or storage"
                )


class BlockRule(PlacementRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where something of some blocks lies.

    Attributes:
        blocks: Their numbers from 0, as ``"0-3,8"``.
    """

    blocks: str

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_blocks(self.blocks)


class PlacementSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where weights and KV lie. `docs/concepts/placement.md` explains it.

    Attributes:
        default: Of all that nothing else is said about.
        blocks: Of some blocks; rules that name the same block must agree.
        layers: Of operators in all blocks, by name: as in profile bundles, and ``experts`` for the routed experts of
            ``moe``.
        prefetch_depth: Blocks that are fetched ahead of the one that is computed; the device keeps a buffer for so
            many and one more.
        prefetch_across_iterations: Whether buffers are filled for the next iteration as soon as this one has done with
            them; else each iteration begins with empty ones.
        expert_prefetch: ``all`` fetches the experts of a block with its other weights, ``on_demand`` those that the
            batch needs once the block's router has chosen them.
        cached_experts: The most popular experts of each block, of those that a rank holds, that stay on the device.
    """

    default: PlacementRule = PlacementRule()
    blocks: tuple[BlockRule, ...] = ()
    layers: dict[str, PlacementRule] = {}
    prefetch_depth: Annotated[int, Meta(ge=0)] = 1
    prefetch_across_iterations: bool = False
    expert_prefetch: Literal["all", "on_demand"] = "all"
    cached_experts: Annotated[int, Meta(ge=0)] = 0

    def rules(self) -> tuple[PlacementRule, ...]:
        """Every rule."""
        return (self.default, *self.blocks, *self.layers.values())


def parse_blocks(text: str) -> tuple[int, ...]:
    """Read ``"0-3,8"``: numbers and ranges, both ends included.

    Raises:
        ConfigError: If it is something else.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = _RANGE.fullmatch(part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if first > last:
            raise QuantityError(f"blocks: {part.strip()!r} in {text!r} is no block or range; expected as in '0-3,8'")
        found += range(first, last + 1)
    return tuple(found)
