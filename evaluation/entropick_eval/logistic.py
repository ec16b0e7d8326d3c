"""Fits a logistic regression with an L2 penalty, in float64."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from .bootstrap import Floats

_STEPS: Final = 50
_CLOSE: Final = 1e-10
_LEAST_SPREAD: Final = 1e-9


class Logistic(NamedTuple):
    """A fitted logistic regression on features as they are: weights [K] and a bias."""

    weights: Floats
    bias: float

    def probabilities(self, features: Floats) -> Floats:
        """Returns the probability of each row of ``features`` [N, K]."""
        logits = features @ self.weights + self.bias
        # no overflow on either side
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))


def fit_logistic(features: Floats, happened: Floats, penalty: float) -> Logistic:
    """Returns the regression of ``happened`` [N] (0 or 1) on ``features`` [N, K].

    Newton's method on the standardised features; the loss is the sum of the log losses of the rows plus
    ``penalty`` / 2 times the sum of the squared weights, the bias left out. A feature that does not vary gets
    the weight 0. Raises ValueError where the shapes do not fit, for no row and for a figure that is not
    finite. Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 4.4.1.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(happened, dtype=np.float64)
    if x.ndim != 2 or y.shape != (len(x),) or not len(x):
        raise ValueError(f"features [N, K] and N outcomes are needed, got {x.shape} and {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("a feature is not finite")
    mean, spread = x.mean(0), x.std(0)
    varies = spread > _LEAST_SPREAD * np.maximum(1.0, np.abs(mean))
    scale = np.where(varies, spread, 1.0)
    z = np.column_stack([np.where(varies, (x - mean) / scale, 0.0), np.ones(len(x))])
    ridge = np.full(z.shape[1], float(penalty))
    ridge[-1] = 0.0
    w = np.zeros(z.shape[1])
    for _ in range(_STEPS):
        p = np.exp(-np.logaddexp(0.0, -(z @ w)))
        gradient = z.T @ (p - y) + ridge * w
        hessian = z.T @ ((p * (1 - p))[:, None] * z) + np.diag(ridge + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        # outcomes that a feature tells apart without error have no finite optimum but for the penalty
        w -= step * min(1.0, 4.0 / max(1e-300, float(np.abs(step).max())))
        if float(np.abs(step).max()) < _CLOSE:
            break
    weights = np.where(varies, w[:-1] / scale, 0.0)
    return Logistic(weights, float(w[-1] - weights @ mean))
