"""Run as a script: a server around the tests' engine, in a process that may open few files.

``serve_fake.py --files N --taken N --port N [--text N] [--delay S] [options of serve]``: ``files``: the limit
of open files; ``taken``: files that are opened once the server has read the limit; ``text``: characters of
each reply; ``delay``: seconds of each token.
"""

import argparse
import importlib
import resource
import sys
from dataclasses import replace
from pathlib import Path

from entropick_server import cli, serve

sys.path.insert(0, str(Path(__file__).parents[3]))
FakeEngine = importlib.import_module("tests.server.conftest").FakeEngine


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--taken", type=int, default=0)
    parser.add_argument("--text", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0.0)
    options, rest = parser.parse_known_args()
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    build, taken = serve.build_server, []

    def build_and_take(*given):  # type: ignore[no-untyped-def]
        server = build(*given)
        taken.extend(open("/dev/null", "rb") for _ in range(options.taken))
        return server

    serve.build_server = build_and_take
    engine = FakeEngine("x" * options.text, delay=options.delay)
    engine.info = replace(engine.info, max_model_len=1 << 24)
    cli.serving_engine = lambda *_: engine  # type: ignore[assignment, misc]
    return cli.main(["serve", *rest])


if __name__ == "__main__":
    sys.exit(main())
