"""The calibration of a model through the engine that serves it: texts in, measured tokens, a profile out.

The texts are teacher-forced as ordinary requests, so what calibration measures is what serving measures.
The numbers are made by :mod:`entropick_sampler.calibrate`.
"""

from .run import calibrate_engine, calibrate_first, calibrate_model, collect, measure
from .samples import CalibrationDataError, Sample, read_samples, token_indices

__all__ = [
    "CalibrationDataError",
    "Sample",
    "calibrate_engine",
    "calibrate_first",
    "calibrate_model",
    "collect",
    "measure",
    "read_samples",
    "token_indices",
]
