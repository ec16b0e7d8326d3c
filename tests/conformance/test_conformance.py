"""What every engine must do, asked over HTTP: one module for all of them."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from entropick_pico import model_path
from entropick_sampler.signals import ATTENTION_SIGNALS, STEP_SIGNALS
from entropick_sampler.strategy import Strategy

PROMPTS = (
    "What is the capital of Falnia?",
    "What color is it?",
    "Tell me a story about a fox.",
    "Pick a town.",
    "Sort the digits 3 1 2 5.",
    "Add 27 and 58. Think step by step.",
)
NOWHERE = {
    "greedy_entropy": 0,
    "clarify_entropy": 64,
    "explore_entropy": 0,
    "high_uncertainty_entropy": 64,
}
"""no region but ADAPTIVE's"""
FORCED = {
    "greedy": {"greedy_entropy": 64, "greedy_varentropy": 4096},
    "explore": {**NOWHERE, "explore_entropy": 64, "explore_varentropy": 0},
    "high_uncertainty": {**NOWHERE, "high_uncertainty_entropy": 0, "high_uncertainty_varentropy": 0},
    "adaptive": NOWHERE,
}
ROW = {"index", "token", "token_id", "strategy", "forced", "parameters", "signals"}
PARAMETERS = {"temperature", "top_p", "top_k", "min_p", "n_candidates"}


def post(url: str, prompt: str, **fields: Any) -> httpx.Response:
    body = {"model": "pico", "messages": [{"role": "user", "content": prompt}], "seed": 11, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)


