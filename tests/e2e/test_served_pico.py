"""From the command line to the client: what README promises, on the shipped model.

What every engine must do is asked in tests/conformance.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def test_the_curl_of_the_readme_answers_rightly(server: str) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"curl -s (\S+) -H 'Content-Type: application/json' -d '(.*?)'", readme, re.DOTALL)
    assert found, "README has no curl"
    path = found[1].removeprefix("http://127.0.0.1:8000")
    answer = httpx.post(f"{server}{path}", json=json.loads(found[2]), timeout=60).json()
    text = answer["choices"][0]["message"]["content"]
    assert text == "The capital is Ashfield."
    assert f"`{text}`" in readme
    block = re.search(r"```json\n(.*?)```", readme, re.DOTALL)
    assert block, "README shows no row"
    shown = json.loads(block[1])
    row = answer["choices"][0]["entropick"]["tokens"][shown["index"]]
    for name in ("token", "token_id", "strategy", "forced"):
        assert row[name] == shown[name]
    # shown with three or four digits
    assert row["signals"] == pytest.approx(shown["signals"], rel=5e-3)
    assert row["parameters"] == pytest.approx(shown["parameters"], rel=5e-3)


def test_every_full_page_of_a_prompt_that_was_seen_is_found(server: str) -> None:
    """Its last token always runs."""
    body = {"messages": [{"role": "user", "content": "Tell me about the harbor. " * 20}], "max_tokens": 2}
    httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60)
    usage = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60).json()["usage"]
    assert usage["prompt_tokens"] > 100
    assert usage["prompt_tokens_details"]["cached_tokens"] == (usage["prompt_tokens"] - 1) // 16 * 16


Launch = Callable[..., tuple[str, Callable[[], int]]]


def test_sigterm_ends_with_zero(run_server: Launch) -> None:
    url, end = run_server("--max-num-seqs", "2", "--served-model-name", "other")
    assert httpx.get(f"{url}/v1/models", timeout=10).json()["data"][0]["id"] == "other"
    assert end() == 0


def test_a_model_that_is_not_there_says_what_to_do(run_server: Launch) -> None:
    with pytest.raises(RuntimeError, match="no such folder"):
        run_server("/nowhere/model")
