"""solo-learn 1.0.6's `data.format=dali`, guided: DALI reads, decodes and augments the images of each pair."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from solo_gps.config import node_of
from solo_gps.errors import ConfigError, DataError, HostError, brief, our_part
from solo_gps.interfaces import ImageSet, Pairs, StoredImages

DRAW_ORDER, DRAW_CROPS = 61, 62
"""Streams of random numbers of their own: the order of an epoch's items, and what DALI draws for the crops of a rank."""
READ_AHEAD = 4
"""Batches that DALI may have in the making; an error is about an image of one of them."""
DEVICE_PADDING, HOST_PADDING = 211025920, 140544512
"""Bytes that solo-learn has DALI's decoder on a GPU set aside, so that it need not grow in the middle of an epoch."""


INSTALL = "pip install 'nvidia-dali-cuda120>=1.53'"
INSTEAD = "set data.format=image_folder, for the same files"


def check_dali(recipe: DictConfig) -> None:
    """Checks what can be judged without an import of torch, solo-learn or DALI.

    Raises:
        ConfigError: Images cannot be read by DALI here, or the recipe has keys that DALI cannot do.
    """
    solo = find_spec("solo")
    if not any(Path(place, "data", "dali_dataloader.py").is_file() for place in (solo and solo.submodule_search_locations) or ()):
        raise ConfigError(f"data.format='dali' is read by solo-learn 1.0.6 alone; {INSTEAD}.")
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        raise ConfigError(f"data.format='dali': NVIDIA DALI is not installed. Run {INSTALL}, or {INSTEAD}.")
    device = OmegaConf.select(recipe, "dali.device", default="gpu")
    if device not in ("gpu", "cpu"):
        raise ConfigError(f"dali.device={device!r}: wanted gpu or cpu.")
    for place, crop in enumerate(node_of(recipe, "augmentations") or ()):
        if OmegaConf.select(crop, "equalization.prob"):
            raise ConfigError(
                f"augmentations[{place}].equalization.prob={crop.equalization.prob}: DALI cannot equalize. Set it to 0, or "
                f"{INSTEAD}."
            )


def check_dali_runs(recipe: DictConfig) -> None:
    """Imports DALI, and looks for its device.

    Raises:
        ConfigError: DALI is too old, cannot be imported, or has no GPU.
    """
    import torch

    try:
        import nvidia.dali
        from nvidia.dali import fn
    except ImportError as error:
        raise ConfigError(
            f"data.format='dali': NVIDIA DALI cannot be imported: {brief(error)}. Mend it, or {INSTEAD}."
        ) from error
    if getattr(getattr(getattr(fn, "io", None), "file", None), "read", None) is None:
        raise ConfigError(
            f"data.format='dali': NVIDIA DALI {nvidia.dali.__version__} cannot read a file by its name, which guided pairs need; "
            f"1.41 and later can. Run {INSTALL}, or {INSTEAD}."
        )
    if OmegaConf.select(recipe, "dali.device", default="gpu") == "gpu" and not torch.cuda.is_available():
        raise ConfigError("dali.device='gpu' (the default), but torch finds no CUDA device. Type ++dali.device=cpu.")


def check_reads(images: ImageSet, rows: NDArray[np.integer]) -> None:
    """Has DALI read images one by one: the first, to know before any long work what DALI lacks; some, to find the broken one.

    Args:
        images: N images.
        rows: (R,) which of them.

    Raises:
        ConfigError: These images are no files, as those that a plugin reads may be.
        DataError: DALI cannot read one of them.
        HostError: DALI reads none.
    """
    if not isinstance(images, StoredImages) or images.place is None:
        raise ConfigError(f"data.format='dali': these images are read by a plugin, and DALI would read past it; {INSTEAD}.")
    feed = Feed(images)
    feed.begin(np.arange(len(rows)).reshape(-1, 1), Pairs(anchors=rows, positives=rows))
    one_by_one = {"batch_size": 1, "num_threads": 1, "prefetch_queue_depth": 1}
    iterator = _iterator(feed, [(_as_it_is, False)], on_gpu=False, device_id=None, **one_by_one)
    for row in rows:
        try:
            next(iterator)
        except RuntimeError as error:
            file = f"{images.place}/{images.names[row]}"
            raise DataError(f"{file} cannot be read by DALI: {_said(error)}. Mend or remove it, or {INSTEAD}.") from error


