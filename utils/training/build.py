"""Puts a Trainer together from its options: files, data, model, precision, optimizer, and an earlier run to go on with."""

import pathlib
import time
from dataclasses import replace

import torch

from models.build import build_model, check_model, freeze_trunk, head_of, preprocessing, smallest_map
from models.depth import depths
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.machine import cores, keep_memory
from utils.core.text import plural, printable
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches
from utils.data.splits import check_classes, evenly, images_digest
from utils.data.streams import open_stream
from utils.evaluation.evaluate import evaluate
from utils.kernels.convert import is_compiled, use_training_kernels
from utils.runtime import distributed
from utils.runtime.compile import compile_whole, trial_step
from utils.runtime.config import RunConfig
from utils.runtime.device import choose_algorithms, share_cores
from utils.runtime.distributed import from_main, say
from utils.runtime.precision import fastest_precision, possible_precision, precision_probe
from utils.training.batches import BatchPlan
from utils.training.board import Board
from utils.training.data import TrainingData, leave_out_broken
from utils.training.ema import ModelEMA
from utils.training.files import RunFiles, check_training_state
from utils.training.fingerprint import data_facts, fingerprint
from utils.training.loop import Step
from utils.training.optim import build_optimizer, shares_by_depth
from utils.training.resuming import find_saved, resume
from utils.training.schedule import Schedule
from utils.training.signals import Interruptions
from utils.training.start import find_start
from utils.training.state import TrainState, seed_everything
from utils.training.teacher import check_teacher, open_teacher
from utils.training.trainer import Trainer

ASKED = 500  # held-out images at most, that tell at the start how well a teacher answers


def build_trainer(options, device, stop=None):
    """A Trainer of `options` (TrainOptions) on `device` (torch.device), ready to `fit`; prints what it decides.

    `stop` (Interruptions) tells when to stop. Raises UserError for options that cannot be met: about files, before an image is
    decoded.
    """
    started = time.perf_counter()
    options, start = find_start(options)
    options = replace(options, image_size=preprocessing(options.model, options.image_size, options.pretrained)["image_size"])
    check_options(options, device)
    keeps_memory = keep_memory()
    choose_algorithms(options.deterministic)
    seed_everything(options.seed)
    dataset, card, skipped = open_data(options, start)
    wanted = "fp32" if options.deterministic else options.precision
    precision = announced(from_main(possible_precision, wanted, device))
    files = RunFiles(run_folder(options, card, dataset, precision))
    keep_inputs(options, files)
    announced((None, files.hold()))
    say_skipped(skipped, files)
    teacher = make_teacher(options, card, device)
    run = fingerprint(options, card, from_main(data_facts, dataset), precision, device, teacher)
    options, saved = find_earlier(options, files, run, start)
    if saved and precision == "auto":  # which is measured, and might be answered otherwise today
        precision = announced(from_main(possible_precision, saved["card"]["training"].get("precision", "fp32"), device))
    model = make_model(options, card, device, start)
    data = TrainingData(dataset, card, options, device)
    if teacher:
        say(from_main(describe_teacher, teacher, options, card, dataset.val))

    config = RunConfig(device, precision, *share_with_workers(options, data), keeps_memory)
    config = replace(config, precision=settle_precision(options, config, model))
    network, compiled = make_network(options, config, model)
    config = replace(config, compiled=compiled)
    head = head_of(network, options.model) if options.freeze else None
    data.workers = config.workers
    say(config.describe())
    optimizer = make_optimizer(options, model)
    ema = ModelEMA(model) if options.ema else None
    state = TrainState(model, optimizer, config.scaler(), ema, epoch=options.start_epoch)
    plan = make_plan(options, saved)
    steps = len(plan.groups(data.order(0)))  # of an epoch
    state.step = steps * state.epoch
    schedule = make_schedule(options, steps)
    say(describe_optimisation(options, plan, schedule))

    run = run.settled(config.precision)
    random_goes_on = resume(state, saved, options, files, plan, steps)
    if plan.rank and not random_goes_on:  # each process draws its own dropout
        seed_everything((options.seed + 1_000_003 * plan.rank + state.step) % 2**32)
    files.write_skipped(skipped)
    files.write_classes(card.classes)
    files.write_arguments(options.arguments)
    card.training |= facts_of(options) | {"precision": config.precision}
    weights = {"weight": data.class_weights()} if options.class_weights else {}
    loss_options = {"label_smoothing": options.label_smoothing} | weights
    step = Step(synchronised(network, config, options), config, schedule, loss_options, teacher, options.clip_grad, head)
    board = Board(files.folder / "logs", options.flags) if options.tensorboard and plan.rank == 0 else None
    stop = Interruptions(device, options.save_every) if stop is None else stop
    trainer = Trainer(options, data, card, state, step, plan, files, run, stop, board, started=started)
    trainer.add_earlier_sessions()
    return trainer


