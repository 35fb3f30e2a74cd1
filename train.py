"""Train an image classifier, select it on held-out images, and test it once at the end.

python3 train.py                                                   resnet18 on FashionMNIST, as the defaults have it
python3 train.py -m custom --image_size 32 --max_epoch 12 --ema    a small network, in about two minutes on two cores
python3 train.py -d photos/ -m mobilenet_v3_small --pretrained     your own folder of class folders
python3 train.py -d photos/ --resume auto                          go on where the last run of this kind stopped
torchrun --nproc_per_node 4 train.py --batch_size 256              four GPUs, 1024 images a step
"""

import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models import build_model, freeze_trunk, head_of, list_models
from utils import cli, plots, runtime
from utils.augment import AUGMENTATIONS, erase, mix
from utils.card import ModelCard
from utils.checkpoint import load_strictly, read_checkpoint, save_checkpoint
from utils.datasets import eval_batches, open_dataset, train_batches
from utils.ema import ModelEMA
from utils.engine import (
    Clock,
    StopSignal,
    Totals,
    TrainState,
    evaluate,
    gather,
    seed_everything,
    set_train_mode,
    train_one_epoch,
)
from utils.errors import UserError, run
from utils.metrics import headline
from utils.optim import OPTIMIZERS, build_optimizer
from utils.report import write_json, write_text
from utils.runtime import Runtime, say
from utils.sampling import balanced_weights, class_weights, epoch_order, plan_epoch
from utils.schedule import fit_warmup, learning_rate
from utils.stores import CACHES, open_store


def parser():
    p = cli.Parser(__doc__)
    cli.add_device(p)
    data = cli.add_data(p)
    data.add_argument("--image_size", type=int, default=224, check=cli.at_least(8), help="side of the network's input, px")
    data.add_argument("--val_fraction", type=float, default=0.1, check=cli.between(0, 1, closed=False),
                      help="share of train held out for selection where there is no val/; 0 trains on all")  # fmt: skip
    data.add_argument("--cache", default="auto", choices=CACHES, help="keep decoded images: in memory, in a file, or not")
    data.add_argument("--augment", default="default", choices=list(AUGMENTATIONS), help="what training images go through")
    data.add_argument("--mixup", type=float, default=0.0, check=cli.at_least(0), help="α of mixup, 0.2 for example; 0 is off")
    data.add_argument("--cutmix", type=float, default=0.0, check=cli.at_least(0), help="α of CutMix, 1 for example; 0 is off")
    data.add_argument("--random_erasing", type=float, default=0.0, check=cli.between(0, 1), help="probability for an image")
    data.add_argument("--balanced_sampler", action="store_true", help="draw every class equally often")
    data.add_argument("--class_weights", action="store_true", help="weigh the loss by the inverse of the class frequency")

    model = p.add_argument_group("model")
    model.add_argument("-m", "--model", default="resnet18", help=f"one of {', '.join(list_models())}")
    model.add_argument("-p", "--pretrained", action="store_true", help="start from torchvision's ImageNet weights")
    model.add_argument("--freeze", action="store_true", help="train the head only; the trunk stays as it is")
    model.add_argument("--norm_type", default="BN", choices=("BN", "GN", "LN", "IN", "SyncBN"), help="normalisation layers")
    model.add_argument("--ema", action="store_true", help="evaluate and keep a moving average of the weights")

    optim = p.add_argument_group("optimisation")
    optim.add_argument("--max_epoch", type=int, default=300, check=cli.at_least(1), help="epochs in all, warm-up included")
    optim.add_argument("--wp_epoch", type=float, default=20, check=cli.at_least(0), help="epochs of linear warm-up")
    optim.add_argument("--start_epoch", type=int, default=0, check=cli.at_least(0), help="first epoch; --resume knows it")
    optim.add_argument("--eval_epoch", type=int, default=1, check=cli.at_least(1), help="epochs between two evaluations")
    optim.add_argument("--optimizer", default="adamw", choices=list(OPTIMIZERS), help="update rule")
    optim.add_argument("--base_lr", type=float, default=4e-3, check=cli.above(0), help="learning rate after the warm-up")
    optim.add_argument("--min_lr", type=float, default=1e-6, check=cli.at_least(0), help="learning rate of the last step")
    optim.add_argument("--weight_decay", type=float, default=0.05, check=cli.at_least(0), help="not on norms and biases")
    optim.add_argument("--momentum", type=float, default=0.9, check=cli.between(0, 1, closed=False), help="or Adam's β1")
    optim.add_argument("--accumulation", type=int, default=1, check=cli.at_least(1), help="batches for one optimizer step")
    optim.add_argument("--label_smoothing", type=float, default=0.0, check=cli.between(0, 1, closed=False), help="share")
    optim.add_argument("--clip_grad", type=float, default=0.0, check=cli.at_least(0), help="largest gradient norm; 0 is off")
    optim.add_argument("--early_stop", type=int, default=0, check=cli.at_least(0),
                       help="stop after so many evaluations without a better one; 0 is off")  # fmt: skip
    optim.add_argument("--seed", type=int, default=0, check=cli.at_least(0), help="of weights, order and augmentation")

    step = p.add_argument_group("speed")
    step.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
                      help="arithmetic of training; auto takes bf16 where that is faster")  # fmt: skip
    step.add_argument("--fp16", action="store_true", help="--precision fp16, with loss scaling")
    step.add_argument("--bf16", action="store_true", help="--precision bf16")
    step.add_argument("--compile", action="store_true", help="torch.compile the model")

    out = p.add_argument_group("output")
    out.add_argument("--path_to_save", default="weights/", help="checkpoints go to <path_to_save>/<dataset>/<model>/")
    out.add_argument("-r", "--resume", nargs="?", const="auto", metavar="FILE",
                     help="go on from a last.pth; auto, or no name, takes that of the same run")  # fmt: skip
    out.add_argument("--tensorboard", action="store_true", help="write logs/<dataset>/<model>/<time>/")
    return p


