"""Genuineness: how much the attention of a reply moves, and how surprising the text is that it rests on.

Per query head over a rolling window of decode steps, one step being one query: G, the variance of the head's
attention entropy plus the share of steps at which that entropy collapsed; X, the mean surprisal of the text
that the head looks at (token cost, bits); and the quadrant of the (X, G) plane that the head is in. The
entropy is normalised by log2 of the visible keys, because plain uniform causal attention otherwise counts as
most genuine; the form ``seed`` is the source's, with the entropy in bits.

``reference``: the definitions in float64. ``window``: a state that takes a step at a time. ``quadrants``:
the plane and its cut points. ``pull``: whether a reply's score falls from its beginning to its end. Source:
the Dynamic Entropy Genuineness Framework.
"""
