"""What a run shows of its pairs: the numbers by hand, and what loggers and the page of real trainings hold."""

from __future__ import annotations

import html.parser
import json
import logging
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import solo_gps
from solo_gps.errors import ConfigError
from solo_gps.guide.dataset import GuidedDataset
from solo_gps.guide.watch import FILE, distances_of, numbers_of, worst_pairs
from solo_gps.hosts.detect import detect_host
from solo_gps.interfaces import NeighbourTable, Pairs

PIXELS = {"name": "pixels", "image_size": 8}
GPS = {"gps": {"k": 40, "choose": "uniform"}}  # of 48: neighbours of other classes too


class Images:
    labels = np.array([0, 0, 1, 1, -1])

    def __len__(self):
        return 5


TABLE = NeighbourTable(
    indices=np.array([[1, 2], [0, -1], [3, 4], [2, 0], [-1, -1]], np.int32),
    distances=np.array([[1, 2], [1, np.inf], [3, 5], [3, 7], [np.inf, np.inf]], np.float32),
)


def guided(positives, more=None):
    pairs = Pairs(anchors=np.arange(5, dtype=np.int32), positives=np.array(positives, np.int32), more=more)
    marks = [0, 1] if more is None else [0, 1, 2]
    return GuidedDataset(Images(), [None] * len(marks), marks, pairs)


def test_numbers_by_hand():
    numbers = numbers_of(guided([1, 0, 3, 0, 4]), {"gps": TABLE}, Images.labels)
    assert numbers == {
        "guided_share": 4 / 5,
        "guided_purity": 3 / 4,  # all but 3 with 0
        "guided_coverage": 3 / 5,  # 0, 1 and 3
        "guided_hubs": 2 / 4,  # 0, twice
        "guided_distance": (1 + 1 + 3 + 7) / 4,
        "gps_ball_mean": 7 / 5,
        "gps_ball_min": 0,
        "gps_ball_max": 2,
    }


def test_all_positives_of_an_item_count_and_what_is_not_known_is_left_out():
    several = guided([1, 0, 3, 2, 4], more=np.array([[2], [0], [4], [0], [4]], np.int32))
    numbers = numbers_of(several, {}, None)
    assert numbers == {"guided_share": 8 / 10, "guided_coverage": 5 / 5, "guided_hubs": 3 / 8}
    histograms = distances_of(several, {"gps": TABLE}, Images.labels)
    assert {name: sorted(values.tolist()) for name, values in histograms.items()} == {
        "guided_distances": [1, 1, 1, 2, 3, 3, 5, 7],
        "guided_distances_same_class": [1, 1, 1, 3, 3],
        "guided_distances_other_class": [2, 7],
    }


def test_the_worst_pairs_are_the_surest_mistakes_or_without_classes_the_furthest():
    pairs = np.array([[0, 1], [0, 2], [3, 0], [2, 4], [2, 3]])
    distances = np.array([1, 2, 0.5, np.nan, 3], np.float32)
    name, wrong = worst_pairs(pairs, distances, Images.labels, 8)
    assert (name, wrong.tolist()) == ("guided_wrong", [[3, 0], [0, 2]])
    name, furthest = worst_pairs(pairs, distances, None, 2)
    assert (name, furthest.tolist()) == ("guided_furthest", [[2, 3], [0, 2]])
    assert worst_pairs(pairs, distances, np.full(5, -1), 9)[0] == "guided_furthest"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"every": -1}, "watch: every=-1 must be at least 0"),
        ({"evry": 1}, "watch.evry: no such key.*Did you mean 'every'"),
        ("pictures", r"watch='pictures': wanted a group.*\+watch=pictures"),
    ],
)
@pytest.mark.host
def test_a_wrong_key_is_one_error(node, message, recipe):
    with pytest.raises(ConfigError, match=message), solo_gps.activate(recipe(sampler=GPS, watch=node)):
        pass


@pytest.mark.host
def test_where_no_pair_is_chosen_there_is_nothing_to_watch(recipe):
    method, kwargs = "nnclr", {"method_kwargs.queue_size": 16}
    nodes = {"sampler": {"pnn": {}}, "watch": {"every": 5}}
    with pytest.raises(ConfigError, match="watch: pnn chooses no positive"), solo_gps.activate(recipe(method, **nodes, **kwargs)):
        pass


