"""The methods of solo-learn 1.0.2 and their ``method_kwargs``, with the defaults of 1.0.6.

Each method's table is its ``add_and_assert_specific_cfg`` at
https://github.com/vturrisi/solo-learn/tree/9187ea39c2c3f43c455ab06664d2b019a9802954/solo/methods.
"""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import OmegaConf

from solo_gps.errors import ConfigError, UnknownNameError, did_you_mean

log = logging.getLogger(__name__)

NEEDS_106 = "That needs solo-learn 1.0.6 (docs/hosts.md says how to install it); 1.0.2 is installed."
METHODS_106 = ("all4one", "mae", "mocov3", "supcon", "vibcreg")
MOMENTUM_METHODS = ("byol", "dino", "mocov2plus", "nnbyol", "ressl")
# wmse takes small crops and, as on 1.0.6, leaves them out of its loss.
MULTICROP_METHODS = ("byol", "simclr", "wmse")
REQUIRED = object()

_PROJECTOR = {"proj_hidden_dim": REQUIRED, "proj_output_dim": REQUIRED}
_PREDICTOR = {**_PROJECTOR, "pred_hidden_dim": REQUIRED}
_QUEUE = {"queue_size": 65536}
METHOD_KWARGS: dict[str, dict[str, Any]] = {
    "barlow_twins": {**_PROJECTOR, "lamb": 0.0051, "scale_loss": 0.024},
    "byol": _PREDICTOR,
    "deepclusterv2": {**_PROJECTOR, "temperature": 0.1, "num_prototypes": [3000, 3000, 3000], "kmeans_iters": 10},
    "dino": {
        **_PROJECTOR,
        "num_prototypes": REQUIRED,
        "clip_grad": 0,
        "freeze_last_layer": 1,
        "norm_last_layer": True,
        "use_bn_in_head": False,
        "student_temperature": 0.1,
        "teacher_temperature": 0.07,
        "warmup_teacher_temperature": 0.04,
        "warmup_teacher_temperature_epochs": 0,
    },
    "mocov2plus": {**_PROJECTOR, "temperature": REQUIRED, **_QUEUE},
    "nnbyol": {**_PREDICTOR, **_QUEUE},
    "nnclr": {**_PREDICTOR, "temperature": REQUIRED, **_QUEUE},
    "nnsiam": {**_PREDICTOR, **_QUEUE},
    "ressl": {**_PROJECTOR, "temperature_q": REQUIRED, "temperature_k": REQUIRED, **_QUEUE},
    "simclr": {**_PROJECTOR, "temperature": REQUIRED},
    "simsiam": _PREDICTOR,
    "swav": {
        **_PROJECTOR,
        "temperature": REQUIRED,
        **_QUEUE,
        "num_prototypes": 3000,
        "sk_epsilon": 0.05,
        "sk_iters": 3,
        "freeze_prototypes_epochs": 1,
        "epoch_queue_starts": 15,
    },
    "vicreg": {**_PROJECTOR, "sim_loss_weight": 25.0, "var_loss_weight": 25.0, "cov_loss_weight": 1.0},
    "wmse": {**_PROJECTOR, "whitening_iters": 1, "whitening_size": 256, "whitening_eps": 0.0},
}
# Keys that recipes of 1.0.6 carry over from another method, and that 1.0.6 does not read either.
_STRAY = (
    "base_tau_momentum",
    "final_tau_momentum",
    "momentum_classifier",
    *{k for d in METHOD_KWARGS.values() for k in d},
)


def check_method(method: object) -> str:
    """Returns the method's name.

    Raises:
        ConfigError: It exists on 1.0.6 alone.
        UnknownNameError: It exists nowhere.
    """
    if method in METHODS_106:
        raise ConfigError(f"method={method!r} is not part of solo-learn 1.0.2. {NEEDS_106}")
    if method not in METHOD_KWARGS:
        raise UnknownNameError("method", method, METHOD_KWARGS)
    return str(method)


def complete_method_kwargs(method: str, node: Any) -> dict[str, Any]:
    """Checks a recipe's ``method_kwargs`` and fills in the defaults; 1.0.2 itself has none.

    Args:
        method: Name of a method of 1.0.2.
        node: The recipe's ``method_kwargs``, or ``None``.

    Raises:
        ConfigError: A key is missing, or belongs to no method. A key of another method is left out with a warning, because
            recipes of 1.0.6 carry such keys.
    """
    given: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
    known = METHOD_KWARGS[method]
    values = {key: default for key, default in known.items() if default is not REQUIRED}
    for key, value in given.items():
        if key in known:
            values[key] = value
        elif key in _STRAY:
            log.warning("method_kwargs.%s is not used by %s, on neither solo-learn; left out. Delete it.", key, method)
        else:
            raise ConfigError(
                f"method_kwargs.{key}: {method} has no such key; known: {', '.join(known)}.{did_you_mean(key, known)}"
            )
    for key in known:
        if values.get(key) is None:
            raise ConfigError(f"method_kwargs.{key} is missing: {method} needs it.")
    return values
