"""The engines behind one protocol: the part that both share, then ``embedded`` and ``vllm`` side by side."""
