"""What the README and the pages say to type is typed, in the page's order, in a folder where what it names lies.

Commands run in this process, on 64 digits, and trainings for one step. Weights of others are not downloaded: such a line ends in
the one error that says so, after all before it was right. ELSEWHERE names what is not run here, and where it is.
"""

from __future__ import annotations

import ast
import builtins
import glob
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import warnings
from dataclasses import fields
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits
from trainings import small_recipe

import solo_gps
from solo_gps.commands import cli
from solo_gps.errors import SoloGpsError
from solo_gps.hosts.detect import detect_host
from solo_gps.interfaces import Embeddings
from solo_gps.plugins import plugin_manager

pytestmark = [pytest.mark.host, pytest.mark.slow]
pytest.importorskip("solo.methods")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("cli.md", "reference.md")]  # from parsers and docstrings; test_docs.py
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)

ELSEWHERE = {
    r"(PIP_CONSTRAINT=\S+ )?pip install (?!\./)": "test_docs.py: the install lines are one set, and the Makefile's",
    r"echo 'setuptools<81'": "the same",
    r"make (demo|test|setup|check)": "the README's two commands in a clean clone",
    r"\. \.venv/bin/activate": "made by make setup",
    r"solo-gps demo": "the README's first command",
    r"solo-gps compare (sweep\.yaml (--report|hydra)|--table)": "tests/commands/test_compare.py; --list runs here",
    r"(solo-gps pretrain|python main_pretrain\.py) .*--config-name (gps|pnnclr|sepp)/": "tests/commands/test_recipes.py",
    r"(solo-gps pretrain|python main_pretrain\.py) .*data\.dataset=": "tests/datasets, on files of the true layouts",
    r"python (benchmarks|tests)/": "test_docs.py: there, and with this in its help; minutes each",
    r"python main_nn\.py": "the authors' program",
}
SHORT = [
    *["++max_epochs=60", "++max_steps=1", "++optimizer.batch_size=16", "++data.num_workers=0", "++devices='1'"],
    *["++accelerator=cpu", "++strategy=auto", "++precision=32", "++enable_progress_bar=False", "++data.val_path=null"],
]
NO_WEIGHTS = "Without a network, name a local file"
OURS = "--config-name simclr_digits"  # what stands for "..."


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that the pages name: 64 digits to train on, 32 to judge by."""
    folder = tmp_path_factory.mktemp("place")
    data = load_digits()
    for digit in range(4):
        for number, pixels in enumerate(data.images[data.target == digit][:24]):
            image, split = Image.fromarray((pixels * (255 / 16)).astype("uint8")).convert("RGB"), "val" if number < 8 else "train"
            file = folder / "data" / split / str(digit) / f"{number:02d}.png"
            flat = folder / "data" / "unlabelled" / f"{split}-{digit}-{number:02d}.png"
            for where in (file, flat):
                where.parent.mkdir(parents=True, exist_ok=True)
                image.save(where)
    for split, name in (("train", "train"), ("val", "test")):
        shutil.copytree(folder / "data" / split, folder / "runs" / "demo" / "digits" / name)
    for name, method in (
        ("my/recipes/byol", "byol"),
        ("scripts/pretrain/cifar/simclr", "simclr"),
        ("scripts/pretrain/cifar/nnclr", "nnclr"),
        ("scripts/pretrain/imagenet-100/simclr", "simclr"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(small_recipe("data/train", method), folder / f"{name}.yaml")
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A copy of it, as the working folder; nothing is asked of the network."""
    folder = shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(folder)
    warnings.simplefilter("ignore")  # those of the hosts' old libraries, which pytest would make errors; it puts this back
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def offline(url, *args, **kwargs):
        raise URLError(f"{url}: the tests download nothing")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    yield folder
    plugin_manager.cache_clear()


@pytest.fixture
def checkpoint(here):
    """A checkpoint of a network that was trained for a step, under the names of the pages."""
    assert cli.main(["pretrain", *OURS.split(), *SHORT, "checkpoint.enabled=True", "checkpoint.dir=first"]) == 0
    (made,) = (here / "first").glob("simclr/*")
    for name in ("1a2b3c", "4d5e6f"):
        shutil.copytree(made, here / "trained_models" / "simclr" / name)
    (file,) = made.glob("*.ckpt")
    shutil.copy(file, here / "trained_models" / "simclr.ckpt")
    shutil.copy(file, here / "model.ckpt")
    shutil.copy(made / "args.json", here / "args.json")


@pytest.fixture
def h5(here):
    h5py = pytest.importorskip("h5py")
    with h5py.File(here / "data" / "imagenet.h5", "w") as file:
        for image in sorted((here / "data" / "train").glob("*/*.png")):
            file.require_group(image.parent.name)[image.stem] = np.frombuffer(image.read_bytes(), np.uint8)


def names_of(page):
    """What a page's Python takes as given."""
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    rows = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    given = {"solo_gps": solo_gps, "range": lambda count: builtins.range(min(count, 2)), "DataLoader": _loader}
    given |= {"transform": _transform, "images": images, "embeddings": rows, "array": rows, "epochs": 2}
    given |= {"Embeddings": Embeddings, "hookimpl": solo_gps.hookimpl}
    given["DistributedSampler"] = lambda pairs: torch.utils.data.DistributedSampler(pairs, num_replicas=2, rank=1)
    given["my_model"] = lambda file: np.asarray(Image.open(file), np.float32).mean((0, 2))
    if page.name == "README.md":
        given["cfg"] = detect_host().complete(small_recipe("data/train", sampler={"gps": {"k": 3}}))
    elif page.name == "api.md":
        given["pairs"] = solo_gps.GuidedPairs(images, _transform, solo_gps.positives(images, prior=rows, k=3))
    return given


