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
UNITS = CELLS + 15
"""runs of prompt tokens that are attended for together"""
UNIT_SPAN = CELLS + 16
"""keys that the longest of them has room for"""
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
SCRATCH = CELLS + 38
SCRATCH_SIZE = CELLS + 39
"""floats of one thread: probabilities, outputs and figures of a run"""
RUNS = CELLS + 40
"""int64 [UNITS, RUN_FIELDS]"""
# results
FIGURES = CELLS + 41
SIGNALS = CELLS + 42
LOGITS = CELLS + 43
SCRATCH_FIGURES = CELLS + 44
SIZE = CELLS + 45

# fields of a run of prompt tokens: its first token, how many, the keys that the first one sees, the address
# of its sequence's pages
RUN_FIRST = 0
RUN_TOKENS = 1
RUN_LENGTH = 2
RUN_PAGES = 3
RUN_FIELDS = 4

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