def data_module(cfg: DictConfig, val_loader: Any) -> Any:
    """Returns solo-learn's data module for a completed recipe, as its own program builds it.

    Args:
        cfg: Completed recipe.
        val_loader: What validates, or ``None``.
    """
    check_dali(cfg)
    from solo.data.dali_dataloader import PretrainDALIDataModule, build_transform_pipeline_dali
    from solo.data.pretrain_dataloader import prepare_n_crop_transform

    device = cfg.dali.device
    pipelines = [build_transform_pipeline_dali(cfg.data.dataset, crops, dali_device=device) for crops in cfg.augmentations]
    module = PretrainDALIDataModule(
        dataset=cfg.data.dataset,
        train_data_path=cfg.data.train_path,
        transforms=prepare_n_crop_transform(pipelines, [crops.num_crops for crops in cfg.augmentations]),
        num_large_crops=cfg.data.num_large_crops,
        num_small_crops=cfg.data.num_small_crops,
        num_workers=cfg.data.num_workers,
        batch_size=cfg.optimizer.batch_size,
        no_labels=cfg.data.no_labels,
        data_fraction=cfg.data.fraction,
        dali_device=device,
        encode_indexes_into_labels=cfg.dali.encode_indexes_into_labels,
    )
    if val_loader is not None:
        module.val_dataloader = lambda: val_loader
    return module


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a data module is to show.

    Attributes:
        dataset: The training set, of M items of N ``images``; where it is guided, ``from_positive`` says for each crop whether
            it shows the positive.
        pairs: Draws the pairs of the epoch about to start; returns its number, and them.
        seed: The recipe's.
    """

    dataset: Any
    pairs: Callable[[], tuple[int, Pairs]]
    seed: int


@contextmanager
def guided_module(shown_by: Callable[[Any], Shown]) -> Iterator[None]:
    """Has solo-learn's data module for DALI show pairs, for as long as the context lasts.

    Its class's attributes are replaced, since programs import the class by its name.

    Args:
        shown_by: From a data module that was just built to what it is to show.
    """
    from solo.data.dali_dataloader import PretrainDALIDataModule as Module

    build = Module.__init__
    shown: dict[int, tuple[Any, Shown]] = {}  # with the module, so that no other gets its id

    def init(module: Any, *args: Any, **kwargs: Any) -> None:
        build(module, *args, **kwargs)
        shown[id(module)] = module, shown_by(module)

    def setup(module: Any, stage: str | None = None) -> None:
        with our_part("building DALI's pipeline"):
            if id(module) not in shown:
                raise HostError(
                    "a PretrainDALIDataModule that was built before the plugin was switched on would show plain images. Build "
                    "it while the plugin is switched on."
                )
            if vars(module).get("val_dataloader", bool)() is None:
                del module.val_dataloader  # solo-learn's way to say that there is none, which Lightning 2 refuses
            module.train_loader = DaliLoader(shown[id(module)][1], module)

    with patch.object(Module, "__init__", init), patch.object(Module, "setup", setup):
        yield


class Feed:
    """Tells DALI the images of the next batch, by the names of their files: it calls for them some batches ahead.

    Args:
        images: N images.
    """

    def __init__(self, images: StoredImages) -> None:
        self._images = images
        labels = images.labels
        self._targets = np.full(len(images), -1) if labels is None else labels
        self._batches: Iterator[NDArray[np.intp]] = iter(())
        self._pairs: Pairs | None = None
        self._asked: deque[NDArray[np.integer]] = deque(maxlen=READ_AHEAD)

    def begin(self, batches: NDArray[np.intp], pairs: Pairs) -> None:
        """Starts an epoch.

        Args:
            batches: (S, B) items.
            pairs: Of the M items.
        """
        self._batches, self._pairs = iter(batches), pairs

    def stop(self) -> None:
        """Ends the epoch, wherever it stands."""
        self._batches = iter(())

    def __call__(self) -> tuple[Any, ...]:
        """Returns the names of the anchors' and of the positives' files, the items, and the anchors' targets of a batch.

        Raises:
            StopIteration: The epoch is over.
        """
        items = next(self._batches)
        assert self._pairs is not None, "begin() comes first"
        anchors, positives = self._pairs.anchors[items], self._pairs.positives[items]
        self._asked.append(np.concatenate([anchors, positives]))
        return self._names(anchors), self._names(positives), items.astype(np.int64), self._targets[anchors].astype(np.int64)

    def _names(self, rows: NDArray[np.integer]) -> list[NDArray[np.uint8]]:
        place, names = self._images.place, self._images.names
        return [np.frombuffer(os.fsencode(f"{place}/{names[row]}"), np.uint8) for row in rows.tolist()]

    @property
    def asked(self) -> NDArray[np.integer]:
        """The images of the batches that DALI may have in the making, each once."""
        return np.unique(np.concatenate(list(self._asked)))


class DaliLoader:
    """A loader of guided pairs, with ``items, crops, targets`` as batches: each epoch whole, and in an order of its own.

    Args:
        shown: What it shows.
        module: solo-learn's data module, whose trainer is set.
    """

    def __init__(self, shown: Shown, module: Any) -> None:
        trainer = module.trainer
        self.dataset, self.batch_size = shown.dataset, module.batch_size
        self._shown, self._rank, self._world = shown, trainer.global_rank, trainer.world_size
        self._feed = Feed(shown.dataset.images)
        self._epoch: object = None
        seed = np.random.SeedSequence([shown.seed, DRAW_CROPS, self._rank]).generate_state(1)[0] % 2**31
        on_gpu, device = module.dali_device == "gpu", trainer.strategy.root_device
        crops = [part.transform for part in module.transforms.transforms for _ in range(part.num_crops)]
        self._dali = _iterator(
            self._feed,
            list(zip(crops, getattr(shown.dataset, "from_positive", [False] * len(crops)), strict=True)),
            on_gpu=on_gpu,
            batch_size=module.batch_size,
            num_threads=max(1, module.num_workers),
            device_id=(device.index if device.type == "cuda" else trainer.local_rank) if on_gpu else None,
            seed=int(seed),
        )

    def __len__(self) -> int:
        """Batches of an epoch: as many on every rank."""
        return len(self.dataset) // self._world // self.batch_size

    def __iter__(self) -> Iterator[list[Any]]:
        """Draws the pairs of an epoch, and returns its batches; those of an earlier iterator end."""
        if self._epoch is not None:
            self._feed.stop()
            for _ in self._rest():
                pass
        number, pairs = self._shown.pairs()
        self._feed.begin(self._batches(number), pairs)
        if self._epoch is not None:
            self._dali.reset()
        self._epoch = object()
        return self._batches_of(self._epoch)

    def _batches(self, epoch: int) -> NDArray[np.intp]:
        """(S, B) items of this rank: a pure function of seed and epoch, no item twice on any rank."""
        items = len(self.dataset)
        order = np.random.default_rng([self._shown.seed, DRAW_ORDER, epoch]).permutation(items)
        own = order[self._rank * (items // self._world) :][: len(self) * self.batch_size]
        return own.reshape(len(self), self.batch_size)

    def _batches_of(self, epoch: object) -> Iterator[list[Any]]:
        batches = self._rest()
        while self._epoch is epoch and (batch := next(batches, None)) is not None:
            yield batch

    def _rest(self) -> Iterator[list[Any]]:
        while True:
            try:
                (batch,) = next(self._dali)
            except StopIteration:
                return
            except RuntimeError as error:
                check_reads(self.dataset.images, self._feed.asked)
                raise HostError(f"DALI ended while making a batch: {_said(error)}. Mend it, or {INSTEAD}.") from error
            *crops, items, targets = batch.values()
            yield [items, crops, targets]


def _as_it_is(image: Any) -> Any:
    return image


def _said(error: RuntimeError) -> str:
    """What DALI says of an error, in one line: the one after its traceback of the graph's definition."""
    *_, said = str(error).rpartition("encountered:")
    return said.strip().splitlines()[0].rstrip(".")


