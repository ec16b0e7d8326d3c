"""``entropick chat``: a conversation in the terminal with any server that speaks OpenAI's API.

It sees the server from outside, through HTTP alone.
"""
