"""The names of our options in vLLM's configuration and environment. Imports nothing."""

from typing import Final

CONFIG: Final = "entropick"
"""the key of VllmConfig.additional_config"""
LAYERS_VARIABLE: Final = "ENTROPICK_LAYERS"
"""layers of a plain vLLM whose attention is measured, as 0,3"""
PROFILE_VARIABLE: Final = "ENTROPICK_PROFILE"
"""profile of a plain vLLM"""