def find_earlier(options, files, run, start):
    """`(options, saved)`: the state of an earlier run to go on from, or None, and the options with what it decides.

    Raises UserError for a trunk that would stay at its random weights.
    """
    saved = find_saved(options, files, run)
    if options.freeze and not (saved or start or options.pretrained):
        raise UserError("weights that are random and stay so learn nothing; start from trained ones", option="freeze")
    if saved and saved["card"]["training"].get("from_trained"):
        options = replace(options, from_trained=True)  # also where what it started from is not named again
    return options.with_settled_flags(), saved


def check_options(options, device):
    """Raise UserError for what can be wrong with options before any data are read."""
    check_model(options.model, options.image_size, options.norm_type, options.pretrained)
    if options.norm_type == "IN" and smallest_map(options.model, options.image_size) == 1:
        raise UserError(
            f"IN leaves nothing of a map of one pixel, which an image of {options.image_size} px has in {options.model}; give "
            "larger images, or another norm",
            option="norm_type",
        )
    if options.resize_size and options.resize_size < options.image_size:
        raise UserError(f"{options.resize_size} is below {options.image_size} px, the side of the crop", option="resize_size")
    if options.norm_type == "SyncBN" and device.type == "cpu" and distributed.world_size() > 1:
        raise UserError("SyncBN in several processes needs CUDA; give BN or GN on the CPU", option="norm_type")
    if options.deterministic and (options.compile or options.precision not in ("auto", "fp32")):
        raise UserError("a deterministic run is fp32 and not compiled, as kernels are chosen by time", option="deterministic")
    if options.resume not in (None, "auto"):
        from_main(check_training_state, options.resume)
    if options.teacher:
        from_main(check_teacher, options.teacher)


def run_folder(options, card, dataset, precision):
    """`<path_to_save>/<data set>/<model>`, with `_fp16` for that precision and `_<name>` for a run that has a name."""
    parts = [card.file_name, "fp16" if precision == "fp16" else None, options.name]
    return pathlib.Path(options.path_to_save, dataset.name, "_".join(filter(None, parts)))


def keep_inputs(options, files):
    """Raise UserError where the run would replace the file that it starts from or learns from."""
    for option in ("weights", "teacher"):
        path = getattr(options, option)
        if path and pathlib.Path(path).resolve().parent == files.folder.resolve():
            raise UserError(f"{path} lies where this run saves and would be replaced; give the run a name", option=option)


def facts_of(options):
    """What the model card keeps of the options, so that the data can be found again."""
    facts = {name: getattr(options, name) for name in ("dataset", "data_dir", "val_fraction", "seed")}
    facts |= {"val_fraction": 0.0} if options.stream_images else {}  # nothing is held out of what is streamed
    facts |= {"from_trained": True} if options.from_trained else {}
    facts |= {"name": options.name} if options.name else {}
    facts |= {"reading": options.reading.given} if options.reading.given else {}
    return facts | {"epochs": options.max_epoch}


def announced(answer):
    """The value of a pair (value, notice), after the notice is printed where there is one."""
    value, notice = answer
    if notice:
        say(notice)
    return value


def open_data(options, start=None):
    """The data set, the card of a model for it, and what is wrong with each image that is left out; prints what is in it."""
    with distributed.first_here_first():
        dataset = open_images(options)
    images = preprocessing(options.model, options.image_size, options.pretrained)
    images |= start.images(images["image_size"]) if start else {}
    images |= {"resize_size": options.resize_size} if options.resize_size else {}
    card = ModelCard(options.model, dataset.classes, norm_type=options.norm_type, **images)
    for notice in dataset.notices:
        say(notice)
    check_classes(dataset)
    digest = images_digest(dataset)
    card.training = {"images": digest} if digest else {}
    if options.early_stop and not dataset.val:
        raise UserError("no images are held out, so no epoch is better than another; leave it out", option="early_stop")
    if options.no_test and dataset.test:
        say("the test images stay unread: this run is judged by the held-out images alone")
        dataset.test = None
    skipped = leave_out_broken(dataset) if options.skip_broken else []
    sizes = ", ".join(f"{len(split):,} {split.name}" for split in (dataset.train, dataset.val, dataset.test) if split)
    say(f"{dataset.name}: {plural(card.num_classes, 'class', 'classes')}, {sizes} images at {card.image_size} px")
    return dataset, card, skipped


def open_images(options):
    """The data set, indexed, or with a stream of training images."""
    if options.stream_images is None:
        try:
            return open_dataset(options.dataset, options.data_dir, options.val_fraction, reading=options.reading)
        except UserError as error:
            if error.option == "data_dir":
                error.cure = ("or, without a download: python train.py", "dataset", "digits")
            raise
    if options.skip_broken:
        raise UserError("the images of a stream are not decoded before their turn; leave it out", option="skip_broken")
    return open_stream(options.dataset, options.stream_images, options.reading, options.data_dir)


def say_skipped(sentences, files, most=20):
    """Print which images are left out as broken."""
    if sentences:
        more = [f"and {len(sentences) - most:,} more"] if len(sentences) > most else []
        lines = [*map(printable, sentences[:most]), *more]
        say(
            f"left out {plural(len(sentences), 'image')} that cannot be decoded, listed in {files.skipped}:", *lines, sep="\n  "
        )


