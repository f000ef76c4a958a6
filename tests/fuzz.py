"""Random configurations through Hydra's command line: each trains, or ends with one clear error.

PYTHONPATH=. python tests/fuzz.py --count 10000 [--seed 0] [--program pretrain|main]

Each is run in a process of its own, forked from one that has imported everything; `main` is solo-learn's own main_pretrain.py of
the checkout that SOLO_LEARN_CHECKOUT names.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

SECONDS = 600
MEMORY = 24 << 30  # of addresses; torch alone takes some
BASE = """
name: fuzz
method: {method}
seed: 5
backbone: {{name: resnet18, kwargs: {{}}}}
method_kwargs: {{proj_hidden_dim: 16, proj_output_dim: 8, pred_hidden_dim: 16, temperature: 0.2, {kwargs}}}
momentum: {{base_tau: 0.99, final_tau: 1.0}}
augmentations:
  - rrc: {{enabled: true, crop_min_scale: 0.2, crop_max_scale: 1.0}}
    color_jitter: {{prob: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1}}
    grayscale: {{prob: 0.2}}
    gaussian_blur: {{prob: 0.5}}
    solarization: {{prob: 0.1}}
    equalization: {{prob: 0.1}}
    horizontal_flip: {{prob: 0.5}}
    crop_size: 16
    num_crops: 2
data: {{dataset: custom, train_path: {train}, val_path: null, format: image_folder, no_labels: false, fraction: -1,
  num_workers: 0}}
optimizer: {{name: sgd, batch_size: 8, lr: 0.1, classifier_lr: 0.1, weight_decay: 1.0e-4}}
scheduler: {{name: warmup_cosine, warmup_epochs: 1}}
checkpoint: {{enabled: false, dir: trained, frequency: 1, keep_prev: false}}
auto_resume: {{enabled: false}}
wandb: {{enabled: false}}
knn_eval: {{enabled: false}}
performance: {{disable_channel_last: true}}
max_epochs: 1
max_steps: -1
devices: "1"
accelerator: cpu
strategy: auto
precision: 32
sync_batchnorm: false
limit_train_batches: 1
enable_progress_bar: false
enable_model_summary: false
hydra: {{run: {{dir: .}}, output_subdir: null, job_logging: {{root: {{handlers: [console]}}}}}}
"""
METHODS = {
    "simclr": "",
    "byol": "",
    "nnclr": "queue_size: 16",
    "mocov2plus": "queue_size: 16",
    "swav": "queue_size: 0, num_prototypes: 8",
    "vicreg": "",
    "barlow_twins": "",
    "simsiam": "",
    "wmse": "whitening_size: 8",
    "dino": "num_prototypes: 16",
    "deepclusterv2": "num_prototypes: [4, 4]",
    "ressl": "temperature_q: 0.1, temperature_k: 0.04, queue_size: 16",
}
ODD = [
    *("0", "1", "-1", "2", "3", "7", "0.5", "1.5", "-0.5", "1e-3", "100", "5000", "1000000", "2147483648", "1e400", "1e30"),
    *(str(2**64), str(10**30), "nan", "inf", "-inf", "null", "true", "false", "abc", "''", "[]", "[1]", "[0,1]", "[a,nan]", "{}"),
    *("{a:1}", "'???'", "'${nope}'", "'${oc.env:NOPE}'", "'a b'", "../x", "/dev/null", "'{x}'", "'None'", "auto", "1,2"),
]
HOST = [  # keys of solo-learn and Lightning that no schema of ours has
    *("seed", "name", "method", "devices", "accelerator", "strategy", "precision", "max_epochs", "max_steps", "num_nodes"),
    *("accumulate_grad_batches", "sync_batchnorm", "resume_from_checkpoint", "limit_train_batches", "gradient_clip_val"),
    *("check_val_every_n_epoch", "deterministic", "num_sanity_val_steps", "log_every_n_steps", "use_distributed_sampler"),
    *("method_kwargs", "augmentations", "sampler", "prior", "search", "refresh", "optimizer", "data", "backbone", "checkpoint"),
    *("optimizer.kwargs.momentum", "optimizer.kwargs.nesterov", "optimizer.kwargs.foo", "backbone.kwargs.foo"),
    *("augmentations.0", "augmentations.0.rrc", "debug_augmentations", "sampler.nope", "sampler.gps", "prior.nope"),
]
GOOD = {
    "sampler.gps.k": ["1", "5", "20"],
    "sampler.gps.radius": ["0.05", "1.0", "100"],
    "sampler.gps.choose": ["furthest", "uniform", "nearest"],
    "prior.image_size": ["8", "16"],
    "method": list(METHODS),
    "optimizer.name": ["sgd", "lars", "adam", "adamw"],
    "optimizer.batch_size": ["4", "16", "24"],
    "scheduler.name": ["none", "step", "warmup_cosine"],
    "backbone.name": ["resnet18", "resnet50", "vit_tiny", "swin_tiny"],
    "data.num_workers": ["0", "1"],
    "devices": ["1", "[0]", "'1'", "auto"],
    "max_epochs": ["1", "2"],
    "checkpoint.enabled": ["true", "false"],
    "search.backend": ["torch", "faiss", "auto", "faiss_hnsw"],
    "prior.space": ["cosine", "euclidean"],
    "prior.augmentation": ["flip", "crop", "simclr"],
    "prior.draws": ["1", "2"],
    "prior.epochs": ["1", "2"],
    "refresh.start": ["0", "null"],
    "sampler.sepp.fraction": ["0.5", "1.0"],
}
GROUPS = ["+sampler=gps", "+sampler=pnn", "+sampler=sepp"]
PRIORS = ["", *(f"+prior={name}" for name in ("pixels", "pca", "patches", "random", "autoencoder", "vae", "array"))]


def keys() -> dict[str, list[str]]:
    """Every key of ours, and of solo-learn's that we know, with values that may be right."""
    from config_keys import sampler_config

    from solo_gps.guide.refresh_config import RefreshConfig
    from solo_gps.hosts.schema import CROP_GROUPS, SECTIONS, Frame, MethodKwargs
    from solo_gps.neighbours.config import SearchConfig
    from solo_gps.priors.config import CONFIGS

    groups: list[tuple[str, Any]] = [(f"sampler.{name}", sampler_config(name)) for name in ("gps", "pnn", "sepp")]
    groups += [("prior", config) for config in CONFIGS.values()]
    groups += [("search", SearchConfig), ("refresh", RefreshConfig), ("method_kwargs", MethodKwargs)]
    groups += list(SECTIONS.items())
    groups += [("augmentations.0", Frame), *((f"augmentations.0.{name}", schema) for name, schema in CROP_GROUPS.items())]
    known = {key: GOOD.get(key, []) for key in HOST}
    for where, schema in groups:
        for field in fields(schema):
            key = f"{where}.{field.name}"
            known[key] = [*GOOD.get(key, []), *_near(field.default)]
    return dict(sorted(known.items()))


