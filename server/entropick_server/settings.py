"""The settings of the server: every name with its default, its limits and its help text.

A value comes from the command line, else from ENTROPICK_<NAME>, else from the TOML file, else from here.
Nothing else of the server reads a file of settings or a variable of that prefix; a plain vLLM with our
processor has two variables of its own (``engine/vllm/names.py``), and libraries below read theirs.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from entropick_sampler.branch_config import branch_config
from entropick_sampler.layer_entropy import layer_entropy
from entropick_sampler.params import (
    Genuineness,
    PolicyConfig,
    PolicyName,
    PresetName,
    TelemetryLevel,
    check_overrides,
)

from .consensus.config import ConsensusConfig, consensus_config
from .engine.named_models import NAMED_MODELS
from .engine.types import (
    DEFAULT_BATCHED_TOKENS,
    DEFAULT_KV_CACHE_BYTES,
    EngineOptions,
    KernelsChoice,
    WeightsChoice,
)
from .environment import PREFIX, check_known, check_none_empty, set_by_kubernetes
from .logs.formats import LogFormat
from .setting_values import JsonObject, Texts, asked_genuineness, json_object, layer_numbers

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s,]+", re.IGNORECASE)
_log = logging.getLogger(__name__)


class SettingsError(ValueError):
    """An error in the configuration; the message names the setting."""


class Settings(BaseSettings):
    """The settings with their defaults; the help of the command line is taken from the descriptions."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on, 0 for any free one")
    model: str | None = Field(
        None,
        description="folder of a model in Hugging Face format, a GGUF file, a name that is fetched once "
        f"({', '.join(NAMED_MODELS)}), or a hub id; left out: the shipped one",
    )
    engine: Literal["torch", "vllm"] = Field(
        "torch", description="engine that runs the model: the embedded one, or vLLM"
    )
    served_model_name: Texts | None = Field(
        None,
        min_length=1,
        description="the model's id for clients, or several, of which answers and metrics have the first",
    )
    max_model_len: int | None = Field(None, ge=1, description="tokens of context; left out: the model's own")
    max_num_seqs: int = Field(16, ge=1, le=4096, description="requests that run at the same time")
    max_queue: int = Field(
        1024, ge=0, description="replies that may wait, each choice counts; more are refused with 503"
    )
    max_num_batched_tokens: int | None = Field(
        None,
        ge=1,
        description=f"tokens of one engine step, more than max_num_seqs; left out: {DEFAULT_BATCHED_TOKENS}, "
        "with --engine vllm a number of vLLM's choice",
    )
    kv_cache_bytes: int | None = Field(
        None,
        ge=1 << 16,
        description=f"bytes of memory for the KV cache; left out: {DEFAULT_KV_CACHE_BYTES}, with "
        "--engine vllm on a GPU all that vLLM's --gpu-memory-utilization leaves",
    )
    enable_prefix_caching: bool = Field(True, description="prompts reuse the KV cache of equal beginnings")
    chat_template: str | None = Field(
        None, min_length=1, description="file of a chat template (Jinja) to use instead of the model's own"
    )
    chat_template_seconds: float = Field(
        5.0, gt=0, le=3600, description="seconds that the chat template may take for one conversation"
    )
    special_tokens_in_messages: bool = Field(
        False,
        description="special tokens that a client writes in a chat message are tokens; else they are text",
    )
    api_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="key that every route but /health asks for; as an option it shows in the "
        "process list, to every user of the machine: set ENTROPICK_API_KEY or api_key_file instead",
    )
    api_key_file: Path | None = Field(
        None,
        description="file of keys, a line 'name: key' for each, which is read again when it changes; the "
        "names stand in the log",
    )
    key_requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="requests a minute of each key, 429 beyond; left out: no limit"
    )
    key_max_tokens_in_flight: int | None = Field(
        None,
        ge=1,
        description="tokens (prompts and max_tokens) of each key in requests that wait or run, 429 beyond; "
        "left out: no limit",
    )
    ssl_certfile: str | None = Field(
        None, min_length=1, description="file of a certificate (PEM), to serve https; left out: http"
    )
    ssl_keyfile: str | None = Field(
        None, min_length=1, description="file of the certificate's key; left out: it stands in ssl_certfile"
    )
    allowed_origins: Texts = Field(
        (),
        description="origins whose pages a browser lets use this server (CORS), as https://chat.example.org, "
        "or * for all; left out: none",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype of the weights"
    )
    weights: WeightsChoice = Field(
        "auto",
        description="bytes of the weights on a CPU: as the model's file has them (file; auto, where the "
        "architecture allows it), float32, or rounded: bf16, fp16, int8, int4",
    )
    device: str = Field("auto", description="device that runs the model: auto, cpu, cuda or cuda:N")
    seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="seed of requests that send none; left out: a random one"
    )
    kernels: KernelsChoice = Field(
        "auto", description="kernels that measure, attend and draw (auto: the fastest)"
    )
    compile_beside: bool = Field(
        True,
        description="where native code is missing, serve by torch's slower operations while it is compiled",
    )
    batch_invariant: bool = Field(
        False, description="serve only where a request gets the same bits whatever else runs"
    )
    monitored_layers: str | None = Field(
        None,
        pattern=r"^(auto(:(0?\.\d*[1-9]\d*|1(\.0*)?))?|\d+(,\d+)*)$",
        description="layers whose attention is measured, as 0,3; auto:0.25: the share of them (auto: a half) "
        "that `entropick inspect` found to follow all best; left out: all",
    )
    threads: int | None = Field(None, ge=1, description="threads that compute on a CPU; left out: one a core")
    allow_unvalidated: bool = Field(False, description="serve an architecture that was not validated")
    calibrate: bool = Field(True, description="calibrate a model without a profile at its first start")
    profile: str | None = Field(None, description="file of a profile to use instead of the model's own")
    policy: PolicyName = Field("entropix", description="policy of requests that name none")
    preset: PresetName = Field("calibrated", description="preset of requests that name none")
    overrides: JsonObject = Field(
        {}, description="policy parameters of requests that do not name them, as a JSON object"
    )
    branch: Annotated[dict[str, Any] | None, NoDecode, BeforeValidator(json_object)] = Field(
        None,
        description="branches of requests under policy entropix that name none, as a JSON object ({} for the "
        "defaults); left out: no branches",
    )
    telemetry: TelemetryLevel = Field("summary", description="telemetry of requests that ask for none")
    genuineness: Annotated[Genuineness, NoDecode, BeforeValidator(asked_genuineness)] = Field(
        "scores",
        description="genuineness of requests that ask for none: scores (no token costs), true, seed, false",
    )
    layer_entropy: Annotated[dict[str, Any] | None, NoDecode, BeforeValidator(json_object)] = Field(
        None,
        description="layer entropy of requests that name none, as a JSON object ({} for the defaults); left "
        "out: none",
    )
    max_n: int = Field(
        16, ge=1, le=4096, description="the most choices that n, best_of or consensus.k may ask for"
    )
    consensus: Annotated[dict[str, Any] | None, NoDecode, BeforeValidator(json_object)] = Field(
        None,
        description="consensus of requests for one choice that name none, as a JSON object with extract at "
        "least; left out: one reply, no vote",
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="the least severe messages in the log"
    )
    log_format: LogFormat = Field("text", description="form of the log's lines")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="bytes of the largest request body")
    request_timeout_seconds: float = Field(
        0.0, ge=0, description="seconds that a request may wait and run, then it ends with 504; 0: any time"
    )
    drain_seconds: float = Field(30.0, ge=0, description="seconds that running requests have after SIGTERM")
    max_connections: int | None = Field(
        None,
        ge=1,
        description="connections at the same time; left out: as many as the limit of open files leaves, 4096 "
        "at most",
    )
    header_timeout_seconds: float = Field(
        15.0, gt=0, description="seconds in which a request's head must arrive"
    )
    keep_alive_seconds: float = Field(
        5.0, gt=0, le=86_400, description="seconds that a connection may stay open between two requests"
    )
    body_timeout_seconds: float = Field(
        20.0,
        gt=0,
        description="seconds in which a request's body must arrive, a second more for each 16 KiB that came",
    )
    write_timeout_seconds: float = Field(
        60.0, gt=0, description="seconds that a client may take to read what is buffered for it (64 KiB)"
    )
    stream_comment_seconds: float = Field(
        5.0, ge=0, description="seconds of silence in a stream behind which a comment is sent; 0: none is"
    )
    recent_requests: int = Field(
        64,
        ge=0,
        le=10_000,
        description="HTTP requests kept for /v1/requests, which shows each key (without keys: everyone) its "
        "requests and replies; with all their choices, in 32 MiB at most; 0: none",
    )
    recent_prompts: bool = Field(
        True,
        description="keep prompts and stop strings with them, so that entropick replay can run them again",
    )

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: scheme://host or scheme://host:port, without a path"
                )
        return value

    @field_validator("key_requests_per_minute", "key_max_tokens_in_flight")
    @classmethod
    def _with_keys(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not (info.data.get("api_key") or info.data.get("api_key_file")):
            # without names all callers would share one limit, and any of them could use it up
            raise ValueError("is a limit of each key, and no keys are set: set api_key_file or api_key")
        return value

    @field_validator("overrides")
    @classmethod
    def _known_overrides(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_overrides(value)
        return value

    @field_validator("branch")
    @classmethod
    def _known_branch(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            branch_config(value)
        return value

    @field_validator("layer_entropy")
    @classmethod
    def _known_lens(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        layer_entropy(value or {})
        return value

    @field_validator("consensus")
    @classmethod
    def _known_consensus(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if value is not None and (k := consensus_config(value).k) > info.data.get("max_n", k):
            raise ValueError(f"consensus.k: must be at most max_n ({info.data['max_n']})")
        return value

    @property
    def has_keys(self) -> bool:
        """True where a key is asked for."""
        return self.api_key is not None or self.api_key_file is not None

    @property
    def default_consensus(self) -> ConsensusConfig | None:
        """Returns the consensus of a request that names none; None: no vote."""
        return None if self.consensus is None else consensus_config(self.consensus)

    @property
    def default_policy(self) -> PolicyConfig:
        """Returns the policy of a request without an ``entropick`` block.

        Branches open under policy entropix alone.
        """
        return PolicyConfig(
            policy=self.policy,
            preset=self.preset,
            overrides=self.overrides,
            telemetry=self.telemetry,
            genuineness=self.genuineness,
            layer_entropy=None if self.layer_entropy is None else layer_entropy(self.layer_entropy),
            branch=None if self.branch is None else branch_config(self.branch),
        )

    def engine_options(self, model: str) -> EngineOptions:
        """Returns the options to build an engine for ``model`` with."""
        return EngineOptions(
            model=model,
            served_model_name=self.served_model_name[0] if self.served_model_name else None,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_cache_bytes=self.kv_cache_bytes,
            enable_prefix_caching=self.enable_prefix_caching,
            dtype=self.dtype,
            weights=self.weights,
            device=self.device,
            threads=self.threads,
            monitored_layers=layer_numbers(self.monitored_layers),
            kernels=self.kernels,
            compile_beside=self.compile_beside,
            batch_invariant=self.batch_invariant,
            allow_unvalidated=self.allow_unvalidated,
            calibrate=self.calibrate,
            profile=self.profile,
            chat_template=self.chat_template,
            chat_template_seconds=self.chat_template_seconds,
        )


def load_settings(config: Path | None = None, **given: Any) -> Settings:
    """Reads the settings from all sources; ``given`` wins. Raises SettingsError."""
    foreign = set_by_kubernetes(os.environ)
    if foreign:
        _log.warning("ignored, because Kubernetes sets them for a service: %s", ", ".join(sorted(foreign)))
    try:
        ours = {name: value for name, value in os.environ.items() if name not in foreign}
        check_none_empty(ours)
        check_known(ours, Settings.model_fields)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    named = config or (Path(env) if (env := os.environ.get(f"{PREFIX}CONFIG")) else None)
    if named is not None and not named.is_file():
        raise SettingsError(f"the configuration file {named} does not exist")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            if isinstance(env_settings, EnvSettingsSource):
                hidden = {name.lower() for name in foreign}
                env_settings.env_vars = {k: v for k, v in env_settings.env_vars.items() if k not in hidden}
            if named is None:
                return init_settings, env_settings
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, named)

    try:
        return FromFile(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"setting {name}: {message}") from error
    except ValueError as error:
        # tomllib's error; the file's name is the operator's own
        raise SettingsError(f"the configuration file cannot be read: {error}") from error
