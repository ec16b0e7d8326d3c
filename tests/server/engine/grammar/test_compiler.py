"""The cases that other grammar libraries crash or hang on: each is refused in words, or served, in time."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from entropick_pico import model_path
from entropick_server.engine.grammar.bounds import MAX_ALL_PROPERTIES, MAX_ENUM, MAX_PROPERTIES
from entropick_server.engine.grammar.compiler import CompiledGrammar, GrammarCompiler
from entropick_server.engine.grammar.errors import GrammarError
from entropick_server.engine.grammar.spec import Grammar
from entropick_server.engine.grammar.state import GrammarState
from entropick_server.engine.grammar.tags import Tag, TaggedText
from entropick_server.engine.reply_format.form import ReplyFormat
from entropick_server.engine.tokenizer import FastTokenizer

SECONDS = 5.0
"""on a machine that does other things as well; alone the slowest takes a fifth of a second"""
MORE = 7
"""columns of the logits without a token"""


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubled(levels: int, name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {name: [schema, schema]}
    return schema


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}}


LIST = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/node",
}  # fmt: skip
LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
CHAIN = {
    f"d{n}": {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2}} for n in range(40)
}

SCHEMAS: list[tuple[str, Any, str | None]] = [
    # name, schema, None where it is served, else words of the refusal
    ("recursion with an end", LIST, None),
    ("a pattern with a bounded class", {"type": "string", "pattern": "^[^\\n\\r]{1,129}$"}, None),
    ("oneOf doubled 12 deep", doubled(12, "oneOf"), "oneOf|bytes"),
    ("anyOf doubled 10 deep", doubled(10, "anyOf"), None),
    ("references doubled 40 deep", {"$defs": {**CHAIN, "d40": {"type": "null"}}, "$ref": "#/$defs/d0"}, None),
    ("arrays 30 deep", nested(30), None),
    ("arrays 500 deep", nested(500), "nested more than 64 deep"),
    ("objects 20,000 deep", '{"items":' * 20_000 + "{}" + "}" * 20_000, "bytes"),
    ("lists 20,000 deep", '{"enum":' + "[" * 20_000 + "]" * 20_000 + "}", "nested more than 64 deep"),
    ("a million deep", "[" * 1_000_000, "bytes"),
    ("5,000 values", {"enum": [f"v{n}" for n in range(MAX_ENUM)]}, None),
    ("too many values", {"enum": [f"v{n}" for n in range(MAX_ENUM + 1)]}, f"at most {MAX_ENUM}"),
    ("100,000 values", {"enum": [f"v{n}" for n in range(100_000)]}, "bytes"),
    ("1,000 properties", properties(MAX_PROPERTIES), None),
    ("too many properties", properties(MAX_PROPERTIES + 1), f"at most {MAX_PROPERTIES}"),
    (
        "too many properties in all",
        {"anyOf": [properties(MAX_PROPERTIES)] * (MAX_ALL_PROPERTIES // MAX_PROPERTIES + 1)},
        f"at most {MAX_ALL_PROPERTIES}|bytes",
    ),
    ("minItems 1e8", {"type": "array", "items": {}, "minItems": 10**8}, "minItems asks for at least"),
    ("minLength 1e8", {"type": "string", "minLength": 10**8}, "minLength asks for at least"),
    ("maxLength 1e8", {"type": "string", "maxLength": 10**8}, None),
    ("maxItems 1e8", {"type": "array", "items": {"type": "null"}, "maxItems": 10**8}, None),
    ("a forced pattern", {"type": "string", "pattern": "^a{100000000}$"}, "pattern asks for at least"),
    ("a loop of one reference", {"$ref": "#"}, "no text follows"),
    ("a loop of references", LOOP, "no text follows"),
    ("a reference to nothing", {"$ref": "#/$defs/no"}, "does not exist"),
    ("a reference to elsewhere", {"$ref": "http://example.invalid/x"}, "not present|fetch"),
    ("a contradiction", {"type": "string", "minLength": 5, "maxLength": 2}, "Unsatisfiable"),
    ("false", False, "allows no text"),
    ("true", True, None),
    ("anything", {}, None),
    ("an unknown keyword", {"type": "object", "foo": 1}, None),
    ("an unknown type", {"type": "strin"}, "strin"),
    ("an unknown format", {"type": "string", "format": "zzz"}, "zzz"),
    ("a keyword without support", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    ("overlapping oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ("disjoint oneOf", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, None),
    ("a pattern that is none", {"type": "string", "pattern": "("}, "unclosed group"),
    ("a pattern that looks around", {"type": "string", "pattern": "^(?!a).*$"}, "look-around"),
    ("a list", [1], "must be a JSON schema"),
    ("a number", 1, "must be a JSON schema"),
    ("no JSON", "{", "not valid JSON"),
    ("allOf multiplied", {"allOf": [{"anyOf": [{"minimum": i}] * 4} for i in range(8)]}, "too large"),
]  # fmt: skip
PATTERNS: list[tuple[str, str | None]] = [
    ("(a+)+$", None),
    ("foo**", None),
    ("^a$", None),
    ("(a{1,1000}){1,1000}", None),
    ("a{1,100000000}", None),
    ("a{100000000}", "asks for at least 100000000 characters"),
    ("(a{1000}){1000}", "asks for at least 1000000 characters"),
    ("((a|b|c){0,50}d){0,50}(e|f){0,100}", None),
    (".*a.{20}", None),
    ("(?i)yes|no", None),
    (r"\p{L}+\d{2}", None),
    ("a/b\nstart: /x/", None),
    ("(", "unclosed group"),
    ("(?=a)b", "look-around"),
    (r"(a)\1", "backreferences"),
    (r"\bfoo\b", "lookarounds"),
    (r"[^\s\S]", "no text follows"),
    ("", "must not be empty"),
    ("a" * 10_000, "characters"),
    ("|".join(f"[a-z]{{{n}}}x" for n in range(1, 400)), None),
]


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer(AutoTokenizer.from_pretrained(model_path()))


@pytest.fixture(scope="module")
def compiler(tokenizer: FastTokenizer) -> GrammarCompiler:
    made = GrammarCompiler(tokenizer, tokenizer.size + MORE, (3,))
    made.compile(Grammar("json_object"))
    return made


@pytest.fixture
def within_time() -> Any:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SECONDS


def allowed(state: GrammarState, size: int) -> set[int]:
    words = np.zeros(-(-size // 32), np.int32)
    assert state.fill(words.ctypes.data, words.nbytes), state.error
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())


def compiled(compiler: GrammarCompiler, grammar: Grammar, words: str | None) -> CompiledGrammar | None:
    if words is None:
        return compiler.compile(grammar)
    with pytest.raises(GrammarError, match=words) as refusal:
        compiler.compile(grammar)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400
    return None


@pytest.mark.parametrize(("schema", "words"), [pytest.param(s, w, id=n) for n, s, w in SCHEMAS])
@pytest.mark.usefixtures("within_time")
def test_schemas(compiler: GrammarCompiler, tokenizer: FastTokenizer, schema: Any, words: str | None) -> None:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    grammar = compiled(compiler, Grammar("json_schema", text), words)
    if grammar is not None:
        assert allowed(grammar.begin(), tokenizer.size + MORE)


@pytest.mark.parametrize(("pattern", "words"), PATTERNS, ids=range(len(PATTERNS)))
@pytest.mark.usefixtures("within_time")
def test_patterns(
    compiler: GrammarCompiler, tokenizer: FastTokenizer, pattern: str, words: str | None
) -> None:
    grammar = compiled(compiler, Grammar("regex", pattern), words)
    if grammar is not None:
        assert allowed(grammar.begin(), tokenizer.size + MORE)


@pytest.mark.parametrize("kind", ["regex", "json"])
def test_what_is_forced_must_fit(compiler: GrammarCompiler, kind: str) -> None:
    grammar = Grammar("regex", "a{1000}")
    if kind == "json":
        grammar = Grammar("json_schema", json.dumps({"type": "string", "minLength": 1000}))
    made = compiler.compile(grammar)
    made.check_room(1000)
    made.check_room(-(-1000 // made.longest))
    with pytest.raises(GrammarError, match="more than max_tokens"):
        made.check_room(-(-1000 // made.longest) - 1)


def follow(
    compiler: GrammarCompiler, tokenizer: FastTokenizer, grammar: Grammar, ids: list[int]
) -> list[set[int]]:
    """The tokens that were allowed before each of ``ids``, behind which the grammar is at its end."""
    state = compiler.compile(grammar).begin()
    sets, ended = [], False
    for token_id in ids:
        assert not ended
        sets.append(allowed(state, tokenizer.size + MORE))
        assert token_id in sets[-1], tokenizer.token_bytes(token_id)
        ended = state.take(token_id)
    assert ended
    return sets


@pytest.mark.parametrize("choice", ["yes", "a.b|c/d*(", "x\ny-é", "日本 \\d"])
def test_choices_are_literal(compiler: GrammarCompiler, tokenizer: FastTokenizer, choice: str) -> None:
    grammar = Grammar("choice", json.dumps(["yes", "no", "a.b|c/d*(", "x\ny-é", "日本 \\d"]))
    follow(compiler, tokenizer, grammar, tokenizer.encode(choice, add_special_tokens=False))


@pytest.mark.parametrize("choices", [[], [""], ["a", ""]])
def test_choices_must_say_something(compiler: GrammarCompiler, choices: list[str]) -> None:
    with pytest.raises(GrammarError, match="strings that are not empty"):
        compiler.compile(Grammar("choice", json.dumps(choices)))
    with pytest.raises(GrammarError, match="at most"):
        compiler.compile(Grammar("choice", json.dumps([str(n) for n in range(MAX_ENUM + 1)])))


def test_the_end_is_allowed_where_the_grammar_accepts(
    compiler: GrammarCompiler, tokenizer: FastTokenizer
) -> None:
    ids = [*tokenizer.encode("abc", add_special_tokens=False), 3]
    sets = follow(compiler, tokenizer, Grammar("regex", "[a-c]{2,9}"), ids)
    assert [3 in options for options in sets][-1]
    assert 3 not in sets[0]
    assert all(max(options) < tokenizer.size for options in sets)


def test_tagged_text(compiler: GrammarCompiler, tokenizer: FastTokenizer) -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "required": ["x"],
              "additionalProperties": False, "$defs": {"n": {"type": "integer"}}}  # fmt: skip
    tags = (
        Tag('<|im_start|>{"name": "f", "arguments": ', schema, "}"),
        Tag("<tool>", {"type": "object"}, "</tool>"),
    )
    grammar = TaggedText(tags, at_most=2, between="\n").grammar()
    assert TaggedText.parse(grammar.text).grammar() == grammar
    ids = tokenizer.encode(
        '<|im_start|>{"name": "f", "arguments": {"x": 3}}\n<tool>{}</tool>', add_special_tokens=False
    )
    assert ids[0] == 2, "a special token"
    sets = follow(compiler, tokenizer, grammar, ids)
    assert 2 in sets[0]
    assert len(sets[0]) < 5


def test_tagged_text_or_json(compiler: GrammarCompiler, tokenizer: FastTokenizer) -> None:
    schema = {"type": "object", "properties": {"y": {"$ref": "#/$defs/n"}}, "required": ["y"],
              "additionalProperties": False, "$defs": {"n": {"type": "integer"}}}  # fmt: skip
    tags = (Tag("<tool>", {"type": "object"}, "</tool>"),)
    grammar = TaggedText(tags, otherwise=json.dumps(schema)).grammar()
    assert TaggedText.parse(grammar.text).grammar() == grammar
    for text in ('{"y": 3}', "<tool>{}</tool>"):
        follow(compiler, tokenizer, grammar, tokenizer.encode(text, add_special_tokens=False))
    both = tokenizer.encode('{"y": 3}<tool>{}</tool>', add_special_tokens=False)
    with pytest.raises(GrammarError, match="breaks the grammar"):
        compiler.compile(grammar).begin(both)
    with pytest.raises(GrammarError, match="allows no text"):
        compiler.compile(TaggedText(tags, otherwise="false").grammar())
    with pytest.raises(GrammarError, match="minLength asks for"):
        compiler.compile(TaggedText(tags, otherwise='{"type": "string", "minLength": 9999999}').grammar())
    for free in ("true", '{"type":"object"}'):
        compiler.compile(TaggedText(tags, otherwise=free).grammar())


@pytest.mark.parametrize("mark", ["<tool_call>", "</tool_call>"])
def test_marks_of_calls_are_no_part_of_a_string(
    compiler: GrammarCompiler, tokenizer: FastTokenizer, mark: str
) -> None:
    """They are ordinary tokens of this model; the reader of the reply would take one for the call's end."""
    [token_id] = tokenizer.encode(mark, add_special_tokens=False)
    assert tokenizer.token_bytes(token_id) is not None
    schema = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    grammar = TaggedText((Tag("<tool_call>", schema, "</tool_call>"),)).grammar()
    whole = '<tool_call>{"x": "a b"}</tool_call>'
    ids = tokenizer.encode(whole, add_special_tokens=False)
    sets = follow(compiler, tokenizer, grammar, ids)
    assert [token_id in options for options in sets].count(True) == 1
    # a text that spells one is a text, of other tokens
    named = Grammar("json_schema", json.dumps({"const": whole}))
    state = compiler.compile(named).begin()
    assert token_id not in allowed(state, tokenizer.size + MORE)


