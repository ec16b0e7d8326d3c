"""The files around the code: what an image, a source archive, an old Python and a new version would meet."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import lock

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def executable(path: Path, script: str) -> Path:
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# -- the lock ------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), f"{name}: a line that is no pin"
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def wanted(*extras: str) -> list[Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def requirements_vllm() -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements-vllm.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("constraints.txt", wanted("dev", "docs")),
        ("constraints-vllm.txt", wanted() + requirements_vllm()),
    ],
)
def test_every_direct_requirement_is_locked_to_a_version_that_it_admits(
    name: str, requirements: list[Requirement]
) -> None:
    pins = locked(name)
    for requirement in requirements:
        if requirement.name != "triton":  # the CUDA build of torch brings its own
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_lock_covers_what_the_requirements_bring_along() -> None:
    installed = lock.needed(lock.read_project(ROOT / "pyproject.toml", ["dev", "docs"]), set())
    names = {line.split("==")[0] for line in lock.pins(installed)}
    assert len(names) > 60
    assert names <= set(locked("constraints.txt"))


def test_the_locked_versions_admit_the_lowest_python_that_the_project_admits() -> None:
    assert SpecifierSet(PROJECT["requires-python"]).contains(lock.LOWEST_PYTHON)
    assert PROJECT["requires-python"] == ">=" + lock.LOWEST_PYTHON.removesuffix(".0")
    pins = locked("constraints.txt")
    installed = lock.needed(lock.read_project(ROOT / "pyproject.toml", ["dev", "docs"]), set())
    as_locked = {name: version for name, version in installed.items() if Version(version) == pins.get(name)}
    assert as_locked
    assert lock.too_new(as_locked, lock.LOWEST_PYTHON) == []
    assert lock.too_new({"pytest": "9"}, "3.6.0") != []


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-vllm.txt"])
def test_the_same_pins_serve_any_build_of_torch(name: str) -> None:
    pins = locked(name)
    assert pins["torch"] == Version("2.13.0")
    assert all(version.local is None for version in pins.values())
    assert not [package for package in pins if re.match(r"triton$|nvidia-|cuda-", package)]


# -- the Makefile --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "target"), [("VENV", "bin/.serve"), ("VENV_VLLM", ".ready")])
def test_an_old_python_is_refused_before_anything_is_installed(
    tmp_path: Path, variable: str, target: str
) -> None:
    log = tmp_path / "log"
    old = executable(
        tmp_path / "python3",
        f'#!/bin/sh\necho "$@" >> {log}\n'
        f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[2])" "$@"\n',
    )
    made = tmp_path / "environment"
    run = subprocess.run(
        ["make", "-C", ROOT, f"PYTHON={old}", f"{variable}={made}", f"{made}/{target}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "entropick needs Python 3.11 or newer; this is 3.9" in run.stderr
    assert not made.exists()
    assert "venv" not in log.read_text()


def test_an_environment_with_an_old_python_is_refused_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = tmp_path / "environment"
    (made / "bin").mkdir(parents=True)
    executable(
        made / "bin" / "python",
        f'#!/bin/sh\necho "$@" >> {log}\n'
        f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[2])" "$@"\n',
    )
    run = subprocess.run(
        ["make", "-C", ROOT, f"VENV={made}", f"{made}/bin/.serve"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "entropick needs Python 3.11 or newer" in run.stderr
    assert "pip" not in log.read_text()


def test_help_lists_every_target() -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.M))
    run = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    assert targets == set(re.findall(r"^  make (\S+) +\S", run.stdout, re.M))
    assert {"serve", "test", "docs", "lock"} <= targets


# -- the source archive --------------------------------------------------------------------------------


def test_the_source_archive_holds_every_tracked_file(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"requirements-vllm.txt", "Dockerfile", ".ci/run", "tests/golden/cases.json"} <= names
    assert tracked - names == set()


# -- the image -----------------------------------------------------------------------------------------
# No container engine is needed: the script of the step that installs is run with a pip that only takes notes.


def install_step() -> str:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (step,) = [line for line in lines if line.startswith("RUN") and "pip install" in line]
    return step.removeprefix("RUN ")


def install(tmp_path: Path, built: str, **arguments: str) -> tuple[int, str, list[str]]:
    defaults = dict(re.findall(r"^ARG (\w+)=(\S*)$", (ROOT / "Dockerfile").read_text(), re.M))
    log = tmp_path / "log"
    log.touch()
    executable(tmp_path / "pip", f'#!/bin/sh\necho "$@" >> {log}\n')
    executable(tmp_path / "python", f"#!/bin/sh\necho {built}\n")
    script = install_step().replace("/opt/entropick/bin", str(tmp_path))
    run = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], **defaults, **arguments},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stderr, log.read_text().splitlines()


def test_an_image_for_the_cpu_does_not_take_the_default_build_of_torch(tmp_path: Path) -> None:
    code, said, calls = install(tmp_path, "cuda")
    assert code != 0
    assert "TORCH_INDEX" in said
    assert calls == []


def test_an_image_for_the_cpu_takes_torch_alone_from_the_index(tmp_path: Path) -> None:
    code, _, calls = install(tmp_path, "cpu", TORCH_INDEX="https://index.invalid/cpu")
    assert code == 0
    torch, rest = calls
    assert "--no-deps" in torch
    assert "--index-url https://index.invalid/cpu" in torch
    assert torch.endswith("-c constraints.txt torch")
    assert "index" not in rest


def test_an_image_whose_torch_is_another_build_than_asked_for_is_not_made(tmp_path: Path) -> None:
    code, said, _ = install(tmp_path, "cuda", TORCH_INDEX="https://index.invalid/cu999")
    assert code != 0
    assert "cuda build, not cpu" in said


def test_an_image_for_cuda_takes_the_default_index(tmp_path: Path) -> None:
    code, _, calls = install(tmp_path, "cuda", TORCH="cuda")
    assert code == 0
    assert calls == ["install --no-cache-dir -c constraints.txt ."]


def test_the_image_gets_every_file_that_it_copies() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M):
        for name in line.split():
            assert (ROOT / name).exists()
            assert name not in ignored


# -- the documents -------------------------------------------------------------------------------------


def test_every_decision_has_one_shape_and_the_newest_is_first() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    entries = re.split(r"^## ", text, flags=re.M)[1:]
    assert len(entries) >= 34
    shape = re.compile(
        r".+\n\n(\d{4}-\d\d-\d\d)\n\n\*\*Context\.\*\* .+\n\n\*\*Decision\.\*\* .+\n\n\*\*Rejected\.\*\* .+",
        re.S,
    )
    dates = []
    for entry in entries:
        match = shape.fullmatch(entry.rstrip())
        assert match, entry[:80]
        dates.append(match[1])
    assert dates == sorted(dates, reverse=True)


def test_the_readme_is_short_and_names_what_there_is() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    targets = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]+)", text)) <= targets


def test_what_is_done_stands_in_the_changelog_alone() -> None:
    status = (ROOT / "docs" / "status.md").read_text()
    assert re.findall(r"^## (.+)$", status, re.M) == ["Next", "Learned", "Known limits"]
    assert "CHANGELOG.md" in status


def test_the_path_of_a_first_contributor_leads_somewhere() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (edit,) = re.findall(r"^sed -i 's\|(.+?)\|(.+?)\|' (\S+)$", text, re.M)
    assert (ROOT / edit[2]).read_text().count(edit[0]) == 1
    (test,) = re.findall(r"pytest -q (tests/\S+) -k (test_\w+)", text)
    assert f"def {test[1]}(" in (ROOT / test[0]).read_text()
    (page,) = re.findall(r"build/docs/modules/(\S+)\.html", text)
    assert edit[2].endswith("/" + page.replace(".", "/") + ".py")


# -- hooks and workflows -------------------------------------------------------------------------------


def test_the_hooks_run_programs_of_the_environment_alone() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    assert {hook["language"] for hook in hooks.values()} == {"system"}
    checks = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert checks
    for line in checks[1].replace("$(BIN)", ".venv/bin").splitlines():
        command = line.strip().removesuffix(" .").removesuffix(" . --check").replace(" --check", "")
        assert any(hook["entry"].startswith(command) for hook in hooks.values()), command


def test_the_workflow_runs_what_a_new_machine_runs() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert "://" not in text  # registries are the runner's business
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_wheel_holds_every_source_root() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    found = [str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/entropick*/__init__.py")]
    assert sorted(packed) == sorted(found)
