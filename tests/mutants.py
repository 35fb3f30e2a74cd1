"""Faults that a person could make in this project, each with the test that notices it.

    python tests/mutants.py                    put in every fault, one at a time, and run its test, which must fail
    python tests/mutants.py --only training    those whose file, test or words hold this text
    python tests/mutants.py --jobs 2           so many at a time

The tracked files are copied to a temporary folder for each job: nothing here is changed. Each test is run without a fault
first, as one that fails anyway notices nothing. Status 1 if a fault survives or its text is no longer there.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from warm_python import LIBRARIES

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 120  # for one test
PASSED, FAILED, TOO_LONG, NOT_THERE = 0, 1, "too long", "not there"  # the first two are statuses of pytest
SHOWN = {FAILED: "noticed", PASSED: "SURVIVES", TOO_LONG: f"OVER {SECONDS} s", NOT_THERE: "NO SUCH TEXT"}


class Mutant(NamedTuple):
    """In `file`, `old` (which is there once) becomes `new`; then `test` must fail. `words` say what the fault is."""

    file: str
    words: str
    old: str
    new: str
    test: str


MUTANTS = [Mutant(*row) for row in (
    # core
    ("utils/core/inputs.py", "a file in a folder of another name not found",
     "cutoff=0 if leading else 0.6", "cutoff=0.6",
     "tests/core/test_inputs.py::test_the_nearest_path_is_found_part_by_part"),
    ("utils/core/images.py", "an empty file taken for one of another kind",
     "if not start:", "if size < 0:",
     "tests/core/test_images.py::test_the_reason_is_in_plain_words"),
    ("utils/core/text.py", "a table wider than the terminal",
     "while width and texts", "while width and not texts",
     "tests/core/test_text.py::test_a_table_that_is_too_wide_shortens_its_texts_and_never_a_number"),
    ("utils/core/processes.py", "a process that dies costs all the images of its part",
     "if not half:",
     "if True:",
     "tests/core/test_processes.py::test_a_process_that_dies_costs_the_result_of_one_thing_alone"),
    ("utils/core/fonts.py", "what no font has drawn as a box",
     "if c in missing else c",
     "if not c else c",
     "tests/core/test_fonts.py::test_a_character_that_no_font_has_is_drawn_in_letters"),
    ("utils/core/images.py", "EXIF orientation ignored",
     "ImageOps.exif_transpose(image)",
     "image.copy()",
     "tests/core/test_images.py::test_exif_orientation_is_applied"),
    ("utils/core/images.py", "transparency shown on white",
     "(0, 0, 0, 255)",
     "(255, 255, 255, 255)",
     "tests/core/test_images.py::test_every_mode_has_a_defined_colour"),
    ("utils/core/images.py", "16-bit grey cut off at 255",
     "np.clip(values * (255 / white), 0, 255)",
     "np.clip(values, 0, 255)",
     "tests/core/test_images.py::test_sixteen_bits_are_scaled_not_clipped"),
    ("utils/core/images.py", "channels in the order BGR",
     "np.moveaxis(scaled, -1, -3)",
     "np.moveaxis(scaled[..., ::-1], -1, -3)",
     "tests/core/test_images.py::test_equals_torchvision"),
    ("utils/core/images.py", "mean and standard deviation swapped",
     "- np.float32(mean)) / np.float32(std)",
     "- np.float32(std)) / np.float32(mean)",
     "tests/core/test_images.py::test_equals_torchvision"),
    ("utils/core/images.py", "the long side rounded, not truncated",
     "(size, int(size * height / width))",
     "(size, round(size * height / width))",
     "tests/core/test_images.py::test_geometry_equals_torchvision_for_every_shape"),
    ("utils/core/images.py", "the crop one pixel off",
     "round((width - size) / 2.0)",
     "(width - size + 1) // 2",
     "tests/core/test_images.py::test_geometry_equals_torchvision_for_every_shape"),
    ("utils/core/card.py", "no margin around the crop",
     "return round(image_size * 256 / 224)",
     "return image_size",
     "tests/core/test_card.py::test_short_side_is_in_the_proportion_of_256_to_224"),
    ("utils/core/card.py", "the card written with ImageNet's mean",
     '{"mean": list(self.mean)',
     '{"mean": list(IMAGENET_MEAN)',
     "tests/core/test_card.py::test_what_is_not_the_default_is_in_the_json_too"),
    ("utils/core/card.py", "a new image size keeps the old short side",
     'changes.setdefault("resize_size", None)',
     "pass",
     "tests/core/test_card.py::test_replacing_the_image_size_brings_its_short_side"),
    ("utils/core/cli.py", "no other flag suggested by meaning",
     "names = [name, *next(meant, [])]",
     "names = [name]",
     "tests/core/test_cli.py::test_a_mistyped_flag_is_understood_by_meaning_or_by_spelling"),
    ("utils/core/cli.py", "the upper end allowed where it is not",
     "low <= value < high or (closed and value == high)",
     "low <= value <= high",
     "tests/core/test_cli.py::test_all_faults_are_reported_together"),
    ("utils/core/files.py", "an input overwritten",
     "if _identity(status) in _inputs:",
     "if False:",
     "tests/core/test_files.py::test_an_input_is_never_replaced"),
    ("utils/core/files.py", "a failed write leaves its temporary file",
     "temporary.unlink(missing_ok=True)\n        about_another",
     "about_another",
     "tests/core/test_files.py::test_a_failure_keeps_what_was_there_and_leaves_nothing_else"),
    ("utils/core/text.py", "a formula reaches the spreadsheet",
     """return f"'{text}" if""",
     """return f"{text}" if""",
     "tests/core/test_text.py::test_a_spreadsheet_takes_no_text_for_a_formula"),
    ("utils/core/errors.py", "a user's error has status 1",
     "USER_ERROR, SOME_UNREADABLE, ACCURACY_LOST = 2, 3, 4",
     "USER_ERROR, SOME_UNREADABLE, ACCURACY_LOST = 1, 3, 4",
     "tests/core/test_errors.py::test_what_a_user_causes_is_one_sentence_and_a_status"),
    # runtime
    ("utils/runtime/timing.py", "the longest of three times counted",
     "if min(times[second]) < (1 - gain) * min(times[first])",
     "if max(times[second]) < (1 - gain) * max(times[first])",
     "tests/runtime/test_runtime.py::test_a_machine_that_is_busy_now_and_then_does_not_change_the_choice"),
    ("utils/runtime/timing.py", "the slower of two chosen",
     "< (1 - gain) * min(times[first])",
     "> (1 - gain) * min(times[first])",
     "tests/runtime/test_runtime.py::test_the_faster_precision_is_measured_once_and_kept"),
    ("utils/runtime/timing.py", "a gain of nothing is enough",
     "(1 - gain)",
     "(1 + gain)",
     "tests/runtime/test_runtime.py::test_the_new_way_must_gain_its_share"),
    ("utils/runtime/device.py", "all cores for loader workers",
     "most = available // 2 if",
     "most = available if",
     "tests/runtime/test_runtime.py::test_threads_and_workers_never_exceed_the_cores"),
    ("utils/runtime/precision.py", "the probe moves the random numbers of the run",
     "with torch.random.fork_rng(devices=[]):  # the probe",
     "with nullcontext():  # the probe",
     "tests/runtime/test_runtime.py::test_the_probe_spoils_neither_the_model_nor_the_random_numbers"),
    ("utils/runtime/compile.py", "a trial step moves the BatchNorm statistics",
     "buffer.copy_(value)",
     "pass",
     "tests/runtime/test_runtime.py::test_a_trial_leaves_buffers_random_numbers_and_gradients_as_they_were"),
    ("utils/runtime/distributed.py", "each process keeps its own BatchNorm statistics",
     "dist.broadcast(buffer, 0)",
     "pass",
     "tests/runtime/test_distributed.py::test_processes_share_weights_and_divide_images_and_have_random_numbers_of_their_own"),
    # data
    ("utils/data/splits.py", "held out are other images in every run",
     'int.from_bytes(digest[:6], "big") / 2**48',
     "hash(name) % 2**48 / 2**48",
     "tests/data/test_image_folder.py::test_the_held_out_names_are_the_same_in_every_process_and_version"),
    ("utils/data/splits.py", "accents in another form move an image to the other side",
     'name = unicodedata.normalize("NFC", name)',
     "name = str(name)",
     "tests/data/test_image_folder.py::test_names_count_and_not_their_encoding"),
    ("utils/data/splits.py", "held-out arrays by an unseeded generator",
     "np.random.default_rng(SPLIT_SEED)",
     "np.random.default_rng()",
     "tests/data/test_datasets.py::test_digits_hold_out_a_fixed_stratified_part"),
    ("utils/data/streams.py", "what is done of a stream decoded once more",
     "            if self.passes_over:",
     "            if False:",
     "tests/data/test_streams.py::test_a_resume_decodes_what_is_left_and_does_not_read_what_is_done"),
    ("utils/data/streams.py", "the rest of a chunk lost on resume",
     "images[-left:], labels[-left:]",
     "images[left:], labels[left:]",
     "tests/data/test_streams.py::test_a_resume_continues_behind_every_batch"),
    ("utils/data/sampling.py", "the same order in every epoch",
     "manual_seed(seed * 1_000_003 + epoch)",
     "manual_seed(seed * 1_000_003)",
     "tests/data/test_sampling.py::test_orders_differ_by_epoch_and_seed_and_come_again"),
    ("utils/data/sampling.py", "the last image of an epoch alone in its batch",
     "cuts[-1] < 2 * world",
     "cuts[-1] < world",
     "tests/data/test_sampling.py::test_every_picture_is_in_one_batch_of_one_process"),
    ("utils/data/sampling.py", "every process trains on the same images",
     "b.tensor_split(world)[rank]",
     "b.tensor_split(world)[0]",
     "tests/data/test_sampling.py::test_every_picture_is_in_one_batch_of_one_process"),
    ("utils/data/sampling.py", "frequent classes drawn more often still",
     "1.0 / counts[labels]",
     "1.0 * counts[labels]",
     "tests/data/test_sampling.py::test_balanced_draws_and_weights"),
    ("utils/data/sampling.py", "class weights with mean 1 over the classes of the file",
     "np.count_nonzero(counts)",
     "len(counts)",
     "tests/data/test_sampling.py::test_classes_without_an_image_leave_the_weights_of_the_others_alone"),
    ("utils/data/cache.py", "images kept that fill all the memory",
     "total < 0.5 * free_memory() and",
     "total > 0 and",
     "tests/data/test_stores.py::test_by_default_images_are_kept_where_they_fit_in_half_of_memory_and_disk"),
    ("utils/data/stores.py", "images put on a GPU that has no room for them",
     "store.nbytes < left",
     "store.nbytes > 0",
     "tests/data/test_stores.py::test_a_gpu_takes_what_fits_in_half_of_its_free_memory_all_in_all"),
    ("utils/data/stores.py", "a narrow image continued by black",
     "place[:h, w:] = place[:h, w - 1 : w]",
     "place[:h, w:] = 0",
     "tests/data/test_stores.py::test_smaller_pictures_continue_their_border"),
    ("utils/data/loader.py", "a worker draws from where it is, whatever the batch",
     "if key is None:",
     "if True:",
     "tests/data/test_datasets.py::test_what_a_batch_draws_depends_on_its_key_alone"),
    ("utils/data/loader.py", "every process evaluates the whole split",
     "tensor_split(shard[1])[shard[0]]",
     "tensor_split(1)[0]",
     "tests/data/test_datasets.py::test_shards_are_the_whole_without_overlap"),
    ("utils/data/augment.py", "mixed labels with the share of the partner",
     "torch.lerp(soft[partner], soft, kept[:, None])",
     "torch.lerp(soft, soft[partner], kept[:, None])",
     "tests/data/test_augment.py::test_mixing_keeps_pictures_and_labels_in_step"),
    ("utils/data/augment.py", "erasing the share that is to stay",
     "random.random(count) < probability",
     "random.random(count) > probability",
     "tests/data/test_augment.py::test_erasing_blanks_a_box_in_the_wanted_share_of_the_pictures"),
    ("utils/data/geometry.py", "crops of an eighth of the area",
     "CROP_SCALE = (0.8, 1.0)",
     "CROP_SCALE = (0.08, 1.0)",
     "tests/data/test_augment.py::test_boxes_are_distributed_as_those_of_torchvision"),
    ("utils/data/geometry.py", "rotation the other way than the flip expects",
     "(cos * flips, -sin, sin * flips, cos)",
     "(cos * flips, -sin * flips, sin, cos)",
     "tests/data/test_augment.py::test_one_sampling_is_the_sequence_of_transforms"),
    ("utils/data/datasets.py", "the brightest grey of the digits overflows",
     "bunch.images * (255 / 16)",
     "bunch.images * 16",
     "tests/data/test_datasets.py::test_digits_hold_out_a_fixed_stratified_part"),
    ("utils/data/datasets.py", "labels mapped the wrong way round",
     "ours.index(name) for name in theirs",
     "theirs.index(name) for name in ours",
     "tests/data/test_datasets.py::test_labels_are_those_of_the_card_by_the_names_of_the_classes"),
    ("utils/data/samples.py", "a score reported on val before test",
     "else opened.held_out",
     "else opened.val or opened.held_out",
     "tests/data/test_samples.py::test_a_score_is_reported_on_test_before_val"),
    # kernels
    ("utils/kernels/batchnorm.py", "running variance without Bessel's correction",
     "variance * (count / (count - 1))",
     "variance",
     "tests/kernels/test_blocks.py::test_a_residual_network_has_the_same_values_gradients_and_statistics"),
    ("utils/kernels/batchnorm.py", "of equal pixels the last gets the gradient",
     "higher = value > best",
     "higher = value >= best",
     "tests/kernels/test_batchnorm.py::test_of_equal_pixels_the_first_gets_the_gradient_as_in_max_pool2d"),
    ("utils/kernels/batchnorm.py", "the gradient of BatchNorm without the term of its mean",
     "-scale * total / count - slope * mean",
     "-slope * mean",
     "tests/kernels/test_batchnorm.py::test_the_passes_give_what_the_operators_of_torch_give"),
    ("utils/kernels/winograd.py", "the weights not flipped for the gradient",
     "weight.flip(1, 2)",
     "weight",
     "tests/kernels/test_winograd.py::test_values_and_gradients_of_a_convolution"),
    ("utils/kernels/convolution.py", "a bias that stays out",
     "return y if self.bias is None else",
     "return y if self.bias is not None else",
     "tests/kernels/test_convolution.py::test_small_maps_have_the_values_and_gradients_of_torch"),
    ("utils/kernels/convert.py", "the training network has weights of its own",
     "memo={id(tensor): tensor for tensor in tensors}",
     "memo={}",
     "tests/kernels/test_convert.py::test_training_moves_the_tensors_of_the_model"),
    # training
    ("utils/training/state.py", "of equal accuracies the higher loss is better",
     '-new["loss"]) > (old["Acc@1"], -old["loss"])',
     'new["loss"]) > (old["Acc@1"], old["loss"])',
     "tests/training/test_state.py::test_more_right_answers_are_better_and_then_a_lower_loss"),
    ("utils/training/state.py", "an equal score replaces the best one",
     '-new["loss"]) > (old',
     '-new["loss"]) >= (old',
     "tests/training/test_state.py::test_more_right_answers_are_better_and_then_a_lower_loss"),
    ("utils/training/state.py", "Acc@5 of training is Acc@1",
     '{"Acc@5": top5 / count}',
     '{"Acc@5": top1 / count}',
     "tests/training/test_state.py::test_averages_of_training_are_those_of_an_evaluation"),
    ("utils/training/loop.py", "each accumulated batch weighs as a whole step",
     "(world_size() / count)",
     "(world_size() / len(images))",
     "tests/training/test_loop.py::test_accumulation_equals_the_greater_batch"),
    ("utils/training/loop.py", "gradients clipped before they are unscaled",
     "state.scaler.unscale_(state.optimizer)",
     "pass",
     "tests/training/test_loop.py::test_a_scaled_gradient_is_clipped_at_its_true_norm"),
    ("utils/training/loop.py", "gradients of the last step not cleared",
     "state.optimizer.zero_grad(set_to_none=not self.config.keeps_gradients)",
     "pass",
     "tests/training/test_loop.py::test_an_interrupted_epoch_goes_on_bit_for_bit"),
    ("utils/training/loop.py", "a frozen trunk in training mode",
     "network.train(head is None)",
     "network.train()",
     "tests/training/test_loop.py::test_frozen_statistics_stay"),
    ("utils/training/data.py", "no time counted as waiting",
     "clock.waiting += gathered - started",
     "clock.waiting += 0.0",
     "tests/training/test_loop.py::test_times_add_up"),
    ("utils/training/data.py", "every process augments by the same random numbers",
     "[seed, epoch, number, rank]",
     "[seed, epoch, number]",
     "tests/training/test_data.py::test_every_batch_epoch_seed_and_process_augments_in_its_own_way"),
    ("utils/training/data.py", "every batch of an epoch augmented alike",
     "[seed, epoch, number, rank]",
     "[seed, epoch, 0, rank]",
     "tests/training/test_data.py::test_every_batch_epoch_seed_and_process_augments_in_its_own_way"),
    ("utils/training/progress.py", "shares of time of what is clocked, not of the whole",
     "({v / total:.0%})",
     "({v / sum(vars(clock).values()):.0%})",
     "tests/training/test_progress.py::test_times_and_shares_add_up_to_the_whole"),
    ("utils/training/optim.py", "weight decay on norms and biases",
     "weight_decay if decays else 0.0",
     "weight_decay",
     "tests/training/test_optim.py::test_norms_and_biases_do_not_decay_and_nothing_is_left_out"),
    ("utils/training/optim.py", "the learning rate decays towards the head",
     "decay ** (last - depth)",
     "decay**depth",
     "tests/training/test_optim.py::test_the_rate_decays_with_the_distance_from_the_head"),
    ("utils/training/optim.py", "Adam's momentum not passed on",
     "torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999)",
     "torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999)",
     "tests/training/test_optim.py::test_momentum_carries_a_step_on"),
    ("utils/training/ema.py", "the average has its full decay from the first step",
     "min(self.decay, (1 + update) / (10 + update))",
     "self.decay",
     "tests/training/test_ema.py::test_after_n_updates_it_is_the_closed_form"),
    ("utils/training/schedule.py", "the last step not at the least rate",
     "last = self.total_steps - 1",
     "last = self.total_steps",
     "tests/training/test_schedule.py::test_first_step_warmup_end_and_last_step_exactly"),
    ("utils/training/schedule.py", "a first step at a rate of 0",
     "self.base_lr * (step + 1) / self.warmup_steps",
     "self.base_lr * step / self.warmup_steps",
     "tests/training/test_schedule.py::test_first_step_warmup_end_and_last_step_exactly"),
    ("utils/training/build.py", "every process drops out alike",
     "if plan.rank and",
     "if False and",
     "tests/runtime/test_distributed.py::test_processes_share_weights_and_divide_images_and_have_random_numbers_of_their_own"),
    ("utils/training/build.py", "label smoothing left out",
     'loss_options = {"label_smoothing": options.label_smoothing}',
     "loss_options = {}",
     "tests/training/test_trainer.py::test_every_option_of_the_update_reaches_the_weights"),
    ("utils/training/build.py", "weight decay that is asked for not passed on",
     "options.base_lr, options.weight_decay, options.momentum, shares)",
     "options.base_lr, 0.05, options.momentum, shares)",
     "tests/training/test_trainer.py::test_every_option_of_the_update_reaches_the_weights"),
    ("models/checkpoint.py", "weights handed over without the versions of their layers",
     "state._metadata = own._metadata",
     "pass",
     "tests/models/test_without_card.py::test_a_network_that_asks_for_the_version_of_its_weights_gets_it"),
    ("utils/training/teacher.py", "a teacher's answers in the order of its own classes",
     ".float()[:, self.order]",
     ".float()",
     "tests/training/test_teacher.py::test_the_teacher_sees_images_as_it_was_trained_with_and_answers_in_the_order_of_the_data"),
    ("utils/training/teacher.py", "a teacher's loss without T²",
     "self.share * self.temperature**2 * divergence",
     "self.share * divergence",
     "tests/training/test_teacher.py::test_the_loss_is_the_closed_form_and_least_where_the_answers_are_equal"),
    ("utils/training/build.py", "the file that a run starts from replaced by it",
     "if path and pathlib.Path(path).resolve().parent == files.folder.resolve():",
     "if False:",
     "tests/training/test_teacher.py::test_a_run_never_replaces_the_file_that_it_takes"),
    ("utils/training/trainer.py", "scored in training mode",
     "evaluate(model.eval(), batches)",
     "evaluate(model, batches)",
     "tests/training/test_trainer.py::test_a_score_comes_again_and_leaves_the_model_as_it_is"),
    ("utils/training/trainer.py", "one evaluation too many before a run stops early",
     ">= patience",
     "> patience",
     "tests/training/test_trainer.py::test_early_stopping_counts_evaluations_that_are_no_better"),
    ("utils/training/trainer.py", "the weights kept that were not scored",
     "self.files.save_best(self.state.evaluated.state_dict(), self.card)",
     "self.files.save_best(self.state.model.state_dict(), self.card)",
     "tests/training/test_trainer.py::test_the_average_is_what_is_evaluated_and_kept"),
    ("utils/training/trainer.py", "the last model tested, not the best",
     "load_strictly(self.state.evaluated, weights, self.files.best, self.options.model)",
     "pass",
     "tests/training/test_trainer.py::test_what_is_tested_at_the_end_is_the_best_model"),
    ("utils/training/options.py", "augmentation in the last epochs too",
     "return self.max_epoch - plain",
     "return self.max_epoch",
     "tests/training/test_trainer.py::test_what_is_decided_is_said"),
    # evaluation
    ("utils/evaluation/metrics.py", "calibration error with 5 bins",
     "n_bins=15",
     "n_bins=5",
     "tests/evaluation/test_metrics.py::test_calibration_error_has_fifteen_bins"),
    ("utils/evaluation/metrics.py", "a 90 % interval that says 95 %",
     'proportion_ci(method="wilson")',
     'proportion_ci(0.90, method="wilson")',
     "tests/evaluation/test_metrics.py::test_wilson"),
    ("utils/evaluation/metrics.py", "classes that do not occur pull the macro average down",
     "values[present].double()",
     "values.double()",
     "tests/evaluation/test_metrics.py::test_a_class_that_does_not_occur_leaves_the_macro_average_alone"),
    ("utils/evaluation/metrics.py", "rows and columns of the confusion matrix swapped",
     "tm.multiclass_confusion_matrix(logits.argmax(1), labels,",
     "tm.multiclass_confusion_matrix(labels, logits.argmax(1),",
     "tests/evaluation/test_metrics.py::test_against_scikit_learn"),
    ("utils/evaluation/plots.py", "the confusion matrix drawn transposed",
     "axis.imshow(100 * shares,",
     "axis.imshow(100 * shares.T,",
     "tests/evaluation/test_plots.py::test_the_confusion_matrix_has_true_classes_as_rows_and_answers_as_columns"),
    ("utils/evaluation/plots.py", "images shown with mean and standard deviation swapped",
     "np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))",
     "np.reshape(mean, (3, 1, 1)) + np.reshape(std, (3, 1, 1))",
     "tests/evaluation/test_plots.py::test_the_image_grid_undoes_the_normalisation_and_goes_row_by_row"),
    ("utils/evaluation/latency.py", "contestants timed without a pause between them",
     "            pause(PAUSE)\n",
     "",
     "tests/evaluation/test_latency.py::test_a_pause_comes_before_each_block"),
    ("utils/evaluation/latency.py", "no warm-up before a block",
     "            call()\n            for _",
     "            for _",
     "tests/evaluation/test_latency.py::test_contestants_take_turns"),
    ("utils/evaluation/latency.py", "images a second of one image, whatever the batch",
     "1000 * self.batch / self.median_ms",
     "1000 / self.median_ms",
     "tests/evaluation/test_latency.py::test_images_a_second_are_those_of_the_whole_batch"),
    ("utils/evaluation/latency.py", "the spread is that of the quartiles",
     "[10, 90]",
     "[25, 75]",
     "tests/evaluation/test_latency.py::test_spread_is_the_middle_eight_tenths"),
    # inference
    ("utils/inference/read_onnx.py", "ONNX Runtime on one thread",
     "threads or cores()",
     "1",
     "tests/inference/test_shipped.py::test_onnx_runtime_has_a_thread_for_each_core_unless_told_otherwise"),
    ("utils/inference/predictors.py", "answers to the black images that fill a batch",
     "return logits[: len(part)]",
     "return logits",
     "tests/inference/test_predictors.py::test_a_file_of_a_fixed_batch_answers_any_number_of_images"),
    ("utils/inference/predictors.py", "great logits overflow in the softmax",
     "np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))",
     "np.exp(logits.astype(np.float64))",
     "tests/inference/test_predictors.py::test_probabilities_are_those_of_each_row_however_great_the_logits"),
    ("utils/inference/predictors.py", "the softmax over the batch",
     "shifted.sum(axis=1, keepdims=True)",
     "shifted.sum(axis=0, keepdims=True)",
     "tests/inference/test_predictors.py::test_probabilities_are_those_of_each_row_however_great_the_logits"),
    ("utils/inference/predictors.py", "probabilities of a stranger's file taken for logits",
     "return np.log(np.maximum(outputs, 1e-12))",
     "return outputs",
     "tests/inference/test_predictors.py::test_probabilities_of_a_file_without_a_card_become_logits_and_logits_stay"),
    ("utils/inference/answers.py", "the threshold ignored",
     ">= self.options.threshold",
     ">= 0",
     "tests/inference/test_answers.py::test_below_the_threshold_the_answer_is_unknown"),
    ("utils/inference/answers.py", "an unreadable image shifts the answers after it",
     "return [item if isinstance(item, Answer) else next(judged) for item in prepared]",
     "return [*judged, *(item for item in prepared if isinstance(item, Answer))]",
     "tests/inference/test_answers.py::test_answers_come_in_the_order_of_the_files_with_unreadable_ones_among_them"),
    # export
    ("utils/export/verify.py", "a hundred times the tolerance",
     '"fp32": 1e-4',
     '"fp32": 1e-2',
     "tests/export/test_exporters.py::test_a_file_that_differs_keeps_neither_its_name_nor_replaces_another"),
    ("utils/export/verify.py", "a certificate without agreement",
     "        check(parity, path)\n",
     "",
     "tests/export/test_exporters.py::test_a_file_that_differs_keeps_neither_its_name_nor_replaces_another"),
    ("utils/export/verify.py", "NaN passes for agreement",
     'elif not row["max_dlogit"] <= parity["tolerance"]:',
     'elif row["max_dlogit"] > parity["tolerance"]:',
     "tests/export/test_exporters.py::test_a_difference_that_is_no_number_is_no_agreement"),
    ("utils/export/verify.py", "every other answer counts as a tie",
     "(margin <= tie)",
     "(margin >= 0)",
     "tests/export/test_exporters.py::test_flips_and_ties_are_told_apart"),
    ("utils/export/preprocessing_graph.py", "the graph places the pixels of the resized image otherwise than Pillow",
     '"half_pixel"',
     '"asymmetric"',
     "tests/export/test_preprocessing_graph.py::test_photos_are_within_rare_single_grey_levels"),
    ("utils/export/preprocessing_graph.py", "the graph normalises without the mean of the card",
     '"mean": np.float32(card.mean)',
     '"mean": np.float32((0.5, 0.5, 0.5))',
     "tests/export/test_preprocessing_graph.py::test_photos_are_within_rare_single_grey_levels"),
    ("utils/export/quantize.py", "8-bit weights where VNNI is not asked for",
     "reduce_range=self.weight_bits == 7,\n            nodes_to_exclude=[last_layer(graph)]",
     "reduce_range=False,\n            nodes_to_exclude=[last_layer(graph)]",
     "tests/export/test_saturation.py::test_weights_are_bounded_so_that_no_pair_can_saturate"),
    ("utils/export/quantize.py", "dynamic 8-bit weights where VNNI is not asked for",
     'reduce_range=self.weight_bits == 7,\n            nodes_to_exclude=[last,',
     'reduce_range=False,\n            nodes_to_exclude=[last,',
     "tests/export/test_saturation.py::test_weights_are_bounded_so_that_no_pair_can_saturate"),
    ("utils/export/quantize.py", "activations with a zero point in the middle",
     "activation_type=QuantType.QUInt8",
     "activation_type=QuantType.QInt8",
     "tests/export/test_quantizers.py::test_int8_grids"),
    ("utils/export/quantize.py", "the logits quantized too",
     "nodes_to_exclude=[last_layer(graph)]",
     "nodes_to_exclude=[]",
     "tests/export/test_quantizers.py::test_int8_grids"),
    ("utils/export/quantize.py", "calibrated on the first batch only",
     "range(0, len(images), batch_size))\n        self",
     "range(0, batch_size, batch_size))\n        self",
     "tests/export/test_quantizers.py::test_calibration_reader_gives_every_image_once_preprocessed"),
    ("utils/export/equalize.py", "channels scaled by the product of their ranges",
     "torch.sqrt(r1 / r2)",
     "torch.sqrt(r1 * r2)",
     "tests/export/test_equalize.py::test_pairs_have_equal_ranges_afterwards"),
    ("utils/export/equalize.py", "the bias not rescaled with its weights",
     "first.bias /= scale",
     "pass",
     "tests/export/test_equalize.py::test_function_is_exact"),
    ("utils/export/gains.py", "agreement of images with each other",
     'logits["before"].argmax(1) == logits["after"].argmax(1)',
     'logits["before"].argmax(0) == logits["after"].argmax(0)',
     "tests/scripts/test_quantize.py::test_every_scheme_on_digits"),
    ("utils/export/gains.py", "the speed-up upside down",
     "before['median_ms'] / after['median_ms']",
     "after['median_ms'] / before['median_ms']",
     "tests/scripts/test_quantize.py::test_verdict"),
    ("utils/export/variants.py", "benchmark.py calibrates on the images that accuracy is measured on",
     "calibration_images(dataset.train, CALIBRATION)",
     "calibration_images(dataset.held_out, CALIBRATION)",
     "tests/export/test_variants.py::test_what_is_calibrated_sees_training_images_and_the_rest_none"),
    # doctor
    ("utils/doctor/labels.py", "the networks of the folds have seen what they judge",
     "np.flatnonzero(fold_of != fold)",
     "np.flatnonzero(fold_of >= 0)",
     "tests/doctor/test_labels.py::test_no_network_has_seen_the_images_that_it_judges"),
    ("utils/doctor/labels.py", "the most trusted labels suspected first",
     'np.argsort(scores, kind="stable")',
     'np.argsort(-scores, kind="stable")',
     "tests/doctor/test_labels.py::test_changed_digits_are_suspected_first"),
    ("utils/doctor/suspects.py", "answers of a checkpoint in its own order of classes",
     "[card.classes.index(name) for name in classes]",
     "[classes.index(name) for name in classes]",
     "tests/doctor/test_suspects.py::test_a_checkpoint_may_have_the_classes_in_another_order"),
    ("utils/doctor/copies.py", "mirrored copies overlooked",
     "ImageOps.mirror(image).resize",
     "ImageOps.flip(image).resize",
     "tests/doctor/test_findings.py::test_each_defect_alone_is_found_and_nothing_else"),
    ("utils/doctor/copies.py", "copies told by the hash alone",
     ".mean() >= ALIKE",
     ".mean() >= -1",
     "tests/doctor/test_copies.py::test_near_hashes_alone_make_no_copies"),
    ("utils/doctor/findings.py", "copies in train and val not told apart from others",
     "elif len(splits) > 1:",
     "elif len(splits) > 2:",
     "tests/doctor/test_findings.py::test_copies_in_two_splits_and_in_two_classes_are_told_apart"),
    ("utils/doctor/findings.py", "imbalance counted over all splits",
     'for f in facts if f.split == "train")',
     "for f in facts)",
     "tests/doctor/test_findings.py::test_only_the_images_of_training_are_balanced"),
    # complexity
    ("utils/complexity/exact.py", "twice the MACs",
     "for cause in PRODUCTS) // 2",
     "for cause in PRODUCTS)",
     "tests/complexity/test_complexity.py::test_known_figures_at_224_px"),
    ("utils/complexity/exact.py", "counted in training mode",
     "copy.deepcopy(model).eval().to(\"meta\")",
     "copy.deepcopy(model).to(\"meta\")",
     "tests/complexity/test_complexity.py::test_a_network_in_training_mode_is_counted_as_one_at_rest"),
    ("utils/complexity/formulas.py", "groups of a convolution ignored",
     "taps = weight.shape[1] *",
     "taps = image.shape[1] *",
     "tests/complexity/test_complexity.py::test_layers_counted_by_hand"),
    ("utils/complexity/formulas.py", "adaptive windows without their overlap",
     "-(-(i + 1) * size // bins)",
     "(i + 1) * size // bins",
     "tests/complexity/test_complexity.py::test_layers_counted_by_hand"),
    ("utils/complexity/report.py", "FLOPs of a tool given as its MACs",
     '"flops": 2 * profile.macs,',
     '"flops": profile.macs,',
     "tests/complexity/test_complexity.py::test_scripts_write_the_tools_table_our_summary_and_json"),
    ("utils/complexity/reconcile.py", "what a tool leaves out counted against its formula",
     'difference["not counted"] -= exact[key]',
     "difference[cause] -= exact[key]",
     "tests/complexity/test_complexity.py::test_a_difference_is_charged_to_its_cause_or_to_not_counted"),
    # receptive_field
    ("utils/receptive_field/spans.py", "a stride that does not spread the units",
     "self.jump * stride)",
     "self.jump)",
     "tests/receptive_field/test_receptive_field.py::test_registered_models_have_their_known_fields"),
    ("utils/receptive_field/spans.py", "padding in units, not in pixels",
     "self.start - padding * self.jump",
     "self.start - padding",
     "tests/receptive_field/test_receptive_field.py::test_registered_models_have_their_known_fields"),
    ("utils/receptive_field/spans.py", "dilation ignored",
     "(kernel - 1) * dilation - padding",
     "(kernel - 1) - padding",
     "tests/receptive_field/test_receptive_field.py::test_structures"),
    ("utils/receptive_field/rules.py", "a pooling without a stride has stride 1",
     "a.stride or a.kernel_size",
     "a.stride or 1",
     "tests/receptive_field/test_receptive_field.py::test_structures"),
    ("utils/receptive_field/effective.py", "the effective field is the brightest spot",
     "(1 - 0.9545) * heat.max()",
     "0.9545 * heat.max()",
     "tests/receptive_field/test_receptive_field.py::test_effective_size_of_a_box"),
    ("utils/receptive_field/effective.py", "signed gradients cancel each other",
     "gradient.abs().sum((0, 1))",
     "gradient.sum((0, 1)).abs()",
     "tests/receptive_field/test_receptive_field.py::test_derivatives_of_unlike_signs_do_not_cancel"),
    # report
    ("utils/report/comparison.py", "McNemar's test on one side only",
     "first + second, 0.5).pvalue",
     'first + second, 0.5, alternative="greater").pvalue',
     "tests/report/test_comparison.py::test_the_exact_test_has_known_values"),
    ("utils/report/comparison.py", "the worse of two models called the better",
     "(one if first > second else other)",
     "(one if first < second else other)",
     "tests/report/test_comparison.py::test_counts_and_words_of_a_difference"),
    ("utils/report/confusion.py", "the surest right answers shown instead of the doubtful ones",
     "indices[::-1] if place[0] == place[1] else indices",
     "indices if place[0] == place[1] else indices",
     "tests/report/test_confusion.py::test_the_surest_mistakes_and_the_least_sure_right_answers_come_first"),
    ("utils/report/confusion.py", "a cell shaded by its share of the answers",
     "matrix[place[0]].sum()",
     "matrix[:, place[1]].sum()",
     "tests/report/test_confusion.py::test_shades_are_of_the_share_of_the_true_class"),
    ("utils/report/curves.py", "a falling loss drawn as a rising one",
     "HEIGHT - BOTTOM, TOP)",
     "TOP, HEIGHT - BOTTOM)",
     "tests/report/test_curves.py::test_a_point_lies_where_its_value_is"),
    ("utils/report/curves.py", "an accuracy of 0.5 drawn as 0.5 %",
     "(100, f\"{name}, %\")",
     "(1, f\"{name}, %\")",
     "tests/report/test_curves.py::test_accuracy_is_drawn_in_per_cent"),
    ("utils/core/text.py", "two classes under one shortened name",
     "name if times[name] == 1 else shortened(other, most)",
     "name",
     "tests/core/test_text.py::test_short_names_are_told_apart"),
    # models
    ("models/mobilenet.py", "nine tenths of MobileNet's head dropped",
     "dropout=0.5",
     "dropout=0.9",
     "tests/models/test_models.py::test_the_head_drops_out_as_it_was_designed_to"),
    ("models/layers.py", "16 groups of channels instead of 32",
     "math.gcd(32, channels)",
     "math.gcd(16, channels)",
     "tests/models/test_models.py::test_group_norm_has_32_groups_or_as_many_as_divide_the_channels"),
    ("models/checkpoint.py", "a loaded network in training mode",
     "return network.eval(), card",
     "return network, card",
     "tests/models/test_checkpoint.py::test_a_loaded_network_answers_alike_twice"),
    ("models/checkpoint.py", "the average of a training state ignored",
     'contents.get("ema") if',
     "None if",
     "tests/models/test_checkpoint.py::test_a_training_state_gives_the_average"),
    ("models/without_card.py", "images of a library's network prepared as ours",
     "pretrained=library_of(model) is not None",
     "pretrained=False",
     "tests/models/test_without_card.py::test_the_name_of_the_network_is_enough"),
    ("models/depth.py", "norms as layers of their own",
     "if not parts and any(",
     "if not parts or any(",
     "tests/models/test_depth.py::test_depths_follow_the_structure"),
    ("models/build.py", "a frozen trunk with a frozen head",
     "    head.requires_grad_(True)\n",
     "",
     "tests/models/test_models.py::test_a_frozen_trunk_leaves_the_head_trainable"),
    ("models/half.py", "16-bit logits",
     "logits.float()",
     "logits",
     "tests/models/test_half.py::test_images_and_logits_are_float32_whatever_computes"),
    # scripts
    ("utils/evaluation/evaluate.py", "the least confident mistakes shown first",
     "argsort(descending=True)",
     "argsort()",
     "tests/scripts/test_eval.py::test_of_many_mistakes_the_most_confident_are_shown"),
    ("eval.py", "the strongest classes named as the weakest",
     'item[1]["F1"])[:3]',
     'item[1]["F1"])[-3:]',
     "tests/scripts/test_eval.py::test_the_classes_with_the_lowest_f1_are_named"),
    ("quantize.py", "quantize.py calibrates on the images that accuracy is measured on",
     "calibration_images(dataset.train, args.calibration, args.seed)",
     "calibration_images(dataset.held_out, args.calibration, args.seed)",
     "tests/scripts/test_quantize.py::test_calibration_sees_training_images_of_the_seed"),
    ("benchmark.py", "the cold start that was fastest",
     "return statistics.median(seconds)",
     "return min(seconds)",
     "tests/scripts/test_benchmark.py::test_a_cold_start_is_the_median_of_three"),
    ("benchmark.py", "the slowest batch taken for the best",
     "file, fastest = files[variant.name], max(",
     "file, fastest = files[variant.name], min(",
     "tests/scripts/test_benchmark.py::test_all_makes_and_measures_everything"),
    ("train.py", "a warm-up that is asked for shrinks like the default",
     'args.wp_epoch if "wp_epoch" in args.given else None',
     "None",
     "tests/scripts/test_train.py::test_flags_become_options"),
    ("train.py", "an interrupted run ends with status 0",
     "return 128 + signum if signum else 0",
     "return 0",
     "tests/scripts/test_train.py::test_an_interrupted_run_has_the_status_of_its_signal"),
    ("receptive_field.py", "rows and columns of the box swapped",
     "(top, bottom), (left, right) = spans",
     "(left, right), (top, bottom) = spans",
     "tests/receptive_field/test_receptive_field.py::test_the_box_lies_where_the_unit_looks"),
    ("export.py", "the file of rounded weights named as that of the checkpoint",
     "if card.scheme else card.file_name",
     "if not card.file_name else card.file_name",
     "tests/scripts/test_export.py::test_a_quantized_checkpoint_stays_beside_its_exports"),
    ("check_dataset.py", "findings end with status 0",
     "return FOUND if findings else 0",
     "return 0",
     "tests/scripts/test_check_dataset.py::test_findings_reach_every_output"),
    ("predict.py", "the image size that is asked for not passed on",
     "classes, args.device, args.image_size)",
     "classes, args.device)",
     "tests/scripts/test_predict.py::test_mistakes_are_told_in_one_sentence"),
    ("complexity.py", "a checkpoint of another size counted at 224 px",
     "card.architecture, card.image_size)",
     "card.architecture, 224)",
     "tests/complexity/test_complexity.py::test_a_checkpoint_with_a_card_needs_no_other_flag"),
)]  # fmt: skip


def copy_project(folder):
    """The tracked files, as they are now, in `folder`, which is made. Returns it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return folder


