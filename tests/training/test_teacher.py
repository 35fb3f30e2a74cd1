"""Distillation: the loss in closed form, the teacher's own preprocessing and order of classes, and whole runs."""

import pickle
import re
import signal

import pytest
import torch
from digits_checkpoint import checkpoint, trained
from runs import same, signal_at, weights

from models.checkpoint import read_checkpoint, save_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches
from utils.export.writers import Onnx, TorchScript, quietly
from utils.training.teacher import check_teacher, open_teacher

CARD = ModelCard("custom", list("0123456789"), 16)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("teacher") / "best_model.pth")


@pytest.fixture(scope="module")
def images():
    """The first test images of the digits, as a student with CARD sees them."""
    return next(eval_batches(open_dataset("digits").test, CARD, 32))[0]


def changed(file, path, **card):
    contents = read_checkpoint(file)
    contents["card"] |= card
    save_checkpoint(path, contents)
    return path


@pytest.mark.parametrize(("share", "temperature"), [(0.9, 4.0), (1.0, 1.0), (0.3, 2.0)])
def test_the_loss_is_the_closed_form_and_least_where_the_answers_are_equal(file, images, share, temperature):
    teacher = open_teacher(file, CARD, share, temperature)
    logits, of_labels = torch.randn(32, 10, requires_grad=True), torch.rand(32)
    losses = teacher.losses(of_labels, images, logits)
    with torch.no_grad():
        p, q = ((answers / temperature).softmax(dim=1) for answers in (trained()[0](images), logits))
        divergence = (p * (p / q).log()).sum(dim=1)
    torch.testing.assert_close(losses, (1 - share) * of_labels + share * temperature**2 * divergence, rtol=1e-4, atol=1e-5)
    equal = trained()[0](images).detach().requires_grad_()
    teacher.losses(torch.zeros(32), images, equal).sum().backward()
    assert equal.grad.abs().max() < 1e-5


def test_no_gradient_reaches_the_teacher(file, images):
    teacher = open_teacher(file, CARD, 0.9, 4.0)
    teacher.losses(torch.zeros(32), images, torch.randn(32, 10, requires_grad=True)).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.network.parameters()) and not teacher.network.training


def test_the_teacher_sees_images_as_it_was_trained_with_and_answers_in_the_order_of_the_data(file, images, tmp_path):
    other = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    teacher = open_teacher(changed(file, tmp_path / "a.pth", **other), CARD, 0.9, 4.0)
    theirs = next(eval_batches(open_dataset("digits").test, CARD.replace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)), 32))[0]
    torch.testing.assert_close(teacher.prepared(images), theirs, rtol=0, atol=1e-5)
    backwards = open_teacher(file, CARD.replace(classes=CARD.classes[::-1]), 1.0, 1.0)
    plain = open_teacher(file, CARD, 1.0, 1.0)
    logits, nothing = torch.randn(32, 10), torch.zeros(32)
    torch.testing.assert_close(backwards.losses(nothing, images, logits.flip(1)), plain.losses(nothing, images, logits))


def test_a_student_may_have_images_of_another_size(file):
    small, large = (next(eval_batches(open_dataset("digits").test, CARD.replace(image_size=s), 300))[0] for s in (16, 32))
    teacher = open_teacher(file, CARD, 0.9, 4.0)
    answers = [teacher.network(teacher.prepared(batch)).argmax(dim=1) for batch in (small, large)]
    assert teacher.prepared(large).shape == small.shape and (answers[0] == answers[1]).float().mean() > 0.95


