"""Exemplars: they lead from a bucket to the answer that GET /v1/requests/{id} knows."""

from __future__ import annotations


def exemplar(request_id: str) -> dict[str, str]:
    """Returns the labels for an engine request, which is called ANSWER-CHOICE."""
    answer_id, dash, choice = request_id.rpartition("-")
    return {"request_id": (answer_id if dash and choice.isdigit() else request_id)[:64]}
