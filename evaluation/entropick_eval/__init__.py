"""Compares settings of a server on questions with known answers and on open prompts: ``entropick eval``.

Every arm (a setting that is compared) is a request body, so the model of this process and any
OpenAI-compatible server are reached by one path.
"""
