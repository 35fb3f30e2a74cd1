"""Train an image classifier, select it on held-out images, and test it once at the end.

python3 train.py                                                  # resnet18 on FashionMNIST, as the defaults have it
python3 train.py -m custom --image_size 32 --max_epoch 12 --ema   # a small network, in three minutes or so on two cores
python3 train.py -d photos/ -m mobilenet_v3_small --pretrained    # your own folder of class folders
python3 train.py -d photos/ -w old/best_model.pth                 # from your own checkpoint, or from somebody else's
python3 train.py -d photos/ --resume auto                         # go on where the last run of this kind stopped
python3 train.py @weights/photos/resnet18/args.txt --name again   # repeat a run; any flags can stand in a file
torchrun --nproc_per_node 4 train.py --batch_size 256             # four GPUs, 1024 images a step
"""

import dataclasses

from models.registry import list_models, unknown_model
from utils.core import cli
from utils.core.card import architecture
from utils.core.errors import UserError, run
from utils.core.inputs import no_file, no_place_for_files, unless
from utils.data.flags import add_reading, no_data, reading_of
from utils.data.registry import CACHES, list_augmentations
from utils.training.options import TrainOptions
from utils.training.registry import list_optimizers
from utils.training.schedule import WARMUP_EPOCHS


def parser():
    p = cli.Parser(__doc__)
    d = TrainOptions()  # the defaults
    cli.add_device(p)
    data = cli.add_data(p, no_data)
    add_reading(data)
    data.add_argument("--stream_images", type=int, check=cli.at_least(1), metavar="N", help="stream shards, N images an epoch")
    data.add_argument("--data_card", action="store_true", help="print what is understood of the data, and stop")
    data.add_argument("--image_size", type=int, check=cli.side(), help="side of the input, px; 224 for networks of ours")
    data.add_argument("--resize_size", type=int, check=cli.side(), help="short side before the centre crop, px")
    data.add_argument("--val_fraction", type=float, default=d.val_fraction, check=cli.between(0, 1, closed=False),
                      help="share of train held out for selection where there is no val/; 0 trains on all")  # fmt: skip
    data.add_argument("--cache", default=d.cache, choices=CACHES, help="keep decoded images: in memory, in a file, or not")
    data.add_argument("--skip_broken", action="store_true", help="train without the images that do not decode, and list them")
    data.add_argument("--augment", default=d.augment, choices=list_augmentations(), help="random changes of training images")
    data.add_argument("--plain_epochs", type=int, check=cli.at_least(0), metavar="N",
                      help="last epochs without augmentation; default: three quarters of the run, but at most 15")  # fmt: skip
    data.add_argument("--mixup", type=float, default=d.mixup, check=cli.at_least(0), help="α of mixup, such as 0.2; 0 is off")
    data.add_argument("--cutmix", type=float, default=d.cutmix, check=cli.at_least(0), help="α of CutMix, such as 1; 0 is off")
    data.add_argument("--random_erasing", type=float, default=d.random_erasing, check=cli.between(0, 1), help="share of images")
    data.add_argument("--balanced_sampler", action="store_true", help="draw every class equally often")
    data.add_argument("--class_weights", action="store_true", help="weigh the loss by the inverse of the class frequency")

    model = p.add_argument_group("model")
    about = cli.models_in_words(list_models())
    model.add_argument("-m", "--model", type=architecture, default=d.model, check=unknown_model, help=about)
    model.add_argument("--list_models", metavar="PATTERN", help="print the models whose name matches, such as 'conv*', and end")
    model.add_argument("-p", "--pretrained", action="store_true", help="start from the ImageNet weights of its library")
    model.add_argument("-w", "--weights", check=no_file, metavar="FILE",
                       help="start from a checkpoint, ours or others': its trunk, and the classes it knows")  # fmt: skip
    model.add_argument("--freeze", action="store_true", help="train the head only; the other weights stay as they are")
    model.add_argument("--norm_type", default=d.norm_type, choices=("BN", "GN", "LN", "IN", "SyncBN"), help="normalisation")
    model.add_argument("--ema", action="store_true", help="use an average of the weights over the steps, often more accurate")

    optim = p.add_argument_group("optimisation")
    optim.add_argument("--max_epoch", type=int, default=d.max_epoch, check=cli.at_least(1), help="epochs in all, with warm-up")
    optim.add_argument("--wp_epoch", type=float, default=WARMUP_EPOCHS, check=cli.at_least(0), help="epochs of linear warm-up")
    optim.add_argument("--start_epoch", type=int, default=d.start_epoch, check=cli.at_least(0), help="first epoch, from 0")
    optim.add_argument("--eval_epoch", type=int, default=d.eval_epoch, check=cli.at_least(1), help="epochs between evaluations")
    optim.add_argument("--optimizer", default=d.optimizer, choices=list_optimizers(), help="update rule")
    optim.add_argument("--base_lr", type=float, default=d.base_lr, check=cli.above(0), help="learning rate after the warm-up")
    optim.add_argument("--layer_decay", type=float, default=d.layer_decay, check=cli.between(0.01, 1),
                       help="learning rate of a layer as a share of the next one's, such as 0.75; 1 is off")  # fmt: skip
    optim.add_argument("--min_lr", type=float, default=d.min_lr, check=cli.at_least(0), help="learning rate of the last step")
    optim.add_argument("--weight_decay", type=float, default=d.weight_decay, check=cli.at_least(0), help="not of norms, biases")
    optim.add_argument("--momentum", type=float, default=d.momentum, check=cli.between(0, 1, closed=False), help="or Adam's β1")
    optim.add_argument("--accumulation", type=int, default=d.accumulation, check=cli.at_least(1), help="batches for one step")
    optim.add_argument("--label_smoothing", type=float, default=d.label_smoothing, check=cli.between(0, 1, closed=False),
                       help="share of the target that all classes divide")  # fmt: skip
    optim.add_argument(
        "--teacher", check=no_file, metavar="FILE", help="also learn what this model file answers (distillation)"
    )
    optim.add_argument("--teacher_share", type=float, default=d.teacher_share, check=cli.between(0, 1), help="part of the loss")
    optim.add_argument("--temperature", type=float, default=d.temperature, check=cli.above(0), help="over 1 softens answers")
    optim.add_argument("--clip_grad", type=float, default=d.clip_grad, check=cli.at_least(0), help="greatest norm; 0 is off")
    optim.add_argument("--early_stop", type=int, default=d.early_stop, check=cli.at_least(0),
                       help="stop after so many evaluations without a better one; 0 is off")  # fmt: skip
    optim.add_argument("--seed", type=int, default=d.seed, check=cli.between(0, 2**32 - 1), help="of everything random")
    optim.add_argument(
        "--deterministic", action="store_true", help="two runs on one machine give equal weights; slower on GPUs"
    )

    speed = p.add_argument_group("speed")
    speed.add_argument("--precision", default=d.precision, choices=("auto", "fp32", "bf16", "fp16"),
                       help="32-bit numbers (fp32) or 16-bit ones; auto takes bf16 where that is faster")  # fmt: skip
    speed.add_argument("--fp16", action="store_true", help="--precision fp16; on a CPU the same as auto")
    speed.add_argument("--bf16", action="store_true", help="--precision bf16: 16-bit numbers with the range of fp32")
    speed.add_argument("--compile", action="store_true",
                       help="on a CPU (needs g++) fuses BatchNorm + ReLU and uses Winograd where measured faster")  # fmt: skip

    out = p.add_argument_group("output")
    out.add_argument("--path_to_save", default=d.path_to_save, check=no_place_for_files,
                     help="a run writes to <path_to_save>/<dataset>/<model>/")  # fmt: skip
    out.add_argument("--save_every", type=float, default=d.save_every, metavar="MINUTES", check=cli.at_least(0),
                     help="save last.pth also inside an epoch, so often; 0 saves after each epoch only")  # fmt: skip
    out.add_argument("--name", metavar="RUN", check=cli.file_name, help="keeps runs apart: the folder is <model>_RUN then")
    out.add_argument("-r", "--resume", nargs="?", const="auto", check=unless("auto", no_file), metavar="FILE",
                     help="go on from a last.pth; auto, or no name, takes that of the same run")  # fmt: skip
    out.add_argument("--no_test", action="store_true", help="leave the test images unread; for trials, judged on held-out ones")
    out.add_argument("--tensorboard", action="store_true", help="write logs/<time>/ into the folder of the run")
    return p