def contradictions(args):
    """Faults of flags that are right each alone."""
    faults = []
    if args.fp16 and args.bf16:
        faults.append("--fp16 and --bf16 exclude each other")
    if (args.fp16 or args.bf16) and "precision" in args.given:
        faults.append("--precision already says it; leave out --fp16 and --bf16")
    if "wp_epoch" in args.given and args.wp_epoch >= args.max_epoch:
        faults.append(f"--wp_epoch {args.wp_epoch:g} leaves nothing of --max_epoch {args.max_epoch}; give less warm-up")
    if args.min_lr > args.base_lr:
        faults.append(f"--min_lr {args.min_lr:g} is above --base_lr {args.base_lr:g}")
    if args.start_epoch >= args.max_epoch:
        faults.append(f"--start_epoch {args.start_epoch} is past --max_epoch {args.max_epoch}, which counts all epochs")
    if args.start_epoch and args.resume:
        faults.append("--resume knows the epoch to go on with; leave out --start_epoch")
    if args.freeze and not (args.pretrained or args.resume):
        faults.append("--freeze on random weights learns nothing; add --pretrained")
    if args.class_weights and args.balanced_sampler:
        faults.append("--class_weights and --balanced_sampler both correct the same imbalance; take one")
    if args.batch_size == 1 and args.norm_type in ("BN", "SyncBN"):
        faults.append("--batch_size 1 gives BatchNorm nothing to average over; give 2 or more, or --norm_type GN")
    return faults


def main():
    args = parser().parse(contradictions)
    device = runtime.choose_device(args.device, args.cuda)
    runtime.join_group(device)
    try:
        return train(args, device)
    except (dist.DistBackendError, RuntimeError) as error:
        if runtime.world_size() > 1 and any(word in str(error) for word in ("Connection closed", "Connection reset", "NCCL")):
            raise UserError(
                f"a process of the group was lost ({str(error).splitlines()[0][:160]}); run torchrun with --max_restarts "
                "and train.py with --resume auto to go on from the last epoch by itself"
            ) from None
        raise
    finally:
        runtime.leave_group()


