"""Train an image classifier, select it on held-out images, and test it once at the end.

python3 train.py                                                   resnet18 on FashionMNIST, as the defaults have it
python3 train.py -m custom --image_size 32 --max_epoch 12 --ema    a small network, in three minutes or so on two cores
python3 train.py -d photos/ -m mobilenet_v3_small --pretrained     your own folder of class folders
python3 train.py -d photos/ --resume auto                          go on where the last run of this kind stopped
torchrun --nproc_per_node 4 train.py --batch_size 256              four GPUs, 1024 images a step
"""

import pathlib
import shutil
import sys
import time

import numpy as np
import torch

from models.build import build_model, freeze_trunk, head_of
from models.checkpoint import load_strictly, read_checkpoint, read_training_state, save_checkpoint
from models.registry import list_models
from utils.core import cli
from utils.core.card import ModelCard
from utils.core.errors import UserError, run
from utils.core.files import replacing, write_json, write_text
from utils.core.machine import cores, keep_memory
from utils.data.augment import AUGMENTATIONS, erase, mix
from utils.data.cache import CACHES, open_store
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches, needs_workers, train_batches
from utils.data.sampling import balanced_weights, class_weights, epoch_order, plan_epoch
from utils.data.stores import TransformStore, resident
from utils.evaluation import plots
from utils.evaluation.evaluate import evaluate, gather
from utils.evaluation.metrics import headline
from utils.kernels.convert import is_compiled, use_training_kernels
from utils.runtime import distributed
from utils.runtime.compile import step_model
from utils.runtime.device import choose_device, prefer_fast_matmul, share_cores
from utils.runtime.distributed import say
from utils.runtime.precision import Runtime, choose_precision, precision_probe
from utils.training.ema import ModelEMA
from utils.training.loop import Clock, set_train_mode, train_one_epoch
from utils.training.optim import OPTIMIZERS, build_optimizer
from utils.training.progress import Board, Progress, scores, summary, where_time_went
from utils.training.schedule import fit_warmup, learning_rate
from utils.training.signals import StopSignal
from utils.training.state import TrainState, is_better, seed_everything


def parser():
    p = cli.Parser(__doc__)
    cli.add_device(p)
    data = cli.add_data(p)
    data.add_argument("--image_size", type=int, default=224, check=cli.at_least(8), help="side of the network's input, px")
    data.add_argument("--resize_size", type=int, check=cli.at_least(8), help="short side before the centre crop, px")
    data.add_argument("--val_fraction", type=float, default=0.1, check=cli.between(0, 1, closed=False),
                      help="share of train held out for selection where there is no val/; 0 trains on all")  # fmt: skip
    data.add_argument("--cache", default="auto", choices=CACHES, help="keep decoded images: in memory, in a file, or not")
    data.add_argument("--augment", default="default", choices=list(AUGMENTATIONS), help="what training images go through")
    data.add_argument("--plain_epochs", type=int, check=cli.at_least(0), metavar="N",
                      help="last epochs without augmentation; default: three quarters of the run, but at most 15")  # fmt: skip
    data.add_argument("--mixup", type=float, default=0.0, check=cli.at_least(0), help="α of mixup, 0.2 for example; 0 is off")
    data.add_argument("--cutmix", type=float, default=0.0, check=cli.at_least(0), help="α of CutMix, 1 for example; 0 is off")
    data.add_argument("--random_erasing", type=float, default=0.0, check=cli.between(0, 1), help="probability for an image")
    data.add_argument("--balanced_sampler", action="store_true", help="draw every class equally often")
    data.add_argument("--class_weights", action="store_true", help="weigh the loss by the inverse of the class frequency")

    model = p.add_argument_group("model")
    names = list_models()
    model.add_argument("-m", "--model", default="resnet18", check=cli.known("model", names), help=f"one of {', '.join(names)}")
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
    optim.add_argument("--seed", type=int, default=0, check=cli.between(0, 2**32 - 1), help="of weights, order, augmentation")

    step = p.add_argument_group("speed")
    step.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
                      help="arithmetic of training; auto takes bf16 where that is faster")  # fmt: skip
    step.add_argument("--fp16", action="store_true", help="--precision fp16, with loss scaling")
    step.add_argument("--bf16", action="store_true", help="--precision bf16")
    step.add_argument("--compile", action="store_true",
                      help="on a CPU (needs g++) fuses BatchNorm + ReLU and uses Winograd where measured faster")  # fmt: skip

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
    if args.plain_epochs is not None and args.plain_epochs > args.max_epoch:
        faults.append(f"--plain_epochs {args.plain_epochs} is more than --max_epoch {args.max_epoch}")
    if args.resize_size and args.resize_size < args.image_size:
        faults.append(f"--resize_size {args.resize_size} is below --image_size {args.image_size}, the side of the crop")
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
    if args.norm_type == "SyncBN" and distributed.launched() and (args.device == "cpu" or not torch.cuda.is_available()):
        faults.append("--norm_type SyncBN under torchrun needs CUDA; give BN or GN on the CPU")
    if args.batch_size == 1 and args.norm_type in ("BN", "SyncBN"):
        faults.append("--batch_size 1 gives BatchNorm nothing to average over; give 2 or more, or --norm_type GN")
    return faults


