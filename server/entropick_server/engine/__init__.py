"""The engines behind one protocol: the part that both share, and beside each other ``embedded`` and ``vllm``."""
