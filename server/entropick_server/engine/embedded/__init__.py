"""The embedded engine: our own scheduler, paged KV cache, decoders and sampling step in one thread."""
