"""Settings from four sources, checked alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entropick_sampler.branch_config import BranchConfig
from entropick_sampler.strategy import Strategy
from entropick_server.consensus.config import ConsensusConfig, StopConfig
from entropick_server.settings import Settings, SettingsError, load_settings


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.max_num_seqs) == ("127.0.0.1", 8000, 16)
    assert settings.default_policy.policy == "entropix"
    assert settings.default_policy.preset == "calibrated"
    assert settings.default_policy.telemetry == "summary"
    assert settings.default_policy.genuineness == "scores"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("true", True), ("False", False), (True, True), ("scores", "scores"), ("seed", "seed")],
)
def test_genuineness_of_requests_that_ask_for_none(
    given: object, wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(genuineness=given).default_policy.genuineness == wanted
    monkeypatch.setenv("ENTROPICK_GENUINENESS", str(given))
    assert load_settings().default_policy.genuineness == wanted


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "entropick.toml"
    file.write_text("port = 1\nmax_queue = 2\nseed = 3\n")
    monkeypatch.setenv("ENTROPICK_CONFIG", str(file))
    monkeypatch.setenv("ENTROPICK_MAX_QUEUE", "20")
    monkeypatch.setenv("ENTROPICK_SEED", "30")
    settings = load_settings(seed="300")
    assert (settings.port, settings.max_queue, settings.seed) == (1, 20, 300)
    other = tmp_path / "other.toml"
    other.write_text("port = 9\n")
    assert load_settings(other).port == 9


@pytest.mark.parametrize("name", ["API_KEY", "PORT", "CONFIG", "LAYERS", "NO_SUCH_THING"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A secret that did not arrive must not open the server."""
    monkeypatch.setenv(f"ENTROPICK_{name}", value)
    with pytest.raises(SettingsError, match=f"ENTROPICK_{name} is empty"):
        load_settings()


KUBERNETES = {
    "ENTROPICK_SERVICE_HOST": "10.96.0.7",
    "ENTROPICK_SERVICE_PORT": "8000",
    "ENTROPICK_SERVICE_PORT_HTTP": "8000",
    "ENTROPICK_PORT": "tcp://10.96.0.7:8000",
    "ENTROPICK_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "ENTROPICK_PORT_8000_TCP_PROTO": "tcp",
    "ENTROPICK_PORT_8000_TCP_PORT": "8000",
    "ENTROPICK_PORT_8000_TCP_ADDR": "10.96.0.7",
    "ENTROPICK_METRICS_PORT": "udp://10.96.0.8:9000",
    "ENTROPICK_METRICS_SERVICE_HOST": "",
}
"""the variables that Kubernetes gives for services named entropick and entropick-metrics"""


def test_the_variables_of_kubernetes_are_ignored_with_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENTROPICK_HOST", "0.0.0.0")
    settings = load_settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert len(caplog.records) == 1
    for name in KUBERNETES:
        assert name in caplog.text
    assert "ENTROPICK_HOST" not in caplog.text.replace("SERVICE_HOST", "")


def test_a_port_is_a_port(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ENTROPICK_PORT", "9000")
    assert load_settings().port == 9000
    monkeypatch.setenv("ENTROPICK_PORT", "http://x:1")
    with pytest.raises(SettingsError, match="port"):
        load_settings()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("given", "names"),
    [("a", ("a",)), ("a, b", ("a", "b")), ('["a", "b"]', ("a", "b")), (["a", "b,c"], ("a", "b", "c"))],
)
def test_several_ids(monkeypatch: pytest.MonkeyPatch, given: Any, names: tuple[str, ...]) -> None:
    assert load_settings(served_model_name=given).served_model_name == names
    if isinstance(given, str):
        monkeypatch.setenv("ENTROPICK_SERVED_MODEL_NAME", given)
        settings = load_settings()
        assert settings.served_model_name == names
        assert settings.engine_options("m").served_model_name == names[0]


@pytest.mark.parametrize("value", ["", "a,,b", "[1]", "[", ["a", ""]])
def test_ids_that_are_none(value: Any) -> None:
    with pytest.raises(SettingsError, match="served_model_name"):
        load_settings(served_model_name=value)


