"""A model as numbers: its operators, their FLOPs and bytes under TP, PP and EP, and what fits into memory."""

from llmservingsim.model.capacity import (
    EVERYTHING,
    CapacityInputs,
    CapacityReport,
    Residency,
    capacity_error,
    predict_kv_blocks,
    smallest_fitting_tp,
)
from llmservingsim.model.kv_shares import KvShare, block_shares, kv_shares
from llmservingsim.model.layout import ONE_RANK, ParallelLayout, check_layout, stage_layers, stage_range
from llmservingsim.model.memory import (
    kv_bytes_per_token,
    kv_bytes_per_token_layer,
    num_active_parameters,
    num_parameters,
    rotary_cache_bytes,
    weight_bytes,
)
from llmservingsim.model.operators import (
    EH_PROJ,
    IndexedBy,
    Operator,
    OperatorCost,
    OperatorKind,
    Work,
    block_operators,
    end_operators,
    model_operators,
    start_operators,
)
from llmservingsim.model.placement import NPU, Piece, PieceKind, Placement, layer_names

__all__ = [
    "EH_PROJ",
    "EVERYTHING",
    "NPU",
    "ONE_RANK",
    "CapacityInputs",
    "CapacityReport",
    "IndexedBy",
    "KvShare",
    "Operator",
    "OperatorCost",
    "OperatorKind",
    "ParallelLayout",
    "Piece",
    "PieceKind",
    "Placement",
    "Residency",
    "Work",
    "block_operators",
    "block_shares",
    "capacity_error",
    "check_layout",
    "end_operators",
    "kv_bytes_per_token",
    "kv_bytes_per_token_layer",
    "kv_shares",
    "layer_names",
    "model_operators",
    "num_active_parameters",
    "num_parameters",
    "predict_kv_blocks",
    "rotary_cache_bytes",
    "smallest_fitting_tp",
    "stage_layers",
    "stage_range",
    "start_operators",
    "weight_bytes",
]
