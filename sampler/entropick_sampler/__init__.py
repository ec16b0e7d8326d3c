"""The policy: signals of a decode step in, sampling decisions and tokens out."""