def test_origins() -> None:
    assert load_settings().allowed_origins == ()
    given = "https://a.example, http://localhost:3000"
    assert load_settings(allowed_origins=given).allowed_origins == tuple(given.split(", "))
    assert load_settings(allowed_origins='["*"]').allowed_origins == ("*",)
    for wrong in ("a.example", "https://a.example/", "https://a.example/x", "null", "https://"):
        with pytest.raises(SettingsError, match="allowed_origins"):
            load_settings(allowed_origins=wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "x"),
        ("port", 70000),
        ("max_num_seqs", 0),
        ("policy", "best"),
        ("preset", "x"),
        ("telemetry", "all"),
        ("genuineness", "yes"),
        ("genuineness", 2),
        ("log_level", "loud"),
        ("seed", 2**63),
        ("api_key", ""),
        ("drain_seconds", -1),
        ("dtype", "int8"),
        ("weights", "q3"),
        ("no_such_setting", 1),
        ("max_n", 0),
        ("max_n", 5000),
        ("overrides", "[]"),
        ("overrides", "{"),
        ("overrides", {"clarify_budget": 17}),
        ("overrides", {"no_such_parameter": 1}),
        ("overrides", {"temperature_min": 2, "temperature_max": 1}),
        ("overrides", '{"temperature": NaN}'),
        ("branch", "4"),
        ("branch", {"width": 1}),
        ("branch", {"scorer": "best"}),
        ("branch", {"on": ["clarify"]}),
        ("branch", {"no_such_field": 1}),
        ("consensus", "4"),
        ("consensus", {}),
        ("consensus", {"extract": "word"}),
        ("consensus", {"extract": "text", "k": 17}),
    ],
)
def test_errors_name_the_setting(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(**{name: value})


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "none.toml")
    file = tmp_path / "entropick.toml"
    file.write_text("port = = 1")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(file)
    file.write_text("prot = 1")
    with pytest.raises(SettingsError, match="prot"):
        load_settings(file)


def test_engine_options() -> None:
    settings = Settings(max_model_len=128, served_model_name="m", calibrate=False, threads=2)
    options = settings.engine_options("folder")
    assert options.model == "folder"
    assert (options.max_model_len, options.served_model_name, options.calibrate) == (128, "m", False)
    assert (options.threads, options.max_num_seqs) == (2, 16)


def test_the_key_is_not_shown() -> None:
    assert "s3cret" not in repr(load_settings(api_key="s3cret"))


def test_consensus_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "server.toml"
    file.write_text('max_n = 20\n[consensus]\nk = 20\nextract = {regex = "a"}\nstop = {rule = "beta"}\n')
    made = load_settings(file).default_consensus
    assert made == ConsensusConfig({"regex": "a"}, 20, stop=StopConfig("beta"))
    monkeypatch.setenv("ENTROPICK_CONSENSUS", '{"extract": "text"}')
    assert load_settings(file).default_consensus == ConsensusConfig("text")
    assert load_settings().default_policy == load_settings(consensus='{"extract": "text"}').default_policy
    with pytest.raises(
        SettingsError, match=r"^setting consensus: consensus\.k: must be at most max_n \(16\)$"
    ):
        load_settings(consensus='{"extract": "text", "k": 17}')


def test_branch_and_overrides_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "entropick.toml"
    file.write_text('[branch]\nwidth = 3\non = ["adaptive"]\n[overrides]\nclarify_budget = 0\n')
    default = load_settings(file).default_policy
    assert default.branch == BranchConfig(width=3, on=frozenset({Strategy.ADAPTIVE}))
    assert default.overrides == {"clarify_budget": 0}
    monkeypatch.setenv("ENTROPICK_BRANCH", '{"depth": 5}')
    assert load_settings(file).default_policy.branch == BranchConfig(depth=5)
    assert load_settings(file, branch="{}").default_policy.branch == BranchConfig()
    assert load_settings().default_policy.overrides == {}
    with pytest.raises(SettingsError, match=r"^setting branch: branch\.width: must be between 2 and 16$"):
        load_settings(branch='{"width": 1}')
    monkeypatch.setenv("ENTROPICK_BRANCH", "{depth}")
    with pytest.raises(SettingsError, match=r"setting branch: .*JSON object"):
        load_settings()
