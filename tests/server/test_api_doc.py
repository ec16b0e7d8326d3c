"""docs/api.md names what there is: every route, field, limit, code and metric."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from entropick_sampler.branch_config import BRANCH_NAMES, SCORERS
from entropick_server import middleware, recent
from entropick_server.protocol import messages, options, requests, unserved
from entropick_server.protocol.responses import BranchRow, Summary, TokenRow
from entropick_server.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SOURCES = "".join(p.read_text() for p in (ROOT / "server" / "entropick_server").rglob("*.py"))


async def test_routes(client: httpx.AsyncClient) -> None:
    for path, methods in (await client.get("/openapi.json")).json()["paths"].items():
        shown = re.sub(r"\{.*\}", "{id}", path)
        for method in methods:
            assert re.search(rf"`{method.upper()} {re.escape(shown)}`", PAGE), (method, path)


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            *requests.ChatRequest.model_fields,
            *requests.CompletionRequest.model_fields,
            *options.EntropickOptions.model_fields,
            *TokenRow.__annotations__,
            *BranchRow.model_fields,
            *BRANCH_NAMES,
            *SCORERS,
            *Summary.model_fields,
        }
    ),
)
def test_fields(name: str) -> None:
    assert f"`{name}`" in PAGE or f"`{name}." in PAGE


def test_limits() -> None:
    for limit in (
        requests.MAX_STOPS,
        requests.MAX_STOP_TOKENS,
        requests.MAX_PROMPTS,
        middleware._MAX_HEADERS,
    ):
        assert f"at most {limit}" in PAGE
    assert f"1 to {messages.MAX_MESSAGES}" in PAGE
    assert f"0 to {requests.MAX_TOP_LOGPROBS}" in PAGE
    assert f"at most {recent.MAX_BYTES >> 20} MiB" in PAGE
    assert f"{recent.MAX_BYTES >> 20} MiB" in str(Settings.model_fields["recent_requests"].description)
    assert Settings.model_fields["max_body_bytes"].default == 4 << 20
    assert Settings.model_fields["recent_requests"].default == 64


def test_codes() -> None:
    codes = set(re.findall(r'code="([a-z_]+)"', SOURCES))
    codes |= set(re.findall(r'unavailable\([^)]*?"([a-z]+_[a-z_]+)"', SOURCES))
    codes |= {unserved.UNSUPPORTED, "context_length_exceeded", "route_not_found", "method_not_allowed"}
    assert {"queue_full", "engine_stopped", "internal_error"} <= codes
    assert [code for code in codes if f"`{code}`" not in PAGE] == []


async def test_metrics(client: httpx.AsyncClient) -> None:
    page = (await client.get("/metrics")).text
    for family in text_string_to_metric_families(page):
        if family.name.startswith(("entropick_live_", "process_")) or family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in PAGE