def contradictions(args):
    """Faults of flags that are right each alone."""
    other_precision = args.fp16 or args.bf16 or args.precision not in ("auto", "fp32")
    faults = {
        "--fp16 and --bf16 exclude each other": args.fp16 and args.bf16,
        "--precision already says it; leave out --fp16 and --bf16": (args.fp16 or args.bf16) and "precision" in args.given,
        "--deterministic is in fp32; leave out the other precision": args.deterministic and other_precision,
        "--deterministic excludes --compile, which chooses kernels by their time": args.deterministic and args.compile,
        f"--wp_epoch {args.wp_epoch:g} leaves nothing of --max_epoch {args.max_epoch}; give less warm-up": (
            "wp_epoch" in args.given and args.wp_epoch >= args.max_epoch),
        f"--plain_epochs {args.plain_epochs} is more than --max_epoch {args.max_epoch}": (
            args.plain_epochs is not None and args.plain_epochs > args.max_epoch),
        f"--resize_size {args.resize_size} is below --image_size {args.image_size}, the side of the crop": (
            args.resize_size and args.image_size and args.resize_size < args.image_size),
        f"--min_lr {args.min_lr:g} is above --base_lr {args.base_lr:g}": args.min_lr > args.base_lr,
        f"--start_epoch {args.start_epoch} is past --max_epoch {args.max_epoch}, which counts all epochs": (
            args.start_epoch >= args.max_epoch),
        "--resume knows the epoch to go on with; leave out --start_epoch": args.start_epoch and args.resume,
        "--freeze on random weights learns nothing; add --pretrained or --weights": (
            args.freeze and not (args.pretrained or args.weights or args.resume)),
        "--freeze trains the head alone, at the whole learning rate; leave out --layer_decay": (
            args.freeze and args.layer_decay != 1),
        "--teacher_share and --temperature need a --teacher": (
            not args.teacher and {"teacher_share", "temperature"} & args.given),
        "--weights already says what to start from; leave out --pretrained": args.weights and args.pretrained,
        "--class_weights and --balanced_sampler both correct the same imbalance; take one": (
            args.class_weights and args.balanced_sampler),
        "--batch_size 1 gives BatchNorm nothing to average over; give 2 or more, or --norm_type GN": (
            args.batch_size == 1 and args.norm_type in ("BN", "SyncBN")),
    }  # fmt: skip
    return [fault for fault, is_there in faults.items() if is_there]


