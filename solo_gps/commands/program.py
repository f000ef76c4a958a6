"""The Hydra program behind `solo-gps pretrain`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig, OmegaConf

from solo_gps.runtime.console import show_progress_lines


def run_program(arguments: Sequence[str]) -> None:
    """Runs the program with Hydra's command-line arguments, as if typed."""
    typed = sys.argv

    @hydra.main(version_base="1.2", config_path=None)
    def program(cfg: DictConfig) -> None:
        sys.argv = typed  # Lightning starts the other ranks by it
        _pretrain(cfg)

    sys.argv = ["solo-gps pretrain", *arguments]
    try:
        program()
    finally:
        sys.argv = typed


def _pretrain(cfg: DictConfig) -> None:
    from solo_gps.commands.pretrain import pretrain

    OmegaConf.set_struct(cfg, False)
    show_progress_lines()
    pretrain(cfg)