def _near(default: Any) -> list[str]:
    """Values that a user might type in place of a default."""
    if isinstance(default, bool):
        return ["true", "false"]
    if isinstance(default, (int, float)):
        return [str(default), str(default * 2), str(type(default)(default / 2))]
    return [default] if isinstance(default, str) and default not in ("", "???") else ["null"] * (default is None)


@st.composite
def overrides(draw: Any, known: dict[str, list[str]]) -> list[str]:
    """What is typed: samplers, a prior, search and refresh or none, and some keys with good or odd values."""
    method = draw(st.sampled_from(list(METHODS)))
    sampler = draw(st.sampled_from(GROUPS))
    typed = [sampler, draw(st.sampled_from(PRIORS)), draw(st.sampled_from(["", "", "", "+refresh=features"]))]
    mine = {group.partition("=")[2]: group.partition("=")[0].lstrip("+") for group in typed if group}
    near = [key for key in known if key.split(".")[0] not in ("sampler", "refresh") or key.split(".")[1:2] == [sampler[9:]]]
    near += [key for key in known if key.startswith("refresh.") and "features" in mine]
    chosen = draw(st.lists(st.sampled_from(near), max_size=4, unique=True))
    for key in chosen:
        if any(key.startswith(f"{other}.") and other.startswith("augmentations") for other in chosen):
            continue  # Hydra itself cannot look below what is no list any more
        good = known[key] if draw(st.integers(0, 3)) else []
        value = draw(st.sampled_from(good or ODD))
        deleted = draw(st.integers(0, 30)) == 0 and not key.startswith("augmentations.0")  # which Hydra itself fails on
        typed.append(f"~{key}" if deleted else f"++{key}={value}")
    return [f"method={method}", *(word for word in typed if word)]