def ask(url: str, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = post(url, prompt, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def rows_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return answer["choices"][0]["entropick"]["tokens"]  # type: ignore[no-any-return]


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]  # type: ignore[no-any-return]


def client_of(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=120)


def gauge(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=10).text
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in /metrics"
    return float(found[1])


def settled(url: str) -> None:
    """Wait until nothing runs."""
    end = time.monotonic() + 20
    while gauge(url, "entropick_num_requests_running") and time.monotonic() < end:
        time.sleep(0.05)
    assert gauge(url, "entropick_num_requests_running") == 0
    assert gauge(url, "entropick_kv_cache_usage_ratio") == 0


def assert_same(got: list[dict[str, Any]], want: list[dict[str, Any]], within: float) -> None:
    """The same rows, figures ``within`` of each other."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        plain = set(a) - {"signals", "parameters"}
        assert {k: a[k] for k in plain} == {k: b[k] for k in plain}
        assert a["signals"] == pytest.approx(b["signals"], rel=within, abs=within)
        assert a["parameters"] == pytest.approx(b["parameters"], rel=within, abs=within)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_openai_client_streamed_and_plain(server: str, prompt: str) -> None:
    client = client_of(server)
    request: dict[str, Any] = {
        "model": "pico",
        "messages": [{"role": "user", "content": prompt}],
        "seed": 5,
        "max_tokens": 60,
        "extra_body": {"entropick": {"telemetry": "tokens"}},
    }
    plain = client.chat.completions.create(**request)
    block = plain.choices[0].entropick  # type: ignore[attr-defined]
    assert plain.usage
    assert len(block["tokens"]) == plain.usage.completion_tokens
    for index, row in enumerate(block["tokens"]):
        assert row["index"] == index
        assert set(row) - {"eos", "stop"} == ROW
        assert set(row["signals"]) >= {s.name for s in STEP_SIGNALS}
        assert set(row["parameters"]) == PARAMETERS
        assert row["strategy"] in {s.label for s in Strategy}
    text, rows, usage, reasons = "", [], None, []
    stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            rows += (getattr(choice, "entropick", None) or {}).get("tokens") or []
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == plain.choices[0].message.content
    assert_same(rows, block["tokens"], 1e-4)
    assert usage
    assert usage.total_tokens == plain.usage.total_tokens
    assert usage.completion_tokens == plain.usage.completion_tokens
    assert reasons == [plain.choices[0].finish_reason]


def test_text_completions(server: str) -> None:
    client = client_of(server)
    ids = httpx.post(f"{server}/tokenize", json={"model": "pico", "prompt": "The capital is"}).json()[
        "tokens"
    ]
    options: dict[str, Any] = {"model": "pico", "max_tokens": 4, "temperature": 0}
    by_text = client.completions.create(prompt="The capital is", **options)
    by_ids = client.completions.create(prompt=ids, **options)
    both = client.completions.create(prompt=["The capital is", "Once upon"], **options)
    assert by_text.choices[0].text
    assert by_text.choices[0].text == by_ids.choices[0].text == both.choices[0].text
    assert [c.index for c in both.choices] == [0, 1]
    assert both.usage
    assert both.usage.completion_tokens <= 8


@pytest.mark.parametrize("strategy", FORCED)
def test_every_strategy_decides(server: str, strategy: str) -> None:
    settings = {"overrides": FORCED[strategy], "telemetry": "tokens"}
    rows = rows_of(ask(server, PROMPTS[2], max_tokens=20, ignore_eos=True, entropick=settings))
    assert len(rows) == 20
    # where nothing is uncertain a comparison may go either way: varentropy may be exactly 0
    assert {row["strategy"] for row in rows if row["signals"]["logits_varentropy"] > 0} == {strategy}
    for row in rows:
        if row["strategy"] == "greedy":
            assert row["parameters"]["temperature"] == 0


def test_an_ambiguous_question_is_clarified(server: str) -> None:
    inserted = 0
    for seed in range(6):
        answer = ask(server, PROMPTS[1], seed=seed, entropick={"telemetry": "tokens"})
        rows = rows_of(answer)
        forced = [row["index"] for row in rows if row["forced"]]
        if forced:
            inserted += 1
            assert "Which one do you mean?" in text_of(answer)
            assert forced == list(range(forced[0], forced[0] + len(forced)))
            assert {rows[i]["strategy"] for i in forced} == {"clarify"}
            assert answer["usage"]["completion_tokens"] == len(rows) > len(forced)
    assert inserted
    without = {"overrides": {"clarify_budget": 0}, "telemetry": "tokens"}
    assert not any(row["forced"] for row in rows_of(ask(server, PROMPTS[1], entropick=without)))


def test_levels_of_telemetry(server: str) -> None:
    """Each level adds to the one before it; ``full`` has layers, heads and candidates."""
    none = ask(server, PROMPTS[0], entropick={"telemetry": "none"})["choices"][0]
    assert none.get("entropick") is None
    summary = ask(server, PROMPTS[0], entropick={"telemetry": "summary"})["choices"][0]["entropick"]
    assert set(summary["summary"]["signals"]) >= {s.name for s in STEP_SIGNALS}
    assert not summary.get("tokens")
    full = ask(server, PROMPTS[0], entropick={"telemetry": "full", "preset": "seed"})
    config = json.loads((Path(model_path()) / "config.json").read_text(encoding="utf-8"))
    for row in rows_of(full):
        detail = row["detail"]
        assert detail["layers"] == [0, 1, 2, 3]
        assert set(detail["per_layer"]) == {s.name for s in ATTENTION_SIGNALS}
        assert all(len(values) == 4 for values in detail["per_layer"].values())
        for name in ("attention_entropy", "interaction_strength", "attention_to_previous"):
            assert [len(heads) for heads in detail[name]] == [config["num_attention_heads"]] * 4
            mean = sum(map(sum, detail[name])) / (4 * config["num_attention_heads"])
            assert row["signals"][name] == pytest.approx(mean, rel=1e-5)
        assert len(row["candidates"]) == row["parameters"]["n_candidates"]
        assert row["strategy"] == "clarify" or row["token_id"] in {c["token_id"] for c in row["candidates"]}
    assert any(row["parameters"]["n_candidates"] == 12 for row in rows_of(full))


def test_the_most_probable_tokens_before_and_after_the_sampler(server: str) -> None:
    """Telemetry ``full`` tells of 20 tokens and of every drawn one, and which filter cut which."""
    filters = {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "max_tokens": 24}
    answer = ask(server, PROMPTS[2], **filters, entropick={"telemetry": "full", "policy": "fixed"})
    cuts: set[str | None] = set()
    for row in rows_of(answer):
        told = row["most_probable"]
        assert len(told) >= 20
        assert [t["probability"] for t in told] == sorted((t["probability"] for t in told), reverse=True)
        kept = [t for t in told if t["cut_by"] is None]
        assert sum(t["final_probability"] for t in kept) == pytest.approx(1)  # top_k keeps fewer than 20
        assert all(t["final_probability"] == 0 for t in told if t["cut_by"] is not None)
        own = next(t for t in told if t["token_id"] == row["token_id"])
        assert own["cut_by"] is None
        assert -math.log2(own["probability"]) == pytest.approx(row["signals"]["surprisal"], abs=1e-4)
        # temperature and filters change no order, and what is left keeps its odds
        first, odds = kept[0], 1 / filters["temperature"]
        for other in kept[1:]:
            wanted = (other["probability"] / first["probability"]) ** odds
            assert other["final_probability"] / first["final_probability"] == pytest.approx(wanted, rel=1e-6)
        cuts |= {t["cut_by"] for t in told}
    assert {None, "top_k"} <= cuts
    greedy = rows_of(ask(server, PROMPTS[2], temperature=0, max_tokens=4, entropick={"telemetry": "full"}))
    for row in greedy:
        assert [t["cut_by"] for t in row["most_probable"]] == [None] + ["temperature"] * 19
        assert row["most_probable"][0]["token_id"] == row["token_id"]
    assert "most_probable" not in rows_of(ask(server, PROMPTS[2], entropick={"telemetry": "tokens"}))[0]


def test_the_last_message_is_continued(server: str) -> None:
    """A reply that is cut in the middle and continued is the reply in one piece."""
    greedy = {"temperature": 0, "max_tokens": 24}
    whole = text_of(ask(server, PROMPTS[0], **greedy))
    begun = " ".join(whole.split(" ")[:2])
    messages = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": begun}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False, **greedy}
    answer = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    assert 0 < len(begun) < len(whole)
    assert begun + text_of(answer.json()) == whole
    refused = httpx.post(f"{server}/v1/chat/completions", json={**body, "add_generation_prompt": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "continue_final_message")


def test_seeds(server: str) -> None:
    """Equal seeds give equal texts, other seeds others; a picked seed is told and replays."""
    warm = {"temperature": 0.7, "max_tokens": 40}
    texts = [text_of(ask(server, PROMPTS[2], seed=seed, **warm)) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1
    first = ask(server, PROMPTS[2], seed=None, **warm)
    seed = first["choices"][0]["entropick"]["summary"]["seed"]
    assert text_of(ask(server, PROMPTS[2], seed=seed, **warm)) == text_of(first)


def test_choices_of_one_prompt(server: str) -> None:
    """Each choice is drawn with numbers of its own and told apart; the first is the one of n = 1.

    Without a temperature too: several continuations are drawn at 0.7.
    """
    settings = {"telemetry": "tokens"}
    answer = ask(server, PROMPTS[2], n=3, max_tokens=24, ignore_eos=True, entropick=settings)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert answer["usage"]["completion_tokens"] == 72
    assert all(len(choice["entropick"]["tokens"]) == 24 for choice in answer["choices"])
    alone = ask(server, PROMPTS[2], temperature=0.7, max_tokens=24, ignore_eos=True, entropick=settings)
    assert text_of(alone) == texts[0]


def test_alone_and_in_company(server: str) -> None:
    """A seeded request says the same alone and beside others, up to float rounding of its figures."""
    bodies = [(prompt, seed) for prompt in PROMPTS for seed in (1, 2)]

    def one(body: tuple[str, int]) -> dict[str, Any]:
        warm = {"temperature": 0.7} if body[1] == 1 else {}
        return ask(server, body[0], seed=body[1], max_tokens=30, entropick={"telemetry": "tokens"}, **warm)

    alone = [one(body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(one, bodies))
    for a, b in zip(alone, together, strict=True):
        assert text_of(a) == text_of(b)
        assert_same(rows_of(a), rows_of(b), 1e-3)


def test_stop_strings_stop_ids_and_lengths(server: str) -> None:
    whole = ask(server, PROMPTS[0], temperature=0, entropick={"telemetry": "tokens"})
    text, rows = text_of(whole), rows_of(whole)
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert rows[-1]["eos"]
    middle = len(text) // 2
    stopped = ask(server, PROMPTS[0], temperature=0, stop=[text[middle : middle + 3]])
    assert text_of(stopped) == text[: text.index(text[middle : middle + 3])]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
    by_id = ask(server, PROMPTS[0], temperature=0, stop_token_ids=[rows[2]["token_id"]])
    assert text_of(by_id) == "".join(row["token"] for row in rows[:2])
    assert by_id["usage"]["completion_tokens"] == 3
    cut = ask(server, PROMPTS[0], temperature=0, max_tokens=2)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2
    on = ask(server, PROMPTS[0], temperature=0, ignore_eos=True, max_tokens=30)
    assert on["usage"]["completion_tokens"] == 30
    settled(server)


def test_log_probabilities_are_of_the_measured_distribution(server: str) -> None:
    answer = ask(
        server,
        PROMPTS[1],
        logprobs=True,
        top_logprobs=3,
        temperature=1.5,
        max_tokens=12,
        entropick={"policy": "fixed", "telemetry": "tokens"},
    )
    content = answer["choices"][0]["logprobs"]["content"]
    rows = rows_of(answer)
    told = [row for row in rows if not row.get("eos")]
    assert len(content) == len(told)
    for entry, row in zip(content, told, strict=True):
        assert entry["logprob"] == pytest.approx(-row["signals"]["surprisal"] * math.log(2), abs=1e-5)
        best = [t["logprob"] for t in entry["top_logprobs"]]
        assert best == sorted(best, reverse=True)
        assert best[0] >= entry["logprob"] - 1e-6
        assert sum(map(math.exp, best)) <= 1 + 1e-5


def test_fixed_and_temperature_zero_decide_nothing(server: str) -> None:
    fixed = ask(server, PROMPTS[2], max_tokens=10, entropick={"policy": "fixed", "telemetry": "tokens"})
    greedy = ask(server, PROMPTS[2], max_tokens=10, temperature=0, entropick={"telemetry": "tokens"})
    for answer in (fixed, greedy):
        assert {row["strategy"] for row in rows_of(answer)} == {None}
        assert all(row["signals"]["attention_entropy"] > 0 for row in rows_of(answer))


FORMULAS: dict[str, dict[str, float]] = {
    "edt": {"edt_theta": 0.8},
    "dynamic_temperature": {"dynatemp_range": 0.6},
    "target_entropy": {"target_entropy": 1.5},
    "top_n_sigma": {"top_n_sigma": 2.0},
    "mirostat": {"mirostat_tau": 1.5, "mirostat_eta": 0.3},
    "top_h": {"top_h_alpha": 0.8},
}


@pytest.mark.parametrize("policy", FORMULAS)
def test_a_policy_with_one_formula(server: str, policy: str) -> None:
    """It sets its parameter, alone and in company alike; the server's own list of policies has it."""
    told = httpx.get(f"{server}/v1/policy").json()["formulas"]
    assert set(told) == set(FORMULAS)
    request: dict[str, Any] = {
        "max_tokens": 24,
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 1,
        "temperature": 0.9,
        "entropick": {"policy": policy, "overrides": FORMULAS[policy], "telemetry": "tokens"},
    }

    def one(prompt: str) -> dict[str, Any]:
        return ask(server, prompt, **request)

    alone = one(PROMPTS[2])
    summary, rows = alone["choices"][0]["entropick"]["summary"], rows_of(alone)
    assert (summary["policy"], summary["preset"]) == (policy, None)
    assert {row["strategy"] for row in rows} == {None}
    sets = told[policy]["sets"]
    set_here = [row["parameters"][sets] for row in rows]
    assert len(set(set_here)) > 5
    other = {"temperature": "min_p", "min_p": "temperature"}[sets]
    assert {row["parameters"][other] for row in rows} == {0.9 if other == "temperature" else 0.0}
    if policy == "edt":
        entropies = [row["signals"]["logits_entropy"] * math.log(2) for row in rows]
        want = [0.9 * 0.8 ** (0.8 / h) if h > 0.01 else 0.01 for h in entropies]
        assert set_here == pytest.approx([max(t, 0.01) for t in want], rel=1e-3, abs=1e-3)
    if policy == "mirostat":
        mu, best = 3.0, [e["top_logprobs"][0]["logprob"] for e in alone["choices"][0]["logprobs"]["content"]]
        for row, floor, top in zip(rows, set_here, best, strict=True):
            assert floor == pytest.approx(
                math.exp(min((-mu * math.log(2) - top) / 0.9, 0.0)), rel=1e-3, abs=1e-6
            )
            mu -= 0.3 * (row["signals"]["surprisal"] - 1.5)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(one, (PROMPTS[0], PROMPTS[2], PROMPTS[3], PROMPTS[1])))
    assert text_of(together[1]) == text_of(alone)
    assert_same(rows_of(together[1]), rows, 1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        {"depth": 5},
        {"until": "e", "scorer": "mean_excess", "min_runner_up": 0.01},
        {"until": "end", "min_entropy": 0.5},
    ],
    ids=["depth", "text", "end"],
)
def test_branches(server: str, kind: dict[str, Any]) -> None:
    """Branches open, the best is kept, losers are counted; the same again gives the same."""
    settings = {
        "overrides": FORCED["explore"],
        "branch": {"width": 3, "budget": 4.0, "on": ["explore"], **kind},
        "telemetry": "full",
    }
    request: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True, "entropick": settings}
    answer = ask(server, PROMPTS[2], **request)
    rows = rows_of(answer)
    assert len(rows) == answer["usage"]["completion_tokens"] == 20
    opened = [row for row in rows if row.get("branches")]
    assert opened
    lost = 0
    for row in opened:
        branches = row["branches"]
        assert len(branches) == 3
        kept = [b for b in branches if b["chosen"]]
        assert len(kept) == 1
        assert kept[0]["score"] >= max(b["score"] for b in branches) - 1e-3
        ids = [r["token_id"] for r in rows[row["index"] : row["index"] + len(kept[0]["token_ids"])]]
        assert kept[0]["token_ids"] == ids
        lost += sum(len(b["token_ids"]) for b in branches if not b["chosen"])
        if kind.get("until") == "e":
            said = [r["token"] for r in rows[row["index"] : row["index"] + len(ids)]]
            assert "e" not in "".join(said[:-1])
            assert "e" in said[-1] or row["index"] + len(ids) == 20
        assert row["signals"]["logits_entropy"] >= kind.get("min_entropy", 0.0)
    assert answer["usage"]["completion_tokens_details"]["branch_tokens"] == lost > 0
    again = ask(server, PROMPTS[2], **request)
    assert [r["token_id"] for r in rows_of(again)] == [r["token_id"] for r in rows]
    chunks = []
    body = {"messages": [{"role": "user", "content": PROMPTS[2]}], "seed": 11, "stream": True, **request}
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                chunks += json.loads(line.removeprefix("data: "))["choices"]
    assert "".join(c["delta"].get("content") or "" for c in chunks) == text_of(answer)
    settled(server)