def options_of(args):
    """The TrainOptions that the flags ask for."""
    flags = {name: value for name, value in vars(args).items() if name != "given"}
    names = {field.name for field in dataclasses.fields(TrainOptions)} & flags.keys()
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else args.precision
    warmup = args.wp_epoch if "wp_epoch" in args.given else None  # the default adapts to the length of the run
    chosen = {name: flags[name] for name in names} | {"precision": precision, "wp_epoch": warmup, "reading": reading_of(args)}
    return TrainOptions(**chosen, flags=flags, defaulted=tuple(sorted(names - args.given)))


def show_models(pattern):
    """Print the models that `pattern` matches, each as soon as it is known."""
    from models.listing import matching, outlines

    for name, parameters, size in outlines(matching(pattern)):
        print(f"{name:44} {parameters / 1e6:9.2f} M parameters  {size:4} px", flush=True)


def main():
    flags = parser()
    args = flags.parse(contradictions)
    if args.list_models:
        return show_models(args.list_models)
    if args.data_card:
        from utils.data.data_card import print_data_card  # not above, as what follows: torch takes seconds

        return print_data_card(args.dataset, args.data_dir, args.val_fraction, reading_of(args))
    from utils.runtime import distributed
    from utils.runtime.device import choose_device
    from utils.training.build import build_trainer

    options = dataclasses.replace(options_of(args), arguments=flags.as_file(args, without=["resume"]))
    device = choose_device(args.device, args.cuda)
    distributed.join_group(device)
    try:
        signum = build_trainer(options, device).fit()
    except RuntimeError as error:
        if not distributed.lost_process(error):
            raise
        raise UserError(
            f"a process of the group was lost ({str(error).splitlines()[0][:120]}); torchrun --max_restarts 3 with train.py "
            "--resume auto goes on by itself from what was saved last"
        ) from None
    if signum:
        distributed.say("--resume auto goes on from there")
    distributed.leave_group()  # not after a failure, when it would wait for the others, and they for this one
    return 128 + signum if signum else 0


if __name__ == "__main__":
    run(main)
