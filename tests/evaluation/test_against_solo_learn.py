"""Figures of `evaluate` beside solo-learn's own, of one checkpoint that the installed generation trained."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

import solo_gps
from solo_gps.api.images import image_set
from solo_gps.embeddings import embed
from solo_gps.evaluation.checkpoints import checkpoint_prior
from solo_gps.hosts.detect import detect_host

CHECKOUT = os.environ.get("SOLO_LEARN_CHECKOUT", "")
pytestmark = pytest.mark.host
CLASSES, TRAIN, TEST = 5, 100, 50
# main_knn.py asks for CUDA whatever there is, and torchvision for the true CIFAR-10
ON_CPU = """
import runpy, torch, torchvision
torch.Tensor.cuda = lambda self, **options: self
torchvision.datasets.cifar.check_integrity = lambda path, md5=None: True
runpy.run_path("main_knn.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Handwritten digits of 32 x 32 in the files of CIFAR-10, and the same pixels as PNG files in class folders."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    data = load_digits(n_class=CLASSES)
    images = [
        np.asarray(Image.fromarray((pixels * 15).astype(np.uint8)).resize((32, 32)).convert("RGB"))
        for pixels in data.images[: TRAIN + TEST]
    ]
    for number, (image, label) in enumerate(zip(images, data.target, strict=False)):
        file = root / ("train" if number < TRAIN else "test") / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    rows = np.stack(images).transpose(0, 3, 1, 2).reshape(len(images), -1)
    labels = data.target[: len(rows)].tolist()
    parts = {f"data_batch_{number + 1}": slice(number * 20, number * 20 + 20) for number in range(5)}
    for name, part in {**parts, "test_batch": slice(TRAIN, None)}.items():
        (folder / name).write_bytes(pickle.dumps({"data": rows[part], "labels": labels[part]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(digit) for digit in range(10)]}))
    return root


@pytest.fixture
def trained(cifar, recipe, train, tmp_path, monkeypatch):
    """A checkpoint folder of SimCLR with solo-learn's network for CIFAR, and the model."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    checkpoint = {"enabled": True, "dir": str(tmp_path / "trained"), "frequency": 1, "keep_prev": False}
    data = {"dataset": "cifar10", "train_path": str(cifar), "val_path": str(cifar)}
    short = {"max_steps": 2, "max_epochs": 1, "batch_size": 20, "limit_val_batches": 0}
    model = train(recipe("simclr", **short, data=data, checkpoint=checkpoint)).model
    (file,) = (tmp_path / "trained").rglob("*.ckpt")
    return file.parent, model.eval()


def by_evaluate(folder, cifar, **keys):
    found = solo_gps.evaluate([folder], train=cifar / "train", test=cifar / "test", metrics=["knn"], **keys)
    assert [row.kind for row in found.rows] == ["checkpoint", "untrained"]
    return found.rows[0].figures["knn_weighted"], found.rows[1].figures["knn_weighted"]


def test_weighted_knn_is_that_of_the_hosts_classifier_on_the_hosts_features(trained, cifar):
    import solo.utils.knn

    folder, model = trained
    normalise = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    transform = transforms.Compose([transforms.ToTensor(), normalise])
    keys = {}
    for part in ("train", "test"):
        items = list(ImageFolder(cifar / part, transform))
        with torch.no_grad():
            features = model(torch.stack([image for image, _ in items]))["feats"]
        keys[f"{part}_features"] = torch.nn.functional.normalize(features)  # that of 1.0.2 takes products for cosines
        keys[f"{part}_targets"] = torch.tensor([label for _, label in items])
    with detect_host().switched_on():
        classifier = solo.utils.knn.WeightedKNNClassifier(k=10, T=0.1, distance_fx="cosine")
        classifier(**keys)
        accuracy, _ = classifier.compute()
    mine, untrained = by_evaluate(folder, cifar, k=10, temperature=0.1)
    assert 100 * mine == pytest.approx(accuracy, abs=1e-4)
    assert mine != untrained


@pytest.mark.parametrize(("name", "kwargs"), [("resnet50", {}), ("vit_tiny", {"img_size": 32, "patch_size": 8})])
def test_networks_of_solo_learn_embed_as_in_solo_learn(name, kwargs, digits, recipe, tmp_path):
    host = detect_host()
    with host.switched_on():
        cfg = host.complete(recipe("simclr", backbone={"name": name, "kwargs": kwargs}))
        model = host.build_method(cfg, host.methods["simclr"]).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.ckpt")
    (tmp_path / "args.json").write_text(json.dumps(OmegaConf.to_container(cfg, resolve=True)))
    images = image_set(digits / "val")
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = transforms.Compose([transforms.Resize(32), transforms.ToTensor(), normalise])
    with torch.no_grad():
        wanted = model(torch.stack([transform(images.image(index)) for index in range(len(images))]))["feats"].numpy()
    found = embed(images, checkpoint_prior(tmp_path / "model.ckpt")).array
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.skipif(not CHECKOUT, reason="SOLO_LEARN_CHECKOUT names no checkout of solo-learn 1.0.6")
def test_weighted_knn_is_that_of_an_unmodified_main_knn(trained, cifar):
    folder, _ = trained
    arguments = {
        **{"pretrained_checkpoint_dir": folder, "dataset": "cifar10", "train_data_path": cifar, "val_data_path": cifar},
        **{"batch_size": 50, "num_workers": 0, "k": 20, "temperature": 0.07},
        **{"distance_function": "cosine", "feature_type": "backbone"},
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_CPU, *(word for key, value in arguments.items() for word in (f"--{key}", str(value)))],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (accuracy,) = re.findall(r"acc@1=([\d.]+)", done.stdout)
    mine, _ = by_evaluate(folder, cifar)
    print(f"main_knn.py {accuracy}, evaluate {100 * mine}")
    assert 100 * mine == pytest.approx(float(accuracy), abs=1e-4)
