"""GGUF files: read, checked, and converted into a folder in Hugging Face format, which both engines serve."""

from .convert import converted_folder, gguf_identity

__all__ = ["converted_folder", "gguf_identity"]
