"""Repairs that let solo-learn 1.0.2 (2021) train on today's torch, Lightning 1.9 and torchmetrics; undone on exit.

The release pins torch 1.9; every repair here mends one thing that has changed since, and nothing else. Each has a test that shows
the defect without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Closure = Callable[[], Any]


@contextmanager
def repairs() -> Iterator[None]:
    """Applies the repairs to solo-learn 1.0.2 and undoes them on exit. Nested uses count as one: the outermost exit undoes.

    Mended: ``LARSWrapper.step``, ``BaseMomentumMethod.on_train_batch_end``, ``DINO.clip_gradients``, ``Whitening2d.forward`` and
    ``WeightedKNNClassifier``. Build, train and evaluate within the context: on exit every name is the original object again.

    Example:
        >>> with repairs():  # doctest: +SKIP
        ...     trainer.fit(model, loader)
    """
    _state.enter()
    try:
        yield
    finally:
        _state.leave()


class _State:
    """How deep the nested uses are, and how to undo."""

    def __init__(self) -> None:
        self._depth = 0
        self._undo = ExitStack()

    def enter(self) -> None:
        if self._depth == 0:
            with ExitStack() as stack:
                for owner, name, value in _replacements():
                    stack.callback(setattr, owner, name, vars(owner)[name])
                    setattr(owner, name, value)
                self._undo = stack.pop_all()
        self._depth += 1

    def leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._undo.close()


_state = _State()


def _replacements() -> list[tuple[Any, str, Any]]:
    """Owner, attribute and new value of everything that is mended."""
    import solo.methods.base
    import solo.utils.knn
    from solo.methods.base import BaseMomentumMethod
    from solo.methods.dino import DINO
    from solo.utils.lars import LARSWrapper
    from solo.utils.whitening import Whitening2d

    knn = _knn_classifier(solo.utils.knn.WeightedKNNClassifier)
    return [
        (LARSWrapper, "step", _lars_step(LARSWrapper.step)),
        (BaseMomentumMethod, "on_train_batch_end", _batch_end(BaseMomentumMethod.on_train_batch_end)),
        (DINO, "clip_gradients", _dino_clip(DINO.clip_gradients)),
        (Whitening2d, "forward", _whiten),
        (solo.utils.knn, "WeightedKNNClassifier", knn),
        (solo.methods.base, "WeightedKNNClassifier", knn),
    ]


def _lars_step(original: Callable[..., None]) -> Callable[..., Any]:
    def step(self: Any, closure: Closure | None = None) -> Any:
        """Computes the gradients first, then rescales them and steps.

        The original rescales whatever gradients are there and hands the closure on to SGD, which computes new ones: neither LARS
        nor the weight decay that it took over would act, silently.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        original(self)
        return loss

    return step


def _batch_end(original: Callable[..., None]) -> Callable[..., None]:
    def on_train_batch_end(self: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Gives a default to the index of the loader, which Lightning no longer passes."""
        original(self, outputs, batch, batch_idx, dataloader_idx)

    return on_train_batch_end


def _dino_clip(original: Callable[..., None]) -> Callable[..., None]:
    from solo.methods.dino import DINO

    def clip_gradients(self: Any, *args: Any, **kwargs: Any) -> None:
        """Tells DINO's own ``clip_gradients(clip)`` from Lightning's later hook of the same name, which passes an optimizer."""
        if not kwargs and len(args) == 1 and isinstance(args[0], (int, float)):
            original(self, *args)
        else:
            super(DINO, self).clip_gradients(*args, **kwargs)

    return clip_gradients


def _whiten(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Whitens by the Cholesky factor of the covariance (https://arxiv.org/abs/2007.06346, section 3), in float32.

    The original calls ``torch.cholesky``, which torch has removed, and ``torch.triangular_solve``, which it has deprecated.

    Args:
        self: The ``Whitening2d`` layer; its ``eps`` shrinks the covariance towards the identity.
        x: (n, D) projected features.

    Returns:
        (n, D) float32 features whose covariance is the identity when ``eps`` is 0.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        centred = x.float() - x.float().mean(dim=0)
        covariance = centred.T @ centred / (len(centred) - 1)
        eye = torch.eye(self.output_dim, dtype=covariance.dtype, device=covariance.device)
        factor = torch.linalg.cholesky((1 - self.eps) * covariance + self.eps * eye)
        return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def _knn_classifier(original: type) -> type:
    """Derives a k-NN metric that today's torchmetrics accepts.

    The original passes ``compute_on_step=False`` to ``Metric``, which has rejected it since 0.10; what it stood for, a call that
    only updates, is put back.
    """
    from torchmetrics import Metric

    class DropsComputeOnStep(Metric):
        def __init__(self, *, compute_on_step: bool = False, **kwargs: Any) -> None:
            assert not compute_on_step
            super().__init__(**kwargs)

    def forward(self: Any, *args: Any, **kwargs: Any) -> None:
        self.update(*args, **kwargs)

    namespace = {"forward": forward, "__module__": original.__module__, "__doc__": original.__doc__}
    return type(original.__name__, (original, DropsComputeOnStep), namespace)
