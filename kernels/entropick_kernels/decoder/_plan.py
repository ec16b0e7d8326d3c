"""Where a step's numbers and addresses lie in the integers that the native program reads.

``data`` holds the team's cells, then these; ``table`` [layers, FIELDS] what differs from layer to layer.
"""

from __future__ import annotations

from ._team import CELLS

# sizes
HIDDEN = CELLS
HEADS = CELLS + 1
KV_HEADS = CELLS + 2
WIDTH = CELLS + 3
FFN = CELLS + 4
VOCAB_PANELS = CELLS + 5
LAYERS = CELLS + 6
PAGES = CELLS + 7
PAGE = CELLS + 8
COLUMNS = CELLS + 9
TOKENS = CELLS + 10
ROWS = CELLS + 11
BLOCK = CELLS + 12
"""rows whose probabilities are kept at a time"""
SPAN = CELLS + 13
"""keys that the longest row of the page table has room for"""
TABLE_SIZE = CELLS + 14
"""rows of the rotary tables"""
BEGIN = CELLS + 15
END = CELLS + 16
"""stages to run: 2 l before the attention of layer l's prompt pieces, 2 l + 1 behind it; last the logits"""
EPS = CELLS + 17
"""a float64's bits"""
TIED = CELLS + 18
"""whether tokens are looked up in the packed head"""

# addresses: inputs
IDS = CELLS + 20
POSITIONS = CELLS + 21
SLOTS = CELLS + 22
PAGE_TABLE = CELLS + 23
LENGTHS = CELLS + 24
EMBED = CELLS + 25
NORM = CELLS + 26
HEAD = CELLS + 27
COS = CELLS + 28
SIN = CELLS + 29
LAYER_TABLE = CELLS + 30
# what is kept between the stages
X = CELLS + 31
Y = CELLS + 32
QKV = CELLS + 33
Q = CELLS + 34
ATTENTION = CELLS + 35
GATED = CELLS + 36
PROBABILITIES = CELLS + 37
# results
FIGURES = CELLS + 38
SIGNALS = CELLS + 39
LOGITS = CELLS + 40
SCRATCH_FIGURES = CELLS + 41
SIZE = CELLS + 42

# fields of a layer
NORM_IN = 0
W_QKV = 1
B_QKV = 2
NORM_Q = 3
NORM_K = 4
W_OUT = 5
B_OUT = 6
NORM_POST = 7
W_GATE_UP = 8
B_GATE_UP = 9
W_DOWN = 10
B_DOWN = 11
KEYS = 12
VALUES = 13
WINDOW = 14
SCALE = 15
MONITORED = 16
"""its place among the monitored layers, -1 for none"""
FIELDS = 17