def _iterator(feed: Feed, crops: Sequence[tuple[Callable[[Any], Any], bool]], *, on_gpu: bool, **arguments: Any) -> Any:
    from nvidia.dali import pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    @pipeline_def(enable_conditionals=True, **arguments)  # solo-learn's transforms have conditions
    def pipeline() -> Any:
        return _graph(feed, crops, on_gpu)

    try:
        built = pipeline()
        built.build()
    except RuntimeError as error:
        raise HostError(f"DALI ended while building its pipeline: {_said(error)}. Mend it, or {INSTEAD}.") from error
    names = [*(f"crop{number}" for number in range(len(crops))), "items", "targets"]
    # PARTIAL and no size: the feed says where an epoch ends. Nothing is prepared before the epoch is known.
    return DALIGenericIterator(
        [built], names, auto_reset=False, last_batch_policy=LastBatchPolicy.PARTIAL, prepare_first_batch=False
    )


def _graph(feed: Feed, crops: Sequence[tuple[Callable[[Any], Any], bool]], on_gpu: bool) -> tuple[Any, ...]:
    """DALI compiles this, with its conditions: it must stay plain."""
    from nvidia.dali import fn, types

    anchors, positives, items, targets = fn.external_source(
        feed,
        num_outputs=4,
        dtype=[types.UINT8, types.UINT8, types.INT64, types.INT64],
        ndim=[1, 1, 0, 0],
    )
    decoding = {"device": "mixed" if on_gpu else "cpu", "output_type": types.RGB}
    if on_gpu:
        decoding.update(device_memory_padding=DEVICE_PADDING, host_memory_padding=HOST_PADDING)
    images = [fn.decoders.image(fn.io.file.read(names), **decoding) for names in (anchors, positives)]
    return (*[crop(images[positive]) for crop, positive in crops], items, targets)
