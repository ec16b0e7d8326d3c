"""The OpenAI-compatible server: HTTP, streaming, metrics, and the engines behind it."""