def make_model(options, card, device, start=None):
    """The model on its device, in channels_last, with the trunk frozen if asked for."""
    model = build_model(options.model, card.num_classes, options.image_size, options.norm_type, options.pretrained)
    if start:
        say(start.load_into(model, options.model, card.classes))
    if options.freeze:
        freeze_trunk(model, options.model)
    return model.to(device, memory_format=torch.channels_last)


def make_teacher(options, card, device):
    """The Teacher of the run, if it has one."""
    if options.teacher:
        return from_main(open_teacher, options.teacher, card, options.teacher_share, options.temperature).to(device)
    return None


def describe_teacher(teacher, options, card, val):
    """One sentence: which teacher the run has, and how well it answers held-out images as it is fed here."""
    share, size = f"{teacher.share:g} of the loss", f"{teacher.image_size} px"
    sentence = f"teacher: {options.teacher} at {size}, {share}, temperature {teacher.temperature:g}"
    if not val:
        return sentence
    chosen = val.subset(evenly(len(val), ASKED))
    answered = evaluate(teacher.answers, eval_batches(chosen, card, options.batch_size, teacher.order.device))
    right = int((answered.logits.argmax(1) == answered.labels).sum())
    return f"{sentence}; fed with images of {card.image_size} px, it answers {right} of {len(chosen)} {val.name} images right"


def share_with_workers(options, data):
    """`(threads, workers)`; prints where there are fewer workers than asked for."""
    wanted = options.num_workers if data.needs_workers else 0
    threads, workers = share_cores(wanted, data.device)
    if workers < wanted:
        say(f"{plural(wanted, 'loader worker')} reduced to {workers}: this machine has {plural(cores(), 'core')}")
    return threads, workers


def settle_precision(options, config, model):
    """The precision of a run: that of `config`, or for `auto` the one that a step of `model` takes less time in."""
    if config.precision != "auto":
        return config.precision
    name = f"{options.model} {options.norm_type}{' frozen' * options.freeze}"
    probe = precision_probe(name, use_training_kernels(model), options.batch_size, options.image_size)
    return announced(from_main(fastest_precision, config.device, *probe))


def make_network(options, config, model):
    """`(network, compiled)`: what the training step calls, and whether any of it is compiled.

    On a CPU it has faster layers than `model`, over the same parameters and buffers.
    """
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    with config.autocast():
        network = use_training_kernels(model, shape, options.compile)
        if options.compile and config.device.type != "cpu":
            return compile_whole(network, shape)
    return network, is_compiled(network)


def synchronised(network, config, options):
    """`network` as all processes train it together.

    DistributedDataParallel puts gradients into groups in the order in which the first backward pass gives them, and sums of
    more than two numbers depend on the group. So that a resumed run sums as the run before it did, blank images come first.
    """
    network = distributed.synchronised(network, config.device)
    if distributed.world_size() > 1:
        count = options.batch_size if config.compiled else min(2, options.batch_size)
        with config.autocast():
            trial_step(network, (count, 3, options.image_size, options.image_size))
        for parameter in network.parameters() if config.keeps_gradients else ():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    return network


def make_optimizer(options, model):
    """The optimizer of a run, whose learning rate decays from the head down to the stem where the options say so."""
    shares = None
    if options.layer_decay < 1:
        shares = shares_by_depth(depths(model, options.model), options.layer_decay)
        least = min(shares.values())
        say(f"a layer takes {options.layer_decay:g} of the learning rate of the next: the first takes {least:.2g} of the whole")
    return build_optimizer(options.optimizer, model, options.base_lr, options.weight_decay, options.momentum, shares)


def make_plan(options, saved):
    """How the images are divided: as asked for, or as a run that is resumed divided them when its memory was out."""
    plan = BatchPlan(options.batch_size, options.accumulation, distributed.world_size(), distributed.rank())
    if saved and "data" in saved and saved["batches"][2] == plan.world:  # of a run with the same options
        plan = replace(plan, batch_size=saved["batches"][0], accumulation=saved["batches"][1])
    return plan


def make_schedule(options, steps):
    """The learning rates of a run whose epochs have `steps` optimizer steps."""
    warmup = announced(options.warmup(options.max_epoch))
    return Schedule(steps * options.max_epoch, round(steps * warmup), options.base_lr, options.min_lr)


def describe_optimisation(options, plan, schedule):
    """What the optimizer does, on one line, and on another what the last epochs do where they differ from the others."""
    line = f"{options.optimizer} takes {plural(schedule.total_steps, 'step')} of {plan.describe()}; the learning rate "
    rises = f"rises to {options.base_lr:g} in the first {schedule.warmup_steps:,} (warm-up), then "
    line += f"{rises if schedule.warmup_steps else f'begins at {options.base_lr:g} and '}falls to {options.min_lr:g}"
    plain = options.max_epoch - options.plain_from
    if options.augments and plain:
        line += f"\nthe last {plain} of {plural(options.max_epoch, 'epoch')} train without augmentation, "
        line += "on images as an evaluation sees them"
    return line
