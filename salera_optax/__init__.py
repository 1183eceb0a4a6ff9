"""Learning rates that tune themselves, and runs that survive a loss explosion: SALERA for Optax."""

from salera_optax._adam_aliases import ag_adam, salera_adamw
from salera_optax._alera import ScaleByAleraState, scale_by_alera
from salera_optax._aliases import alera, salera, spalera
from salera_optax._averaging import (
    PolynomialAveragingState,
    eval_params,
    polynomial_averaging,
)
from salera_optax._calibrate import Calibration, calibrate
from salera_optax._detectors import Detector, Verdict, published
from salera_optax._groups import by_module
from salera_optax._guard_state import PageHinkleyState
from salera_optax._laws import ratio, score
from salera_optax._metrics import events, metrics
from salera_optax._multi_steps import MultiSteps, MultiStepsState
from salera_optax._page_hinkley import page_hinkley
from salera_optax._parameterwise import (
    ScaleByParameterwiseAleraState,
    scale_by_parameterwise_alera,
)
from salera_optax._random_walk import path_mean, path_std
from salera_optax._robust import robust
from salera_optax._step import step

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Detector",
    "MultiSteps",
    "MultiStepsState",
    "PageHinkleyState",
    "PolynomialAveragingState",
    "ScaleByAleraState",
    "ScaleByParameterwiseAleraState",
    "Verdict",
    "ag_adam",
    "alera",
    "by_module",
    "calibrate",
    "eval_params",
    "events",
    "metrics",
    "page_hinkley",
    "path_mean",
    "path_std",
    "polynomial_averaging",
    "published",
    "ratio",
    "robust",
    "salera",
    "salera_adamw",
    "scale_by_alera",
    "scale_by_parameterwise_alera",
    "score",
    "spalera",
    "step",
]