def train(args, device):
    started, clock = time.perf_counter(), Clock()
    rank, world = runtime.rank(), runtime.world_size()
    keeps_memory = runtime.keep_memory()
    runtime.prefer_fast_matmul()
    seed_everything(args.seed)

    # Data
    dataset = open_dataset(args.dataset, args.data_dir, args.val_fraction)
    classes = dataset.classes
    for notice in dataset.notices:
        say(notice)
    card = ModelCard(args.model, classes, args.image_size, norm_type=args.norm_type, dataset=dataset.name)
    folder = pathlib.Path(args.path_to_save, dataset.name, args.model + ("_fp16" if args.fp16 else ""))
    sizes = ", ".join(f"{len(s):,} {s.name}" for s in (dataset.train, dataset.val, dataset.test) if s)
    say(f"{dataset.name}: {len(classes)} classes, {sizes} images at {args.image_size} px")

    # Model
    model = build_model(args.model, len(classes), args.image_size, args.norm_type, args.pretrained)
    if args.norm_type == "SyncBN" and world > 1 and device.type == "cpu":
        raise UserError("--norm_type SyncBN needs CUDA in more than one process; give BN or GN on the CPU")
    head = head_of(model) if args.freeze else None
    if args.freeze:
        freeze_trunk(model)
    model.to(device, memory_format=torch.channels_last)

    # Precision, threads, memory: chosen once
    augment = AUGMENTATIONS[args.augment](args.image_size, card.mean, card.std)
    stores = open_stores(dataset, augment, card, args, device)
    helped = stores["train"].needs_workers or (stores["val"] is not None and stores["val"].needs_workers)
    threads, workers = runtime.share_cores(args.num_workers if helped else 0, device)
    if helped and workers < args.num_workers:
        say(f"--num_workers {args.num_workers} is reduced to {workers}: this machine has {runtime.cores()} cores")
    wanted = "fp16" if args.fp16 else "bf16" if args.bf16 else args.precision
    probe_batch = min(args.batch_size, 32)
    key = f"{runtime.cpu_name()}|torch {torch.__version__}|{threads} threads|{args.model} {args.norm_type} {args.image_size} px"
    timer = runtime.step_timer(model, probe_batch, args.image_size) if device.type == "cpu" and wanted == "auto" else None
    precision, notice = runtime.agree(runtime.on_main(runtime.choose_precision, wanted, device, timer, key))
    if notice:
        say(notice)
    setup = Runtime(device, precision, threads, workers, keeps_memory)
    step_model = wrap(model, args, setup)
    say(setup.describe())

    # Optimisation
    weight_decay = args.weight_decay
    optimizer = build_optimizer(args.optimizer, model, args.base_lr, weight_decay, args.momentum)
    state = TrainState(model, optimizer, setup.scaler(), ModelEMA(model) if args.ema else None, epoch=args.start_epoch)
    weights = balanced_weights(dataset.train.labels) if args.balanced_sampler else None
    batch_size, accumulation = args.batch_size, args.accumulation

    def plan(epoch):
        order = epoch_order(len(dataset.train), args.seed, epoch, weights)
        return plan_epoch(order, batch_size, accumulation, rank, world)

    steps_an_epoch = len(plan(0))
    state.step = steps_an_epoch * args.start_epoch
    warmup, notice = fit_warmup(args.wp_epoch, args.max_epoch, explicit="wp_epoch" in args.given)
    if notice:
        say(notice)
    total_steps, warmup_steps = steps_an_epoch * args.max_epoch, round(steps_an_epoch * warmup)
    say(
        f"{args.optimizer}, learning rate {args.base_lr:g} for {batch_size * accumulation * world} images a step"
        f"{f' ({batch_size} × {accumulation} batches × {world} processes)' if accumulation * world > 1 else ''}, "
        f"{total_steps:,} steps, {warmup_steps:,} of them warm-up"
    )
    loss_options = {"label_smoothing": args.label_smoothing}
    if args.class_weights:
        loss_options["weight"] = class_weights(dataset.train.labels, len(classes)).to(device)

    # Go on from an earlier run
    last = folder / "last.pth"
    resume = last if args.resume == "auto" else args.resume
    if args.resume == "auto" and not last.exists():
        say(f"--resume auto: {last} does not exist yet, so this run starts from the beginning")
    elif resume:
        go_on(resume, state, card, args, device, steps_an_epoch)
        say(f"resumed {resume} at epoch {state.epoch + 1}" + (f", step {state.group + 1}" if state.group else ""))
    elif last.exists():
        say(f"{folder} holds an earlier run, which this one replaces; --path_to_save keeps both, --resume auto goes on with it")
    runtime.on_main(write_text, folder / "classes.txt", "\n".join(classes) + "\n")

    writer = open_tensorboard(args, dataset.name) if args.tensorboard and rank == 0 else None
    labels = torch.from_numpy(dataset.train.labels)
    stop = StopSignal()

    def prepare(pixels, batch_labels, number):
        random = np.random.default_rng([args.seed, state.epoch, number, rank])
        images, targets = augment(pixels, random), batch_labels
        if args.mixup or args.cutmix:
            images, targets = mix(images, batch_labels, len(classes), random, args.mixup, args.cutmix)
        if args.random_erasing:
            images = erase(images, random, args.random_erasing)
        if writer and state.step == 0 and number == 0:
            writer.add_image("training images", plots.image_grid(images[:64].cpu(), card.mean, card.std))
        return images, targets

    def score(split, store):
        """loss, Acc@1, Acc@5 of the network that counts, on a split, over all processes."""
        begin = time.perf_counter()
        batches = eval_batches(split, card, 250, device, store=store, workers=workers, shard=(rank, world))
        evaluation = gather(evaluate(state.evaluated.eval(), batches))
        clock.evaluating += time.perf_counter() - begin
        return headline(evaluation.logits, evaluation.labels)

    def save_last():
        extra = {"card": card.to_dict(), "plan": [batch_size, accumulation, world], "args": plain(vars(args))}
        runtime.on_main(save_checkpoint, last, state.state_dict() | extra)

    # The epochs
    card.training = {
        "dataset": str(args.dataset),
        "data_dir": str(args.data_dir),
        "val_fraction": args.val_fraction,
        "seed": args.seed,
        "precision": precision,
    }
    while state.epoch < args.max_epoch:
        epoch, epoch_started = state.epoch + 1, time.perf_counter()
        groups = plan(state.epoch)
        left = groups[state.group :]
        pictures = sum(group.count for group in left)
        bar = Progress(f"epoch {epoch}/{args.max_epoch}", len(groups), state.group, len(classes))
        set_train_mode(model, head)
        indices = [batch for group in left for batch in group.batches]
        try:
            finished = train_one_epoch(
                state, step_model, groups, train_batches(stores["train"], labels, indices, device, workers), prepare, setup,
                learning_rate=lambda step: learning_rate(step, total_steps, warmup_steps, args.base_lr, args.min_lr),
                loss_options=loss_options, clip_grad=args.clip_grad, clock=clock, stop=stop, on_step=bar,
            )  # fmt: skip
        except torch.cuda.OutOfMemoryError:
            if state.group > 2 or batch_size == 1 or world > 1:
                raise UserError(
                    f"CUDA is out of memory at --batch_size {batch_size}; give less, or a smaller --image_size"
                ) from None
            batch_size, accumulation = batch_size // 2, accumulation * 2
            state.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            say(f"CUDA is out of memory: going on with --batch_size {batch_size} --accumulation {accumulation}")
            continue
        finally:
            bar.close()
        if not finished:
            save_last()
            say(f"stopped at epoch {epoch}, step {state.group}: {last} is saved, --resume auto goes on from there")
            return 128 + stop.signum
        seconds = time.perf_counter() - epoch_started
        record = {
            "epoch": epoch,
            "lr": state.optimizer.param_groups[0]["lr"],
            "train": state.totals.averages(len(classes)),
            "images/s": pictures / seconds,
        }
        evaluates = dataset.val is not None and (epoch % args.eval_epoch == 0 or epoch == args.max_epoch)
        if evaluates:
            record["val"] = score(dataset.val, stores["val"])
        record["seconds"] = time.perf_counter() - epoch_started
        state.history.append(record)
        better = evaluates and is_better(record["val"], state.best.get("val"))
        if better or dataset.val is None:
            state.best = {"epoch": epoch, "val": record.get("val")}
            card.training |= {"epoch": epoch, "epochs": args.max_epoch, "val": record.get("val")}
            best = {"model": state.evaluated.state_dict(), "card": card.to_dict()}
            runtime.on_main(save_checkpoint, folder / "best_model.pth", best)
        save_last()
        say(summary(record, args.max_epoch, better))
        if writer:
            log(writer, record)
        runtime.on_main(write_json, folder / "history.json", {"args": plain(vars(args)), "epochs": state.history})
        if stop:
            say(f"stopped after epoch {epoch}: {last} is saved, --resume auto goes on from there")
            return 128 + stop.signum
        if args.early_stop and dataset.val is not None and epoch - state.best["epoch"] >= args.early_stop * args.eval_epoch:
            say(f"no better evaluation for {args.early_stop} times: stopping early")
            break

    # The best model, tested once
    best = read_checkpoint(folder / "best_model.pth")
    load_strictly(state.evaluated, best["model"], folder / "best_model.pth", args.model)
    card = ModelCard.from_dict(best["card"])
    tested = dataset.test or dataset.val
    result = None
    if tested is not None:
        store = stores["val"] if tested is dataset.val else open_store(tested, card.resize_size, args.cache, cache_folder(args))
        result = score(tested, store)
        card.training[tested.name] = result
        runtime.on_main(save_checkpoint, folder / "best_model.pth", best | {"card": card.to_dict()})
    total = time.perf_counter() - started
    if rank == 0:
        final = {"split": tested.name, "samples": len(tested), **result} if tested else None
        times = {name: round(value, 3) for name, value in vars(clock).items()} | {"total": round(total, 3)}
        facts = {"args": plain(vars(args)), "epochs": state.history, "best": state.best, "final": final, "seconds": times}
        write_json(folder / "history.json", facts)
        plots.training_curves(state.history, folder / "curves.png", title=f"{args.model} on {dataset.name}")
        if tested:
            say(f"\n{tested.name} ({len(tested):,} images), epoch {card.training['epoch']}: {scores(result)}")
        say(where_time_went(clock, total))
        names = ("best_model.pth", "last.pth", "history.json", "curves.png", "classes.txt")
        say("\n".join(["written:", *(f"  {folder / name}" for name in names)]))
        if writer:
            writer.close()
            say(f"  {writer.log_dir}")
    return 0


