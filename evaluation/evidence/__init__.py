"""Computes the evidence: settings that are compared, their results, and docs/evidence.md."""
