"""Features of the images of a folder under a trained backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def folder_features(
    backbone: Any, folder: Path, *, size: int, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int = 256
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeds the images of class folders, without augmentation, in evaluation mode.

    Args:
        backbone: ``torch.nn.Module`` from (B, 3, size, size) to (B, D); its mode is restored.
        folder: Images in class folders.
        size: Side of the square input in pixels.
        mean: Mean of each channel, as in training.
        std: Standard deviation of each channel, as in training.
        batch_size: Images a forward pass.

    Returns:
        (N, D) float32 features and (N,) int64 classes, in the order of the folder.
    """
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose(
        [
            transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    training = backbone.training
    device = next(backbone.parameters()).device
    features, labels = [], []
    backbone.eval()
    with torch.inference_mode():
        for images, targets in DataLoader(ImageFolder(folder, transform), batch_size=batch_size):
            features.append(backbone(images.to(device)).float().cpu().numpy())
            labels.append(targets.numpy())
    backbone.train(training)
    return np.concatenate(features), np.concatenate(labels).astype(np.int64)