def cache_folder(args):
    return pathlib.Path(args.data_dir, "cache")


def open_stores(dataset, augment, card, args, device):
    """The decoded pictures of train and val, on the device where they fit in half of its memory."""
    from utils.stores import TransformStore

    show = sys.stderr.isatty() and runtime.rank() == 0
    stores = {}
    for name, split in (("train", dataset.train), ("val", dataset.val)):
        if split is None:
            stores[name] = None
        elif name == "train" and augment.per_image:
            stores[name] = TransformStore(split, augment.per_image)
        else:
            store = open_store(split, card.resize_size, args.cache, cache_folder(args), show)
            fits = device.type == "cuda" and store.nbytes and store.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]
            stores[name] = store.to(device) if fits else store
    return stores


def wrap(model, args, setup):
    """The model as the training step calls it: compiled if wanted and possible, and in step with the other processes."""
    step_model = model
    if args.compile:
        step_model = compiled(model, args, setup)
        setup.compiled = step_model is not model
    if runtime.world_size() > 1:
        ids = [setup.device.index] if setup.device.type == "cuda" else None
        step_model = DistributedDataParallel(step_model, device_ids=ids, gradient_as_bucket_view=True)
    return step_model


def compiled(model, args, setup):
    """torch.compile, tried on one batch; where it fails, one line says so and the eager model is taken.

    On CUDA the fixed shapes of training are replayed as CUDA graphs.
    """
    candidate = torch.compile(model, mode="reduce-overhead" if setup.device.type == "cuda" else "default")
    images = torch.zeros(args.batch_size, 3, args.image_size, args.image_size, device=setup.device)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        with setup.autocast():
            candidate(images.contiguous(memory_format=torch.channels_last)).sum().backward()
    except (
        Exception
    ) as error:  # the compiler's back ends raise anything: no C++ compiler, no Triton, an operator unknown to them
        say(f"--compile: not possible here ({str(error).strip().splitlines()[0][:120]}), so the model runs eager")
        candidate = model
    model.load_state_dict(before)  # the trial moved the running statistics
    model.zero_grad(set_to_none=True)
    return candidate


