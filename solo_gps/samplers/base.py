"""What every sampler is: a small stateful shell around pure functions of the neighbour table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from solo_gps.methods import facts_of

if TYPE_CHECKING:
    from solo_gps.interfaces import Exhibit, NeighbourTable, Pairs
    from solo_gps.neighbours.config import SearchConfig
    from solo_gps.priors.config import PriorConfig
    from solo_gps.samplers.space import PriorSpace


class Sampler:
    """Base of every sampler. Override what it acts on; the defaults leave the host untouched.

    Attributes:
        config_class: Frozen dataclass of the keys under ``sampler.<name>``.
        pairs_images: Whether :meth:`pairs` chooses positives in the dataset. The host then checks that its training loader was
            really guided, so that a run can never be plain by accident.
        refreshable: Whether :meth:`prepare` may be called again during training with the space of the network being trained, and
            its table be put back by :meth:`use`.
    """

    config_class: ClassVar[type]
    pairs_images: ClassVar[bool] = False
    refreshable: ClassVar[bool] = False

    def __init__(self, config: Any, *, seed: int) -> None:
        self.config = config
        self.seed = seed

    @property
    def reads_prior(self) -> bool:
        """Whether :meth:`prepare` must be called even when no sampler chooses positives in the dataset."""
        return False

    @classmethod
    def refusal(cls, method: str) -> str | None:
        """Returns why this sampler cannot act on the solo-learn method of that name, or ``None`` when it can."""
        return (facts_of(method).refusal or None) if cls.pairs_images else None

    def check(self, images: int) -> None:
        """Checks the keys against the number of training images, before anything is embedded.

        Raises:
            ConfigError: They do not fit.
        """

    def check_prior(self, prior: PriorConfig) -> None:
        """Checks the keys against those of the prior that :meth:`prepare` will be given, before anything is embedded.

        Raises:
            ConfigError: They do not fit.
        """

    def check_search(self, search: SearchConfig) -> None:
        """Checks the keys against those of the search, before anything is embedded.

        Raises:
            ConfigError: They do not fit.
        """

    def prepare(self, space: PriorSpace, *, same_label: bool) -> NeighbourTable | None:
        """Builds what :meth:`pairs` needs, before training, in the main process of each rank; again where ``refreshable``.

        Args:
            space: The training images in the prior's space.
            same_label: Positives must have the anchor's label (supervised methods use the label as their mask).

        Returns:
            The neighbour table for those who watch (hook ``on_table_built``), or ``None``.
        """
        return None

    def use(self, table: NeighbourTable) -> None:
        """Takes a table that :meth:`prepare` returned in an earlier run, out of its checkpoint. Needed where ``refreshable``."""
        raise NotImplementedError

    def pairs(self, pairs: Pairs, epoch: int) -> Pairs:
        """Returns the items of an epoch, given those of the samplers before this one.

        A pure function of its arguments, the seed and what :meth:`prepare` built: a resumed run draws the same pairs. The number
        of items must not change from epoch to epoch.
        """
        return pairs

    def exhibits(self) -> Sequence[Exhibit]:
        """Returns pictures for the host to draw after :meth:`prepare`."""
        return ()

    def measured(self, method: Any) -> Mapping[str, float]:
        """Returns what this sampler's part of the trained method measured over the whole training, for the receipt."""
        return {}

    def wrap_method(self, method: type, cfg: Mapping[str, Any]) -> type:
        """Returns the method class to train in place of ``method``: itself, or a subclass.

        In a training step, its ``shown_crops`` are the :class:`solo_gps.interfaces.ShownCrops` of the batch.
        """
        return method