def test_a_copy_goes_its_own_way(compiler: GrammarCompiler, tokenizer: FastTokenizer) -> None:
    size = tokenizer.size + MORE
    state = compiler.compile(Grammar("regex", "a(bc|de)")).begin()
    (a, b, c, d) = (tokenizer.encode(x, add_special_tokens=False)[0] for x in "abcd")
    state.take(a)
    other = state.copy()
    before = allowed(other, size)
    state.take(b)
    assert c in allowed(state, size)
    assert allowed(other, size) == before
    other.take(d)
    assert b not in allowed(other, size)


def test_tokens_that_break_the_grammar(compiler: GrammarCompiler, tokenizer: FastTokenizer) -> None:
    made = compiler.compile(Grammar("regex", "ab"))
    ids = tokenizer.encode("b", add_special_tokens=False)
    with pytest.raises(GrammarError, match=f"token 0 of the reply, {ids[0]}, breaks"):
        made.begin(ids)
    state = made.begin()
    assert not state.take(ids[0])
    assert state.error is not None
    assert not state.fill(0, 0), "memory is not touched"
    assert state.copy().error == state.error


def test_grammars_are_kept(compiler: GrammarCompiler) -> None:
    grammar = Grammar("regex", "kept")
    assert compiler.compile(grammar) is compiler.compile(Grammar("regex", "kept"))


class _Spaced:
    """A tokenizer that puts a space before every text, as sentencepiece does."""

    reply_format = ReplyFormat(lambda ids: "")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.asked.append(text)
        return [32, *text.encode()]

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return f"<{ids[0]}>"

    def token_bytes(self, token_id: int) -> bytes | None:
        return b"ab" if token_id == 200 else bytes([token_id]) if token_id < 128 else None


def test_forced_text_of_a_tokenizer_with_a_space() -> None:
    tokenizer: Any = _Spaced()
    state = GrammarCompiler(tokenizer, 260, (255,)).compile(Grammar("regex", "abab!")).begin()
    said: list[int] = []
    while not said or not state.take(said[-1]):
        said.append(min(allowed(state, 260), key=lambda i: (i != 200, i)))
    assert said == [200, 200, ord("!")]


def test_no_end_of_sequence(tokenizer: FastTokenizer) -> None:
    with pytest.raises(ValueError, match="end of sequence"):
        GrammarCompiler(tokenizer, 10, ()).compile(Grammar("json_object"))