def _transform(image):
    return torch.from_numpy(np.array(image, np.float32)).mean((0, 1))


def _loader(pairs, batch, **keys):
    return torch.utils.data.DataLoader(pairs, min(batch, 16), **{k: v for k, v in keys.items() if k in ("shuffle", "sampler")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_to_type_works(page, here, request, monkeypatch, capsys):
    text = page.read_text()
    commands = "".join(block["text"] for block in BLOCK.finditer(text) if block["language"] == "bash")
    for what, fixture in ((r"trained_models|model\.ckpt", "checkpoint"), (r"\.h5", "h5")):
        if re.search(what, commands):
            request.getfixturevalue(fixture)
    if "mkdir -p data" in commands:
        shutil.rmtree(here / "data")
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look for theirs
    vars(module).update(names_of(page))
    _saved(text, here)
    for block in BLOCK.finditer(text):
        if block["language"] == "bash":
            for line in _lines(block["text"]):
                typed(line, here, monkeypatch, capsys)
        elif block["language"] == "python" and _runs_here(block["mark"] or ""):
            for statement in ast.parse(block["text"]).body:
                _executed(statement, page, vars(module))


def _saved(text, here):
    """Writes the files that a page shows; one may stand behind the commands that read it."""
    for block in BLOCK.finditer(text):
        name = (block["mark"] or "").removeprefix("file: ")
        if name != (block["mark"] or ""):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(block["text"])


def _runs_here(mark):
    """Examples are trained by tests/api/test_examples.py."""
    host = mark.removeprefix("solo-learn: ") if mark.startswith("solo-learn: ") else None
    return not mark.startswith(("example: ", "file: ")) and host in (None, detect_host().generation)


def _executed(statement, page, names):
    try:
        exec(compile(ast.Module([statement], []), str(page), "exec"), names)
    except SoloGpsError as error:
        if "timm" not in ast.unparse(statement) or not re.search(NO_WEIGHTS, str(error)):
            raise


def _lines(text):
    return [line for line in text.replace("\\\n", " ").splitlines() if line.split("#")[0].strip()]


def typed(line, here, monkeypatch, capsys):
    """Runs a line of a shell, or says which line did not work."""
    if any(re.match(pattern, line) for pattern in ELSEWHERE):
        return
    line = re.sub(r"^(torchrun --nproc-per-node \d+|srun [-\w ]*?\d+ python|python) main_pretrain\.py", "solo-gps pretrain", line)
    line = line.replace("pretrain ...", f"pretrain {OURS}")
    # A shell expands no star in quotes, which words with spaces have.
    words = [
        word
        for part in shlex.split(line, comments=True)
        for word in (sorted(glob.glob(part)) if "*" in part and " " not in part else [part])
    ]
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("="))
    elif words[:2] == ["pip", "install"]:
        pip = [sys.executable, "-m", *words, "-q", "--no-deps", "--no-build-isolation", "--target", str(here / "site")]
        subprocess.run(pip, check=True)
        monkeypatch.syspath_prepend(here / "site")
        importlib.invalidate_caches()
        plugin_manager.cache_clear()
    elif words[0] in ("mkdir", "cp", "touch"):
        subprocess.run(words, check=True)
    else:
        assert words[0] == "solo-gps", f"nothing runs this line, and ELSEWHERE does not name it: {line}"
        _ours(words[1:], line, capsys)


def _ours(words, line, capsys):
    output = None
    if ">" in words:
        words, output = words[: words.index(">")], words[-1]
    if words[:1] == ["pretrain"] and "--list" not in words:
        words = [*_without_launcher(words), *SHORT]
    if "3f9a" in words:
        cached = [path.name for path in Path(os.environ["SOLO_GPS_CACHE"]).iterdir() if not path.name.startswith(".")]
        words = [cached[0][:8] if word == "3f9a" else word for word in words]
    capsys.readouterr()
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    if output:
        Path(output).write_text(said.out)
    if code in (0, None):
        return
    error = code if isinstance(code, str) else said.err
    reasons = [NO_WEIGHTS] if re.search(r"timm|torchvision", line) else []
    if detect_host().generation == "1.0.2":
        reasons += ["needs solo-learn 1.0.6", "install solo-learn 1.0.6"]
    assert any(re.search(reason, error) for reason in reasons), f"{line}\n{said.out[-1000:]}\n{said.err[-2000:]}\n{error}"


def _without_launcher(words):
    """Leaves out a launcher, after a look at its keys: tests/guide/test_guidance_matrix.py trains through each."""
    launcher = next((word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")), None)
    if launcher is None:
        return words
    name, _, kind = launcher.partition("_")
    config = importlib.import_module(f"hydra_plugins.hydra_{name}_launcher.config")
    schema = {"": "JobLibLauncherConf", "slurm": "SlurmQueueConf"}[kind]
    known = {field.name for field in fields(getattr(config, schema))}
    keys = {word.partition("=")[0].removeprefix("hydra.launcher.") for word in words if word.startswith("hydra.launcher.")}
    assert keys <= known
    return [word for word in words if not word.startswith(("hydra/launcher=", "hydra.launcher."))]
