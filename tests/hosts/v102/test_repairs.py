"""Each repair of solo-learn 1.0.2: the defect without it, and that it is gone with it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("solo.utils.pretrain_dataloader", reason="these repairs are for solo-learn 1.0.2; another is installed")
    import pytorch_lightning as pl
    import solo.methods.base
    import solo.utils.knn
    from solo.methods.base import BaseMomentumMethod
    from solo.methods.dino import DINO
    from solo.utils.lars import LARSWrapper
    from solo.utils.whitening import Whitening2d

    from solo_gps.hosts.v102.repairs import repairs

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]

LR, ETA, DECAY = 0.5, 0.1, 0.5
TRUST = ETA * 5 / (10 + 5 * DECAY)  # the weight (3, 4) has norm 5, its gradient (8, 6) has norm 10


def lars_step(context):
    """One step of the weight (3, 4) on 8 x + 6 y, whose gradient the closure computes; a stale gradient is there before."""
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[100.0, -100.0]])
    with context:
        optimizer = LARSWrapper(torch.optim.SGD([weight], lr=LR, weight_decay=DECAY), eta=ETA)

        def closure():
            optimizer.zero_grad()
            loss = (weight * torch.tensor([[8.0, 6.0]])).sum()
            loss.backward()
            return loss

        returned = optimizer.step(closure=closure)
    assert optimizer.param_groups[0]["weight_decay"] == DECAY
    return weight.detach(), returned


def test_lars_without_repair_is_plain_sgd_without_weight_decay():
    weight, _ = lars_step(nullcontext())
    assert torch.allclose(weight, torch.tensor([[3 - LR * 8, 4 - LR * 6]]))


def test_lars_with_repair_equals_the_update_by_hand():
    weight, returned = lars_step(repairs())
    assert TRUST == 0.04
    assert torch.allclose(weight, torch.tensor([[3 - 0.5 * 0.04 * (8 + 0.5 * 3), 4 - 0.5 * 0.04 * (6 + 0.5 * 4)]]))
    assert float(returned) == 48


def test_lars_with_repair_decays_weights():
    weight, _ = lars_step(repairs())
    without_decay = torch.tensor([[3 - 0.5 * 0.05 * 8, 4 - 0.5 * 0.05 * 6]])
    assert not torch.allclose(weight, without_decay, atol=5e-3)


def test_lars_with_repair_steps_without_a_closure_as_before():
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[8.0, 6.0]])
    with repairs():
        LARSWrapper(torch.optim.SGD([weight], lr=LR, weight_decay=DECAY), eta=ETA).step()
    assert torch.allclose(weight, torch.tensor([[2.81, 3.84]]))


class Ema:
    """What ``BaseMomentumMethod.on_train_batch_end`` touches, with a step taken since the last call."""

    last_step = 0
    momentum_pairs = ()

    class trainer:
        global_step = 0


def test_batch_end_without_repair_wants_an_argument_that_lightning_does_not_pass():
    with pytest.raises(TypeError, match="dataloader_idx"):
        BaseMomentumMethod.on_train_batch_end(Ema(), None, None, 0)


def test_batch_end_with_repair():
    module = Ema()
    module.last_step = 7
    with repairs():
        BaseMomentumMethod.on_train_batch_end(module, None, None, 0)
        assert module.last_step == 0
        BaseMomentumMethod.on_train_batch_end(module, None, None, 0, 1)


@pytest.fixture
def dino():
    module = DINO.__new__(DINO)
    pl.LightningModule.__init__(module)
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.encoder = torch.nn.Linear(2, 1, bias=False)
    module.head = torch.nn.Linear(2, 1, bias=False)
    for layer in (module.encoder, module.head):
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
    return module


def lightning_hook(module, **keys):
    """Calls the hook as Lightning 1.9 does before every step."""
    module.clip_gradients(torch.optim.SGD(module.parameters(), lr=1), gradient_clip_algorithm=None, **keys)


def test_clip_without_repair_shadows_the_hook(dino):
    with pytest.raises(TypeError, match="gradient_clip"):
        lightning_hook(dino, gradient_clip_val=None)


def test_clip_with_repair_serves_both(dino):
    with repairs():
        lightning_hook(dino, gradient_clip_val=None)
        assert dino.encoder.weight.grad.tolist() == [[3.0, 4.0]]
        dino.clip_gradients(2.5)
    # Parameter by parameter, and the encoder's alone: |(3, 4)| = 5 is halved.
    assert torch.allclose(dino.encoder.weight.grad, torch.tensor([[1.5, 2.0]]))
    assert dino.head.weight.grad.tolist() == [[3.0, 4.0]]


def test_clip_with_repair_hands_lightnings_threshold_to_lightning(dino, monkeypatch):
    seen = []
    monkeypatch.setattr(pl.LightningModule, "clip_gradients", lambda self, *args, **keys: seen.append((args[1:], keys)))
    with repairs():
        lightning_hook(dino, gradient_clip_val=0.5)
    assert seen == [((), {"gradient_clip_val": 0.5, "gradient_clip_algorithm": None})]


def test_whitening_without_repair_calls_what_torch_no_longer_has():
    with pytest.raises((RuntimeError, AttributeError)):
        Whitening2d(2)(torch.randn(8, 2))


def test_whitening_with_repair_gives_unit_covariance():
    torch.manual_seed(0)
    x = torch.randn(16, 3) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 3, 0.5]]) + 5
    with repairs():
        white = Whitening2d(3)(x)
    assert torch.allclose(white.mean(dim=0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(torch.cov(white.T), torch.eye(3), atol=1e-4)


def test_whitening_with_repair_by_hand():
    """One dimension: whitening divides by the standard deviation, here that of (0.75 * 4 + 0.25) with eps = 0.25."""
    with repairs():
        white = Whitening2d(1, eps=0.25)(torch.tensor([[-2.0], [2.0], [-2.0], [2.0]]))
    variance = 0.75 * (16 / 3) + 0.25
    assert torch.allclose(white.flatten(), torch.tensor([-2.0, 2.0, -2.0, 2.0]) / variance**0.5)


def test_whitening_with_repair_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    with repairs():
        expected = Whitening2d(4)(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = Whitening2d(4)(x)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, expected)


def test_whitening_with_repair_has_a_gradient():
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    with repairs():
        Whitening2d(2)(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_knn_without_repair_is_rejected_by_torchmetrics():
    with pytest.raises((ValueError, TypeError), match="compute_on_step"):
        solo.utils.knn.WeightedKNNClassifier()


def test_knn_with_repair_classifies_by_hand():
    with repairs():
        knn = solo.methods.base.WeightedKNNClassifier(k=2, distance_fx="euclidean")
    returned = knn(train_features=torch.tensor([[0.0], [1.0]]), train_targets=torch.tensor([0, 0]))
    assert returned is None  # a call only updates
    knn(train_features=torch.tensor([[10.0], [11.0]]), train_targets=torch.tensor([1, 1]))
    knn(test_features=torch.tensor([[0.4], [9.0], [2.0]]), test_targets=torch.tensor([0, 1, 1]))
    top1, top5 = knn.compute()
    assert top1 == pytest.approx(200 / 3)  # the third lies among the zeros
    assert top5 == 100


def test_leaving_restores_every_object_and_nesting_counts_as_one():
    def names():
        owners = [(LARSWrapper, "step"), (BaseMomentumMethod, "on_train_batch_end"), (DINO, "clip_gradients")]
        owners += [(Whitening2d, "forward"), (solo.utils.knn, "WeightedKNNClassifier")]
        owners += [(solo.methods.base, "WeightedKNNClassifier")]
        return [vars(owner)[name] for owner, name in owners]

    before = names()
    with repairs():
        once = names()
        assert all(now is not then for now, then in zip(once, before, strict=True))
        with repairs():
            assert all(now is then for now, then in zip(names(), once, strict=True))
        assert all(now is then for now, then in zip(names(), once, strict=True))
    assert all(now is then for now, then in zip(names(), before, strict=True))
    with pytest.raises(KeyError), repairs():
        raise KeyError
    assert all(now is then for now, then in zip(names(), before, strict=True))
