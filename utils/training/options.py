"""What a training run is told, and how its images are divided into batches."""

from dataclasses import dataclass, field, replace

from utils.data.sampling import plan_epoch


@dataclass(frozen=True)
class TrainOptions:
    """Everything that can be chosen for a run, except for the device. `train.py --help` explains the fields by their names."""

    # data
    dataset: str = "FashionMNIST"
    data_dir: str = "data/"
    batch_size: int = 128
    num_workers: int = 8
    image_size: int = 224
    resize_size: int | None = None  # None: in the proportion 256 to 224
    val_fraction: float = 0.1
    cache: str = "auto"
    augment: str = "default"
    plain_epochs: int | None = None  # None: three quarters of the run, but at most 15
    mixup: float = 0.0
    cutmix: float = 0.0
    random_erasing: float = 0.0
    balanced_sampler: bool = False
    class_weights: bool = False
    # model
    model: str = "resnet18"
    pretrained: bool = False
    freeze: bool = False
    norm_type: str = "BN"
    ema: bool = False
    # optimisation
    max_epoch: int = 300
    wp_epoch: float | None = None  # None: 20 epochs, but at most a fifth of the run
    start_epoch: int = 0
    eval_epoch: int = 1
    optimizer: str = "adamw"
    base_lr: float = 4e-3
    min_lr: float = 1e-6
    weight_decay: float = 0.05
    momentum: float = 0.9
    accumulation: int = 1
    label_smoothing: float = 0.0
    clip_grad: float = 0.0
    early_stop: int = 0
    seed: int = 0
    # speed
    precision: str = "auto"
    compile: bool = False
    # output
    path_to_save: str = "weights/"
    resume: str | None = None
    tensorboard: bool = False
    flags: dict = field(default_factory=dict)  # the command line, for history.json

    @property
    def plain_from(self):
        """The first epoch, counted from 0, without augmentation.

        Training ends on images as evaluation sees them, from which a network gains most that was trained on augmented ones
        (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"; Ge et al. 2021, YOLOX, section 2.1).
        """
        plain = min(15, self.max_epoch * 3 // 4) if self.plain_epochs is None else self.plain_epochs
        return self.max_epoch - plain

    @property
    def augments(self):
        """Whether any training image is changed at random."""
        return self.plain_from > 0 and (self.augment != "none" or any((self.mixup, self.cutmix, self.random_erasing)))

    @property
    def kept(self):
        """What a run that resumes an earlier one must have in common with it, besides the model card."""
        return {name: getattr(self, name) for name in ("ema", "optimizer", "weight_decay", "momentum", "freeze")}


@dataclass(frozen=True)
class BatchPlan:
    """How the images of an epoch are divided: `accumulation` batches of `batch_size` images in each of `world` processes."""

    batch_size: int
    accumulation: int = 1
    world: int = 1
    rank: int = 0

    @property
    def images_per_step(self):
        return self.batch_size * self.accumulation * self.world

    @property
    def kept(self):
        """What must be the same for a run to resume in the middle of an epoch."""
        return [self.batch_size, self.accumulation, self.world]

    def halved(self):
        """Half the batch size and twice the accumulation: the same images in a step, in half the memory."""
        return replace(self, batch_size=self.batch_size // 2, accumulation=self.accumulation * 2)

    def groups(self, order):
        """The groups of batches, one for each optimizer step, of an epoch whose images come in `order`."""
        return plan_epoch(order, self.batch_size, self.accumulation, self.rank, self.world)

    def describe(self):
        """`256 images a step (128 × 1 batches × 2 processes)`"""
        parts = f" ({self.batch_size} × {self.accumulation} batches × {self.world} processes)"
        return f"{self.images_per_step} images a step" + (parts if self.accumulation * self.world > 1 else "")
