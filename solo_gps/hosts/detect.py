"""Which generation of solo-learn is installed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from solo_gps.errors import HostError
from solo_gps.interfaces import NamedDataset, StandIn

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig
    from torch.utils.data import DataLoader

INSTALL = """\
  solo-learn 1.0.6 (recommended):
    echo 'setuptools<81' > constraint.txt
    PIP_CONSTRAINT=constraint.txt pip install git+https://github.com/vturrisi/solo-learn "setuptools<81"
  solo-learn 1.0.2 (PyPI alone):
    pip install torch==2.15.0 torchvision==0.29.2 pytorch-lightning==1.9.5 lightning-bolts==0.7.0 timm==1.0.31 einops scipy \\
      "setuptools<81"
    pip install --no-deps solo-learn==1.0.2"""


class Host(Protocol):
    """One generation of solo-learn, as the rest of solo-gps sees it.

    Attributes:
        generation: Version number that names the generation.
        methods: The host's registry, name to method class; changed in place while switched on.
        loader_module: The module whose global name ``DataLoader`` the host's ``prepare_dataloader`` reads.
        lightning: The Lightning namespace the host trains with.
        backbone_name: Name of the backbone's attribute in the method.
        classifier_step: Name of the step that the host calls once a large crop with the targets of its online classifier.
    """

    generation: ClassVar[str]
    methods: dict[str, type]
    loader_module: ModuleType
    lightning: ModuleType
    backbone_name: ClassVar[str]
    classifier_step: ClassVar[str]

    def switched_on(self) -> AbstractContextManager[None]:
        """Repairs and settings that last while the plugin is switched on; undone on exit."""

    def knows(self, name: str, found: NamedDataset, data: Mapping[str, Any]) -> AbstractContextManager[list[StandIn]]:
        """While in it, the host trains on a named data set.

        Args:
            name: Of ``data.dataset``.
            found: The data set.
            data: The recipe's ``data`` node.

        Returns:
            Functions that a program may have imported, each with the one that stands in for it.
        """

    def complete(self, cfg: DictConfig) -> DictConfig:
        """Fills in the recipe's derived keys and defaults."""

    def build_method(self, cfg: DictConfig, cls: type) -> Any:
        """Builds the LightningModule from a completed recipe."""

    def build_transform(self, cfg: DictConfig) -> Any:
        """Builds the transform that makes all crops of an image, from a completed recipe."""

    def build_optimizer(self, cfg: DictConfig, network: torch.nn.Module) -> Any:
        """Builds the optimizer of a completed recipe for a network."""

    def build_train_set(self, data: Mapping[str, Any], transform: Any) -> Any:
        """Builds the training set of the completed ``data`` node through the host's own functions, as it will be indexed."""

    def build_train_loader(self, cfg: DictConfig) -> DataLoader:
        """Builds the training loader through the host's own functions."""

    def build_val_loader(self, cfg: DictConfig) -> DataLoader | None:
        """Builds the validation loader, or ``None`` when the recipe has no labelled validation set."""

    def trainer_kwargs(self, cfg: DictConfig) -> dict[str, Any]:
        """Keyword arguments of the Lightning trainer."""

    def callbacks(self, cfg: DictConfig) -> list[Any]:
        """Checkpointing and other callbacks that the recipe asks for."""

    def checkpoint_to_resume(self, cfg: DictConfig) -> Any:
        """Path of the checkpoint to resume from, or ``None``."""


def detect_host() -> Host:
    """Returns the adapter of the installed solo-learn.

    Raises:
        HostError: None is installed, or one of another generation.
    """
    if find_spec("solo") is None:
        raise HostError(f"solo-learn is not installed in this environment. Install one of:\n{INSTALL}")
    if find_spec("solo.methods") is None or _generation() is None:
        raise HostError(
            f"the installed package 'solo' ({_installed_version()}) is not a solo-learn that solo-gps knows (1.0.6 or 1.0.2). "
            f"Install one of:\n{INSTALL}"
        )
    if _generation() == "1.0.6":
        from solo_gps.hosts.v106 import Solo106

        return Solo106()
    from solo_gps.hosts.v102.adapter import Solo102

    return Solo102()


def method_names() -> list[str] | None:
    """Returns the names of the installed solo-learn's methods, read from its source; ``None`` where that says nothing.

    Importing solo-learn takes long, and a misspelt method should not.
    """
    spec = find_spec("solo")
    for folder in (spec and spec.submodule_search_locations) or ():
        source = Path(folder, "methods", "__init__.py")
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if source.is_file() else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and "METHODS" in map(ast.unparse, node.targets):
                return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return None


def _generation() -> str | None:
    if find_spec("solo.data") is not None and find_spec("solo.data.pretrain_dataloader") is not None:
        return "1.0.6" if _takes_one_config() else None
    if find_spec("solo.utils") is not None and find_spec("solo.utils.pretrain_dataloader") is not None:
        return "1.0.2" if _installed_version() in ("1.0.2", "unknown version") else None
    return None


def _takes_one_config() -> bool:
    import inspect

    from solo.methods.base import BaseMethod

    return list(inspect.signature(BaseMethod.__init__).parameters) == ["self", "cfg"]


def _installed_version() -> str:
    try:
        return version("solo-learn")
    except PackageNotFoundError:
        return "unknown version"


def summary() -> Mapping[str, str]:
    """Returns what ``solo-gps doctor`` prints about the host: name to value."""
    try:
        host = detect_host()
    except HostError as error:
        return {"solo-learn": str(error)}
    return {"solo-learn": host.generation, "lightning": f"{host.lightning.__name__} {host.lightning.__version__}"}
