"""ResNet-18 under the names of torchvision: the same logits, and nothing else is taken for it."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet34, resnet50

import hpd
from hpd.cli import main
from hpd.data import Dataset, ImageSet, Normalisation
from hpd.data.kinds.digits import DigitsSettings
from hpd.data.kinds.imagenet import imagenet_names, wnids_of
from hpd.engine import teachers
from hpd.errors import ConfigError, DataError
from hpd.students.resnet18_weights import resnet18_from, resnet18_in
from hpd.students.teachers import batch_norms, read_teacher

sys.path.insert(0, str(ROOT / "tests" / "generators" / "checkpoints"))

from traps import Runs

SIDE = 48


def network_of(make=resnet18, **options):
    """A random network of torchvision's whose norms have seen something."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = make(**options).eval()
        for name, value in network.named_buffers():
            if name.endswith(("mean", "var")):
                value.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def network():
    return network_of(num_classes=3)


@pytest.fixture(scope="module")
def state(network):
    return network.state_dict()


def colours(classes=("a", "b", "c"), each=4, channels=3) -> ImageSet:
    """Random images in colour."""
    rng = torch.Generator().manual_seed(1)
    count = len(classes) * each
    pixels = torch.randint(0, 256, (count, channels, SIDE, SIDE), generator=rng).byte()
    labels = torch.arange(len(classes)).repeat_interleave(each)
    return ImageSet(pixels, labels, tuple(classes), Normalisation.of(pixels))


@pytest.fixture(autouse=True)
def digits_are_coloured(monkeypatch, tmp_path):
    """What `digits` are here, by the classes that are asked for."""
    monkeypatch.chdir(tmp_path)

    def build(options):
        train = colours(options.classes or ("a", "b", "c"))
        return Dataset(train, train)

    monkeypatch.setattr(DigitsSettings, "build", build)


