"""Bad inputs, load and faults against a server in a process of its own; ``make robustness`` writes the page.

``rows``: every bad input with what it must get. ``trials``: every fault with what was seen before it was mended.
``page`` writes both to docs/robustness.md.
"""