def go_on(path, state, card, args, device, steps_an_epoch):
    """Load an earlier training state into `state`. Raises UserError where it is of another run or not a training state."""
    saved = read_checkpoint(path)
    if "optimizer" not in saved:
        raise UserError(f"--resume {path} holds weights but no training state; give the last.pth of the run")
    other = ModelCard.from_dict(saved["card"], path)
    for flag, mine, theirs in (
        ("--model", card.architecture, other.architecture),
        ("--image_size", card.image_size, other.image_size),
        ("--norm_type", card.norm_type, other.norm_type),
        ("the classes", card.classes, other.classes),
        ("--ema", bool(state.ema), saved["ema"] is not None),
        ("--optimizer", args.optimizer, saved["args"]["optimizer"]),
        ("--freeze", args.freeze, saved["args"]["freeze"]),
    ):
        if mine != theirs:
            raise UserError(f"--resume {path}: {flag} was {theirs} in that run and is {mine} now; give what it had")
    if saved["epoch"] >= args.max_epoch:
        raise UserError(f"--resume {path}: all of its {saved['epoch']} epochs are done; give a greater --max_epoch to train on")
    load_strictly(state.model, saved["model"], path, args.model)
    try:
        state.load_state_dict(saved, device)
    except (KeyError, ValueError) as error:
        raise UserError(f"--resume {path}: the training state does not fit this run ({error})") from None
    if saved["plan"] != [args.batch_size, args.accumulation, runtime.world_size()]:
        if state.group:
            say("the batches have changed, so the interrupted epoch starts again")
        state.group, state.totals = 0, Totals(device)
        state.step = state.epoch * steps_an_epoch


