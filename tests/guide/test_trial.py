"""A recipe tried out: whatever trains passes, however its images are read."""

from __future__ import annotations

import importlib.util

import pytest
from named_data import TRAIN, WRITERS

from solo_gps.errors import ConfigError, SoloGpsError
from solo_gps.guide.trial import try_out
from solo_gps.hosts.detect import detect_host

HOST = detect_host()
GPS = {"sampler": {"gps": {"k": 3}}, "prior": {"name": "pixels"}}
has_dali = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def counts(cfg):
    counted = {}
    try_out(cfg, counted)
    return list(counted.values())


@pytest.mark.parametrize("guided", [{}, GPS])
@pytest.mark.parametrize("method", ["simclr", "nnclr", "mocov2plus"])
def test_a_folder(recipe, digits, method, guided):
    data = {"val_path": str(digits / "val")}
    assert counts(recipe(method, data=data, **guided)) == [48]


@pytest.mark.parametrize("guided", [{}, GPS])
def test_a_named_set(recipe, tmp_path, guided):
    WRITERS["tiny_imagenet"](tmp_path)
    data = {"dataset": "tiny_imagenet", "train_path": str(tmp_path), "val_path": str(tmp_path)}
    assert counts(recipe(data=data, **guided)) == [TRAIN]


@pytest.mark.parametrize("guided", [{}, GPS])
def test_an_h5_file(recipe, h5, guided):
    assert counts(recipe(data={"dataset": "imagenet", "format": "h5", "train_path": str(h5)}, **guided)) == [48]


@pytest.mark.skipif(HOST.generation != "1.0.6" or not has_dali, reason="solo-learn 1.0.6 with the extra dali")
def test_a_folder_that_dali_reads(recipe):
    assert counts(recipe(data={"format": "dali"}, dali={"device": "cpu"}, **GPS)) == [48]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sampler": {"gps": {"k": 48}}}, "k=48 neighbours of N=48 images"),
        ({"sampler": {"gps": {"k": 3, "keep_apart": True}}, "optimizer": {"batch_size": 16}}, "keep_apart: 48 images in batches"),
        ({"optimizer": {"batch_size": 49}}, "not one whole batch"),
    ],
)
def test_what_the_number_of_images_does_not_allow_is_said(recipe, keys, words):
    with pytest.raises(SoloGpsError, match=words):
        counts(recipe(**keys))


def test_what_was_counted_is_judged_anew_by_each_row(recipe):
    counted = {}
    try_out(recipe(), counted)
    with pytest.raises(SoloGpsError, match="k=48 neighbours"):
        try_out(recipe(sampler={"gps": {"k": 48}}), counted)
    assert len(counted) == 1


def test_the_recipe_stays_as_it_is(recipe):
    cfg = recipe(**GPS, accelerator="gpu", devices=[0, 1], strategy="ddp")
    before = cfg.copy()
    try_out(cfg, {})
    assert cfg == before


def test_a_misspelt_key_is_the_users(recipe):
    with pytest.raises(ConfigError, match="kk"):
        try_out(recipe(sampler={"gps": {"kk": 3}}), {})
