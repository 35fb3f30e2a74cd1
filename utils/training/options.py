"""What a training run is told. Needs no torch, so that the flags of train.py can be read at once."""

from dataclasses import dataclass, field, fields, replace

from utils.core.flag_files import flag_line
from utils.data.reading import Reading
from utils.training.schedule import OF_TRAINED, WARMUP_EPOCHS, fit_warmup

GUESSED = Reading()
FREE, GROWS = "free", "grows"


def may_change(default, how=FREE):
    """A field that may differ where a run is resumed: as it likes, or to a greater value (GROWS). All others must be kept.

    FREE is what the weights do not depend on, or what is compared in another form.
    """
    return field(default=default, metadata={"changes": how})


@dataclass(frozen=True)
class TrainOptions:
    """Everything that can be chosen for a run, except for the device. `train.py --help` explains the fields by their names."""

    # data
    dataset: str = may_change("FashionMNIST")  # the folder may move: the images are compared
    data_dir: str = may_change("data/")
    stream_images: int | None = None  # images of an epoch of shards that are streamed; None: they are indexed
    reading: Reading = field(default=GUESSED, metadata={"changes": FREE})
    batch_size: int = 128
    num_workers: int = may_change(8)
    image_size: int | None = None  # px; None: that of the weights or the network
    resize_size: int | None = None  # None: as the weights have it, or in the proportion 256 to 224
    val_fraction: float = 0.1
    cache: str = may_change("auto")
    augment: str = "default"
    skip_broken: bool = may_change(False)  # the images are compared
    plain_epochs: int | None = None  # None: three quarters of the run, but at most 15
    mixup: float = 0.0
    cutmix: float = 0.0
    random_erasing: float = 0.0
    balanced_sampler: bool = False
    class_weights: bool = False
    # model
    model: str = "resnet18"
    pretrained: bool = False
    weights: str | None = may_change(None)  # to start from; a run that is resumed has its own
    from_trained: bool = may_change(False)  # whether it began with trained weights: `find_start` and a saved state say so
    freeze: bool = False
    norm_type: str = "BN"
    ema: bool = False
    # optimisation
    max_epoch: int = may_change(300, GROWS)
    wp_epoch: float | None = None  # None: 20 epochs, or 1 from trained weights, but at most a fifth of the run
    start_epoch: int = may_change(0)
    eval_epoch: int = 1
    optimizer: str = "adamw"
    base_lr: float = 4e-3
    layer_decay: float = 1.0
    min_lr: float = 1e-6
    weight_decay: float = 0.05
    momentum: float = 0.9
    accumulation: int = 1
    label_smoothing: float = 0.0
    teacher: str | None = may_change(None)  # the file may move: its digest is compared
    teacher_share: float = 0.9  # of the loss
    temperature: float = 4.0
    clip_grad: float = 0.0
    early_stop: int = may_change(0)
    seed: int = 0
    # speed
    precision: str = may_change("auto")  # compared as it was settled
    compile: bool = False
    deterministic: bool = False
    # output
    path_to_save: str = may_change("weights/")
    save_every: float = may_change(15.0)  # minutes between two saves inside an epoch; 0 saves after each epoch only
    name: str | None = may_change(None)  # of the run, for its folder
    resume: str | None = may_change(None)
    no_test: bool = may_change(False)
    tensorboard: bool = may_change(False)
    flags: dict = field(default_factory=dict, metadata={"changes": FREE})  # the command line, for history.json
    defaulted: tuple = may_change(())  # names of options that nobody chose: what the run starts from may say better
    arguments: str = field(default="# not started from a command line\n", metadata={"changes": FREE})  # for args.txt

    def warmup(self, max_epoch):
        """`(epochs of warm-up, notice or None)` of a run of `max_epoch`."""
        return fit_warmup(self.wp_epoch, max_epoch, OF_TRAINED if self.from_trained else WARMUP_EPOCHS)

    def with_settled_flags(self):
        """The same options; what is written down of them says what was settled for the flags that nobody gave."""
        settled = {name: getattr(self, name) for name in ("model", "norm_type", "image_size", "base_lr")}
        settled["wp_epoch"], _ = self.warmup(self.max_epoch)
        flags = self.flags | {name: value for name, value in settled.items() if name in self.flags}
        lines = self.arguments.split("\n")
        for name, value in settled.items():
            lines = [f"# {flag_line(f'--{name}', value)}" if line.startswith(f"# --{name} ") else line for line in lines]
        return replace(self, flags=flags, arguments="\n".join(lines))

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


CHANGES = {entry.name: entry.metadata.get("changes") for entry in fields(TrainOptions)}  # option: FREE, GROWS or None
