"""The layout of the native program's arguments, by name: types of a step, a layer and a run of prompt tokens.

A field is a number or the address of an array, whose shape is in its comment. T tokens are those of the
prefill chunks, then those of the B rows. Widths are padded to whole panels of 16 where it says so.
"""

from __future__ import annotations

from typing import Final

from .._threads import record_type

STEP: Final = record_type(
    # the model's sizes
    "hidden heads kv_heads width ffn vocab_panels layer_count "
    # whether tokens are looked up in the packed head, since it is the embedding too
    "tied "
    # the step's sizes: tokens of a block, columns of the block table, T, B, layers whose figures are kept
    "block columns tokens rows monitored "
    # rows whose probabilities are kept at a time, and the keys that each has room for
    "rows_at_once span "
    # inputs: int64 [T], int64 [T], int32 [T], int32 [B, columns], int32 [B]
    "ids positions cache_index block_table lengths "
    # weights: [V, hidden] or 0, then MATRIX or 0, one of which is there where the embedding is not tied;
    # [hidden]; the head, MATRIX; both rotary tables [positions, width / 2], LAYER [L]
    "embed packed_embed norm head cos sin layers "
    # room for a decoded panel of each thread: its address, and the floats of a thread
    "decoded decoded_floats "
    # between the stages, [T, padded]: the residual stream, its norm, the products of q, k, v or of gate and
    # up, queries [Hk, T, group, width], outputs of the heads, the gated ffn
    "residual normed joined queries attended gated "
    # [rows_at_once, heads, span]; the figures [B, heads, 5] of a layer that is not monitored
    "probabilities unmonitored_figures "
    # prompt tokens: RUN [run_count], keys that a run has room for, and each thread's room in floats
    "runs run_count run_span scratch scratch_floats "
    # results: [monitored, B, heads, 5], [monitored + 1, B, 7], [B, padded vocabulary]
    "figures signals logits "
    # surprisals of the cached keys [P, block], P, and the token costs [monitored, B, heads, 4]; 0 for none
    "surprisals cached_blocks costs "
    # tokens whose next token's surprisal is wanted: how many, their numbers and targets int64 [W], result
    # [W]; at a time so many, with room for their norms and logits; the vocabulary
    "wanted wanted_tokens wanted_targets wanted_bits wanted_at_once wanted_normed wanted_logits vocab "
    # the ranks of those targets int64 [W], 0 for none; the K most probable tokens, int32 and float32 [W, K]
    "wanted_ranks wanted_top_ids wanted_top_bits wanted_top "
    # rows whose layers' entropies are wanted: how many, their numbers int64 [W], result [layers, W]
    "lens lens_rows lens_entropy",
    "eps",
)

LAYER: Final = record_type(
    # [hidden], matrices (MATRIX), biases or 0, norms of the heads [width] or 0
    "norm_in w_qkv b_qkv norm_q norm_k w_out b_out norm_post w_gate_up b_gate_up w_down b_down "
    # its blocks [P, Hk, block, width]
    "keys values "
    # how many of the last keys a token sees, 0 for all; its number among the monitored layers, and among
    # the layers whose entropy is wanted, -1 for none
    "window monitored lens",
    "scale",
)

MATRIX: Final = record_type(
    # a matrix is one part or several, whose outputs lie one behind the other: how many are left from this one
    "parts "
    # its panels, how many, the bytes of each, its inputs
    "panels count size inputs "
    # its form's product (:func:`.coded_products.coded_product`), 0 of float32
    "product"
)

RUN: Final = record_type(
    # its first token of the step, how many, the keys that the first one sees, its sequence's block ids
    "first tokens length blocks"
)
