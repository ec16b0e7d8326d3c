"""The routes GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ..state import ServerState, server_state
from ._common import check_model

router = APIRouter()


def _card(state: ServerState, name: str) -> dict[str, Any]:
    info = state.model.info
    return {
        "id": name,
        "object": "model",
        "created": info.created,
        "owned_by": "entropick",
        "root": info.name,
        "parent": None,
        "max_model_len": info.max_model_len,
        "entropick": {
            "architecture": info.architecture,
            "parameters": info.parameters,
            "vocab_size": info.vocab_size,
            "dtype": info.dtype,
            "weights": info.weights or None,
            "weight_bytes": info.weight_bytes or None,
            "device": info.device,
            "monitored_layers": list(info.monitored_layers),
            "profile": state.model.profile_id,
        },
    }


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Returns the list of served models: the model under each of its ids."""
    state = server_state(request)
    state.check_ready()
    return {"object": "list", "data": [_card(state, name) for name in state.model.names]}


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str) -> dict[str, Any]:
    """Returns the model of an id."""
    state = server_state(request)
    state.check_ready()
    check_model(model_id, state.model.names)
    return _card(state, model_id)
