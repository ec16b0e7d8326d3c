"""Statistics and sampling kernels: tensors in, tensors out; no policy, no model, no server."""
