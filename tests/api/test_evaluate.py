"""`solo_gps.evaluate` and `solo-gps evaluate`: rows, spaces, reports, and one clear line for each mistake."""

from __future__ import annotations

import csv
import json
import os
import shutil
import stat

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

import solo_gps
from solo_gps.commands.cli import main
from solo_gps.config import parse
from solo_gps.errors import ConfigError, DataError
from solo_gps.evaluation.checkpoints import checkpoint_prior
from solo_gps.evaluation.geometry import alignment, mean_average_precision, uniformity
from solo_gps.evaluation.metrics import knn_accuracy, linear_accuracy, rank_me
from solo_gps.evaluation.scores import Features, ScoreConfig, score

SMALL = {"k": 5, "recall": [1, 3]}
NESTED = {
    "method": "simclr",
    "backbone": {"name": "resnet18", "kwargs": {}},
    "data": {"dataset": "custom"},
    "augmentations": [{"crop_size": 32, "num_crops": 2}],
}


def network(seed):
    torch.manual_seed(seed)
    made = torchvision.models.resnet18(weights=None)
    made.fc = torch.nn.Identity()
    return made.eval()


def saved(folder, seed=1, arguments=NESTED, prefix="backbone."):
    """A checkpoint folder as solo-learn leaves it."""
    folder.mkdir(parents=True)
    weights = {f"{prefix}{name}": value for name, value in network(seed).state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3}, folder / f"{folder.name}-ep=3.ckpt")
    (folder / "args.json").write_text(json.dumps(arguments))
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    return saved(tmp_path / "trained" / "one")


def by_hand(seed, folder):
    """(N, 512) features and (N,) classes of a network, by torchvision alone."""
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    items = list(ImageFolder(folder, transforms.Compose([transforms.Resize(32), transforms.ToTensor(), normalise])))
    with torch.no_grad():
        features = network(seed)(torch.stack([image for image, _ in items])).numpy()
    return features, np.array([label for _, label in items])


def test_every_figure_is_that_of_features_made_by_torchvision(checkpoint, digits):
    found = solo_gps.evaluate([checkpoint], train=digits / "train", test=digits / "val", **SMALL)
    row, untrained = found.rows
    assert (row.name, row.kind, row.dimensions) == ("one-ep=3", "checkpoint", 512)
    assert (untrained.name, untrained.kind) == ("untrained resnet18", "untrained")
    train, labels = by_hand(1, digits / "train")
    test, wanted = by_hand(1, digits / "val")
    cosines = (test / np.linalg.norm(test, axis=1, keepdims=True)) @ (train / np.linalg.norm(train, axis=1, keepdims=True)).T
    ranked = labels[np.argsort(-cosines)]
    expected = {
        "knn_weighted": knn_accuracy(train, labels, test, wanted, k=5, temperature=0.07),
        "knn_one_vote": knn_accuracy(train, labels, test, wanted, k=5),
        "linear": linear_accuracy(train, labels, test, wanted),
        "recall@1": (ranked[:, 0] == wanted).mean(),
        "recall@3": (ranked[:, :3] == wanted[:, None]).any(axis=1).mean(),
        "map": mean_average_precision(train, labels, test, wanted),
        "rank_me": rank_me(test),
        "uniformity": uniformity(test),
    }
    got = dict(row.figures)
    assert 0 < got.pop("alignment") < 4
    assert got == pytest.approx(expected, rel=1e-4)
    # the untrained network is another one, of the seed
    features = by_hand(0, digits / "val")[0]
    assert untrained.figures["rank_me"] == pytest.approx(rank_me(features), rel=1e-4)


def test_without_a_training_set_each_image_is_judged_by_the_others(checkpoint, digits):
    row = solo_gps.evaluate([checkpoint], test=digits / "val", **SMALL).rows[0]
    features, labels = by_hand(1, digits / "val")
    votes = [
        knn_accuracy(np.delete(features, one, 0), np.delete(labels, one), features[[one]], labels[[one]], k=5)
        for one in range(len(labels))
    ]
    assert row.figures["knn_one_vote"] == pytest.approx(np.mean(votes))
    assert row.figures["map"] == pytest.approx(mean_average_precision(features, labels), rel=1e-4)
    assert row.figures["linear"] is None


