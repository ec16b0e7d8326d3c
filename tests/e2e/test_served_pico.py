"""From the command line to the client: what README promises, on the shipped model."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from entropick_sampler.params import Strategy
from entropick_sampler.signals import SIGNAL_NAMES

ROOT = Path(__file__).parents[2]
PROMPTS = (
    "What is the capital of Falnia?",
    "What color is it?",
    "Tell me a story about a fox.",
    "Pick a town.",
    "Sort the digits 3 1 2 5.",
    "Add 27 and 58. Think step by step.",
)


def ask(url: str, prompt: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "pico", "messages": [{"role": "user", "content": prompt}], "seed": 11, **fields}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def gauge(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=10).text
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in /metrics"
    return float(found[1])


def assert_rows_agree(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> None:
    """The same rows, numbers up to float rounding: two runs of the engine made them."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        numbers = {"signals", "parameters"}
        assert {k: v for k, v in a.items() if k not in numbers} == {
            k: v for k, v in b.items() if k not in numbers
        }
        assert a["signals"] == pytest.approx(b["signals"], rel=1e-4, abs=1e-5)
        assert a["parameters"] == pytest.approx(b["parameters"], rel=1e-4, abs=1e-5)


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


@pytest.mark.parametrize("prompt", PROMPTS)
def test_openai_client_streamed_and_plain_agree(server: str, prompt: str) -> None:
    """One row a completion token with every signal; plain and streamed rows are equal."""
    client = OpenAI(base_url=f"{server}/v1", api_key="unused")
    request: dict[str, Any] = {
        "model": "pico",
        "messages": [{"role": "user", "content": prompt}],
        "seed": 5,
        "extra_body": {"entropick": {"telemetry": "tokens"}},
    }
    plain = client.chat.completions.create(**request)
    block = plain.choices[0].entropick  # type: ignore[attr-defined]
    assert plain.usage
    assert len(block["tokens"]) == plain.usage.completion_tokens
    for index, row in enumerate(block["tokens"]):
        assert row["index"] == index
        assert set(row["signals"]) == set(SIGNAL_NAMES)
        assert row["strategy"] in {s.label for s in Strategy}
        assert set(row["parameters"]) >= {"temperature", "top_p", "top_k", "min_p"}

    text, rows, usage, reasons = "", [], None, []
    stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            rows += (getattr(choice, "entropick", None) or {}).get("tokens") or []
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == plain.choices[0].message.content
    assert_rows_agree(rows, block["tokens"])
    assert usage
    assert usage.total_tokens == plain.usage.total_tokens
    assert usage.completion_tokens == plain.usage.completion_tokens
    assert usage.prompt_tokens_details
    # the second answer found every full page of the prompt, whose last token always runs
    assert usage.prompt_tokens_details.cached_tokens == (usage.prompt_tokens - 1) // 16 * 16
    assert reasons == [plain.choices[0].finish_reason]


def test_text_completion(server: str) -> None:
    client = OpenAI(base_url=f"{server}/v1", api_key="unused")
    answer = client.completions.create(model="pico", prompt="The capital is", max_tokens=4, temperature=0)
    assert answer.usage
    assert answer.usage.completion_tokens <= 4
    assert answer.choices[0].text


def test_ambiguous_question_is_clarified(server: str) -> None:
    """The profile's text is inserted, marked, counted, and at most once."""
    inserted = 0
    for seed in range(6):
        answer = ask(server, "What color is it?", seed=seed, entropick={"telemetry": "tokens"})
        rows = answer["choices"][0]["entropick"]["tokens"]
        forced = [row["index"] for row in rows if row["forced"]]
        if forced:
            inserted += 1
            assert "Which one do you mean?" in answer["choices"][0]["message"]["content"]
            assert forced == list(range(forced[0], forced[0] + len(forced)))
            assert {rows[i]["strategy"] for i in forced} == {"clarify"}
    assert inserted > 0
    budget = {"overrides": {"clarify_budget": 0}, "telemetry": "tokens"}
    rows = ask(server, "What color is it?", entropick=budget)["choices"][0]["entropick"]["tokens"]
    assert not any(row["forced"] for row in rows)


def test_a_client_that_leaves_frees_its_pages(server: str) -> None:
    """The cache usage rises while a long stream runs and falls to zero after the client is gone."""
    body = {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 900,
    }
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(12):
            next(lines)
        assert gauge(server, "entropick_kv_cache_usage_ratio") > 0
        assert gauge(server, "entropick_num_requests_running") == 1
    end = time.monotonic() + 10
    while gauge(server, "entropick_num_requests_running") and time.monotonic() < end:
        time.sleep(0.02)
    assert gauge(server, "entropick_kv_cache_usage_ratio") == 0
    assert gauge(server, "entropick_num_requests_running") == 0
    assert ask(server, PROMPTS[0])["choices"][0]["finish_reason"] == "stop"


def test_seed_answers_can_be_replayed(server: str) -> None:
    """A server-picked seed is reported; sending it back gives the same answer."""
    first = ask(server, "Tell me a story about a bear.", seed=None)
    seed = first["choices"][0]["entropick"]["summary"]["seed"]
    again = ask(server, "Tell me a story about a bear.", seed=seed)
    assert again["choices"][0]["message"]["content"] == first["choices"][0]["message"]["content"]


def test_policy_and_profile_are_shown(server: str) -> None:
    policy = httpx.get(f"{server}/v1/policy", timeout=10).json()
    assert "calibrated" in policy["presets"]
    assert policy["profile"]["layers"] == [0, 1, 2, 3]
    assert httpx.get(f"{server}/v1/models", timeout=10).json()["data"][0]["id"] == "pico"


Launch = Callable[..., tuple[str, Callable[[], int]]]


def test_sigterm_ends_with_zero(run_server: Launch) -> None:
    url, end = run_server("--max-num-seqs", "2", "--served-model-name", "other")
    assert httpx.get(f"{url}/v1/models", timeout=10).json()["data"][0]["id"] == "other"
    assert end() == 0


def test_a_model_that_is_not_there_says_what_to_do(run_server: Launch) -> None:
    with pytest.raises(RuntimeError, match="no such folder"):
        run_server("/nowhere/model")
