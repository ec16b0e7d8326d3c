"""schemathesis: requests made from /openapi.json, and every check of their answers against it.

ENTROPICK_E2E_SMALL_URL may name a server of a small context and few choices (--max-model-len 96 --max-n 2),
where thousands of requests take minutes; ENTROPICK_E2E_EXAMPLES is the number of random requests of a route.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

HERE = Path(__file__).parent
GENERATING = "/v1/(chat/)?(completions|responses)"
MOST_SECONDS = 3600


@pytest.fixture(scope="module")
def small(url: str) -> str:
    return os.environ.get("ENTROPICK_E2E_SMALL_URL", url)


@pytest.fixture(scope="module")
def answer(small: str, key: str) -> str:
    """The id of a request that the server remembers."""
    body = {"prompt": "The capital of Ashland is", "max_tokens": 8}
    headers = {"Authorization": f"Bearer {key}"}
    made = requests.post(f"{small}/v1/completions", json=body, headers=headers, timeout=60)
    made.raise_for_status()
    return str(made.json()["id"])


@pytest.mark.parametrize("selected", ["--include-path-regex", "--exclude-path-regex"])
def test_every_answer_is_as_documented(
    small: str, key: str, answer: str, selected: str, tmp_path: Path
) -> None:
    """Routes that generate, and the others: no status, type or body but the documented ones."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{small}/openapi.json", selected, GENERATING),
        *("--header", f"Authorization: Bearer {key}"),
        *("--checks", "all", "--phases", "coverage,fuzzing", "--continue-on-failure", "--no-color"),
        *("--max-examples", os.environ.get("ENTROPICK_E2E_EXAMPLES", "50")),
        *("--seed", "1", "--request-timeout", "120", "--no-shrink"),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "ENTROPICK_E2E_ANSWER": answer},
        cwd=tmp_path,  # where it keeps the cases that failed
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    cases = re.search(r"(\d+) generated.*", done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert cases is not None, done.stdout[-2000:]
    assert int(cases[1]) > 100
    print(f"measured: {selected.split('-')[2]} {GENERATING}: {cases[0]}")


def test_the_server_still_answers(small: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    assert requests.get(f"{small}/health", timeout=10).status_code == 200
    assert requests.get(f"{small}/load", headers=headers, timeout=10).json() == {"server_load": 0}
