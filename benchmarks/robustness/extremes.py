"""Random requests at the edges of what may be asked for, and bodies that must be refused; both seeded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

from .wire import CHAT, PLAIN

Asked = tuple[str, dict[str, Any]]
"""the path and the body of a request"""
_TEXTS: Final = (
    "Hello",
    "What is the capital of France?",
    "🙂👩‍👩‍👧‍👦 שלום \u2028 e\u0301",
    "a\x00b <script>alert(1)</script> {{ 7 * 7 }}",
    "word " * 150,
    "1 2 3 4 5 6 7 8 9 " * 20,
)
_REGEXES: Final = ("(a+)+", "[a-z]{1,40}", "(yes|no)", r"\d{3}-\d{4}", "(🙂){1,8}", "(a{1,20}){1,20}")
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["names", "count"],
    "additionalProperties": False,
}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 12}},
            "required": ["word"],
            "additionalProperties": False,
        },
    },
}
_POLICIES: Final = (
    "entropix",
    "entropix",
    "entropix",
    "fixed",
    "edt",
    "dynatemp",
    "entropy_target",
    "top_n_sigma",
    "mirostat2",
    "top_h",
)


class Extremes:
    """A source of random requests; ``policy`` is what the server's /v1/policy says about its limits."""

    def __init__(self, policy: Mapping[str, Any], vocab_size: int, seed: int) -> None:
        self._policy = policy
        self._vocab = vocab_size
        self.rng = random.Random(seed)

    def _edge(self, low: float, high: float) -> float:
        """Returns one of the limits mostly, else something between them; whole where both limits are."""
        whole = isinstance(low, int) and isinstance(high, int)
        between = self.rng.randint(int(low), int(high)) if whole else self.rng.uniform(low, high)
        return self.rng.choice((low, high, low, high, between))

    def _some(self, chance: float) -> bool:
        return self.rng.random() < chance

    def _sampling(self) -> dict[str, Any]:
        rng, ids = self.rng, lambda count: [rng.randrange(self._vocab) for _ in range(count)]
        choices: dict[str, Any] = {
            "temperature": rng.choice((0, 2, 1e-6, 1.0)),
            "top_p": rng.choice((1e-6, 1, 0.5)),
            "top_k": rng.choice((-1, 1, 1_000_000)),
            "min_p": rng.choice((0, 1)),
            "seed": rng.choice((2**63 - 1, -(2**63), 0, rng.randrange(1 << 30))),
            "frequency_penalty": rng.choice((-2, 2)),
            "presence_penalty": rng.choice((-2, 2)),
            "repetition_penalty": rng.choice((1e-3, 100)),
            "logit_bias": {str(i): rng.choice((-100, 100)) for i in ids(rng.choice((1, 1024)))},
            "stop": rng.choice(("a", ["\n", "e "], ["x" * 256] * 16)),
            "stop_token_ids": ids(64),
            "min_tokens": rng.choice((0, 4)),
            "bad_words": rng.choice((["a"], ["the", " of"], [f"w{i}" for i in range(128)])),
            "allowed_token_ids": ids(rng.choice((1, 50))),
            "ignore_eos": True,
            "n": rng.choice((1, 2, 5, 16)),
        }
        return {name: value for name, value in choices.items() if self._some(0.25)}

    def _block(self) -> dict[str, Any]:
        """Returns an ``entropick`` block."""
        rng = self.rng
        name = rng.choice([p for p in _POLICIES if p in ("entropix", "fixed", *self._policy["formulas"])])
        block: dict[str, Any] = {"policy": name}
        if name == "entropix" and "calibrated" in self._policy["presets"]:
            block["preset"] = rng.choice(("calibrated", "seed"))
        limits = self._policy["overrides"]
        for override in rng.sample(sorted(limits), rng.randint(0, 6)):
            value = self._edge(limits[override]["min"], limits[override]["max"])
            block.setdefault("overrides", {})[override] = value
        if name == "entropix" and self._some(0.4):
            given = self._policy["branch"]
            branch = {key: self._edge(given[key]["min"], given[key]["max"]) for key in ("width", "budget")}
            branch["depth"] = rng.choice((1, 8, 4096))
            branch["scorer"] = rng.choice(given["scorer"])
            branch["min_entropy"] = rng.choice((0.0, 1.0))
            block["branch"] = branch
        block["telemetry"] = rng.choice(("none", "summary", "tokens", "full"))
        if self._some(0.2):
            block["genuineness"] = rng.choice((True, False, "seed"))
        if self._some(0.1):
            block["layer_entropy"] = {}
        if self._some(0.15) and "branch" not in block:
            block["consensus"] = {"k": rng.choice((2, 3, 8, 16)), "extract": "last_number"}
        return block

    def _form(self, chat: bool) -> dict[str, Any]:
        """Returns a form of the reply, or nothing."""
        forms: list[dict[str, Any]] = [
            {"guided_regex": self.rng.choice(_REGEXES)},
            {"guided_choice": ["yes", "no", "🙂" * 5]},
            {"guided_json": _SCHEMA},
        ]
        if chat:
            forms += [
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}},
                {"response_format": {"type": "json_object"}},
                {"tools": [_TOOL], "tool_choice": self.rng.choice(("auto", "required", "none"))},
            ]
        return self.rng.choice(forms)

    def request(self) -> Asked:
        """Returns a request that the server may serve, or refuse where its parts do not go together."""
        rng = self.rng
        chat = self._some(0.6)
        body: dict[str, Any] = {"max_tokens": rng.choice((1, 8, 32, 64, 200))}
        if chat:
            turns = [{"role": "user", "content": rng.choice(_TEXTS)} for _ in range(rng.choice((1, 1, 3)))]
            body["messages"] = turns
            if self._some(0.2):
                body |= {"logprobs": True, "top_logprobs": 20}
        else:
            ids = [rng.randrange(self._vocab) for _ in range(rng.choice((1, 40, 400)))]
            body["prompt"] = rng.choice((rng.choice(_TEXTS), [rng.choice(_TEXTS)] * rng.choice((2, 16)), ids))
            body |= {"logprobs": 20} if self._some(0.2) else {}
            body |= {"echo": True} if self._some(0.1) else {}
            body |= {"best_of": 16} if self._some(0.1) else {}
        body |= self._sampling()
        body["entropick"] = self._block()
        if self._some(0.25):
            body |= self._form(chat)
        if self._some(0.5):
            body["stream"] = True
        return (CHAT if chat else PLAIN), body

    def bad(self) -> tuple[str, bytes | dict[str, Any]]:
        """Returns a body that must be refused."""
        path, body = self.request()
        wrong: tuple[bytes | dict[str, Any], ...] = (
            b"not json",
            b'{"messages": [',
            b"[" * 5000,
            body | {"temperature": -1},
            body | {"n": 10**6},
            body | {"stop": [""] * 1000},
            body | {"logit_bias": {"-1": 1}},
            body | {"entropick": {"polcy": "fixed"}},
            body | {"guided_regex": "("},
            body | {"model": "another"},
            body | {"max_tokens": 10**9},
        )
        return path, self.rng.choice(wrong)