REFUSED = {
    "a class more": ({"classes": list("012345678x")}, "it alone has x, the data alone have 9"),
    "no names": ({"invented_classes": True}, "it does not name its own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_teacher_of_other_classes_is_refused(name, file, tmp_path):
    card, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as error:
        open_teacher(changed(file, tmp_path / "a.pth", **card), CARD, 0.9, 4.0)
    assert error.value.option == "teacher"


def exported(writer, path, card=None, keep_card=True):
    """The trained network as a file of another engine."""
    network, own = trained()
    card = card or own
    with quietly():
        writer.save(writer.convert(network, card), card, path)
    if not keep_card:
        import onnx

        graph = onnx.load(path)
        del graph.metadata_props[:]
        onnx.save(graph, path)
    return path


@pytest.mark.parametrize(("writer", "suffix"), [(Onnx, ".onnx"), (TorchScript, ".pt")])
def test_an_exported_file_teaches_as_its_checkpoint_does(writer, suffix, file, images, tmp_path):
    path = exported(writer, tmp_path / f"teacher{suffix}")
    teacher = open_teacher(path, CARD, 0.9, 4.0)
    travelled = pickle.loads(pickle.dumps(teacher))  # as from the first of several processes to the others
    logits, of_labels = torch.randn(32, 10, requires_grad=True), torch.rand(32)
    wanted = open_teacher(file, CARD, 0.9, 4.0).losses(of_labels, images, logits)
    for one in (teacher.to("cpu"), travelled):
        losses = one.losses(of_labels, images, logits)
        torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-4)
        losses.sum().backward()


def test_a_file_that_cannot_say_how_it_is_fed_is_no_teacher(tmp_path):
    inside = exported(Onnx, tmp_path / "inside.onnx", trained()[1].replace(with_preprocessing=True))
    for path, words in (
        (exported(Onnx, tmp_path / "bare.onnx", keep_card=False), "has no model card"),
        (inside, "prepares images itself"),
    ):
        with pytest.raises(UserError, match=words) as error:
            check_teacher(path)
        assert error.value.option == "teacher"


@pytest.mark.parametrize("look", [{}, {"mean": [0.9] * 3, "std": [0.1] * 3}])
def test_a_run_says_how_well_its_teacher_answers_what_it_is_fed_with(look, file, trainer_of, tmp_path, capsys):
    """Fed otherwise than it was trained with, a teacher misleads; the start of the run tells."""
    path = changed(file, tmp_path / "a.pth", **look)
    data = trainer_of(max_epoch=1, teacher=str(path)).data
    right, asked = map(int, re.search(r"it answers (\d+) of (\d+) val images right", capsys.readouterr().out).groups())
    network, (mean, std) = trained()[0], (look.get(name, getattr(data.card, name)) for name in ("mean", "std"))
    batches = eval_batches(data.dataset.val, data.card.replace(mean=mean, std=std), 128)
    with torch.no_grad():
        wanted = sum((network(images).argmax(dim=1) == labels).sum() for images, labels in batches)
    assert (right, asked) == (wanted, len(data.dataset.val)) and (right < asked / 2) == bool(look)


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_student_without_labels_of_its_own_comes_near_its_teacher(kind, file, trainer_of, tmp_path, capsys):
    """All of the loss is the teacher's: after four epochs the student agrees with it on the test images."""
    teacher = file if kind == "checkpoint" else exported(Onnx, tmp_path / "teacher.onnx")
    trainer = trainer_of(max_epoch=4, teacher=str(teacher), teacher_share=1.0, batch_size=32)
    assert "at 16 px, 1 of the loss, temperature 4; fed with images of 16 px, it answers" in capsys.readouterr().out
    assert trainer.fit() == 0
    batches = list(eval_batches(trainer.data.dataset.test, CARD, 128))
    ours, theirs = (
        torch.cat([net(images).argmax(dim=1) for images, _ in batches]) for net in (trainer.state.model.eval(), trained()[0])
    )
    assert (ours == theirs).float().mean() > 0.8


def test_an_interrupted_run_with_a_teacher_goes_on_exactly_and_with_no_other(file, trainer_of, tmp_path):
    options = {"max_epoch": 2, "teacher": str(file)}
    whole = trainer_of(**options, path_to_save="whole")
    whole.fit()
    part = trainer_of(**options, path_to_save="part")
    signal_at(part, signal.SIGTERM, step=5)
    assert part.fit() == signal.SIGTERM
    other = changed(file, tmp_path / "other.pth", mean=[0.5] * 3)
    for change, words in (
        ({"teacher": str(other)}, "teacher was "),
        ({"teacher": None}, "is None now"),
        ({"temperature": 2.0}, "temperature was 4"),
    ):
        with pytest.raises(UserError, match=words):
            trainer_of(**options | change, path_to_save="part", resume="auto")
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "teacher.pth"
    moved.write_bytes(file.read_bytes())
    part = trainer_of(**options | {"teacher": str(moved)}, path_to_save="part", resume="auto")
    part.fit()
    assert same(*(weights(trainer.files.last) for trainer in (whole, part)))


def test_a_teacher_whose_run_was_only_tested_in_between_is_the_same(file, trainer_of, tmp_path):
    options = {"max_epoch": 2, "teacher": str(file)}
    part = trainer_of(**options)
    signal_at(part, signal.SIGTERM, step=5)
    part.fit()
    tested = changed(file, tmp_path / "tested.pth", training={"final": {"split": "test", "Acc@1": 0.9}})
    assert tested.read_bytes() != file.read_bytes()
    assert trainer_of(**options | {"teacher": str(tested)}, resume="auto").state.step == 5


@pytest.mark.parametrize("option", ["weights", "teacher"])
def test_a_run_never_replaces_the_file_that_it_takes(option, trainer_of):
    first = trainer_of(max_epoch=1)
    first.fit()
    before = first.files.best.read_bytes()
    with pytest.raises(UserError, match="lies where this run saves and would be replaced; give the run a name") as error:
        trainer_of(**{option: str(first.files.best)})
    assert error.value.option == option and first.files.best.read_bytes() == before
    assert trainer_of(**{option: str(first.files.best)}, name="second").files.folder != first.files.folder
