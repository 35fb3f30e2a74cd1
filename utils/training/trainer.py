"""A training run: epochs, evaluations, checkpoints, and the final test."""

import time
from dataclasses import dataclass, field

import torch

from models.checkpoint import load_strictly
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.text import plural
from utils.evaluation.evaluate import evaluate, gather
from utils.evaluation.metrics import headline
from utils.runtime import distributed
from utils.runtime.device import origin
from utils.runtime.distributed import say
from utils.training.batches import BatchPlan
from utils.training.board import Board
from utils.training.data import TrainingData
from utils.training.files import RunFiles
from utils.training.fingerprint import Fingerprint
from utils.training.loop import Clock, Step, diverged, set_train_mode, train_epoch
from utils.training.options import TrainOptions
from utils.training.progress import Progress, scores, summary, terminal_width, where_time_went
from utils.training.signals import Interruptions
from utils.training.state import TrainState, is_better


@dataclass
class Trainer:
    """What a run consists of; `utils.training.build.build_trainer` puts one together."""

    options: TrainOptions
    data: TrainingData
    card: ModelCard
    state: TrainState
    step: Step
    plan: BatchPlan
    files: RunFiles
    fingerprint: Fingerprint
    stop: Interruptions
    board: Board | None = None
    clock: Clock = field(default_factory=Clock)
    started: float = field(default_factory=time.perf_counter)
    epoch_started: float = field(default_factory=time.perf_counter)

    def add_earlier_sessions(self):
        """Count on from the seconds of the sessions before this one, where the run was resumed."""
        earlier = dict(self.state.seconds)
        if earlier:
            self.started -= earlier.pop("total")
            del earlier["epoch"]
            self.clock = Clock(**earlier)

    def seconds(self):
        """The seconds of all sessions of the run so far, by what they went into, with the `total` and those of the `epoch`."""
        now = time.perf_counter()
        return vars(self.clock) | {"total": now - self.started, "epoch": now - self.epoch_started}

    def fit(self):
        """Train and evaluate epoch by epoch, keep the best model, and test it once at the end.

        Returns 0, or the number of the signal that stopped the run, after which `resume="auto"` goes on.
        """
        try:
            return self._fit()
        finally:
            self.files.release()

    def _fit(self):
        state, options = self.state, self.options
        progress = Progress(options.max_epoch, self.step.schedule.total_steps, state.step)
        if state.epoch < options.max_epoch:
            say(f"* marks {'the best epoch so far on val' if self.data.dataset.val else 'the latest epoch'}: {self.files.best}")
        stuck = not state.group and self.is_stuck()  # a run that had stopped early is resumed, to be tested
        with self.stop:
            while not stuck and state.epoch < options.max_epoch and not self.stop.look():
                record = self.train_epoch(progress)
                if record is None:
                    break
                self.finish_epoch(record)
                stuck = self.is_stuck()
            self.stop.look()  # also for a signal during the last evaluation, before the test images are read
        if self.stop:
            self.files.writer.wait()
            where = f"step {state.group} of epoch {state.epoch + 1}" if state.group else f"epoch {state.epoch}"
            say(f"stopped after {where}: {self.files.last} is saved")
            return self.stop.signum
        if stuck:
            say(f"no better one in the last {plural(options.early_stop, 'evaluation')}: stopping early")
        if not state.best:  # the file of a resumed run was lost, and no epoch was left to find another
            self.keep_best(state.history[-1])
        self.report(self.test_best())
        return 0

    def train_epoch(self, progress):
        """Train what is left of the running epoch. Returns its record, or None where a signal stopped it; that is saved."""
        groups, fits = self.groups(), True
        self.epoch_started = time.perf_counter() - (self.state.seconds.get("epoch", 0.0) if self.state.group else 0.0)
        try:
            with progress.epoch(self.state.epoch + 1, len(groups), self.state.group) as show:
                for _ in self.steps(groups):
                    show(self.state)
                    if self.board:
                        self.board.step(self.state)
                    if self.stop.save_due and self.state.group and not self.stop:  # a whole epoch is saved with its record
                        self.save()
        except torch.cuda.OutOfMemoryError:
            fits = False  # dealt with below, where no traceback keeps the tensors of the step in memory
        if not fits:
            self.halve_batches()
            return self.train_epoch(progress)
        if self.state.group:
            self.save()
            return None
        record = {"epoch": self.state.epoch, "lr": self.state.optimizer.param_groups[0]["lr"]}
        record["train"] = self.state.totals.averages(self.card.num_classes)
        record["images/s"] = sum(group.count for group in groups) / self.seconds()["epoch"]
        if self.data.dataset.val and self.is_evaluated(self.state.epoch):
            record["val"] = self.score(self.data.dataset.val)
        record["seconds"] = self.seconds()["epoch"]
        return record

    def groups(self):
        """The groups of batches of the running epoch, one for each optimizer step, those that are done included."""
        return self.plan.groups(self.data.order(self.state.epoch))

    def steps(self, groups):
        """Take the steps of the running epoch that are left, and yield after each how many images it took."""
        batches = self.data.train_batches(self.state, groups, self.clock)
        if self.board and self.state.step == 0:
            batches = self.board.show_first(batches, self.card)
        set_train_mode(self.step.network, self.step.head)
        yield from train_epoch(self.step, self.state, groups, batches, self.clock, self.stop)

    def is_evaluated(self, epoch):
        return epoch % self.options.eval_epoch == 0 or epoch == self.options.max_epoch

    def halve_batches(self):
        """Go on with half the batch size and twice the accumulation. Raises UserError where that cannot help.

        An odd batch has no half: a step would have fewer images, and an epoch other steps than the schedule counts on.
        """
        cannot = self.plan.batch_size < 4 or self.plan.batch_size % 2 or self.plan.world > 1
        if cannot or self.state.group > 2:
            raise UserError(f"CUDA is out of memory at batch size {self.plan.batch_size}; give less", "batch_size")
        self.plan = self.plan.halved()
        self.state.optimizer.zero_grad(set_to_none=not self.step.config.keeps_gradients)
        torch.cuda.empty_cache()
        say(f"CUDA is out of memory: going on with batch size {self.plan.batch_size} and accumulation {self.plan.accumulation}")

    def score(self, split):
        """loss, Acc@1 and Acc@5 of the evaluated model on a whole split, over all processes."""
        return _scores(self.answers(split))

    def answers(self, split):
        """The Evaluation of the evaluated model on a whole split, over all processes."""
        started, model = time.perf_counter(), self.state.evaluated
        distributed.share_buffers(model)
        batches = self.data.eval_batches(split, min(250, 2 * self.plan.batch_size))  # no activations to keep: less memory
        evaluation = gather(evaluate(model.eval(), batches))
        if not evaluation.logits.isfinite().all():  # in the epoch in which it diverges a step may still have looked sound
            raise diverged(f"answers to the {split.name} images are", self.state, self.state.step)
        self.clock.evaluating += time.perf_counter() - started
        return evaluation

    def finish_epoch(self, record):
        """Save the state, the history, and the model if it is the best; print a line."""
        state, val = self.state, record.get("val")
        state.history.append(record)
        better = is_better(val, state.best.get("val")) or not self.data.dataset.val
        if better:
            self.keep_best(record)
        self.save()
        self.files.write_history({"flags": self.options.flags, "epochs": state.history})
        say(summary(record, self.options.max_epoch, better, terminal_width()))
        if self.board:
            self.board.epoch(record)

    def keep_best(self, record):
        """Write the model as the best one so far."""
        self.state.best = {"epoch": record["epoch"], "val": record.get("val")}
        self.card.training |= self.state.best
        self.files.save_best(self.state.evaluated.state_dict(), self.card)

    def save(self):
        """Write the training state."""
        self.state.seconds = self.seconds()
        self.files.save_last(self.state, self.card, self.fingerprint, self.plan)
        self.stop.saved()

    def is_stuck(self):
        """Whether the last `early_stop` evaluations were no better than an earlier one."""
        patience, best = self.options.early_stop * self.options.eval_epoch, self.state.best
        if not (patience and best and self.state.history):
            return False
        record = self.state.history[-1]
        return "val" in record and record["epoch"] - best["epoch"] >= patience

    def test_best(self):
        """Load the best model, score it on the held-out split, and put the scores into its card. None without such a split."""
        weights, card = self.files.read_best()
        load_strictly(self.state.evaluated, weights, self.files.best, self.options.model)
        split = self.data.dataset.held_out
        if not split:
            return None
        selected, answers = split is self.data.dataset.val, self.answers(split)
        final = {"split": split.name, "selected_on_this_split": selected, "samples": len(split), **_scores(answers)}
        card.training["final"] = final
        self.files.save_best(weights, card)
        if self.board:
            self.board.final(answers, split, card.classes, self.state.best["epoch"])
        return final

    def report(self, final):
        """Write the history and the curves; print the final scores, where the time went, and what was written."""
        state, spent = self.state, self.seconds()
        seconds = {name: round(value, 3) for name, value in spent.items() if name != "epoch"}
        facts = {"flags": self.options.flags, "epochs": state.history, "best": state.best, "final": final, "seconds": seconds}
        facts |= {"test_read": self.data.dataset.test is not None} | origin()
        self.files.write_history(facts)
        self.files.draw_curves(state.history, f"{self.options.model} on {self.data.dataset.name}")
        if final:
            numbers = {name: final[name] for name in ("loss", "Acc@1", "Acc@5") if name in final}
            say(f"\n{final['split']} ({plural(final['samples'], 'image')}), epoch {state.best['epoch']}: {scores(numbers)}")
            if final["selected_on_this_split"]:
                say(f"{final['split']} also selected this epoch, so these scores are better than those on new images would be")
        say(where_time_went(self.clock, spent["total"]))
        written = [*self.files, *([self.board.folder] if self.board else [])]
        say("\n".join(["written:", *(f"  {path}" for path in written)]))


def _scores(evaluation):
    return headline(evaluation.logits, evaluation.labels)
