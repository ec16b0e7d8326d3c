"""The Triton kernel that draws from a row of any parameters."""