def main():
    args = parser().parse(contradictions)
    device = choose_device(args.device, args.cuda)
    distributed.join_group(device)
    try:
        status = train(args, device)
    except RuntimeError as error:
        if not distributed.lost_process(error):
            raise
        raise UserError(
            f"a process of the group was lost ({str(error).splitlines()[0][:120]}); torchrun --max_restarts 3 with train.py "
            "--resume auto goes on from the last epoch by itself"
        ) from None
    distributed.leave_group()  # not after a failure, when it would wait for the others, and they for this one
    return status


def earlier_run(resume, last, card, choices):
    """The training state that --resume names, or None for `auto` where there is none yet; its best model comes along."""
    path = last if resume == "auto" else pathlib.Path(resume)
    if resume == "auto" and not path.exists():
        return None
    saved = read_training_state(path, card, choices)
    best, place = path.with_name("best_model.pth"), last.with_name("best_model.pth")
    if not best.exists():
        saved["best"] = {}
    elif not (place.exists() and best.samefile(place)):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            shutil.copyfile(best, temporary)
    return saved


def train(args, device):
    started, clock = time.perf_counter(), Clock()
    rank, world = distributed.rank(), distributed.world_size()
    keeps_memory = keep_memory()
    prefer_fast_matmul()
    seed_everything(args.seed)

    # Data
    with distributed.first_here_first():
        dataset = open_dataset(args.dataset, args.data_dir, args.val_fraction)
    card = ModelCard(args.model, dataset.classes, args.image_size, args.resize_size, norm_type=args.norm_type)
    splits = [split for split in (dataset.train, dataset.val, dataset.test) if split]
    for notice in dataset.notices:
        say(notice)
    sizes = ", ".join(f"{len(split):,} {split.name}" for split in splits)
    say(f"{dataset.name}: {card.num_classes} classes, {sizes} images at {args.image_size} px")
    wanted = "fp16" if args.fp16 else "bf16" if args.bf16 else args.precision
    folder = pathlib.Path(args.path_to_save, dataset.name, args.model + ("_fp16" if wanted == "fp16" else ""))
    distributed.on_main(folder.mkdir, parents=True, exist_ok=True)
    augment = AUGMENTATIONS[args.augment](args.image_size, card.mean, card.std, card.resize_size)
    cache, show = pathlib.Path(args.data_dir, "cache"), rank == 0 and sys.stderr.isatty()
    with distributed.first_here_first():
        stores = {split.name: open_store(split, card.resize_size, args.cache, cache, show) for split in splits}
    stores = resident(stores, device)
    # Training ends on pictures as evaluation will see them, which a network that was trained on moved ones gains from most
    # (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"; Ge et al. 2021, YOLOX, section 2.1).
    plain, plain_store = AUGMENTATIONS["none"](args.image_size, card.mean, card.std, card.resize_size), stores["train"]
    if augment.per_image:
        stores["train"] = TransformStore(dataset.train, augment.per_image)
    plain_from = args.max_epoch - (min(15, args.max_epoch * 3 // 4) if args.plain_epochs is None else args.plain_epochs)

    # Model
    model = build_model(args.model, card.num_classes, args.image_size, args.norm_type, args.pretrained)
    if args.freeze:
        freeze_trunk(model)
    model.to(device, memory_format=torch.channels_last)

    # How it runs: chosen once, said in one line
    helped = any(needs_workers(store, device) for store in stores.values())
    threads, workers = share_cores(args.num_workers if helped else 0, device)
    if helped and workers < args.num_workers:
        say(f"--num_workers {args.num_workers} is reduced to {workers}: this machine has {cores()} cores")
    name = f"{args.model} {args.norm_type}{' frozen' * args.freeze}"
    probe = precision_probe(name, use_training_kernels(model), args.batch_size, args.image_size)
    precision, notice = distributed.from_main(choose_precision, wanted, device, *probe)
    if notice:
        say(notice)
    setup = Runtime(device, precision, threads, workers, keeps_memory)
    batch_shape = (args.batch_size, 3, args.image_size, args.image_size)
    with setup.autocast():
        network = use_training_kernels(model, batch_shape, args.compile)
    setup.compiled = is_compiled(network)
    called_model = step_model(network, setup, batch_shape, args.compile)
    say(setup.describe())

    # Optimisation
    optimizer = build_optimizer(args.optimizer, model, args.base_lr, args.weight_decay, args.momentum)
    state = TrainState(model, optimizer, setup.scaler(), ModelEMA(model) if args.ema else None, epoch=args.start_epoch)
    loss_options = {"label_smoothing": args.label_smoothing}
    if args.class_weights:
        loss_options["weight"] = class_weights(dataset.train.labels, card.num_classes).to(device)
    sampling = balanced_weights(dataset.train.labels) if args.balanced_sampler else None
    batch_size, accumulation = args.batch_size, args.accumulation

    def plan(epoch):
        order = epoch_order(len(dataset.train), args.seed, epoch, sampling)
        return plan_epoch(order, batch_size, accumulation, rank, world)

    steps = len(plan(0))  # an epoch
    warmup, notice = fit_warmup(args.wp_epoch, args.max_epoch, explicit="wp_epoch" in args.given)
    if notice:
        say(notice)
    total_steps, warmup_steps = steps * args.max_epoch, round(steps * warmup)
    state.step = steps * args.start_epoch
    how = f" ({batch_size} × {accumulation} batches × {world} processes)" if accumulation * world > 1 else ""
    say(
        f"{args.optimizer}, learning rate {args.base_lr:g} for {batch_size * accumulation * world} images a step{how}, "
        f"{total_steps:,} steps, {warmup_steps:,} of them warm-up; "
        f"the last {args.max_epoch - plain_from} of {args.max_epoch} epochs go without augmentation"
    )

    # Go on from an earlier run
    last, best_model = folder / "last.pth", folder / "best_model.pth"
    choices = {f"--{name}": getattr(args, name) for name in ("ema", "optimizer", "weight_decay", "momentum", "freeze")}
    saved = distributed.from_main(earlier_run, args.resume, last, card, choices) if args.resume else None
    if saved:
        state.load_state_dict(saved, device)
        if saved["batches"] != [batch_size, accumulation, world]:
            state.group, state.step = 0, state.epoch * steps  # other batches: the interrupted epoch starts again
        place = f"at epoch {state.epoch + 1}" + (f", step {state.group + 1}" if state.group else "")
        if state.epoch >= args.max_epoch:
            place = f"after all of its {state.epoch} epochs, to test it; a greater --max_epoch trains on"
        say(f"resumed {last if args.resume == 'auto' else args.resume} {place}")
    elif args.resume:
        say(f"--resume auto: {last} does not exist yet, so this run starts from the beginning")
    elif last.exists():
        say(f"{folder} holds an earlier run, which this one replaces (--path_to_save keeps both, --resume auto goes on)")
    if rank:
        seed_everything((args.seed + 1_000_003 * rank + state.step) % 2**32)  # each process has its own dropout
    distributed.on_main(write_text, folder / "classes.txt", "\n".join(card.classes) + "\n")
    board = Board(pathlib.Path("logs", *folder.parts[-2:])) if args.tensorboard and rank == 0 else None
    flags = {key: value for key, value in vars(args).items() if key != "given"}
    card.training = {"dataset": args.dataset, "data_dir": args.data_dir, "val_fraction": args.val_fraction,
                     "seed": args.seed, "epochs": args.max_epoch, "precision": precision}  # fmt: skip
    labels = torch.from_numpy(dataset.train.labels)

    def prepare(pixels, batch_labels, number):
        if state.epoch >= plain_from:
            return plain(pixels, None), batch_labels
        random = np.random.default_rng([args.seed, state.epoch, number, rank])
        images, targets = augment(pixels, random), batch_labels
        if args.mixup or args.cutmix:
            images, targets = mix(images, batch_labels, card.num_classes, random, args.mixup, args.cutmix)
        if args.random_erasing:
            images = erase(images, random, args.random_erasing)
        if board and state.step == 0 and number == 0:
            board.images(plots.image_grid(images[:64].cpu(), card.mean, card.std))
        return images, targets

    def score(split):
        """loss, Acc@1, Acc@5 of the network that counts, on a whole split, over all processes.

        In batches that need less memory than those of training, which keeps the activations.
        """
        begin = time.perf_counter()
        distributed.share_buffers(state.evaluated)
        store, count = stores[split.name], min(250, 2 * batch_size)
        batches = eval_batches(split, card, count, device, store=store, workers=workers, shard=(rank, world))
        evaluation = gather(evaluate(state.evaluated.eval(), batches))
        clock.evaluating += time.perf_counter() - begin
        return headline(evaluation.logits, evaluation.labels)

    def save_last():
        extra = {"card": card.to_dict(), "choices": choices, "batches": [batch_size, accumulation, world]}
        distributed.on_main(save_checkpoint, last, state.state_dict() | extra)

    # The epochs
    with StopSignal(device) as stop:
        while state.epoch < args.max_epoch and not stop.look():
            epoch, epoch_started, groups = state.epoch + 1, time.perf_counter(), plan(state.epoch)
            left = groups[state.group :]
            indices = [batch for group in left for batch in group.batches]
            store = plain_store if state.epoch >= plain_from else stores["train"]
            drawn = args.seed * 1_000_003 + state.step + (rank << 53)  # by the workers
            batches = train_batches(store, labels, indices, device, workers, seed=drawn)
            bar = Progress(f"epoch {epoch}/{args.max_epoch}", len(groups), state.group)
            set_train_mode(network, head_of(network) if args.freeze else None)
            try:
                finished = train_one_epoch(
                    state, called_model, groups, batches, prepare, setup,
                    learning_rate=lambda step: learning_rate(step, total_steps, warmup_steps, args.base_lr, args.min_lr),
                    loss_options=loss_options, clip_grad=args.clip_grad, clock=clock, stop=stop, on_step=bar,
                )  # fmt: skip
            except torch.cuda.OutOfMemoryError:
                if state.group > 2 or batch_size < 4 or world > 1:
                    raise UserError(f"CUDA is out of memory at --batch_size {batch_size}; give less") from None
                batch_size, accumulation = batch_size // 2, accumulation * 2
                optimizer.zero_grad(set_to_none=not setup.keeps_gradients)
                torch.cuda.empty_cache()
                say(f"CUDA is out of memory: going on with --batch_size {batch_size} --accumulation {accumulation}")
                continue
            finally:
                bar.close()
            if not finished:
                save_last()
                break
            seconds = time.perf_counter() - epoch_started
            record = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "train": state.totals.averages(card.num_classes),
                      "images/s": sum(group.count for group in left) / seconds}  # fmt: skip
            if dataset.val and (epoch % args.eval_epoch == 0 or epoch == args.max_epoch):
                record["val"] = score(dataset.val)
            record["seconds"] = time.perf_counter() - epoch_started
            state.history.append(record)
            better = is_better(record.get("val"), state.best.get("val")) or not dataset.val
            if better:
                state.best = {"epoch": epoch, "val": record.get("val")}
                card.training |= state.best
                contents = {"model": state.evaluated.state_dict(), "card": card.to_dict()}
                distributed.on_main(save_checkpoint, best_model, contents)
            save_last()
            distributed.on_main(write_json, folder / "history.json", {"flags": flags, "epochs": state.history})
            say(summary(record, args.max_epoch, better))
            if board:
                board.epoch(record)
            if args.early_stop and "val" in record and epoch - state.best["epoch"] >= args.early_stop * args.eval_epoch:
                say(f"no better evaluation for {args.early_stop} times: stopping early")
                break
    if stop and state.epoch < args.max_epoch:
        where = f"step {state.group} of epoch {state.epoch + 1}" if state.group else f"epoch {state.epoch}"
        say(f"stopped after {where}: {last} is saved, --resume auto goes on from there")
        return 128 + stop.signum

    # The best model, tested once
    best = distributed.from_main(read_checkpoint, best_model)
    load_strictly(state.evaluated, best["model"], best_model, args.model)
    card, tested, final = ModelCard.from_dict(best["card"]), dataset.held_out, None
    if tested:
        final = {"split": tested.name, "samples": len(tested), **score(tested)}
        card.training["final"] = final
        distributed.on_main(save_checkpoint, best_model, best | {"card": card.to_dict()})
    if rank == 0:
        total = time.perf_counter() - started
        times = {name: round(value, 3) for name, value in vars(clock).items()} | {"total": round(total, 3)}
        facts = {"flags": flags, "epochs": state.history, "best": state.best, "final": final, "seconds": times}
        write_json(folder / "history.json", facts)
        plots.training_curves(state.history, folder / "curves.png", title=f"{args.model} on {dataset.name}")
        if final:
            numbers = {name: final[name] for name in ("loss", "Acc@1", "Acc@5") if name in final}
            print(f"\n{tested.name} ({len(tested):,} images), epoch {card.training['epoch']}: {scores(numbers)}")
        print(where_time_went(clock, total))
        names = ("best_model.pth", "last.pth", "history.json", "curves.png", "classes.txt")
        print("\n".join(["written:", *(f"  {folder / name}" for name in names), *([f"  {board.folder}"] if board else [])]))
    return 0


if __name__ == "__main__":
    run(main)