@pytest.fixture
def trained(recipe, tmp_path):
    """From loggers and the nodes of a recipe to what is left of a training of three epochs."""

    def run(loggers, **nodes):
        host = detect_host()
        cfg = recipe(**{"sampler": GPS, "prior": PIXELS, "max_epochs": 3} | nodes)
        with warnings.catch_warnings(), solo_gps.activate(cfg) as on:
            warnings.simplefilter("ignore")
            full = host.complete(cfg)
            host.lightning.seed_everything(full.seed)
            model, loader = host.build_method(full, host.methods["simclr"]), host.build_train_loader(full)
            trainer = host.lightning.Trainer(**{**host.trainer_kwargs(full), "logger": loggers})
            bars = []

            class Bar(host.lightning.Callback):
                def on_train_epoch_end(self, trainer, module):
                    bars.append({name for name in trainer.progress_bar_metrics if name.startswith("guided")})

            trainer.callbacks.append(Bar())
            trainer.fit(model, loader)
        return SimpleNamespace(on=on, trainer=trainer, bars=bars)

    return run


@pytest.mark.host
def test_tensorboard_has_the_pictures_the_histograms_and_the_numbers(trained, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = detect_host().lightning.loggers.TensorBoardLogger(str(tmp_path), name="board")
    left = trained([logger], watch={"every": 2, "rows": 3})
    logger.experiment.flush()
    board = events.EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0, "histograms": 0})
    board.Reload()
    tags = board.Tags()
    assert {"guided_pairs", "guided_wrong"} <= set(tags["images"])
    assert {"guided_distances", "guided_distances_same_class", "guided_distances_other_class"} <= set(tags["histograms"])
    assert {"guided_share", "guided_coverage", "guided_hubs", "guided_distance", "gps_ball_mean"} <= set(tags["scalars"])
    steps = [event.step for event in board.Images("guided_pairs")]
    assert len(steps) == 2  # of epochs 0 and 2
    assert (board.Images("guided_pairs")[0].width, board.Images("guided_pairs")[0].height) == (158, 250)
    histogram = board.Histograms("guided_distances")[-1].histogram_value
    assert histogram.num == len(left.on.dataset)
    assert "guided_purity" in left.bars[-1]


@pytest.mark.host
def test_wandb_has_the_pictures_and_the_histograms(trained, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = detect_host().lightning.loggers.WandbLogger(offline=True, save_dir=str(tmp_path))
    trained([logger], watch={"every": 2, "rows": 3})
    logger.experiment.finish()
    kept = [path.name for path in tmp_path.rglob("media/images/*.png")]
    assert sum(name.startswith("guided_pairs") for name in kept) == 2
    assert sum(name.startswith("guided_wrong") for name in kept) == 2


@pytest.mark.host
@pytest.mark.parametrize("every", [0, 1])
def test_a_logger_without_pictures_trains_all_the_same(every, trained, tmp_path):
    logger = detect_host().lightning.loggers.CSVLogger(str(tmp_path), name="csv")
    trained([logger], watch={"every": every})
    logger.save()
    assert "guided_coverage" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.open, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data.strip())


@pytest.mark.host
def test_the_page_says_what_the_receipt_says_and_shows_pairs(trained, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="solo_gps")
    logger = detect_host().lightning.loggers.CSVLogger(str(tmp_path), name="csv")
    left = trained([logger], name="<b>run</b>")
    (file,) = tmp_path.rglob(FILE)
    assert f"report: {file}" in caplog.text
    assert file.with_name("solo_gps_receipt.json").exists()
    text = file.read_text()
    page = Page(text)
    assert not page.open
    assert [image["src"][:22] for image in page.images] == ["data:image/png;base64,"] * 2
    assert all(image["alt"] for image in page.images)
    assert page.cells[0] == "epoch"
    assert {"0", "1", "2", "guided_share", "guided_hubs"} <= set(page.cells)
    said = json.loads(file.with_name("solo_gps_receipt.json").read_text())
    assert html.escape(said["run"] or said["method"]) in text  # 1.0.2 hands its methods no name
    assert "<b>" not in text
    assert "choose: uniform" in text
    seen = left.on.receipt.counts
    assert f"{100 * seen['pure'] / seen['judged']:.1f} %" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text), "nothing is loaded from elsewhere"


@pytest.mark.host
def test_without_a_report_there_is_none(trained, tmp_path):
    logger = detect_host().lightning.loggers.CSVLogger(str(tmp_path), name="csv")
    trained([logger], watch={"every": 0, "report": False})
    assert not list(tmp_path.rglob(FILE))
    assert list(tmp_path.rglob("solo_gps_receipt.json"))


@pytest.mark.host
def test_watching_trains_nothing_else(trained, tmp_path):
    """Pictures draw no random number of the training."""
    pytest.importorskip("tensorboard")
    boards = [detect_host().lightning.loggers.TensorBoardLogger(str(tmp_path), name=name) for name in ("seen", "unseen")]
    watched, unwatched = (
        trained([board], watch={"every": every, "report": every > 0}).trainer.lightning_module.state_dict()
        for board, every in zip(boards, (1, 0), strict=True)
    )
    assert watched.keys() == unwatched.keys()
    assert all(torch.equal(value, unwatched[name]) for name, value in watched.items())