def test_a_figure_that_does_not_apply_is_null_in_json_and_a_dash_in_the_table(digits, tmp_path):
    for digit in ("0", "1", "2"):
        (tmp_path / "one" / digit).mkdir(parents=True)
        shutil.copy(sorted((digits / "val" / digit).iterdir())[0], tmp_path / "one" / digit)
    found = solo_gps.evaluate(test=tmp_path / "one", priors=["pixels"], metrics=["retrieval", "linear"], recall=[1])
    assert found.rows[0].figures == {"linear": None, "recall@1": 0, "map": None}
    json.dumps(found.as_json(), allow_nan=False)
    assert found.as_text().splitlines()[1].split()[-3:] == ["0.00", "%", "-"]
    assert found.as_csv().splitlines()[1].endswith(",,0.0,")


def test_a_prior_that_learns_has_learned_from_the_training_images_alone(digits):
    from sklearn.decomposition import PCA

    found = solo_gps.evaluate(
        train=digits / "train",
        test=digits / "val",
        priors=[{"name": "pca", "image_size": 8, "dimensions": 3}],
        metrics=["geometry", "knn"],
        k=5,
    )
    (row,) = found.rows
    assert (row.name, row.kind) == ("prior pca image_size=8 dimensions=3", "prior")
    pixels = [
        (np.stack([np.asarray(image).transpose(2, 0, 1).ravel() for image, _ in part]) / 255, np.array(part.targets))
        for part in (ImageFolder(digits / "train"), ImageFolder(digits / "val"))
    ]
    pca = PCA(3).fit(pixels[0][0])
    (train, labels), (test, wanted) = ((pca.transform(rows), of) for rows, of in pixels)
    assert row.figures["knn_one_vote"] == pytest.approx(knn_accuracy(train, labels, test, wanted, k=5))
    assert row.figures["rank_me"] == pytest.approx(rank_me(test), rel=1e-3)
    assert row.figures["uniformity"] == pytest.approx(uniformity(test), rel=1e-3)


def test_a_join_is_its_parts_side_by_side_and_embeddings_made_before_have_no_views(digits, tmp_path):
    names, rows = [], []
    for part in ("train", "val"):
        for file, _ in ImageFolder(digits / part).samples:
            names.append("/".join(file.split("/")[-2:]))
            rows.append([float(file.split("/")[-2]), 1.0])
    np.savez(tmp_path / "rows.npz", rows=np.array(rows, np.float32), names=np.array(names))
    small = {"name": "pixels", "image_size": 4}
    array = {"name": "array", "path": str(tmp_path / "rows.npz")}
    parts = [array, {"name": "pca", "dimensions": 3}]
    found = solo_gps.evaluate(
        train=digits / "train",
        test=digits / "val",
        priors=[array, {"name": "join", "parts": parts}, {"name": "join", "parts": [small, {"name": "pca", "dimensions": 3}]}],
        metrics=["geometry", "knn"],
        k=1,
    )
    brought, mixed, seen = found.rows
    assert brought.figures["knn_weighted"] > 0.9  # angles of the digit itself: 0 to 3 against 1
    assert (mixed.dimensions, seen.dimensions) == (5, 3 * 4 * 4 + 3)
    assert brought.figures["alignment"] is mixed.figures["alignment"] is None
    assert 0 < seen.figures["alignment"] < 4