@dataclass
class Outcome:
    """What became of one configuration: ``ran``, ``error`` (ours, one), ``hydra`` (Hydra's own), or what must not be."""

    kind: str
    text: str


class Fuzzer:
    """Runs configurations, each in a fork of this process.

    Args:
        folder: Scratch folder.
        program: ``pretrain`` or ``main``.
    """

    def __init__(self, folder: Path, program: str = "pretrain") -> None:
        from image_sets import digits_pixels
        from PIL import Image

        self.folder, self.program = folder, program
        for number, pixels in enumerate(digits_pixels(48)):
            file = folder / "train" / str(number % 3) / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        for method, kwargs in METHODS.items():
            (folder / f"{method}.yaml").write_text(BASE.format(method=method, kwargs=kwargs, train=folder / "train"))
        _warm()

    def run(self, typed: list[str]) -> Outcome:
        method, *words = typed
        output = self.folder / "output.txt"
        child = os.fork()
        if child == 0:
            _child(self._start, [method.partition("=")[2], *words], output)
        begun = time.monotonic()
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() - begun > SECONDS:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("timeout", output.read_text(errors="replace")[-3000:])
            time.sleep(0.002)
        return _judged(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))

    def _start(self, method: str, *words: str) -> None:
        os.chdir(self.folder)
        flags = [word for word in words if word.startswith("--")]
        arguments = ["--config-path", str(self.folder), "--config-name", method, *flags]
        arguments += [word for word in words if word not in flags]
        if self.program == "pretrain":
            from solo_gps.commands.program import run_program

            run_program(arguments)
        else:
            checkout = os.environ["SOLO_LEARN_CHECKOUT"]
            sys.argv = [f"{checkout}/main_pretrain.py", *arguments]
            runpy.run_path(sys.argv[0], run_name="__main__")


def _warm() -> None:
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from solo_gps.hosts.detect import detect_host

        detect_host()
        import sklearn.model_selection  # noqa: F401
        import timm  # noqa: F401


def _child(start: Any, arguments: list[str], output: Path) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115 - to the end
    code = 1
    warnings.simplefilter("ignore")
    try:
        start(*arguments)
        code = 0
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _judged(code: int, text: str) -> Outcome:
    if code < 0:
        return Outcome("killed", f"signal {-code}\n{text[-3000:]}")
    tracebacks = "Traceback (most recent call last)" in text or "Error executing job" in text
    if code == 0:
        return Outcome("traceback" if "Traceback (most" in text else "ran", text[-3000:])
    lines = [line for line in text.splitlines() if line.startswith("solo-gps: ") and not line.startswith("solo-gps: warning")]
    if tracebacks:
        return Outcome("traceback", text[-6000:])
    if lines:
        return Outcome("error", lines[-1])
    return Outcome("hydra", text[-500:])


def fuzz(count: int, seed: int, program: str, folder: Path, bad: Any = None) -> dict[str, int]:
    """Runs ``count`` configurations and returns how many ended how; ``bad`` is called for each that ended as none may."""
    fuzzer, counts = Fuzzer(folder, program), collections.Counter[str]()
    errors: collections.Counter[str] = collections.Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(overrides(keys()))
    def one(typed: list[str]) -> None:
        outcome = fuzzer.run(typed)
        counts[outcome.kind] += 1
        if outcome.kind == "error":
            errors[outcome.text[:160]] += 1
        if outcome.kind not in ("ran", "error", "hydra") and bad is not None:
            bad(typed, outcome)

    one()
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--program", choices=("pretrain", "main"), default="pretrain")
    parser.add_argument("--only", nargs="+", help="one configuration: what is typed, method=NAME first")
    options = parser.parse_args()

    def shown(typed: list[str], outcome: Outcome) -> None:
        lines = [line for line in outcome.text.splitlines() if line.strip()]
        print(f"{outcome.kind}: {' '.join(typed)}", *(f"    {line}" for line in lines[-6:]), sep="\n", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        if options.only:
            outcome = Fuzzer(Path(scratch), options.program).run(options.only)
            print(outcome.kind, outcome.text, sep="\n")
            return
        begun = time.monotonic()
        os.environ["SOLO_GPS_CACHE"] = f"{scratch}/cache"
        counts = fuzz(options.count, options.seed, options.program, Path(scratch), shown)
        print(f"{sum(counts.values()):,} configurations in {time.monotonic() - begun:.0f} s: {counts}")


if __name__ == "__main__":
    main()
