"""Every example of docs/telemetry.md, run as it stands against the shipped model."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
EXAMPLES = [block for block in BLOCKS if block[0] != "text"]
COMMANDS = {
    "python": [sys.executable, "-c"],
    "bash": ["bash", "-c"],
    "javascript": ["node", "--input-type=module", "--eval"],
}
NEEDS = {"python": [], "bash": ["bash", "curl", "jq"], "javascript": ["node"]}


def test_there_is_an_example_for_every_client() -> None:
    assert [language for language, _ in EXAMPLES] == ["python"] * 3 + [
        "bash",
        "javascript",
        "python",
        "python",
    ]


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=[f"{n}-{b[0]}" for n, b in enumerate(EXAMPLES)])
def test_an_example_prints_what_the_page_says(server: str, language: str, code: str) -> None:
    if missing := [name for name in NEEDS[language] if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert "http://127.0.0.1:8000" in code
    run = subprocess.run(
        [*COMMANDS[language], code.replace("http://127.0.0.1:8000", server)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (shown,) = (text for kind, text in BLOCKS if kind == "text")
    assert run.stdout == shown


def test_the_accumulator_of_the_openai_package_drops_what_it_does_not_know(server: str) -> None:
    with OpenAI(base_url=f"{server}/v1", api_key="unused").chat.completions.stream(
        model="pico",
        messages=[{"role": "user", "content": "What is the capital of Falnia?"}],
        extra_body={"entropick": {"telemetry": "tokens", "at_end": True}},
    ) as stream:
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == "The capital is Ashfield."
    assert not hasattr(whole.choices[0], "entropick")
