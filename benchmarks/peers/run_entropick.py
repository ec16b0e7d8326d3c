"""This engine as a peer of itself: run_entropick.py [on|off].

``on``: the whole policy, every signal at every token, each token delivered to an asyncio reader. ``off``:
nothing measured, an ordinary sampler with the numbers that preset ``calibrated`` starts from.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

from protocol import Load, Recorder, Run, serve

from entropick_sampler.params import (
    CALIBRATED_BASE,
    SEVERAL_TEMPERATURE,
    PolicyConfig,
    PresetName,
    SamplingParams,
)
from entropick_server.calibration import calibrate_first
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import EngineOptions, Request, StepReport
from entropick_server.version import server_version


class Entropick:
    def __init__(self, asked: Load, measure: bool) -> None:
        options = {} if measure else {"measure": False}
        if not {f.name for f in fields(EngineOptions)}.issuperset(options):
            raise RuntimeError("EngineOptions.measure is not there: this version cannot switch signals off")
        self.engine = EmbeddedEngine(
            EngineOptions(
                model=asked.served,
                max_num_seqs=asked.rows,
                max_model_len=asked.context,
                threads=asked.threads,
                device="cpu",
                calibrate=measure,
                **options,  # type: ignore[arg-type]
            ),
            calibrate_first,
            Path(os.environ["ENTROPICK_PROFILES"]),
        )
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.engine.start())
        self.engine.subscribe(self._on_report)
        self.policy = PolicyConfig(policy="fixed")
        base = CALIBRATED_BASE
        self.sampling: dict[str, float] = {
            "temperature": SEVERAL_TEMPERATURE,
            "top_p": base.top_p,
            "top_k": base.top_k,
            "min_p": base.min_p,
        }
        name = f"entropick {server_version()}"
        if measure:
            preset: PresetName = "calibrated" if self.engine.profile else "seed"
            self.policy = PolicyConfig(preset=preset, overrides={"clarify_budget": 0})
            self.sampling = {"temperature": SEVERAL_TEMPERATURE}  # tokens are drawn, as the peers' are
            self.name = f"{name}, all signals, preset {preset}"
        else:
            self.name = f"{name}, nothing measured, {self.sampling}"
        self.recorder: Recorder | None = None

    def run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        return self.loop.run_until_complete(self._run(prompts, tokens, greedy))

    async def _run(self, prompts: list[list[int]], tokens: int, greedy: bool) -> Run:
        asked = {"temperature": 0.0} if greedy else self.sampling

        async def one(row: int, prompt: list[int]) -> list[int]:
            sampling = SamplingParams(seed=row, max_tokens=tokens, ignore_eos=True, **asked)  # type: ignore[arg-type]
            request = Request(str(row), tuple(prompt), sampling, self.policy, time.monotonic())
            ids = []
            async for output in self.engine.generate(request):
                if output.error:
                    raise RuntimeError(output.error)
                ids += [token.token_id for token in output.tokens]
            return ids

        self.recorder = Recorder(len(prompts))
        ids = await asyncio.gather(*(one(row, prompt) for row, prompt in enumerate(prompts)))
        return self.recorder.done(ids)

    def _on_report(self, report: StepReport) -> None:
        if self.recorder is not None:
            self.recorder.took([int(o.request_id) for o in report.outputs for _ in o.tokens])


if __name__ == "__main__":
    serve(lambda asked: Entropick(asked, sys.argv[1] != "off"))
