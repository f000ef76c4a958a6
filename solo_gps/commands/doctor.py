"""What `solo-gps doctor` looks at: versions, search backends, and whether Hydra finds the switch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from solo_gps.hosts.detect import summary
from solo_gps.plugins import plugin_manager, registered
from solo_gps.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "hydra-core",
    "pluggy",
    "faiss-gpu",
    "faiss-cpu",
    "lightning",
    "pytorch-lightning",
)


def diagnose() -> tuple[list[str], bool]:
    """Returns the report's lines, and whether `+sampler=gps` can work in this environment."""
    host = summary()
    groups = _sampler_options()
    lines = [f"solo-gps {__version__}"]
    lines += [f"  {name}: {value}" for name, value in host.items()]
    lines += [f"  {name}: {_version(name)}" for name in PACKAGES]
    for hook, title in (
        ("register_samplers", "samplers"),
        ("register_encoders", "priors"),
        ("register_search_backends", "search backends"),
    ):
        lines.append(f"  {title}: {', '.join(sorted(registered(hook)))}")
    lines.append(f"  plugins: {', '.join(name for name, _ in plugin_manager().list_name_plugin())}")
    lines.append(f"  Hydra finds +sampler=: {', '.join(groups) or 'NOTHING: reinstall solo-gps into this environment'}")
    healthy = "lightning" in host and "gps" in groups
    lines.append("ready: add +sampler=gps to a recipe" if healthy else "not ready: see above")
    return lines, healthy


def _sampler_options() -> list[str]:
    from hydra import initialize
    from hydra.core.global_hydra import GlobalHydra

    with initialize(version_base="1.2", config_path=None):
        return list(GlobalHydra.instance().config_loader().get_group_options("sampler"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