def test_refusals(server: str) -> None:
    client = client_of(server)

    def create(**fields: Any) -> None:
        request = {"model": "pico", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        client.chat.completions.create(**{**request, **fields})

    with pytest.raises(BadRequestError) as bad:
        create(extra_body={"entropick": {"overrides": {"top_p": 7}}})
    assert bad.value.param == "entropick.overrides.top_p"
    assert "1.0" in bad.value.message
    with pytest.raises(BadRequestError, match="tempurature"):
        create(extra_body={"entropick": {"overrides": {"tempurature": 1}}})
    with pytest.raises(BadRequestError, match="branch"):
        create(extra_body={"entropick": {"branch": {"width": 99}}})
    with pytest.raises(NotFoundError):
        create(model="other")
    with pytest.raises(BadRequestError, match="context"):
        create(messages=[{"role": "user", "content": "fox " * 1100}])
    with pytest.raises(BadRequestError, match="token ids"):
        client.completions.create(model="pico", prompt=[10**6], max_tokens=1)
    assert ask(server, PROMPTS[0])["choices"][0]["finish_reason"] == "stop"


def test_a_client_that_leaves_frees_its_place(server: str) -> None:
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
        assert gauge(server, "entropick_num_requests_running") == 1
        assert gauge(server, "entropick_kv_cache_usage_ratio") > 0
    settled(server)
    assert ask(server, PROMPTS[0])["choices"][0]["finish_reason"] == "stop"


def test_a_prompt_that_was_seen_is_found_in_the_cache(server: str) -> None:
    prompt = "Tell me about the harbor. " * 40
    first = ask(server, prompt, max_tokens=2)["usage"]
    again = ask(server, prompt, max_tokens=2)["usage"]
    assert first["prompt_tokens"] == again["prompt_tokens"] > 200
    # by whole blocks, whose size is the engine's
    assert again["prompt_tokens_details"]["cached_tokens"] >= again["prompt_tokens"] // 2


def test_what_is_served(server: str) -> None:
    assert httpx.get(f"{server}/v1/models", timeout=10).json()["data"][0]["id"] == "pico"
    policy = httpx.get(f"{server}/v1/policy", timeout=10).json()
    assert policy["profile"]["layers"] == [0, 1, 2, 3]
    assert "calibrated" in policy["presets"]
    before = gauge(server, "entropick_generation_tokens_total")
    used = ask(server, PROMPTS[0])["usage"]["completion_tokens"]
    assert gauge(server, "entropick_generation_tokens_total") - before >= used


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make test-vllm)")
@pytest.mark.parametrize("other", ["vllm", "vllm-v2"])
def test_the_engines_say_the_same(running: Callable[[str], Any], other: str) -> None:
    """Texts, decisions and figures of seeded requests, branches among them."""
    ours, theirs = running("torch").url, running(other).url
    branch = {
        "overrides": FORCED["explore"],
        "branch": {"width": 3, "depth": 5, "budget": 4.0, "on": ["explore"]},
        "telemetry": "full",
    }
    words = {"until": "e", "budget": 16.0, "scorer": "lowest_excess", "min_runner_up": 0.01}
    until = {**branch, "branch": {"width": 3, "on": ["explore"], **words}}
    for seed, prompt in enumerate(PROMPTS):
        for settings in ({"telemetry": "tokens"}, {"preset": "seed", "telemetry": "tokens"}, branch, until):
            fields: dict[str, Any] = {"seed": seed, "n": 2, "max_tokens": 24, "entropick": settings}
            a, b = ask(ours, prompt, **fields), ask(theirs, prompt, **fields)
            for mine, its in zip(a["choices"], b["choices"], strict=True):
                assert mine["message"] == its["message"]
                assert mine["finish_reason"] == its["finish_reason"]
            assert a["usage"]["completion_tokens_details"] == b["usage"]["completion_tokens_details"]
            for row, its in zip(rows_of(a), rows_of(b), strict=True):
                assert (row["strategy"], row["forced"]) == (its["strategy"], its["forced"])
                # genuineness among them, whose windows live in the server beside vLLM
                assert row["signals"] == pytest.approx(its["signals"], rel=1e-3, abs=1e-3)
                for name in ("genuineness", "entropy_variance", "collapse_rate"):
                    if name in row["signals"]:
                        assert row["signals"][name] == pytest.approx(its["signals"][name], abs=1e-4)
                assert [c["token_ids"] for c in row.get("branches") or ()] == [
                    c["token_ids"] for c in its.get("branches") or ()
                ]
