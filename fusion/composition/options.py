"""The options of a fusion: the keywords of `compose`, the keys of a fusion file, and the options of fusion-compose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

from fusion.composition.losses import Loss, parse_loss, validate_loss
from fusion.composition.references import Pct, parse_pct_loss
from fusion.composition.solver_text import SolverSettings
from fusion.composition.source import PathLike
from fusion.composition.tasks import Task, parse_task


@dataclass(frozen=True)
class ComposeOptions:
    """How nets are fused, beside the nets themselves.

    head         one of HEADS
    num_output   classes of the fused net, or values for a loss on values; None: as many as the labels have, or as the
                 class folders that it trains on
    loss         replaces the sources' own, such as "SoftmaxWithLoss,ignore_label=255"
    tasks        several classifiers, each with its loss and label: "gender=SoftmaxWithLoss:gender,num_output=2"
    data_from    prefix of the source whose data layers are used, the first that has any by default
    train_list, val_list, train_batch, test_batch   replace the lists (or folders of class folders, or databases) and
                 the batch sizes of these data layers
    val_share    keep back this share of each class of the training list (or folder) for validation, as a list beside
                 the fused net, instead of a val_list
    references   keep each source's own classifier as a frozen side output
    pct          positive-congruent losses against these references, which they imply: "focal,weight=0.5"
    hidden       width of the head's hidden layer
    project      width that every source's features are projected to by a layer that learns
    batch_norm   whether every source's features get a BatchNorm that learns, after their projection if they have one
    maps         features that are maps of several sizes: "pool" averages each over its positions, "upsample" brings
                 them to the largest, "levels" joins the first cuts of all sources, the second ones, ... by themselves
    resize       (height, width) of the images that replace a source's database; None: as its records
    input_shape  C, H, W of the input blobs, for the deploy net, where the sources do not give it
    labels       names of the classes, that of class 0 first, or a file with a name per line; kept in the written nets.
                 None: those of the class folders, where it reads such
    schedule     the settings of the solver
    name         the fused net's name
    """

    head: str = "concat-fc"
    _: KW_ONLY
    num_output: int | None = None
    loss: str | Loss | None = None
    tasks: Sequence[str | Task] = ()
    data_from: str | None = None
    train_list: str | None = None
    val_list: str | None = None
    train_batch: int | None = None
    test_batch: int | None = None
    val_share: float | None = None
    references: bool = False
    pct: str | Pct | Sequence[str | Pct] = ()
    hidden: int | None = None
    project: int | None = None
    batch_norm: bool = False
    maps: str = "pool"
    resize: Sequence[int] | None = None
    input_shape: Sequence[int] | None = None
    labels: PathLike | Sequence[str] | None = None
    schedule: SolverSettings | None = None
    name: str | None = None

    def parsed_loss(self) -> Loss | None:
        """Return the loss that replaces the sources' own, None if there is none. Raises: ComposeError."""
        return parse_loss(self.loss) if isinstance(self.loss, str) else self.loss and validate_loss(self.loss)

    def parsed_tasks(self) -> list[Task]:
        """Return the tasks, those given as text parsed. Raises: ComposeError."""
        tasks = [parse_task(task) if isinstance(task, str) else task for task in self.tasks]
        return [replace(task, loss=validate_loss(task.loss)) for task in tasks]

    def parsed_pct(self) -> list[Pct]:
        """Return the positive-congruent losses, those given as text parsed. Raises: ComposeError."""
        losses = [self.pct] if isinstance(self.pct, (str, Pct)) else self.pct
        return [parse_pct_loss(loss) if isinstance(loss, str) else loss for loss in losses]
