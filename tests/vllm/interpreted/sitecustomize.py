"""First on PYTHONPATH, this lets vLLM's own Triton kernels run on the CPU, in Triton's interpreter.

vLLM on a CPU takes Triton for present where a backend of that name is; it never compiles for it here. Model
Runner V2 and the GPU attention backend then run as they stand, some hundred times slower than on a GPU.
"""

import os
import types

if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.backends import backends

    backends["cpu"] = types.SimpleNamespace(
        driver=types.SimpleNamespace(is_active=lambda: True), compiler=None
    )
