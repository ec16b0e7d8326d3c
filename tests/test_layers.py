"""Who may import whom: rules that import-linter cannot express, and whether its contracts see new modules."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
ENGINES = ("entropick_server.engine.embedded", "entropick_server.engine.vllm")


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("entropick_server", cache_dir=None)


def test_the_part_that_both_engines_share_imports_neither(graph: grimp.ImportGraph) -> None:
    shared = [
        module
        for module in graph.modules
        if inside(module, "entropick_server.engine") and not any(inside(module, engine) for engine in ENGINES)
    ]
    assert len(shared) > 3
    found = [
        f"{module} -> {imported}"
        for module in shared
        for imported in graph.find_modules_directly_imported_by(module)
        if any(inside(imported, engine) for engine in ENGINES)
    ]
    assert found == []


def test_only_the_command_line_chooses_an_engine(graph: grimp.ImportGraph) -> None:
    found = {
        importer
        for engine in ENGINES
        for module in graph.modules
        if inside(module, engine)
        for importer in graph.find_modules_that_directly_import(module)
        if not any(inside(importer, other) for other in ENGINES)
    }
    assert found == {"entropick_server.cli"}


def test_the_terminal_sees_the_server_from_outside(graph: grimp.ImportGraph) -> None:
    terminal = "entropick_server.terminal"
    found = {
        imported
        for module in graph.modules
        if inside(module, terminal)
        for imported in graph.find_modules_directly_imported_by(module)
        if not inside(imported, terminal)
    }
    assert found == {"entropick_server.settings"}


# where a module may be added, and what it must not import there
NEWCOMERS = {
    "kernels/entropick_kernels": ["entropick_sampler", "entropick_pico", "transformers", "triton", "vllm"],
    "sampler/entropick_sampler": ["entropick_server", "entropick_pico", "pydantic", "zmq"],
    "pico/entropick_pico": ["entropick_kernels", "entropick_server", "prometheus_client"],
    "server/entropick_server/engine": ["entropick_server.routes", "fastapi", "pydantic", "vllm", "zmq"],
    "server/entropick_server/engine/embedded": ["entropick_pico", "prometheus_client", "vllm"],
    "server/entropick_server/engine/vllm": ["entropick_pico", "prometheus_client", "triton", "uvicorn"],
    "server/entropick_server/streaming": ["prometheus_client", "transformers", "vllm", "zmq"],
    "evaluation/entropick_eval": ["entropick_pico", "transformers", "prometheus_client", "vllm"],
    "lens/entropick_lens": ["entropick_pico", "entropick_server.app", "fastapi", "vllm"],
    "server/entropick_server/routes": [
        "entropick_eval",
        "entropick_lens",
        "entropick_pico",
        "prometheus_client",
        "transformers",
        "vllm",
    ],
    "server/entropick_server/metrics": ["transformers", "vllm"],
}


def test_the_contracts_hold_a_module_that_is_added(tmp_path: Path) -> None:
    roots = ["kernels", "sampler", "server", "pico", "evaluation", "lens"]
    for root in roots:
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.json", "*.jsonl")
        shutil.copytree(ROOT / root, tmp_path / root, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    wanted = []
    for folder, imports in NEWCOMERS.items():
        module = tmp_path / folder / "newcomer.py"
        module.write_text("".join(f"import {name}\n" for name in imports))
        own = ".".join(Path(folder).parts[1:]) + ".newcomer"
        wanted += [f"{own} -> {name} " for name in imports]
    # a module that stands in no layer
    (tmp_path / "server" / "entropick_server" / "newcomer.py").write_text("import vllm\n")
    wanted.append("entropick_server.newcomer -> vllm ")

    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(tmp_path / root) for root in roots),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(run.stdout.split())
    assert [line for line in wanted if line not in said] == []
    not_listed = said[said.index("not listed as layers") :]
    assert "- entropick_server.newcomer " in not_listed[:200]
    assert run.returncode == 1