def is_better(new, old):
    """More of the held-out images are right, or as many with a lower loss."""
    return old is None or (new["Acc@1"], -new["loss"]) > (old["Acc@1"], -old["loss"])


class Progress:
    """A bar on a terminal, a plain line every half minute elsewhere, nothing in other processes than the first."""

    def __init__(self, title, total, done, classes):
        self.title, self.total, self.classes = title, total, classes
        self.last = time.perf_counter()
        on = runtime.rank() == 0
        self.plain = on and not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=title, unit="step", leave=False, disable=not on or self.plain)

    def __call__(self, state, rate):
        self.bar.update()
        if self.plain and time.perf_counter() - self.last > 30:
            self.last = time.perf_counter()
            print(f"{self.title}: step {state.group}/{self.total}, learning rate {rate:.2e}", flush=True)

    def close(self):
        self.bar.close()


def scores(result):
    return "  ".join(f"{name} {value:.4f}" for name, value in result.items())


def summary(record, epochs, better):
    """One line an epoch."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}", f"lr {record['lr']:.2e}"]
    parts += [f"{name} {scores(record[name])}" for name in ("train", "val") if name in record]
    parts.append(f"{record['images/s']:.0f} images/s, {record['seconds']:.1f} s" + (" *" if better else ""))
    return " | ".join(parts)


def where_time_went(clock, total):
    parts = vars(clock) | {"set-up and saving": max(0.0, total - sum(vars(clock).values()))}
    shares = ", ".join(
        f"{name.replace('waiting', 'waiting for data')} {v:.1f} s ({v / total:.0%})" for name, v in parts.items()
    )
    return f"{total:.1f} s: {shares}"


def open_tensorboard(args, dataset):
    from torch.utils.tensorboard import SummaryWriter  # not above: it takes a second that most runs spare

    name = args.model + ("_fp16" if args.fp16 else "")
    return SummaryWriter(os.path.join("logs", dataset, name, time.strftime("%Y-%m-%d_%H-%M-%S")))


def log(writer, record):
    epoch = record["epoch"]
    for split in ("train", "val"):
        for name, value in record.get(split, {}).items():
            writer.add_scalar(f"{name}/{split}", value, epoch)
    writer.add_scalar("learning rate", record["lr"], epoch)
    writer.add_scalar("images per second", record["images/s"], epoch)


def plain(values):
    """Flags as JSON can hold them."""
    return {key: value for key, value in values.items() if key != "given"}


if __name__ == "__main__":
    run(main)