def start_test(folder, test):
    """The process that runs a test on the copy in `folder`: a fork of this one, which has imported PyTorch already."""
    process = os.fork()
    if process:
        return process
    status = 3
    try:
        os.setsid()  # it is ended with all that it has started
        os.chdir(folder)
        sys.path.remove(str(ROOT / "tests"))
        sys.stdout = sys.stderr = open(folder / "pytest.log", "w", encoding="utf-8")  # noqa: SIM115
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", test]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def end_of(process, until):
    """The status with which a process has ended, TOO_LONG where it has not `until` then, or None where it still runs."""
    ended, status = os.waitpid(process, os.WNOHANG)
    if not ended and time.monotonic() < until:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if ended:
        return os.waitstatus_to_exitcode(status)
    os.waitpid(process, 0)
    return TOO_LONG


def outcomes(mutants, folders):
    """Put each mutant into one of the copies and run its test there. Yields (mutant, outcome, log), as they end."""
    waiting, free, running = list(mutants)[::-1], list(folders), []
    while waiting or running:
        while waiting and free:
            mutant, folder = waiting.pop(), free.pop()
            path = folder / mutant.file
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            if text.count(mutant.old) != 1:
                free.append(folder)
                yield mutant, NOT_THERE, ""
                continue
            path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
            running.append((start_test(folder, mutant.test), time.monotonic() + SECONDS, mutant, folder, text))
        time.sleep(0.05)
        for entry in list(running):
            process, until, mutant, folder, text = entry
            outcome = end_of(process, until)
            if outcome is not None:
                running.remove(entry)
                (folder / mutant.file).write_text(text, encoding="utf-8")
                free.append(folder)
                yield mutant, outcome, (folder / "pytest.log").read_text(encoding="utf-8")