def ways(state):
    """How a state dict comes to lie in a file."""
    return {
        "plain.pth": lambda path: torch.save(state, path),
        "legacy.pth": lambda path: torch.save(
            state, path, _use_new_zipfile_serialization=False
        ),
        "weights.safetensors": lambda path: save_file(
            {k: v.contiguous() for k, v in state.items()}, path
        ),
        "trained.pth.tar": lambda path: torch.save(
            {
                "epoch": 90, "arch": "resnet18",
                "state_dict": {f"module.{k}": v for k, v in state.items()},
                "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
            }, path,
        ),
        "old.pth": lambda path: torch.save(
            {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path
        ),
        "half.pth": lambda path: torch.save(
            {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "way", ["plain.pth", "legacy.pth", "weights.safetensors", "trained.pth.tar", "old.pth"]
)
def test_logits_are_those_of_torchvision(way, network, state, tmp_path, rng):
    ways(state)[way](tmp_path / way)
    teacher = hpd.squeeze("digits", weights=tmp_path / way, out=tmp_path / "teacher")
    x = torch.rand(3, 3, SIDE, SIDE, generator=rng)
    mean, std = (torch.tensor(v)[:, None, None] for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    with torch.no_grad():
        want = network((x - mean) / std)
        got = teacher.network(teacher.normalise(x))
    assert torch.equal(got, want)
    again = read_teacher(tmp_path / "teacher")
    assert again.record == teacher.record
    assert torch.equal(again.network(again.normalise(x)), want)
    assert len(batch_norms(again.network)) == 20
    assert not any(value.requires_grad for value in again.network.parameters())
    record = again.record
    assert (record.origin, record.student.stem) == ("ResNet-18 (torchvision)", "imagenet")
    assert record.accuracy_test is not None
    assert record.accuracy_train is None


def test_half_precision_is_read_as_numbers_of_32_bits(network, state, tmp_path, rng):
    ways(state)["half.pth"](tmp_path / "half.pth")
    teacher = hpd.squeeze("digits", weights=tmp_path / "half.pth", out=tmp_path / "teacher")
    x = torch.randn(2, 3, SIDE, SIDE, generator=rng)
    assert next(teacher.network.parameters()).dtype == torch.float32
    torch.testing.assert_close(teacher.network(x), network(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("by", ["wnid", "name"])
def test_of_a_thousand_classes_those_of_the_data_answer(by, rng):
    """In the order of the data, whatever that of ImageNet."""
    whole = network_of()
    wnids = [wnids_of("nette")[i] for i in (3, 0, 7)]
    names = imagenet_names()
    classes = wnids if by == "wnid" else [names[wnid] for wnid in wnids]
    torch.save(whole.state_dict(), "whole.pth")
    data = {"kind": "digits", "classes": classes}
    teacher = hpd.squeeze(data, weights="whole.pth", out="teacher")
    x = torch.randn(2, 3, SIDE, SIDE, generator=rng)
    rows = [list(names).index(wnid) for wnid in wnids]
    torch.testing.assert_close(teacher.network(x), whole(x)[:, rows], rtol=1e-5, atol=1e-6)
    assert teacher.record.classes == tuple(classes)
    with pytest.raises(ConfigError, match="ImageNet's classes, and the data have another one"):
        hpd.squeeze(data | {"classes": [classes[0], "gnome"]}, weights="whole.pth", out="other")
    with pytest.raises(ConfigError, match="another number of classes than the data: got 1000"):
        hpd.squeeze("digits", weights="whole.pth", out="other")


def changed(state, **changes):
    """A state dict with other tensors; None takes one out."""
    new = {**state, **{k.replace("__", "."): v for k, v in changes.items()}}
    return {k: v for k, v in new.items() if v is not None}


STRANGE = {
    "another network": (lambda s: network_of(resnet34).state_dict(), "another network than a Res"),
    "bottlenecks": (lambda s: network_of(resnet50).state_dict(), "another network than a ResNet"),
    "one name more": (lambda s: changed(s, extra=torch.zeros(1)), "another network than a ResNet"),
    "a name of ours": (
        lambda s: changed(s, blocks__0__weight=torch.zeros(1)), "another network than a ResNet",
    ),
    "one name less": (lambda s: changed(s, layer3__1__conv2__weight=None), "lacks weights"),
    "no head": (lambda s: changed(s, fc__weight=None), "holds no ResNet-18"),
    "nothing": (lambda s: {"epoch": 3}, "holds no ResNet-18: got no tensors"),
    "two of them": (
        lambda s: {"model": s, "ema": {k: v + 1 for k, v in s.items()}}, "several networks",
    ),
    "another shape": (
        lambda s: changed(s, layer2__0__conv1__weight=torch.zeros(128, 64, 3, 1)), "wrong shape",
    ),
    "a small stem": (
        lambda s: changed(s, conv1__weight=torch.zeros(64, 3, 3, 3)), "ResNet-18 for ImageNet",
    ),
    "no channels": (
        lambda s: changed(s, conv1__weight=torch.zeros(64, 0, 7, 7)), "without values",
    ),
    "a head of no classes": (
        lambda s: changed(s, fc__weight=torch.zeros(0, 512)), "without values",
    ),
    "a head that is a number": (
        lambda s: changed(s, fc__weight=torch.zeros(())), "ResNet-18 for ImageNet",
    ),
    "not finite": (
        lambda s: changed(s, bn1__weight=torch.full((64,), torch.nan)), "is not finite",
    ),
    "a negative variance": (
        lambda s: changed(s, bn1__running_var=-torch.ones(64)), "no variance is",
    ),
    "whole numbers": (
        lambda s: changed(s, bn1__bias=torch.zeros(64, dtype=torch.int64)), "of a type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_such_network_is_refused_and_nothing_is_written(kind, state, tmp_path):
    make, message = STRANGE[kind]
    torch.save(make(state), "strange.pth")
    with pytest.raises(DataError, match=r"strange\.pth") as error:
        hpd.squeeze("digits", weights="strange.pth", out="teacher")
    assert message in str(error.value)
    assert len(str(error.value)) < 600
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("name", ["plain.pth", "legacy.pth", "weights.safetensors"])
def test_damaged_files_are_refused(name, state, tmp_path):
    path = tmp_path / name
    ways(state)[name](path)
    content = path.read_bytes()
    for kept in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match="cannot read the weights of a ResNet-18"):
            hpd.squeeze("digits", weights=path, out="teacher")
    with pytest.raises(DataError, match="cannot read the weights"):
        hpd.squeeze("digits", weights=tmp_path / "nowhere.pth", out="teacher")
    with pytest.raises(DataError, match="cannot read the weights"):
        hpd.squeeze("digits", weights=tmp_path, out="teacher")


def test_nothing_in_a_file_is_executed(state, tmp_path):
    sprung = tmp_path / "sprung"
    trap = Runs(f"touch {sprung}")
    torch.save({**state, "conv1.weight": trap}, "hidden.pth")
    torch.save({"state_dict": state, "args": trap}, "beside.pth")
    torch.save({"state_dict": state, "args": trap}, "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(trap))
    for name in ("hidden.pth", "beside.pth", "old.pth", "bare.pth"):
        with pytest.raises(DataError, match="cannot read the weights"):
            hpd.squeeze("digits", weights=name, out="teacher")
        assert not sprung.exists(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mean=[0.5]"], "the mean are of other images than the data: got 1 channels"),
        (["std=[0.5, 0.5]"], "the std are of other images than the data: got 2 channels"),
        (["std=[0, 1, 1]"], "std"),
        (["epochs=3"], "unknown key 'epochs'"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_code_2(options, message, state):
    torch.save(state, "weights.pth")
    arguments = ["squeeze", "--data", "digits", "--weights", "weights.pth", "--out", "teacher"]
    result = CliRunner().invoke(main, [*arguments, *options])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    both = CliRunner().invoke(main, [*arguments, "--resnet20", "x"])
    assert "one file is enough" in both.stderr


def test_grey_data_have_other_channels(state, monkeypatch):
    grey = colours(channels=1)
    monkeypatch.setattr(DigitsSettings, "build", lambda options: Dataset(grey, grey))
    torch.save(state, "weights.pth")
    with pytest.raises(ConfigError, match="the weights are of other images than the data: got 3"):
        hpd.squeeze("digits", weights="weights.pth", out="teacher")


def test_the_command_keeps_them_and_finds_them_again(state):
    torch.save(state, "weights.pth")
    arguments = ["squeeze", "--data", "digits", "--weights", "weights.pth", "--out", "teacher"]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith("ResNet-18 (torchvision), accuracy ")
    assert CliRunner().invoke(main, arguments).stdout == first.stdout
    torch.save(changed(state, bn1__bias=torch.ones(64)), "weights.pth")
    other = CliRunner().invoke(main, arguments)
    assert (other.exit_code, "a teacher of another weights" in other.stderr) == (2, True)


def test_images_that_look_otherwise_than_those_it_was_trained_on_are_told_of(state, caplog):
    """At the first norm: with the mean and std by which its images were normalised, nothing is."""
    train = colours()
    _, network = resnet18_from(state)
    with torch.no_grad():
        seen = network.blocks[0](Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
                                 .apply(train.unit()))  # fmt: skip
        variance, mean = torch.var_mean(seen, dim=(0, 2, 3))
    learnt = changed(state, bn1__running_mean=mean, bn1__running_var=variance)
    torch.save(learnt, "weights.pth")
    hpd.squeeze("digits", weights="weights.pth", out="right")
    assert not caplog.records
    for number, wrong in enumerate((["std=[1, 1, 1]"], ["mean=[-1, 0, 2]", "std=[0.1, 0.1, 0.1]"])):
        hpd.squeeze("digits", *wrong, weights="weights.pth", out=f"wrong{number}")
        assert "the images look to the teacher otherwise" in caplog.text
        caplog.clear()


def test_sets_are_recovered_and_relabelled_by_it(state):
    """SRe2L from end to end: squeezed by others, recovered from noise, labels of 16 bits."""
    torch.save(state, "weights.pth")
    hpd.squeeze("digits", weights="weights.pth", out="teacher")
    run = hpd.distill(
        {
            "data": "digits", "device": "cpu", "selection": "last",
            "source": {"kind": "pixel", "init": "noise", "images_per_class": 2, "steps": 2},
            "objective": {"kind": "recovery", "teacher": "teacher"},
            "relabel": {"teacher": "teacher", "bits": 16},
        },
        out="run",
    )  # fmt: skip
    assert not torch.equal(run.distilled.images, run.initial.images)
    soft = run.distilled.soft_labels
    assert soft.shape == (6, 3)
    assert run.distilled.label_bits == 6 * 3 * 16
    teacher = read_teacher("teacher")
    torch.testing.assert_close(
        soft, teacher.probabilities(run.distilled.images), rtol=2e-3, atol=1e-3
    )


def test_names_are_looked_at_before_values(state):
    class Unread(dict):
        def __getitem__(self, name):
            raise AssertionError(f"{name} was read")

    with pytest.raises(DataError, match="another network"):
        resnet18_in(list(Unread(changed(state, extra=torch.zeros(1)))))
    assert resnet18_in([f"a.b.{name}" for name in state]) == "a.b."


def test_a_teacher_is_asked_where_it_is_told_to_be(state, monkeypatch):
    torch.save(state, "weights.pth")
    asked = []
    monkeypatch.setattr(teachers, "accuracy", lambda network, images, labels: asked.append(
        (images.device, labels.device)) or 0.5)  # fmt: skip
    hpd.squeeze("digits", weights="weights.pth", out="teacher", device="cpu")
    assert asked == [(torch.device("cpu"), torch.device("cpu"))]
