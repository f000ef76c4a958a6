"""What of a recipe Lightning 1.9's trainer gets."""

from __future__ import annotations

import pytest

from solo_gps.hosts.v102.trainer import _strategy


@pytest.mark.parametrize(
    ("strategy", "devices", "unused"),
    [
        (None, 1, None),
        ("auto", 1, None),
        (None, 2, False),
        ("auto", 2, False),
        ("ddp", 2, False),
        ("ddp_find_unused_parameters_true", 2, True),
    ],
)
def test_several_devices_are_never_left_to_lightning_which_would_spawn(strategy, devices, unused):
    """A guided method cannot be pickled, as spawning needs."""
    pytest.importorskip("pytorch_lightning")
    made = _strategy(strategy, devices)
    if unused is None:
        assert made is None
    else:
        assert type(made).__name__ == "DDPStrategy"
        assert made._ddp_kwargs == {"find_unused_parameters": unused}
