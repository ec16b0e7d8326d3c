"""The commands of a conversation, and the request that they lead to."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entropick_sampler.signals import SIGNAL_NAMES
from entropick_server.protocol.requests import ChatRequest
from entropick_server.terminal.alignment import Stretch
from entropick_server.terminal.commands import COMMANDS, is_command, run_command, words
from entropick_server.terminal.conversation import Asked, Conversation, Reply, verdict
from entropick_server.terminal.remote import ChatError, ServerFacts, base_url

FACTS = ServerFacts(
    model="m",
    measures=True,
    signals=SIGNAL_NAMES,
    policies=("entropix", "fixed", "edt"),
    presets=("seed", "calibrated"),
    branch=("width", "depth", "scorer", "on", "until"),
    consensus=("k", "extract", "stop"),
    extractors=("last_number", "text", "yes_no"),
    default={"policy": "entropix", "preset": "calibrated", "branch": None, "consensus": None},
)


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(FACTS, Asked())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/polcy fixed", "did you mean /policy?"),
        ("/sig", "did you mean /signal?"),
        ("/zzzzzz", "/help lists all"),
        ("/", "/help lists all"),
        ("/etc/passwd\x1b[2J", "/etc/passwd␛[2J"),
        ("/policy entropx", "did you mean entropix?"),
        ("/policy zzzz", "known: entropix, fixed, edt"),
        ("/preset calibrate", "did you mean calibrated?"),
        ("/signal logit_entropy", "did you mean logits_entropy?"),
        ("/strategy fixed", "/policy"),
        ("/branch width", "no name=value"),
        ("/branch widht=3", "did you mean width?"),
        ("/branch {'width': 3}", "no JSON object"),
        ('/branch width="3', "branch:"),
        ("/consensus extrac=last_number", "did you mean extract?"),
        ("/answer lastnumber", "did you mean last_number?"),
        ("/seed x", "whole number"),
        ("/seed 9223372036854775808", "64 bits"),
        ("/temperature 3", "0 to 2"),
        ("/temperature nan", "0 to 2"),
        ("/save", "name of a file"),
    ],
)
def test_errors_name_the_nearest_and_change_nothing(conversation: Conversation, line: str, said: str) -> None:
    with pytest.raises(ChatError) as error:
        run_command(line, conversation)
    assert said in str(error.value)
    assert conversation.asked == Asked()


def entropick(conversation: Conversation) -> dict[str, Any]:
    return conversation.body("Hi")["entropick"]


def test_a_plain_request_leaves_everything_to_the_server(conversation: Conversation) -> None:
    assert conversation.body("Hi") == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "entropick": {"telemetry": "tokens"},
    }


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/policy fixed", "policy", "fixed"),
        ("/preset seed", "preset", "seed"),
        ("/branch on", "branch", {}),
        ("/branch width=3 scorer=vote until='\\n'", "branch", {"width": 3, "scorer": "vote", "until": "\n"}),
        ("/branch on=explore,adaptive", "branch", {"on": ["explore", "adaptive"]}),
        ('/branch {"width": 3}', "branch", {"width": 3}),
        ("/consensus extract=last_number k=5", "consensus", {"extract": "last_number", "k": 5}),
        ("/answer yes_no", "answer", "yes_no"),
        ("/signal token_cost", "genuineness", True),
        ("/signal genuineness", "genuineness", "scores"),
        ("/signal genuineness_seed", "genuineness", "seed"),
    ],
)
def test_what_a_command_asks_for(conversation: Conversation, line: str, field: str, value: Any) -> None:
    run_command(line, conversation)
    assert entropick(conversation)[field] == value
    if field in ("branch", "consensus", "answer"):
        run_command(f"/{field} off", conversation)
        assert field not in entropick(conversation)
    # the server takes what the commands make
    ChatRequest.model_validate(conversation.body("Hi"))


def test_off_also_holds_against_a_default_of_the_server() -> None:
    default = {"branch": {"width": 4}, "consensus": {"extract": "text"}}
    facts = ServerFacts(model="m", measures=True, default=default)
    conversation = Conversation(facts, Asked())
    run_command("/branch off", conversation)
    run_command("/consensus off", conversation)
    assert entropick(conversation)["branch"] == {"budget": 0}
    assert entropick(conversation)["consensus"] is False


def test_ordinary_fields(conversation: Conversation) -> None:
    for line in ("/seed -7", "/temperature 0.5", "/system Be short."):
        run_command(line, conversation)
    body = conversation.body("Hi")
    assert (body["seed"], body["temperature"]) == (-7, 0.5)
    assert body["messages"][0] == {"role": "system", "content": "Be short."}
    for line in ("/seed random", "/temperature off", "/system none"):
        run_command(line, conversation)
    assert conversation.body("Hi") == Conversation(FACTS, Asked()).body("Hi")


def test_every_command_tells_how_it_is_set(conversation: Conversation) -> None:
    for name, said in {
        "policy": "entropix, the server's. Known: entropix, fixed, edt",
        "preset": "calibrated",
        "signal": "strategy, none",
        "branch": "width",
        "consensus": "extract",
        "answer": "last_number",
        "seed": "the server's",
        "temperature": "default",
        "system": "no message",
    }.items():
        assert said in run_command(f"/{name}", conversation).text
    told = run_command("/help", conversation).text
    assert all(f"/{name}" in told for name in COMMANDS)


def test_quit_leaves(conversation: Conversation) -> None:
    assert run_command("/quit", conversation).leave
    assert run_command("/exit", conversation).leave


def test_a_server_that_measures_nothing_has_fewer_commands() -> None:
    conversation = Conversation(ServerFacts("m"), Asked())
    assert "entropick" not in conversation.body("Hi")
    told = run_command("/help", conversation).text
    assert "/policy" not in told
    assert "/save" in told
    with pytest.raises(ChatError, match="needs an entropick server"):
        run_command("/policy fixed", conversation)


def test_what_is_a_command() -> None:
    assert is_command("/help")
    assert not is_command("//help")
    assert not is_command("help / me")


def test_completion(conversation: Conversation) -> None:
    assert words("/p", conversation) == ["/policy ", "/preset "]
    assert words("/policy f", conversation) == ["fixed"]
    assert words("/signal strat", conversation) == ["strategy"]
    assert words("/branch w", conversation) == ["width="]
    assert words("/nothing x", conversation) == []


def told(text: str = "Yes.", **fields: Any) -> Reply:
    rows = [
        {"token": text, "signals": {"logits_entropy": 2.5, "surprisal": 1.0}},
        {"token": " you", "forced": True, "signals": {"surprisal": 9.0}},
        {"token": ".", "signals": {"surprisal": 0.99}},
        {"token": "<eos>", "signals": {}},
    ]
    return Reply([Stretch(text, rows[0])], rows, {"seed": 9}, "stop", **fields)


def test_the_conversation_goes_on_and_is_forgotten(conversation: Conversation) -> None:
    conversation.add("Is it?", told())
    conversation.last = told()
    assert conversation.body("Why?")["messages"] == [
        {"role": "user", "content": "Is it?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ]
    assert "the last reply had 9" in run_command("/seed", conversation).text
    run_command("/policy fixed", conversation)
    run_command("/reset", conversation)
    assert conversation.body("Why?")["messages"] == [{"role": "user", "content": "Why?"}]
    assert entropick(conversation)["policy"] == "fixed"


def test_save(conversation: Conversation, tmp_path: Path) -> None:
    conversation.add("Is it?\x1b", told("Ja, \ud800 北京"))
    file = tmp_path / "talk.json"
    assert "1 reply written" in run_command(f"/save {file}", conversation).text
    saved = json.loads(file.read_text())
    assert saved["model"] == "m"
    assert saved["replies"][0]["message"] == "Is it?\x1b"
    assert saved["replies"][0]["tokens"] == conversation.last or saved["replies"][0]["tokens"][0]["signals"]
    # its own file is written again, another's is not
    conversation.add("Is it?", told())
    assert "2 replies" in run_command(f"/save {file}", conversation).text
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    with pytest.raises(ChatError, match="there already"):
        run_command(f"/save {theirs}", conversation)
    assert theirs.read_text() == "precious"
    with pytest.raises(ChatError, match="cannot be written"):
        run_command(f"/save {tmp_path / 'no' / 'folder'}", conversation)
    assert stat.S_ISREG(file.stat().st_mode)


def test_one_number_about_a_reply() -> None:
    reply = told()
    assert verdict(reply, FACTS) == "Hesitated at 1 of 2 tokens (surprisal of 1 bit or more)"
    other = replace(FACTS, hesitation_signal="logits_entropy", hesitation=3.0)
    assert verdict(reply, other) == "Hesitated at 0 of 1 tokens (logits_entropy of 3 bits or more)"
    reply.summary = {"error_probability": 0.123}
    assert verdict(reply, FACTS) == "Probability that the answer is wrong: 12%"
    assert verdict(Reply(), FACTS) == ""


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("h:1", "http://h:1"),
        ("https://h/path/v1", "https://h/path"),
    ],
)
def test_addresses(given: str, base: str) -> None:
    assert base_url(given) == base
