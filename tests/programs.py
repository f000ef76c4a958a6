"""Whole programs in processes of their own, and what solo-learn's training step was given in each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from nearest_by_hand import kth_by_pixels
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as F

ROOT = Path(__file__).parents[1]
CHECKOUT = os.environ.get("SOLO_LEARN_CHECKOUT", "")
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))

# What main_pretrain.py does, for the generation that has none: a program of somebody else's, with METHODS among its names.
PROGRAM = """
import hydra
from omegaconf import OmegaConf
from solo.methods import METHODS

@hydra.main(version_base="1.2", config_path=None)
def main(cfg):
    from solo_gps.hosts.detect import detect_host
    OmegaConf.set_struct(cfg, False)
    host = detect_host()
    cfg = host.complete(cfg)
    host.lightning.seed_everything(cfg.seed)
    model = METHODS[cfg.method](cfg) if host.generation == "1.0.6" else host.build_method(cfg, METHODS[cfg.method])
    trainer = host.lightning.Trainer(
        **{**host.trainer_kwargs(cfg), "callbacks": host.callbacks(cfg), "logger": False}
    )
    trainer.fit(model, host.build_train_loader(cfg), ckpt_path=host.checkpoint_to_resume(cfg))

if __name__ == "__main__":
    main()
"""


class Steps:
    """The training steps that the processes of one run noted."""

    def __init__(self, folder: Path) -> None:
        self.all = [dict(np.load(file)) for file in sorted(folder.glob("*.npz"))]

    def of(self, override: str) -> list[dict[str, np.ndarray]]:
        """Those of the jobs with this override."""
        return [step for step in self.all if override in step["overrides"].tolist()]


class Programs:
    """Runs programs with recipes of one folder.

    `main` is solo-learn's own, unmodified main_pretrain.py where SOLO_LEARN_CHECKOUT names a checkout, else a program like it;
    `pretrain` is `solo-gps pretrain`.
    """

    def __init__(self, folder: Path, images: Path, text: str) -> None:
        self.folder, self.images, self.text = folder, images, text
        (folder / "conf").mkdir()
        (folder / "program.py").write_text(PROGRAM)
        self.recipe(text)

    def recipe(self, text: str) -> None:
        (self.folder / "conf" / "recipe.yaml").write_text(text)

    def command(self, program: str, *arguments: str, config: str = "recipe", folder: str = "conf") -> list[str]:
        where = ["--config-path", str(self.folder / folder), "--config-name", config]
        if program == "pretrain":
            script = [sys.executable, "-m", "solo_gps", "pretrain"]
        else:
            script = [sys.executable, "main_pretrain.py" if CHECKOUT else "program.py"]
        flags = [argument for argument in arguments if argument.startswith("--")]
        return [*script, *where, *flags, *(argument for argument in arguments if argument not in flags)]

    def place(self, program: str) -> Path:
        """The folder that a program is started in."""
        return Path(CHECKOUT) if CHECKOUT and program == "main" else self.folder

    def environ(self, watch: Path, **environ: str) -> dict[str, str]:
        paths = os.pathsep.join([str(Path(__file__).parent / "watch"), str(ROOT)])
        known = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": paths, "WATCH": str(watch)}
        return {**os.environ, **known, **environ}

    def run(self, program: str, *arguments: str, fails: bool = False, **where: str) -> tuple[Steps, str]:
        """Returns the steps taken and what was printed."""
        watch = self.watch()
        done = subprocess.run(
            self.command(program, *arguments, **where),
            capture_output=True,
            text=True,
            cwd=self.place(program),
            env=self.environ(watch),
            timeout=600,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return Steps(watch), done.stdout + done.stderr

    def watch(self) -> Path:
        watch = self.folder / "watch"
        shutil.rmtree(watch, ignore_errors=True)
        watch.mkdir()
        return watch


def shown(crops: np.ndarray, images: Path) -> np.ndarray:
    """(B,) which image of the folder each (B, 3, 32, 32) crop shows, to the last of 256 grey levels."""
    folder = ImageFolder(images)
    known = np.stack([np.asarray(F.resize(image, 32, F.InterpolationMode.BICUBIC)) for image, _ in folder])
    pixels = (crops.transpose(0, 2, 3, 1) * STD + MEAN) * 255
    same = (np.abs(pixels.round()[:, None] - known[None]) == 0).all(axis=(2, 3, 4))
    assert (same.sum(axis=1) >= 1).all(), "a crop shows no image of the folder"
    return same.argmax(axis=1)


def check_guided(steps: list[dict[str, np.ndarray]], samplers: str, images: Path, *, k: int = 3, expected: int = 2) -> None:
    """From the pixels and from the class of the training method: each of the steps was guided by these samplers, or by none."""
    assert len(steps) == expected, f"{samplers}: {len(steps)} steps"
    others = 0
    for step in steps:
        modules, items = step["modules"].tolist(), step["items"]
        assert ("solo_gps.guide.method" in modules) == (samplers != "none")
        assert ("solo_gps.samplers.pnn.wrap" in modules) == ("pnn" in samplers)
        first, second = shown(step["first"], images), shown(step["second"], images)
        assert (first == items).all()
        others += int((second != first).sum())
        if "gps" in samplers:
            assert (second == kth_by_pixels(images, k)[first]).all()
        elif samplers != "sepp":
            assert (second == first).all()
    if samplers == "sepp":
        assert others > 0