def judge(mutants, jobs):
    """Print a line for each mutant. Returns how many are noticed, by a test that passes without them."""
    with tempfile.TemporaryDirectory() as root:
        folders = [copy_project(pathlib.Path(root, str(job))) for job in range(jobs)]
        unchanged, sound = {mutant.test: mutant._replace(new=mutant.old) for mutant in mutants}, set()
        print(f"{len(unchanged)} tests without a fault first, then {len(mutants)} faults", flush=True)
        for same, outcome, log in outcomes(unchanged.values(), folders):
            if outcome == PASSED:
                sound.add(same.test)
            else:
                print(f"{log}\n{same.test} does not pass as things are: {SHOWN.get(outcome, outcome)}", flush=True)
        noticed, width = 0, max(len(mutant.words) for mutant in mutants)
        for mutant, outcome, _ in outcomes(mutants, folders):
            shown = SHOWN.get(outcome, f"STATUS {outcome}") if mutant.test in sound else "NOT SOUND"
            noticed += shown == SHOWN[FAILED]
            print(f"{shown:9}  {mutant.words:{width}}  {mutant.file}  {mutant.test.removeprefix('tests/')}", flush=True)
    return noticed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose file, test or words hold it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="how many at a time; default: cores")
    args = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if args.only in " ".join((mutant.file, mutant.words, mutant.test))]
    if not chosen:
        sys.exit(f"no fault has {args.only!r} in its file, test or words")
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    sys.dont_write_bytecode = True  # Python keeps compiled files by time and size, and a fault may have the same of both
    for library in LIBRARIES:
        importlib.import_module(library)
    noticed = judge(chosen, max(1, args.jobs))
    print(f"{noticed} of {len(chosen)} faults are noticed")
    return int(noticed < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
