"""The entropy of the next token's distribution that each layer's output would give."""
