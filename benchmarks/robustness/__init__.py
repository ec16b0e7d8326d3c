"""Bad inputs, load and faults against a server in a process of its own.

``rows``: every bad input with what it must get. ``trials``: every fault with what was seen before it was
mended. ``page``, which ``make robustness`` runs, writes both to docs/robustness.md.
"""
