"""lm-eval by its command: loglikelihood and generate_until on a task file of ours, without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PICO = HERE.parents[2] / "pico" / "entropick_pico" / "model"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task files, with the path of their data: lm-eval would look in the current directory."""
    folder = tmp_path_factory.mktemp("tasks")
    for path in (HERE / "lm_eval_tasks").glob("*.yaml"):
        data = json.dumps(str(HERE / "lm_eval_tasks" / "capitals.jsonl"))
        (folder / path.name).write_text(path.read_text().replace("DATA", data))
    return folder


def evaluated(
    kind: str, tasks: list[Path], out: Path, key: str, **arguments: Any
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Returns lm-eval's scores and samples, by task."""
    line = [
        str(Path(sys.executable).with_name("lm_eval")),
        "--model",
        kind,
        "--model_args",
        json.dumps(arguments),
    ]
    line += ["--tasks", ",".join(str(path) for path in tasks), "--apply_chat_template", "--log_samples"]
    done = subprocess.run(
        [*line, "--output_path", str(out)],
        env={**os.environ, "OPENAI_API_KEY": key, "HF_HOME": str(out / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    [written] = out.rglob("results_*.json")
    samples = {
        path.name.removeprefix("samples_").rpartition("_")[0]: [
            json.loads(row) for row in path.read_text().splitlines()
        ]
        for path in out.rglob("samples_*.jsonl")
    }
    return json.loads(written.read_text())["results"], samples


@pytest.fixture(scope="module")
def completions(tasks: Path, tmp_path_factory: pytest.TempPathFactory, url: str, key: str, model: str) -> Any:
    """Both tasks over /v1/completions, as token ids."""
    return evaluated(
        "local-completions",
        [tasks / "capitals_choice.yaml", tasks / "capitals_text.yaml"],
        tmp_path_factory.mktemp("completions"),
        key,
        base_url=f"{url}/v1/completions",
        model=model,
        tokenizer=str(PICO),
        tokenizer_backend="huggingface",
        max_length=1024,
        num_concurrent=4,
        max_retries=1,
    )


def test_loglikelihood_is_that_of_transformers(completions: Any) -> None:
    """Behind the last token of a continuation the model may end its reply; that must not shift the rows."""
    _, samples = completions
    pairs, ours = [], []
    for sample in samples["capitals_choice"]:
        for arguments, [[total, greedy]] in zip(sample["arguments"].values(), sample["resps"], strict=True):
            pairs.append([arguments["arg_0"], arguments["arg_1"]])
            ours.append((float(total), greedy in (True, "True")))
    assert len(pairs) == 24
    done = subprocess.run(
        [os.environ["ENTROPICK_E2E_PYTHON"], str(HERE / "reference.py")],
        input=json.dumps({"model": str(PICO), "pairs": pairs}),
        capture_output=True,
        text=True,
        check=True,
    )
    right = json.loads(done.stdout)
    assert [total for total, _ in ours] == pytest.approx([total for total, _ in right], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in right]
    assert any(greedy for _, greedy in ours)
    worst = max(abs(a - b) for (a, _), (b, _) in zip(ours, right, strict=True))
    print(f"measured: loglikelihood and transformers: {len(ours)} continuations, at most {worst:.1e} apart")


def test_the_model_knows_the_capitals(completions: Any) -> None:
    scores, _ = completions
    assert scores["capitals_choice"]["acc,none"] >= 0.75
    assert scores["capitals_text"]["exact_match,none"] >= 0.5


def test_generate_until_over_chat(
    tasks: Path, tmp_path: Path, completions: Any, url: str, key: str, model: str
) -> None:
    """By the server's template and tokenizer the same texts as by those of transformers."""
    _, samples = evaluated(
        "local-chat-completions",
        [tasks / "capitals_text.yaml"],
        tmp_path,
        key,
        base_url=f"{url}/v1/chat/completions",
        model=model,
        num_concurrent=4,
        max_retries=1,
    )
    texts = {sample["doc_id"]: sample["resps"] for sample in samples["capitals_text"]}
    assert texts == {sample["doc_id"]: sample["resps"] for sample in completions[1]["capitals_text"]}
