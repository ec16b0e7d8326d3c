"""The Triton kernel that draws from a row whatever its parameters."""
