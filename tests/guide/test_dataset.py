from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from solo_gps.errors import HostError
from solo_gps.guide.dataset import GuidedDataset, GuidedLoader, crop_pipelines, guided_dataset
from solo_gps.interfaces import Pairs
from solo_gps.methods import crops_from_positive

N = 6


class Greys:
    """Image i is one grey pixel of value 10 i; counts how often each is decoded."""

    labels = np.arange(N, dtype=np.int64)

    def __init__(self):
        self.decoded = Counter()

    def __len__(self):
        return N

    def image(self, index):
        self.decoded[index] += 1
        return Image.new("RGB", (1, 1), (10 * index,) * 3)

    def content(self):
        yield from (bytes([i]) for i in range(N))


def value(image):
    return image.getpixel((0, 0))[0]


def plus_one(image):
    return value(image) + 1


def pairs(positives):
    return Pairs(anchors=np.arange(N, dtype=np.int32), positives=np.array(positives, dtype=np.int32))


def test_each_crop_has_its_own_pipeline_and_its_own_image():
    data = GuidedDataset(Greys(), [value, plus_one, value], [False, True, False], pairs([3, 1, 2, 3, 4, 5]))
    assert data[0] == (0, [0, 31, 0], 0)
    assert data[1] == (1, [10, 11, 10], 1)


def test_an_image_is_decoded_once_an_item_and_only_when_shown():
    images = Greys()
    data = GuidedDataset(images, [value] * 8, [False, True] + [False] * 6, pairs([3, 1, 2, 3, 4, 5]))
    data[0]
    assert images.decoded == {0: 1, 3: 1}
    data[1]  # falls back on itself
    assert images.decoded == {0: 1, 3: 1, 1: 1}


def two_epochs(workers, persistent):
    data = GuidedDataset(Greys(), [value, value], [False, True], pairs(range(N)))
    epochs = iter([pairs(np.roll(np.arange(N), -shift)) for shift in (1, 2)])
    data.draw_with(lambda: next(epochs))
    loader = GuidedLoader(data, batch_size=2, num_workers=workers, persistent_workers=persistent)
    return [[crop.tolist() for _, crops, _ in loader for crop in [crops[1]]] for _ in range(2)]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_every_worker_sees_the_pairs_of_the_current_epoch(workers, persistent):
    assert two_epochs(workers, persistent) == [
        [[10, 20], [30, 40], [50, 0]],
        [[20, 30], [40, 50], [0, 10]],
    ]


def test_a_pickled_copy_leaves_the_samplers_behind_and_shares_the_pairs():
    data = GuidedDataset(Greys(), [value], [True], pairs([1, 2, 3, 4, 5, 0]))
    data.draw_with(lambda: (_ for _ in ()).throw(AssertionError("a worker must not draw")))
    copy = pickle.loads(pickle.dumps(data))
    copy.redraw()
    assert copy[0] == (0, [10], 0)


class Wrapped(Dataset):
    def __init__(self, dataset):
        self.dataset = dataset


def test_the_guided_set_is_found_inside_wrappers():
    data = GuidedDataset(Greys(), [value], [True], pairs(range(N)))
    assert guided_dataset(Wrapped(Wrapped(data))) is data


def test_a_wrapper_that_hides_the_guided_set_is_refused():
    with pytest.raises(HostError, match="attribute 'dataset'"):
        guided_dataset(torch.utils.data.TensorDataset(torch.zeros(3)))


class NCrop:
    def __init__(self, transform, num_crops):
        self.transform, self.num_crops = transform, num_crops


class Full:
    def __init__(self, transforms):
        self.transforms = transforms


def test_crop_pipelines_are_in_the_order_of_the_crops():
    assert crop_pipelines(Full([NCrop("a", 1), NCrop("b", 2), NCrop("c", 1)])) == ["a", "b", "b", "c"]


def test_another_kind_of_transform_is_refused():
    with pytest.raises(HostError, match="wanted solo-learn's FullTransformPipeline"):
        crop_pipelines(lambda image: image)


@pytest.mark.parametrize(
    ("method", "crops", "large", "guided"),
    [
        ("simclr", 2, 2, [1]),
        ("byol", 8, 2, [1]),
        ("nnclr", 2, 2, [1]),
        ("ressl", 2, 2, [1]),
        ("wmse", 4, 4, [1, 2, 3]),
        ("wmse", 2, 2, [1]),
    ],
)
def test_the_positive_goes_to_the_second_large_crop(method, crops, large, guided):
    marks = crops_from_positive(method, crops, large)
    assert [crop for crop, mark in enumerate(marks) if mark] == guided
    assert len(marks) == crops