def test_views_are_the_same_for_every_row_and_alignment_is_of_two_of_them(checkpoint, digits, tmp_path):
    from solo_gps.api.images import image_set
    from solo_gps.embeddings.others import embed_others

    images = image_set(digits / "val")
    node = {"name": "pixels", "image_size": 8}
    first, second = embed_others(images, node, images, views=2, seed=4)
    assert first.shape == (16, 192)
    assert not np.allclose(first, second)
    again = embed_others(images, node, images, views=2, seed=4)
    assert np.array_equal(again, [first, second])
    (row,) = solo_gps.evaluate(test=digits / "val", priors=[node], metrics=["geometry"], seed=4).rows
    assert row.figures["alignment"] == pytest.approx(alignment(first, second))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (NESTED, {"stem": "imagenet", "image_size": 32, "mean": [0.485, 0.456, 0.406]}),
        (
            {**NESTED, "augmentations": [{"crop_size": 96, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}]},
            {"image_size": 96, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
        ),
        (
            {**NESTED, "data": {"dataset": "cifar10"}},
            {"stem": "small", "mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.243, 0.261]},
        ),
        (
            {"backbone": {"name": "resnet50"}, "data": {"dataset": "imagenet100", "augmentations": {"crop_size": 160}}},
            {"architecture": "resnet50", "image_size": 160, "stem": "imagenet"},
        ),
        (
            {"encoder": "resnet18", "dataset": "cifar100", "crop_size": [32], "backbone_args": {"cifar": True}},
            {"architecture": "resnet18", "stem": "small", "image_size": 32, "kwargs": {}},
        ),
        (
            {
                **{"encoder": "vit_tiny", "dataset": "custom", "crop_size": [64, 32]},
                **{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
                "backbone_args": {"cifar": False, "img_size": 64, "patch_size": 8},
            },
            {"image_size": 64, "kwargs": {"img_size": 64, "patch_size": 8}, "mean": [0.5, 0.5, 0.5], "stem": "imagenet"},
        ),
        (
            {"encoder": "swin_tiny", "dataset": "cifar10", "crop_size": [32], "backbone_args": {"cifar": True, "img_size": 32}},
            {"kwargs": {"img_size": 32, "window_size": 4}, "stem": "imagenet"},
        ),
    ],
    ids=["1.0.6", "own normalisation", "cifar", "linear", "1.0.2", "1.0.2 vit", "1.0.2 swin"],
)
def test_args_of_either_generation_say_network_and_preprocessing(arguments, expected, tmp_path):
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    node = checkpoint_prior(tmp_path / "x.ckpt")
    assert {key: node[key] for key in expected} == expected


@pytest.mark.parametrize("prefix", ["encoder.", "backbone."])
def test_names_of_weights_of_either_generation(prefix, digits, tmp_path):
    folder = saved(tmp_path / "old", prefix=prefix)
    row = solo_gps.evaluate(folder / "old-ep=3.ckpt", test=digits / "val", metrics=["geometry"]).rows[0]
    assert row.figures["rank_me"] == pytest.approx(rank_me(by_hand(1, digits / "val")[0]), rel=1e-4)


def test_one_untrained_row_for_each_network_and_names_that_differ(digits, tmp_path):
    resnet34 = {**NESTED, "backbone": {"name": "resnet34"}}
    folders = [saved(tmp_path / run / "same", seed) for seed, run in enumerate("ab")]
    other = tmp_path / "c"
    other.mkdir()
    torch.save({"state_dict": torchvision.models.resnet34().state_dict()}, other / "other.ckpt")
    (other / "args.json").write_text(json.dumps(resnet34))
    found = solo_gps.evaluate([*folders, other], test=digits / "val", metrics=["knn"], k=3)
    assert [row.name for row in found.rows] == [
        *["a/same/same-ep=3", "b/same/same-ep=3", "c/other"],
        *["untrained resnet18", "untrained resnet34"],
    ]


def test_the_command_prints_a_table_and_writes_csv_and_json(checkpoint, digits, tmp_path, capsys):
    files = [tmp_path / "out" / "table.csv", tmp_path / "out" / "table.json"]
    words = ["--prior", "pixels", "image_size=8", "--prior", "pca", "--metrics", "knn", "geometry", "--k", "3"]
    sets = ["--train", str(digits / "train"), "--test", str(digits / "val")]
    code = main(["evaluate", str(checkpoint), *sets, *words, "--csv", str(files[0]), "--json", str(files[1])])
    assert code == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["D", "knn_weighted", "knn_one_vote", "rank_me", "alignment", "uniformity"]
    names = ["one-ep=3", "prior pixels image_size=8", "prior pca", "untrained resnet18"]
    assert [line.startswith(name) for line, name in zip(lines, names, strict=True)] == [True] * 4
    told = json.loads(files[1].read_text())
    asked = told["settings"]
    assert (asked["k"], asked["train"]["images"], asked["test"]["images"], asked["test"]["classes"]) == (3, 48, 16, 4)
    assert asked["train"]["place"] == str(digits / "train")
    assert told["rows"][0]["prior"]["path"].endswith("one-ep=3.ckpt")
    assert "path" not in told["rows"][3]["prior"]
    rows = list(csv.DictReader(files[0].open()))
    assert [row["name"] for row in rows] == [row["name"] for row in told["rows"]] == names
    for row, line in zip(rows, lines, strict=True):
        assert f"{100 * float(row['knn_weighted']):.2f} %" in line
    assert float(rows[0]["rank_me"]) == told["rows"][0]["figures"]["rank_me"]


def test_a_second_evaluation_finds_the_embeddings(checkpoint, digits, monkeypatch):
    sets = {"train": digits / "train", "test": digits / "val", "metrics": ["knn"], "k": 3}
    before = solo_gps.evaluate([checkpoint], **sets)

    def again(*arguments, **options):
        raise AssertionError("embedded again")

    monkeypatch.setattr("solo_gps.embeddings.service.build_cache", again)
    assert solo_gps.evaluate([checkpoint], **sets) == before


def damaged(folder):
    (folder / "one-ep=3.ckpt").write_bytes(b"no checkpoint")


def without_arguments(folder):
    (folder / "args.json").unlink()


def foreign_arguments(folder):
    (folder / "args.json").write_text('{"lr": 1}')


def cut_arguments(folder):
    (folder / "args.json").write_text('{"lr": ')


def two_files(folder):
    shutil.copy(folder / "one-ep=3.ckpt", folder / "two.ckpt")


def other_network(folder):
    (folder / "args.json").write_text(json.dumps({**NESTED, "backbone": {"name": "resnet50"}}))


def unknown_network(folder):
    (folder / "args.json").write_text(json.dumps({**NESTED, "backbone": {"name": "resnet81"}}))


def no_group(folder):
    (folder / "args.json").write_text(json.dumps({**NESTED, "backbone": {"name": "resnet18", "kwargs": [1]}}))


def own_network(folder):
    (folder / "args.json").write_text(json.dumps({**NESTED, "backbone": {"name": "convnext_tiny"}}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (own_network, "convnext_tiny is a network of solo-learn's own code, which solo-gps cannot build"),
        (no_group, r"wanted a group of keys as backbone.kwargs .*got \[1\]"),
        (damaged, "one-ep=3: prior.path: .*one-ep=3.ckpt is damaged, or not a checkpoint"),
        (without_arguments, "no args.json of solo-learn's beside it, so its network is not known.*--prior checkpoint path="),
        (foreign_arguments, r"wanted backbone.name \(or encoder\) in it, got None"),
        (cut_arguments, "args.json cannot be read"),
        (two_files, "wanted one .ckpt file in this folder, found 2"),
        (other_network, "does not fit the architecture"),
        (unknown_network, "unknown timm architecture 'resnet81'"),
        (shutil.rmtree, "one: no such checkpoint"),
    ],
)
def test_a_bad_checkpoint_is_one_line_before_anything_is_embedded(spoil, says, checkpoint, digits, own_cache):
    spoil(checkpoint)
    with pytest.raises((DataError, ConfigError), match=says) as raised:
        solo_gps.evaluate([checkpoint], train=digits / "train", test=digits / "val", priors=["pixels"], **SMALL)
    assert "\n" not in str(raised.value)
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"k": 49}, "k=49 neighbours among 48 images; wanted k of at most 48"),
        ({"train": None, "k": 3, "recall": [1, 16]}, "k=16 neighbours among 15 images"),
        ({"k": 0}, "k=0 must be at least 1"),
        ({"recall": [0]}, r"recall\[0\]=0 must be at least 1"),
        ({"temperature": 0}, "temperature=0.* must be above 0"),
        ({"metrics": ["knnn"]}, "Did you mean 'knn'"),
        ({"metrics": []}, "metrics is empty: wanted some of knn"),
        ({"device": "tpu9"}, "device='tpu9' is not a device"),
        ({"device": "cuda:99"}, "device='cuda:99': this machine has"),
        ({"votes": 3}, "evaluate.votes: no such key"),
        ({"priors": ["pixles"]}, "Did you mean 'pixels'"),
        ({"priors": [{"name": "pixels", "image_sise": 3}]}, "Did you mean 'image_size'"),
        ({"checkpoints": []}, "no checkpoint and no prior"),
        ({"test": "nowhere"}, "test: images='nowhere': no such folder"),
        ({"train": "nowhere"}, "train: images='nowhere': no such folder"),
        ({"keys": {"image_sise": 3}}, "Did you mean 'image_size'"),
        (
            {"priors": [{"name": "join", "parts": ["pixels", "patches"], "combine": "agree"}]},
            "prior join.*combine=agree says which neighbours count",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_embedded(keys, says, checkpoint, digits, own_cache):
    asked = {"checkpoints": [checkpoint], "train": digits / "train", "test": digits / "val", **keys}
    with pytest.raises((DataError, ConfigError), match=says) as raised:
        solo_gps.evaluate(**asked)
    assert "\n" not in str(raised.value)
    assert not own_cache.exists()


def test_embeddings_that_lack_the_test_images_are_refused_before_anything_is_embedded(digits, tmp_path, own_cache):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((48, 3), np.float32))
    array = {"name": "array", "path": str(tmp_path / "rows.npy")}
    with pytest.raises(DataError, match="48 rows, but the training set has 16 images"):
        solo_gps.evaluate(train=digits / "train", test=digits / "val", priors=["pixels", array], **SMALL)
    assert not own_cache.exists()


