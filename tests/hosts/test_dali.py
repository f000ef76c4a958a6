"""`data.format=dali`, guided: from the pixels which image each crop shows, over epochs, ranks, cuts and kills; on a CPU."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nearest_by_hand import kth_by_pixels
from omegaconf import OmegaConf
from PIL import Image
from programs import CHECKOUT, Programs, Steps, check_guided, shown
from torchvision.datasets import ImageFolder

import solo_gps
from solo_gps import hookimpl, plugins
from solo_gps.commands.pretrain import pretrain
from solo_gps.errors import ConfigError, DataError, HostError
from solo_gps.guide.refresh import normalisation
from solo_gps.hosts import dali
from solo_gps.hosts.detect import detect_host

pytestmark = pytest.mark.host
HOST = detect_host()
needs_dali = pytest.mark.skipif(
    HOST.generation == "1.0.2" or importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None,
    reason="solo-learn 1.0.6 with the extra dali",
)
quiet = pytest.mark.filterwarnings("ignore")
PIXELS = {"name": "pixels", "image_size": 32}
GPS = {"gps": {"k": 3}}
PNN = {"pnn": {"beta": 0.0}}
SEPP = {"sepp": {"fraction": 1.0, "low_quantile": 0.98, "high_quantile": 1.0}}


@pytest.fixture(scope="module")
def images(digits, tmp_path_factory):
    """48 digits at the size of a crop: DALI's resize leaves them as they are. Names with spaces and umlauts among them."""
    folder = tmp_path_factory.mktemp("digits of 32") / "trän"
    for path, label in ImageFolder(digits / "train").samples:
        file = folder / str(label) / f"ä {os.path.basename(path)}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((32, 32), Image.Resampling.BICUBIC).save(file)
    return folder


@pytest.fixture
def of_dali(recipe, images):
    """Recipes whose images DALI reads."""

    def make(*args, data=None, **nodes):
        data = {"format": "dali", "train_path": str(images), "num_workers": 2, **(data or {})}
        return recipe(*args, **{"dali": {"device": "cpu"}, "prior": PIXELS, "sampler": GPS, "data": data, **nodes})

    return make


def loader_of(cfg, *, rank=0, world=1, epoch=None):
    """The guided loader of a recipe, as a trainer of this rank would get it."""
    completed = HOST.complete(cfg)
    module = dali.data_module(completed, None)
    root = torch.device("cpu")
    module.trainer = SimpleNamespace(
        global_rank=rank, local_rank=rank, world_size=world, strategy=SimpleNamespace(root_device=root)
    )
    module.setup("fit")
    if epoch is not None:
        solo_gps.guide.switch.current_run().fit._epochs_by_hand = epoch
    return module.train_dataloader()


def seen(batches):
    """Items, crops and targets of all batches of an epoch."""
    items, crops, targets = zip(*batches, strict=True)
    return np.concatenate(items), [np.concatenate(crop) for crop in zip(*crops, strict=True)], np.concatenate(targets)


