"""The engines: the embedded torch engine (and, with an extra, vLLM) behind one protocol."""
