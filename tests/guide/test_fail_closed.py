"""Whatever goes wrong between the start of a job and its first guided batch ends the job: never success, never a plain step."""

from __future__ import annotations

import contextlib
import sys

import pytest
from omegaconf import OmegaConf

from solo_gps.commands.program import run_program
from solo_gps.guide.dataset import GuidedDataset
from solo_gps.guide.fit import Fit
from solo_gps.guide.run import GuidedRun
from solo_gps.hosts.detect import detect_host
from solo_gps.priors.pixels import PixelsEncoder
from solo_gps.samplers.gps.sampler import Gps

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]  # the hosts warn of today's libraries
HOST = detect_host()
ERRORS = [
    *(ArithmeticError, AssertionError, AttributeError, BufferError, ConnectionError, EOFError, FileNotFoundError),
    *(GeneratorExit, ImportError, IndexError, KeyError, KeyboardInterrupt, MemoryError, NotImplementedError, OSError),
    *(OverflowError, PermissionError, RecursionError, RuntimeError, StopAsyncIteration, StopIteration, SystemExit),
    *(TimeoutError, TypeError, UnicodeError, ValueError, Warning, ZeroDivisionError),
]
PLACES = {
    "config": ("solo_gps.guide.check", "parse"),
    "prior": (PixelsEncoder, "load"),
    "cache": ("solo_gps.embeddings.service", "open_cache"),
    "search": ("solo_gps.neighbours.search", "choose_backend"),
    "sampler": (Gps, "pairs"),
    "dataset": (GuidedDataset, "_images"),
    "method": (GuidedRun, "describe"),
    "callback": (GuidedRun, "begin_fit"),
    "first epoch": (Fit, "start_epoch"),
}


GUIDED = {"sampler": {"gps": {"k": 3}}, "prior": {"name": "pixels", "image_size": 8}}


@pytest.fixture
def write_recipe(recipe, tmp_path):
    def write(nodes):
        text = OmegaConf.to_yaml(OmegaConf.merge(recipe(max_steps=2, batch_size=16), nodes))
        hydra = f"hydra: {{output_subdir: null, run: {{dir: {tmp_path}}}, sweep: {{dir: {tmp_path}/sweep}}}}\n"
        (tmp_path / "recipe.yaml").write_text(text + hydra)
        return tmp_path

    return write


@pytest.fixture
def run(write_recipe, monkeypatch):
    """Returns the exit code of `solo-gps pretrain`, in this process; `steps` counts those of the host's own step."""
    taken, folder = [], write_recipe(GUIDED)
    original = HOST.methods["base"].training_step

    def training_step(self, batch, batch_idx):
        taken.append("guided" if "solo_gps.guide.method" in {cls.__module__ for cls in type(self).__mro__} else "plain")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(HOST.methods["base"], "training_step", training_step)

    def start(*arguments):
        taken.clear()
        try:
            run_program(["--config-path", str(folder), "--config-name", "recipe", *arguments])
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - Python ends a program with 1, or 130, for each
            return 1
        return 0

    start.steps = taken
    return start


def broken(place, error, monkeypatch):
    where, name = PLACES[place]
    where = sys.modules[where] if isinstance(where, str) else where

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(where, name, fail)


def test_nothing_broken_trains(run):
    assert run() == 0
    assert run.steps == ["guided"] * 2


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_of_any_type_anywhere_ends_the_job(place, run, monkeypatch, own_cache):
    for error in ERRORS:
        with monkeypatch.context() as patch:
            broken(place, error("injected"), patch)
            code = run()
            assert code not in (0, None), f"{error.__name__} in {place}: exit code {code}"
            assert run.steps == [], f"{error.__name__} in {place}: {len(run.steps)} steps"
    assert run() == 0, "what was switched on is off again"
    assert run.steps == ["guided"] * 2


PRIOR = GUIDED["prior"]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({**GUIDED, "sampler": {"gps": {"k": "${nope.nope}"}}}, "sampler.gps.k: Interpolation key 'nope.nope' not found"),
        ({**GUIDED, "sampler": {"gps": {"k": "???"}}}, "sampler.gps.k: Missing mandatory value"),
        ({**GUIDED, "sampler": "${nope}"}, "sampler: Interpolation key 'nope' not found"),
        ({**GUIDED, "sampler": "???"}, "sampler: Missing mandatory value"),
        ({**GUIDED, "prior": {"name": "array", "path": "empty.npy"}}, "empty.npy is empty (0 bytes)"),
        ({**GUIDED, "prior": {"name": "checkpoint", "path": "empty.pth"}}, "empty.pth"),
        ({**GUIDED, "prior": {**PRIOR, "cache_dir": "recipe.yaml"}}, "recipe.yaml"),
        ({**GUIDED, "refresh": {"every": "x"}}, "refresh.every"),
        ({**GUIDED, "seed": "abc"}, "seed='abc'"),
        ({"prior": PRIOR}, "prior without a sampler"),
        ({"search": {"backend": "torch"}}, "search without a sampler"),
        ({"images": {"scale": "own"}}, "images without a sampler"),
        ({**GUIDED, "max_steps": 0}, "never guided a training step"),
        ({**GUIDED, "limit_train_batches": 0}, "never guided a training step"),
    ],
)
def test_what_a_user_can_mend_is_one_line(nodes, message, run, write_recipe, monkeypatch, capfd):
    folder = write_recipe(nodes)
    monkeypatch.chdir(folder)
    for name in ("empty.npy", "empty.pth"):
        (folder / name).touch()
    with pytest.raises(SystemExit) as ended:
        run_program(["--config-path", str(folder), "--config-name", "recipe"])
    assert str(ended.value.code).startswith("solo-gps: ")
    assert message in str(ended.value.code)
    assert "\n" not in str(ended.value.code)
    assert "Traceback" not in capfd.readouterr().err
    assert run.steps == []