@pytest.mark.parametrize(("missing_in", "other"), [("val", "train"), ("train", "val")])
def test_classes_of_one_set_alone_are_an_error(missing_in, other, checkpoint, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "sets")
    shutil.rmtree(tmp_path / "sets" / missing_in / "1")
    name = {"train": "train", "val": "test"}
    with pytest.raises(DataError, match=f"wanted the same classes, but '1' is in {name[other]} alone"):
        solo_gps.evaluate([checkpoint], train=tmp_path / "sets" / "train", test=tmp_path / "sets" / "val", **SMALL)


def test_a_collapsed_network_has_a_row_like_any_other():
    nothing = np.zeros((48, 4), np.float32)
    figures = score(
        Features(test=nothing, test_labels=np.arange(48) % 4), parse({"k": 3, "recall": [1]}, ScoreConfig, "evaluate")
    )
    assert figures["rank_me"] is None
    assert figures["uniformity"] is not None


def test_images_of_16_bits_are_judged_as_they_are_said_to_be_read(tmp_path, capsys):
    for part in ("train", "test"):
        for number in range(8):
            folder = tmp_path / part / str(number % 2)
            folder.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number).integers(0, 60000, (8, 8)).astype(np.uint16)
            Image.fromarray(values).save(folder / f"{number}.png")
    words = [
        "evaluate",
        "--prior",
        "pixels",
        "image_size=8",
        "--train",
        str(tmp_path / "train"),
        "--test",
        str(tmp_path / "test"),
    ]
    small = ["--k", "1", "--recall", "1", "--metrics", "knn"]
    assert main([*words, *small]) == 1
    assert "--scale own" in capsys.readouterr().err
    assert main(["cache", "build", str(tmp_path / "train"), "--prior", "pixels"]) == 1
    assert "--scale own" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"decode=\{'scale': 'own'\}"):
        solo_gps.evaluate(test=tmp_path / "test", priors="pixels", k=1, recall=[1], metrics=["knn"])
    assert main([*words, *small, "--scale", "own"]) == 0
    assert main([*words, *small, "--scale", "own", "--json", str(tmp_path)]) == 1
    assert f"--json='{tmp_path}': is a folder" in capsys.readouterr().err


