"""Consensus: a vote over the answers of several replies of a prompt, whose winner comes back.

Pure functions and a coroutine; HTTP and engines are unknown here. :mod:`.config` has the fields of a request,
:mod:`.weights` the votes of replies, :mod:`.rules` the end of the drawing and the verdict, :mod:`.run` the
drawing of replies in waves until then.
"""