def test_a_bug_keeps_its_traceback_and_says_that_it_is_one(run, monkeypatch, capfd):
    broken("sampler", KeyError("x"), monkeypatch)
    assert run() == 1
    printed = capfd.readouterr().err
    assert "in fail" in printed, "the traceback"
    assert "KeyError: 'x'. This is a bug" in printed
    assert "please report it" in printed


def test_a_job_of_a_sweep_fails_alone_and_is_reported_as_hydra_reports_failed_jobs(run, capfd):
    assert run("--multirun", "sampler.gps.k=3,100,5,7") == 1
    assert run.steps == ["guided"] * 6
    printed = capfd.readouterr().err
    assert "solo-gps: error: k=100 neighbours" in printed, "at once"
    assert "Error executing job with overrides" in printed, "and at the end, by Hydra"
    assert "Traceback" not in printed


def test_a_bug_in_a_job_of_a_sweep_shows_its_traceback_at_once(run, monkeypatch, capfd):
    original, calls = Gps.pairs, []

    def sometimes(self, pairs, epoch):
        calls.append(self.config.k)
        if self.config.k == 4:
            raise KeyError("x")
        return original(self, pairs, epoch)

    monkeypatch.setattr(Gps, "pairs", sometimes)
    assert run("--multirun", "sampler.gps.k=3,4,5") == 1
    assert run.steps == ["guided"] * 4
    printed = capfd.readouterr().err
    assert printed.index("in sometimes") < printed.index("5 nearest"), "before the next job"


def test_a_finished_run_that_is_resumed_is_no_failure(run, tmp_path):
    keep = (
        "max_steps=-1",
        "max_epochs=1",
        "checkpoint.enabled=True",
        f"checkpoint.dir={tmp_path}/kept",
        "auto_resume.enabled=True",
    )
    assert run(*keep) == 0
    assert run.steps == ["guided"] * 3
    assert run(*keep) == 0
    assert run.steps == [], "nothing was left to train"


def test_a_finished_run_of_another_kind_that_is_resumed_is_a_failure(run, write_recipe, tmp_path):
    """Else a checkpoint trained plainly, or by other keys, would pass for this run's."""
    keep = ("max_steps=-1", "max_epochs=1", "checkpoint.enabled=True", "+resume_from_checkpoint=null")
    write_recipe({})
    assert run(*keep, f"checkpoint.dir={tmp_path}/plain") == 0
    assert run.steps == ["plain"] * 3
    (plain,) = (tmp_path / "plain").rglob("*.ckpt")
    write_recipe(GUIDED)
    again = (*keep, f"checkpoint.dir={tmp_path}/again")
    assert run(*again, f'resume_from_checkpoint="{plain}"') == 1
    assert run(*keep, f"checkpoint.dir={tmp_path}/guided") == 0
    (guided,) = (tmp_path / "guided").rglob("*.ckpt")
    assert run(*again, f'resume_from_checkpoint="{guided}"', "sampler.gps.k=4") == 1
    assert run(*again, f'resume_from_checkpoint="{guided}"') == 0
    assert run.steps == []


def test_a_program_that_swallows_our_error_fails_all_the_same(run, monkeypatch):
    from solo_gps.commands import program

    train = program._pretrain

    def careless(cfg):
        with contextlib.suppress(BaseException):
            train(cfg)

    monkeypatch.setattr(program, "_pretrain", careless)
    broken("method", ValueError("injected"), monkeypatch)
    assert run() == 1


def test_sys_exit_is_success_only_after_a_guided_training(run, monkeypatch):
    from solo_gps.commands import program

    train = program._pretrain
    monkeypatch.setattr(program, "_pretrain", lambda cfg: sys.exit(0 if train(cfg) is None else 1))
    assert run() == 0
    monkeypatch.setattr(program, "_pretrain", lambda cfg: sys.exit(0))
    assert run() == 1