def test_a_set_is_not_judged_by_itself(digits):
    with pytest.raises(DataError, match=r"test: the same folder as train.* Leave train out"):
        solo_gps.evaluate(train=digits / "train", test=str(digits / "train"), priors=["pixels"], **SMALL)


def test_one_class_alone_is_refused_before_any_work(digits, tmp_path, own_cache):
    shutil.copytree(digits / "train" / "2", tmp_path / "one" / "2")
    with pytest.raises(DataError, match="two classes or more, got 1"):
        solo_gps.evaluate(test=tmp_path / "one", priors=["pixels"], **SMALL)
    assert not own_cache.exists()


def test_what_is_no_file_is_never_replaced(digits, tmp_path, capsys):
    pipe, link, real = tmp_path / "pipe", tmp_path / "link.json", tmp_path / "real.json"
    os.mkfifo(pipe)
    link.symlink_to(real)
    real.write_text("old")
    words = ["evaluate", "--prior", "pixels", "--test", str(digits / "train"), "--k", "1", "--recall", "1", "--metrics", "knn"]
    assert main([*words, "--csv", str(pipe)]) == 1
    assert "is no file. Name another" in capsys.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert main([*words, "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(real.read_text())["rows"]


def test_images_without_classes_are_an_error(checkpoint, digits, capsys):
    assert main(["evaluate", str(checkpoint), "--test", str(digits / "val" / "1")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("solo-gps: test: wanted images with a class each")
