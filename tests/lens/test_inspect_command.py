"""The command from its arguments to the report: what it writes, what it computes again, what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from entropick_lens import command, document, report, sections
from entropick_lens.heads import geometry
from entropick_lens.section import Section
from entropick_pico import calibration_path
from entropick_server import cli

from .support import make

FEW = [
    "--quiet",
    "--permutations",
    "100",
    "--tokens",
    "200",
    "--length",
    "48",
    "--text",
    str(calibration_path()),
]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts how often each section is measured."""
    counts: dict[str, int] = {}

    def counting(section: Any) -> Any:
        def measure(*args: Any) -> Any:
            counts[section.name] = counts.get(section.name, 0) + 1
            return section.measure(*args)

        return replace(section, measure=measure)

    made = tuple(counting(section) for section in sections.SECTIONS)
    for module in (sections, command):
        monkeypatch.setattr(module, "SECTIONS", made)
    return counts


class Links(HTMLParser):
    """Collects the addresses that a page would fetch, and its unclosed elements."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "link", "iframe") or str(given.get("href", "#"))[0] != "#":
            self.fetched.append(tag)


def test_a_report_and_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    assert cli.main(["inspect", str(folder), *FEW]) == 0
    said = capsys.readouterr().out
    data = json.loads((folder / document.FILE).read_text())
    page = (folder / report.FILE).read_text()
    assert list(data["sections"]) == [section.name for section in sections.SECTIONS]
    for section in sections.SECTIONS:
        entry = data["sections"][section.name]
        assert entry["sentences"]
        assert all(sentence in said for sentence in entry["sentences"])
        assert f'<section id="{section.name}">' in page
    jsonschema.Draft202012Validator.check_schema(document.schema(sections.SECTIONS))
    jsonschema.validate(data, document.schema(sections.SECTIONS))
    stored = document.read_results(folder / document.FILE, sections.SECTIONS)
    for section in sections.SECTIONS:
        assert (
            document.to_json(section, stored[section.name].result) == data["sections"][section.name]["result"]
        )
    found = Links()
    found.feed(page)
    assert found.fetched == []
    assert page.count("<svg") == page.count("<figure>") > 5


def test_sections_are_computed_once(
    tmp_path: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    run = ["inspect", str(folder), *FEW, "--out", str(tmp_path / "out"), "--sections"]
    assert cli.main([*run, "head_relation"]) == 0
    assert counted == {"head_geometry": 1, "head_attention": 1, "head_relation": 1}
    assert cli.main([*run, "head_relation", "overview"]) == 0
    assert counted == {"overview": 1, "head_geometry": 1, "head_attention": 1, "head_relation": 1}
    # geometry alone depends on the scale; the relation depends on geometry
    assert cli.main([*run, "head_relation", "--raw"]) == 0
    assert counted == {"overview": 1, "head_geometry": 2, "head_attention": 1, "head_relation": 2}
    assert cli.main([*run, "head_geometry", "--raw", "--again"]) == 0
    assert counted["head_geometry"] == 3
    data = json.loads((tmp_path / "out" / document.FILE).read_text())
    assert set(data["sections"]) == {"overview", "head_geometry", "head_attention", "head_relation"}
    # another model in the same place
    shutil.rmtree(folder)
    folder.mkdir()
    make(folder, seed=1)
    assert cli.main([*run, "overview", "head_geometry", "--raw"]) == 0
    assert counted["overview"] == 2
    assert counted["head_geometry"] == 4


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    run = ["inspect", str(folder), *FEW, "--sections", "overview", "head_geometry"]
    with monkeypatch.context() as patch:
        patch.setattr(geometry, "layer_spectra", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(run) == 130
    assert set(json.loads((folder / document.FILE).read_text())["sections"]) == {"overview"}
    assert not (folder / report.FILE).exists()
    assert cli.main(run) == 0
    (folder / document.FILE).write_text("{")  # cut off by another program
    assert cli.main(run) == 0


def test_two_models_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make(tmp_path / name, seed=len(name), num_hidden_layers=3 if name == "one" else 4)
    out = tmp_path / "out"
    models = [str(tmp_path / name) for name in ("one", "two")]
    assert cli.main(["inspect", *models, *FEW, "--sections", "head_geometry", "--out", str(out)]) == 0
    page = (out / report.FILE).read_text()
    assert page.index("<h3>one</h3>") < page.index("<h3>two</h3>")
    assert (out / "one" / document.FILE).is_file()
    assert (out / "two" / document.FILE).is_file()
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(set(ids)) > 10
    assert cli.main(["inspect", *models]) == 2
    assert "--out: say where" in capsys.readouterr().err


def test_the_shipped_model_is_taken_where_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", "--sections", "overview", "--quiet"]) == 0
    assert "1,955,520 parameters" in capsys.readouterr().out
    assert (tmp_path / "entropick-inspect" / "pico" / document.FILE).is_file()


def test_without_matplotlib_there_is_text_and_the_command_that_brings_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert cli.main(["inspect", *FEW, "--out", str(tmp_path), "--sections", "head_geometry"]) == 0
    assert "pip install 'entropick[lens]'" in capsys.readouterr().out
    page = (tmp_path / report.FILE).read_text()
    assert "<svg" not in page
    assert "pip install" in page
    assert "Effective rank runs from" in page


def test_figures_by_head_go_out_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = tmp_path / "heads.json"
    options = [*FEW, "--out", str(tmp_path / "out")]
    assert cli.main(["inspect", *options, "--sections", "overview", "--write-heads", str(heads)]) == 0
    assert len(json.loads(heads.read_text())["static"]) == 4
    assert cli.main(["inspect", *options, "--read-heads", str(heads)]) == 0
    assert "Over 24 heads the mean attention entropy goes best with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--sections", "nothing"], 2, "--sections: there is no section 'nothing' (there are: overview,"),
        (["--tokens", "1"], 2, "--tokens: must be from 2 to 10000000"),
        (["--windows", "65"], 2, "--windows: must be from 1 to 64"),
        (["--seed", "-1"], 2, "--seed: must be at least 0"),
        (["--text", "/nowhere.jsonl"], 2, "--text: there is no file /nowhere.jsonl"),
        (["/nowhere"], 1, "/nowhere: no such folder or file"),
        (["a", "b", "c"], 2, "MODEL: at most two"),
        (["a", "--read-heads", "b"], 2, "--read-heads: takes no MODEL"),
        (["--read-heads", "/nowhere.json"], 2, "nowhere.json cannot be read"),
    ],
)
def test_bad_input_is_named(
    given: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", *given]) == code
    assert message in capsys.readouterr().err


def test_texts_that_cannot_be_run_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "one"}\n')
    run = ["inspect", "--text", str(file), "--out", str(tmp_path), "--sections", "head_attention", "--quiet"]
    assert cli.main(run) == 1
    assert "line 1" in capsys.readouterr().err
    file.write_text(json.dumps({"text": "a story " * 20}) + "\n")
    assert cli.main([*run, "--tokens", "3"]) == 1
    assert (
        "a.jsonl has no text with a reply of at most 256 tokens within --tokens 3" in capsys.readouterr().err
    )


@dataclass(frozen=True, slots=True)
class Inner:
    low: float | None
    pair: tuple[int, float | None]


@dataclass(frozen=True, slots=True)
class Outer:
    rows: tuple[Inner, ...]
    best: Inner | None
    share: float | None
    count: int


@pytest.mark.parametrize("best", [None, Inner(None, (1, None))])
def test_figures_that_do_not_exist_are_left_out_and_read_as_none(tmp_path: Path, best: Inner | None) -> None:
    result = Outer((Inner(None, (1, None)), Inner(2.0, (2, 3.0))), best, None, 4)
    nothing: Any = None
    part = Section("part", "Part", 1, Outer, nothing, lambda _: ("said",))
    written = document.to_json(part, result)
    assert "share" not in written
    assert "low" not in written["rows"][0]
    model: Any = SimpleNamespace(name="m", identity="i")
    path = tmp_path / "a.json"
    document.write_results(path, model, (part,), {"part": document.Stored("d", result)})
    assert document.read_results(path, (part,)) == {"part": document.Stored("d", result)}
    jsonschema.validate(json.loads(path.read_text()), document.schema((part,)))
    broken = path.read_text().replace('"count": 4', '"counted": 4')
    path.write_text(broken)
    assert document.read_results(path, (part,)) == {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(broken), document.schema((part,)))
