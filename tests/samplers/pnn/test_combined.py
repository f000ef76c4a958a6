"""pNN beside GPS and SePP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pnn_trainings import PIXELS, only_106
from torchvision.datasets import ImageFolder

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("shallow")]


@only_106
def test_gps_and_pnn_combine(recipe, fit, digits):
    """View 2 shows the table's positive: its own image, not the anchor's, is the one that its neighbours may not be."""
    keys = {"exclude_same_image": True, "queue_size": 40}
    run = fit(recipe("byol", max_epochs=2, prior=PIXELS, sampler={"gps": {"k": 1}, "pnn": keys}))
    raw = np.stack([np.asarray(image, dtype=np.float64).ravel() for image, _ in ImageFolder(digits / "train")])
    distance = ((raw[:, None] - raw[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    positive, labels = distance.argmin(1), np.array(ImageFolder(digits / "train").targets)
    for step in run.steps:
        assert step.images[1].tolist() == positive[step.images[0]].tolist()
        assert step.labels[1].tolist() == labels[step.images[1]].tolist()
        assert not any((step.chosen[view][:, 0] == step.images[view]).any() for view in step.chosen)
    assert run.logged["guided_share"] == 1
    assert run.logged["pnn_purity"] > 0
    held = run.model.pnn.rows.pool()
    assert held.label.tolist() == labels[held.index].tolist()


@only_106
@pytest.mark.parametrize(("method", "views"), [("ressl", [1]), ("mocov2plus", [0, 1])])
def test_with_gps_the_methods_own_queue_hides_the_images_that_its_rows_show(method, views, recipe, fit, monkeypatch):
    """ReSSL enqueues view 2 alone, MoCo v2+ both: a guided view's row shows the positive, not the anchor."""
    from solo_gps.samplers.pnn.kinds import QueueOfNegatives

    left, hide = [], QueueOfNegatives._pnn_hide

    def spy(model, images):
        hide(model, images)
        left.append(model._buffers["queue"].clone())

    monkeypatch.setattr(QueueOfNegatives, "_pnn_hide", spy)
    sampler = {"gps": {"k": 1}, "pnn": {"queue_size": 40}}
    run = fit(recipe(method, max_epochs=2, prior=PIXELS, sampler=sampler, method_kwargs={"queue_size": 96}))
    assert len(left) == len(run.steps) - 1 == 11  # nothing to hide in the first step
    hidden = 0
    for number, (step, queue) in enumerate(zip(run.steps[1:], left, strict=True), start=1):
        neighbours = {image for chosen in step.chosen.values() for image in chosen.flatten().tolist()}
        rows = [(before, item) for before in run.steps[:number] for item in range(8)]
        seen = [row for row in rows if not neighbours & {int(row[0].images[view][row[1]]) for view in views}]
        hidden += len(rows) - len(seen)
        for view in views:
            kept = queue if method == "ressl" else queue[view].T
            assert torch.equal(kept[: len(seen)], torch.stack([before.keys[view][item] for before, item in seen]))
            assert len(kept) == 96 - len(rows) + len(seen)
    assert hidden


def test_sepp_and_pnn_combine(recipe, fit, digits):
    """The appended items carry their anchor's image and label into the queue."""
    sampler = {"sepp": {"fraction": 1.0, "low": 0.9, "high": 1.0}, "pnn": {}}
    run = fit(recipe("nnclr", max_epochs=1, prior=PIXELS, sampler=sampler))
    labels = np.array(ImageFolder(digits / "train").targets)
    assert len(run.steps) > 6
    for step in run.steps:
        assert step.labels[0].tolist() == labels[step.images[0]].tolist()
