"""How a run goes on with what an earlier one saved, and what it says of it."""

from utils.core.text import plural
from utils.runtime.distributed import from_main, say
from utils.training.checks import check_fit
from utils.training.files import find_earlier_run
from utils.training.schedule import Schedule


def find_saved(options, files, run):
    """The training state to go on from, or None; prints what is not as it should be."""
    if not options.resume:
        return None
    saved, notices = from_main(find_earlier_run, options, files, run)
    for notice in notices:
        say(notice)
    return saved


def resume(state, saved, options, files, plan, steps):
    """Load what was `saved` by an earlier run, if anything, and print where this run begins.

    Returns whether the random numbers of this process go on where they were.
    """
    random_goes_on = False
    if saved:
        check_fit(saved, state, options, plan, steps, files.last if options.resume == "auto" else options.resume)
        random_goes_on = state.load_state_dict(saved, next(state.model.parameters()).device)
        if saved["batches"] != plan.kept:
            state.group, state.step = 0, state.epoch * steps  # the batches differ, so the interrupted epoch starts again
        say_if_longer(options, saved, state.step, steps)
        place = f"at epoch {state.epoch + 1}" + (f", step {state.group + 1}" if state.group else "")
        if state.epoch >= options.max_epoch:
            place = f"after all of its {plural(state.epoch, 'epoch')}, to test it; with more epochs it would train on"
        say(f"resumed {files.last if options.resume == 'auto' else options.resume} {place}")
    elif options.resume:
        say(f"{files.last} does not exist yet, so there is nothing to resume: this run starts from the beginning")
    replaces = from_main(files.replacement)
    if replaces:
        say(replaces)
    return random_goes_on


def say_if_longer(options, saved, step, steps):
    """Print what it means for the learning rate that a run is resumed with more epochs."""
    before, now = saved["choices"].get("max_epoch", options.max_epoch), options.max_epoch
    if before < now:
        was, is_ = (
            Schedule(steps * epochs, round(steps * options.warmup(epochs)[0]), options.base_lr, options.min_lr)
            for epochs in (before, now)
        )
        say(f"max_epoch rises from {before} to {now}: the learning rate goes on at {is_(step):.2e}, where a run of {now} "
            f"epochs has it, and not at {was(step):.2e}")  # fmt: skip