@needs_dali
def test_pairs_indices_labels_and_caches_are_those_of_image_folder(of_dali, images, own_cache):
    cfg = of_dali()
    with solo_gps.activate(cfg) as run:
        dataset = loader_of(cfg).dataset
        cached = {path: path.stat().st_mtime_ns for path in own_cache.rglob("*.npy")}
        record = run.record
    plain = of_dali(data={"format": "image_folder"})
    with solo_gps.activate(plain) as run:
        other = HOST.build_train_loader(HOST.complete(plain)).dataset
        assert run.record["embeddings"] == record["embeddings"]
        assert run.record["tables"] == record["tables"]
    assert {path: path.stat().st_mtime_ns for path in own_cache.rglob("*.npy")} == cached, "nothing was built anew"
    assert list(dataset.images.names) == list(other.images.names)
    assert dataset.images.labels.tolist() == other.images.labels.tolist() == ImageFolder(images).targets
    assert torch.equal(dataset.positives, other.positives)
    assert (
        normalisation(dataset.pipelines[0]) == normalisation(other.pipelines[0]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )


@needs_dali
def test_every_epoch_is_whole_and_a_function_of_seed_and_epoch(of_dali, images):
    cfg, labels, orders = of_dali(batch_size=10), np.array(ImageFolder(images).targets), []
    with solo_gps.activate(cfg):
        loader = loader_of(cfg)
        assert len(loader) == 4
        for _ in range(3):
            items, crops, targets = seen(loader)
            orders.append(items)
            assert len(set(items.tolist())) == len(items) == 40
            assert (shown(crops[0], images) == items).all()
            assert (shown(crops[1], images) == kth_by_pixels(images, 3)[items]).all()
            assert (targets == labels[items]).all()
    assert len({tuple(order) for order in orders}) == 3
    with solo_gps.activate(cfg):
        again, _, _ = seen(loader_of(cfg, epoch=2))
    assert (again == orders[2]).all()
    cfg.seed = 8
    with solo_gps.activate(cfg):
        other, _, _ = seen(loader_of(cfg))
    assert not any((other == order).all() for order in orders)


@needs_dali
@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_share_an_epoch(world, of_dali):
    cfg, items = of_dali(batch_size=5), []
    for rank in range(world):
        with solo_gps.activate(cfg):
            loader = loader_of(cfg, rank=rank, world=world)
            assert len(loader) == 48 // world // 5
            items.append(seen(loader)[0])
    assert len(set(np.concatenate(items).tolist())) == sum(map(len, items)) == world * (48 // world // 5) * 5


@needs_dali
def test_partners_are_kept_apart_over_all_ranks(of_dali, drawn):
    cfg, ranks = of_dali(sampler={"gps": {"k": 3, "keep_apart": True}}, batch_size=6), []
    for rank in range(2):
        with solo_gps.activate(cfg):
            ranks.append([items for items, _, _ in loader_of(cfg, rank=rank, world=2)])
    batches = [np.concatenate(together) for together in zip(*ranks, strict=True)]
    assert len(set(np.concatenate(batches).tolist())) == 48
    assert not any(np.isin(drawn[0][batch], batch).any() for batch in batches)


@needs_dali
def test_an_epoch_that_is_cut_leaves_nothing_behind(of_dali, images, drawn):
    cfg = of_dali(sampler={"gps": {"k": 8, "choose": "uniform"}}, batch_size=8)
    with solo_gps.activate(cfg):
        loader = loader_of(cfg)
        iter(loader)  # as Lightning's first, which it makes twice
        first = iter(loader)
        cut = [next(first), next(first)]
        second = iter(loader)
        assert list(first) == [], "an iterator of before has ended"
        whole = list(second)
        again = list(loader)
    assert list(drawn) == [0, 1, 2, 3]
    for epoch, batches in ((1, cut), (2, whole), (3, again)):
        items, crops, _ = seen(batches)
        assert len(set(items.tolist())) == len(items) == (16 if epoch == 1 else 48)
        assert (shown(crops[0], images) == items).all()
        assert (shown(crops[1], images) == drawn[epoch][items]).all()


@needs_dali
def test_small_crops_stay_with_the_anchor_and_the_first_crop_draws_as_it_does_without_guidance(of_dali, images, itself):
    crop = {"rrc": {"enabled": True, "crop_min_scale": 0.5, "crop_max_scale": 1.0}, "horizontal_flip": {"prob": 0.5}}
    cfg = of_dali("byol")
    small = OmegaConf.merge(cfg.augmentations[0], {"crop_size": 16, "num_crops": 2})
    cfg.augmentations = [OmegaConf.merge(cfg.augmentations[0], crop), small]
    crops = {}
    for name, sampler in (("guided", GPS), ("itself", {"itself": {"k": 3}})):
        cfg.sampler = sampler
        with solo_gps.activate(cfg):
            loader = loader_of(cfg)
            assert loader.dataset.from_positive == (False, True, False, False)
            _, crops[name], _ = seen(loader)
            assert crops[name][2].shape == (48, 3, 16, 16)
    same = [(ours == theirs).all(axis=(1, 2, 3)) for ours, theirs in zip(crops["guided"], crops["itself"], strict=True)]
    assert same[0].all()
    assert same[2].all()
    assert same[3].all()
    assert not same[1].any()


@needs_dali
@pytest.mark.parametrize("fraction", [-1, 0.5])
@pytest.mark.parametrize("flat", [False, True])
def test_a_flat_folder_and_a_fraction_are_listed_as_image_folder_lists_them(flat, fraction, of_dali, images):
    data = {"train_path": str(images / "1" if flat else images), "no_labels": flat, "fraction": fraction}
    names = []
    for kind in ("dali", "image_folder"):
        cfg = of_dali(data={**data, "format": kind}, batch_size=4)
        with solo_gps.activate(cfg):
            loader = loader_of(cfg) if kind == "dali" else HOST.build_train_loader(HOST.complete(cfg))
            names.append(list(loader.dataset.images.names))
            if flat and kind == "dali":
                assert (seen(loader)[2] == -1).all()
    assert names[0] == names[1]
    assert len(names[0]) == (12 if flat else 48) * (0.5 if fraction == 0.5 else 1)


@needs_dali
@quiet
@pytest.mark.parametrize(
    ("method", "samplers"), [("simclr", GPS), ("deepclusterv2", GPS), ("byol", SEPP), ("nnclr", {"pnn": {"beta": 0.0}})]
)
def test_what_a_training_is_shown(method, samplers, of_dali, images, train, drawn):
    cfg = of_dali(method, sampler=samplers, batch_size=16)
    record = train(cfg)
    labels = np.array(ImageFolder(images).targets)
    assert len(record.batches) == 2 * (len(drawn[0]) // 16 if drawn else 3)
    others, large = 0, 2
    for number, (items, crops, targets) in enumerate(record.batches):
        first, second = (shown(crop.numpy(), images) for crop in crops)
        assert (targets.numpy() == labels[first]).all()
        assert (items.numpy() == first).all()
        taught = record.classifier_targets[number * large : (number + 1) * large]
        assert (taught[0].numpy() == labels[first]).all()
        assert (taught[1].numpy() == labels[second]).all(), "the label of what the crop shows"
        others += int((first != second).sum())
    assert (others > 0) == ("pnn" not in samplers)
    assert "gps" not in samplers or others == 96


@needs_dali
@quiet
def test_epochs_that_lightning_cuts_and_a_receipt_that_counts_them(of_dali, drawn, tables):
    cfg = of_dali(batch_size=16, max_epochs=3, limit_train_batches=2, refresh={"every": 2})
    with solo_gps.activate(cfg) as run:
        pretrain(cfg)
        run.check_trained(cfg)
    assert run.receipt.counts["items"] == run.receipt.counts["guided"] == 3 * 2 * 16
    assert run.receipt.steps == 6
    assert list(drawn) == [0, 1, 2]
    assert len(tables) == 2, "the prior's, and one refresh before epoch 2"


@needs_dali
@quiet
def test_a_resumed_run_goes_on_with_the_pairs_and_the_order_of_an_undisturbed_one(of_dali, train, tmp_path):
    def run(epochs, **nodes):
        kept = {"enabled": True, "dir": str(tmp_path / f"{epochs}"), "frequency": 1, "keep_prev": True}
        sampler = {"gps": {"k": 8, "choose": "uniform"}}
        return train(
            of_dali(sampler=sampler, batch_size=16, max_epochs=epochs, checkpoint=kept, scheduler={"name": "none"}, **nodes)
        )

    whole = run(4)
    run(2)
    (last,) = [path for path in (tmp_path / "2").rglob("*.ckpt") if "ep=1" in path.name]
    resumed = run(4, resume_from_checkpoint=str(last))
    assert len(resumed.batches) == 6
    for (items, crops, _), (wanted, wanted_crops, _) in zip(resumed.batches, whole.batches[6:], strict=True):
        assert torch.equal(items, wanted)
        assert torch.equal(crops[1], wanted_crops[1])


@needs_dali
def test_switching_off_restores_the_data_module(of_dali):
    from solo.data.dali_dataloader import PretrainDALIDataModule as Module

    before, cfg = dict(vars(Module)), of_dali()
    early = dali.data_module(HOST.complete(OmegaConf.create(OmegaConf.to_container(cfg))), None)
    with solo_gps.activate(cfg):
        assert dict(vars(Module)) != before
        with pytest.raises(HostError, match="built before the plugin was switched on"):
            early.setup("fit")
    assert dict(vars(Module)) == before


@needs_dali
def test_an_image_that_cannot_be_read_is_named(of_dali, images, tmp_path):
    bad = tmp_path / "bad"
    for number, path in enumerate(sorted((images / "1").iterdir())):
        (bad / "1").mkdir(parents=True, exist_ok=True)
        (bad / "1" / f"{number}.png").write_bytes(path.read_bytes())
    cfg = of_dali(data={"train_path": str(bad)}, batch_size=4)
    with solo_gps.activate(cfg):
        loader = loader_of(cfg)
        (bad / "1" / "7.png").write_bytes((bad / "1" / "7.png").read_bytes()[:60])
        with pytest.raises(DataError, match=r"/bad/1/7\.png cannot be read by DALI: .*data\.format=image_folder"):
            list(loader)


class Wraps:
    @hookimpl
    def wrap_dataset(self, dataset):
        return dataset


@needs_dali
@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        ({"dali": {"device": "tpu"}}, ConfigError, r"dali\.device='tpu': wanted gpu or cpu"),
        ({"images": {"scale": "own"}}, ConfigError, r"images: .*DALI decodes.*data\.format=image_folder"),
        ({"sampler": {"gps": {"k": 3, "on_bad_image": "skip"}}}, ConfigError, r"sampler\.gps\.on_bad_image='skip'.*image_folder"),
        ({"sampler": {"gps": {"k": 3, "augmentation": 0}}}, ConfigError, r"sampler\.gps\.augmentation=0.*image_folder"),
        ({"sampler": {"gps": {"k": 3, "positives": 2}}}, ConfigError, r"sampler\.gps\.positives=2.*image_folder"),
        ({"sampler": GPS, "method": "mae"}, ValueError, "mae"),
        ({"devices": 4, "optimizer": {"batch_size": 13}}, DataError, r"12 for each of 4 devices.*at most 12"),
        ({"devices": 5, "optimizer": {"batch_size": 10}}, DataError, r"9 for each of 5 devices.*at most 9"),
    ],
)
def test_what_cannot_be_guided_is_one_clear_error(nodes, error, message, of_dali, own_cache):
    cfg = of_dali(**nodes)
    with pytest.raises(error, match=message), solo_gps.activate(cfg):
        loader_of(cfg)
    assert not own_cache.exists()


@needs_dali
def test_equalization_a_wrapping_plugin_and_a_missing_gpu_are_refused(of_dali, own_cache):
    cfg = of_dali()
    cfg.augmentations[0].equalization.prob = 0.1
    with pytest.raises(ConfigError, match=r"augmentations\[0\]\.equalization\.prob=0\.1.*Set it to 0"), solo_gps.activate(cfg):
        pass
    plugin = Wraps()
    plugins.plugin_manager().register(plugin, "wraps")
    try:
        with pytest.raises(ConfigError, match=r"'wraps' wraps the training set"), solo_gps.activate(of_dali()):
            pass
    finally:
        plugins.plugin_manager().unregister(plugin)
    if not torch.cuda.is_available():
        with (
            pytest.raises(ConfigError, match=r"no CUDA device\. Type \+\+dali\.device=cpu"),
            solo_gps.activate(of_dali(dali=None)),
        ):
            pass
    assert not own_cache.exists()


@needs_dali
def test_an_old_dali_is_refused(of_dali, monkeypatch):
    from nvidia.dali import fn

    monkeypatch.delattr(fn.io.file, "read")
    too_old = r"DALI [\d.]+ cannot read a file by its name.*data\.format=image_folder"
    with pytest.raises(ConfigError, match=too_old), solo_gps.activate(of_dali()):
        pass


def test_without_dali_the_error_names_the_word_that_mends_it(of_dali, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    what = "read by solo-learn 1.0.6 alone" if HOST.generation == "1.0.2" else "DALI is not installed"
    with (
        pytest.raises(ConfigError, match=rf"data\.format='dali'.*{what}.*data\.format=image_folder"),
        solo_gps.activate(of_dali()),
    ):
        pass
    with solo_gps.activate(of_dali(data={"format": "image_folder"})):
        pass


@pytest.fixture
def dali_programs(tmp_path, images, of_dali):
    cfg = of_dali("nnclr", max_steps=2, batch_size=16, performance={"disable_channel_last": True}, sampler=None, prior=None)
    del cfg.sampler, cfg.prior
    cfg.checkpoint.dir = str(tmp_path / "trained")
    text = f"{OmegaConf.to_yaml(cfg)}hydra:\n  run: {{dir: {tmp_path}/run}}\n  sweep: {{dir: {tmp_path}/sweep}}\n"
    return Programs(tmp_path, images, text)


PROGRAM = "main" if CHECKOUT else "pretrain"
NODES = {"gps": "gps: {k: 3}", "pnn": "pnn: {beta: 0.0}", "sepp": "sepp: {fraction: 1.0, low_quantile: 0.5, high_quantile: 1.0}"}


@needs_dali
@pytest.mark.parametrize("samplers", [*NODES, "[gps,pnn]"])
def test_an_unmodified_main_pretrain(samplers, dali_programs):
    nodes = ", ".join(node for name, node in NODES.items() if name in samplers)
    prior = "" if samplers == "pnn" else "prior: {name: pixels, image_size: 32}\n"
    dali_programs.recipe(f"{dali_programs.text}{prior}sampler: {{{nodes}}}\n")
    steps, printed = dali_programs.run(PROGRAM)
    check_guided(steps.all, samplers, dali_programs.images)
    assert "32 items seen in 2 steps (finished)" in printed


@needs_dali
@pytest.mark.parametrize("first", ["no image", "an image"])
def test_images_that_cannot_be_read_end_the_program_with_one_line(first, dali_programs, images, tmp_path):
    folder = tmp_path / "text" / "0"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number:02d}.png").write_text("no image")
    if first == "an image":
        (folder / "00.png").write_bytes(next((images / "1").iterdir()).read_bytes())
    dali_programs.recipe(f"{dali_programs.text}sampler: {{pnn: {{beta: 0.0}}}}\n")
    _, printed = dali_programs.run(PROGRAM, f"data.train_path={folder.parent}", fails=True)
    assert f"{folder.parent}/0/" in printed
    assert ".png cannot be read by DALI" in printed
    assert "Traceback" not in printed


@needs_dali
def test_the_graph_for_a_gpu_can_be_defined(of_dali):
    """As far as a machine without one goes: every operator is there, and takes these arguments."""
    from nvidia.dali import pipeline_def
    from solo.data.dali_dataloader import build_transform_pipeline_dali

    crop = of_dali().augmentations[0]
    crop = OmegaConf.merge(crop, {key: {"prob": 0.5} for key in ("color_jitter", "grayscale", "gaussian_blur", "solarization")})
    crops = [(build_transform_pipeline_dali("custom", crop, dali_device="gpu"), shows) for shows in (False, True)]

    devices = []

    @pipeline_def(enable_conditionals=True, batch_size=2, num_threads=1, device_id=0)
    def pipeline():
        outputs = dali._graph(lambda: None, crops, True)
        devices.extend([output.device for output in outputs])
        return outputs

    pipeline()
    assert devices == ["gpu", "gpu", "cpu", "cpu"]


@needs_dali
def test_two_ranks(dali_programs):
    dali_programs.recipe(f"{dali_programs.text}prior: {{name: pixels, image_size: 32}}\nsampler: {{gps: {{k: 3}}}}\n")
    overrides = ("method_kwargs.queue_size=32", "devices='2'", "strategy=ddp", "max_epochs=2")
    steps, printed = dali_programs.run(PROGRAM, *overrides)
    for rank in (0, 1):
        check_guided([step for step in steps.all if step["rank"] == rank], "gps", dali_programs.images)
    first = np.concatenate([step["items"] for step in steps.all if step["step"] == 0])
    assert len(set(first.tolist())) == len(first) == 32, "the ranks share the images"
    assert printed.count("64 items seen in 2 steps (finished)") == 1, "one receipt, over both ranks"


@needs_dali
def test_a_run_that_is_killed_resumes_by_itself_in_the_order_of_an_undisturbed_one(dali_programs):
    nodes = "prior: {name: pixels, image_size: 32}\nsampler: {gps: {k: 8, choose: uniform}}\n"
    dali_programs.recipe(dali_programs.text + nodes)
    keys = ("max_steps=-1", "max_epochs=4", "checkpoint.enabled=True", "auto_resume.enabled=True", "scheduler.name=none")
    whole, _ = dali_programs.run(PROGRAM, *keys, f"checkpoint.dir={dali_programs.folder}/whole")
    wanted = {int(step["step"]): step["items"].tolist() for step in whole.all}
    assert len(wanted) == 12
    watch = dali_programs.watch()
    command = dali_programs.command(PROGRAM, *keys)
    process = subprocess.Popen(
        command,
        cwd=dali_programs.place(PROGRAM),
        env=dali_programs.environ(watch),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list(watch.glob("*.npz"))) < 7 and process.poll() is None:  # in epoch 2
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for file in watch.glob("*.npz"):
        if not zipfile.is_zipfile(file):  # it was being written
            file.unlink()
    killed = {int(step["step"]): step["items"].tolist() for step in Steps(watch).all}
    resumed, printed = dali_programs.run(PROGRAM, *keys)
    after = {int(step["step"]): step["items"].tolist() for step in resumed.all}
    assert min(after) in (3, 6, 9), printed
    assert killed.items() <= wanted.items()
    assert after.items() <= wanted.items()
    assert set(killed) | set(after) == set(wanted)
