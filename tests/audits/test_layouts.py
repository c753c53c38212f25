"""Each layout that people bring, written by a test and read back: images, labels and accuracy."""

from __future__ import annotations

from dataclasses import replace

import foreign_sets as fs
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import hpd
from hpd.artifacts import EXPORTS
from hpd.audits import AuditFolder, is_audit
from hpd.audits.judging import SeenSet
from hpd.cli import main
from hpd.config import RunSettings
from hpd.data import Normalisation
from hpd.data.whitening import whitened
from hpd.errors import DataError
from hpd.evaluation import summary
from hpd.sources.multi_formation import parts_of

DISTILLED_BY = {"data": "digits", "source": "pixel", "objective": "distribution"}


def answers(found):
    return {finding.question: finding.answer for finding in found.found.findings}


def told(found):
    return {finding.question: finding.by for finding in found.found.findings}


def same(found, known, dataset, exact=True):
    """Images, labels and accuracy are those of the set that was written."""
    torch.testing.assert_close(found.distilled.images, known.images, rtol=0, atol=2e-5)
    assert found.distilled.labels.tolist() == known.labels.tolist()
    got = found.evaluation.row("distilled").accuracy_mean
    want = fs.accuracy(known, dataset)
    assert want > 100 / len(known.classes) + 15
    assert got == pytest.approx(want, abs=0.01 if exact else 1.5)
    assert found.found.warnings == ()


PAIRS = {"mtt": fs.write_mtt, "res": fs.write_res, "ddranking": fs.write_pair}


@pytest.mark.parametrize("layout", list(PAIRS))
def test_normalised_tensors(layout, colour, known_colour, tmp_path, audited):
    """By the constants of DC's code, which are not those of the data."""
    values = Normalisation(*fs.CIFAR).apply(known_colour.images)
    found = audited(PAIRS[layout](tmp_path, values, known_colour.labels), colour)
    assert found.stored.layout == layout
    assert answers(found) == {
        "values": "cifar10", "channels": "rgb", "order": "data", "labels": "hard",
    }  # fmt: skip
    same(found, known_colour, colour, exact=False)
    floats = known_colour.images.numel()
    assert found.stored.storage.as_json()["images"] == {"floats": floats, "bits": 32 * floats}


def test_a_learnt_rate_is_told(grey, known, tmp_path, audited):
    values = grey.train.normalisation.apply(known.images)
    found = audited(fs.write_mtt(tmp_path, values, known.labels), grey)
    assert found.about()["set"]["facts"] == {"lr": pytest.approx(0.02)}


@pytest.mark.parametrize("kind", ["standardised", "pixels", "per_image"])
def test_whitened_tensors_of_mtt(kind, colour, known_colour, tmp_path, audited):
    white = whitened(colour, kind)
    seen = white.train.normalisation.apply(fs.optimised(known_colour).images)
    path = fs.write_mtt(tmp_path, seen, known_colour.labels)
    # MTT's code has one kind; the others are as near to each other as the score can tell
    said = {} if kind == "pixels" else {"zca": kind}
    if said:
        with pytest.raises(DataError, match=r"zca.*too close to call|too close to call.*--zca"):
            audited(path, colour)
    found = audited(path, colour, **said)
    assert answers(found)["values"] == f"zca {kind}"
    assert told(found)["values"] == ("option" if said else "convention")
    torch.testing.assert_close(found.distilled.normalised(), seen)
    assert found.about()["set"]["view"] == kind
    # students see the stored values, and test images whitened likewise
    facts = {**vars(known_colour), "normalisation": white.train.normalisation}
    want = fs.accuracy(SeenSet(**facts, seen=seen), white)
    got = found.evaluation.row("distilled").accuracy_mean
    assert got == pytest.approx(want, abs=0.01)


def test_images_of_several_parts(grey, known, tmp_path, audited):
    whole, labels = fs.packed(known)
    path = fs.write_idc(tmp_path, whole, labels)
    found = audited(path, grey)
    assert answers(found)["factor"] == "2" and told(found)["factor"] == "file"
    expected = replace(
        known, images=parts_of(whole, 2), labels=labels.repeat_interleave(4), optimised=True
    )
    same(found, expected, grey)
    # what is stored are the whole images
    assert found.evaluation.row("distilled").storage.images.floats == whole.numel()
    # the name may have been lost: then the images say it
    lost = tmp_path / "other"
    lost.mkdir()
    torch.save([whole, labels], lost / "data_best.pt")
    found = audited(lost / "data_best.pt", grey)
    assert answers(found)["factor"] == "2" and told(found)["factor"] == "score"


@pytest.mark.parametrize(
    ("write", "kind", "layout"),
    [(fs.write_rfad, "standardised", "rfad"), (fs.write_kip, "per_image", "kip")],
)
def test_arrays_in_whitened_space(write, kind, layout, colour, known_colour, tmp_path, audited):
    white = whitened(colour, kind)
    seen = white.train.normalisation.apply(fs.optimised(known_colour).images)
    found = audited(write(tmp_path, seen, known_colour.labels, 4), colour)
    assert found.stored.layout == layout
    assert answers(found) == {
        "values": f"zca {kind}", "channels": "rgb", "order": "data", "labels": "centred",
    }  # fmt: skip
    torch.testing.assert_close(found.distilled.normalised(), seen)
    assert found.distilled.labels.tolist() == known_colour.labels.tolist()
    # targets that say no more than classes are none, but their numbers are stored
    assert found.distilled.soft_labels is None and len(found.evaluations) == 1
    assert found.stored.storage.labels.floats == 4 * len(seen)


@pytest.mark.parametrize("named", ["new{:03d}", "{:05d}"])
def test_folders_by_number_with_soft_labels(named, grey, known, tmp_path, audited):
    rng = torch.Generator().manual_seed(0)
    logits = 6 * torch.nn.functional.one_hot(known.labels, 4) + torch.randn(16, 4, generator=rng)
    root = fs.write_pictures(tmp_path / "syn", known.images, known.labels, named.format)
    fs.write_batches(tmp_path / "fkd", logits)
    found = audited(root, grey, soft_labels=tmp_path / "fkd")
    assert found.stored.layout == "sre2l"
    # pictures are ordered by class, as they were written
    same(found, known, grey)
    torch.testing.assert_close(
        found.distilled.soft_labels, logits.half().float().softmax(1), rtol=0, atol=1e-3
    )
    assert [own.row("distilled").labels for own in found.evaluations] == ["stored", "hard"]
    soft = replace(known, soft_labels=found.distilled.soft_labels)
    got = found.evaluations[0].row("distilled").accuracy_mean
    assert got == pytest.approx(fs.accuracy(soft, grey, "stored"), abs=0.01)
    # three epochs of 16 views: the answers in half precision, crops and flips
    kept = found.stored.storage
    assert kept.labels.floats == 3 * 16 * (4 + 4 + 1)
    assert kept.labels.bits == 3 * 16 * (4 * 16 + 4 * 32 + 8)
    assert kept.images.bits == 8 * known.images.numel()


def test_soft_labels_below_the_images_are_found(grey, known, tmp_path, audited):
    logits = 6.0 * torch.nn.functional.one_hot(known.labels, 4)
    root = fs.write_pictures(tmp_path, known.images, known.labels, "new{:03d}".format)
    fs.write_batches(root / "FKD_soft_label", logits, share=0.75)
    found = audited(root, grey)
    assert len(found.distilled) == 16
    assert "in the order of the sampler" in found.found.notes[0]
    assert (found.distilled.soft_labels.argmax(1) == known.labels).all()


def test_soft_labels_in_no_known_order_are_refused(grey, known, tmp_path, audited):
    logits = 6.0 * torch.nn.functional.one_hot(known.labels, 4)
    root = fs.write_pictures(tmp_path / "syn", known.images, known.labels, "new{:03d}".format)
    path = fs.write_batches(tmp_path / "fkd", logits, seed=7)
    with pytest.raises(DataError, match=r"in no order that is known.*--fkd-seed"):
        audited(root, grey, soft_labels=path)
    found = audited(root, grey, soft_labels=path, fkd_seed=7)
    assert found.distilled.soft_labels is not None


def test_folders_by_name(grey, known, tmp_path, audited):
    """Sorted, the folders are in another order than the classes of the data."""
    root = fs.write_pictures(
        tmp_path, known.images, known.labels, lambda label: grey.train.classes[label].upper()
    )
    found = audited(root, grey)
    assert answers(found)["order"] == "names" and found.stored.layout == "folder"
    order = torch.cat([(known.labels == c).nonzero().flatten() for c in (3, 2, 0, 1)])
    expected = replace(known, images=known.images[order], labels=known.labels[order])
    same(found, expected, grey)


@pytest.mark.parametrize("write", [fs.write_npz, fs.write_safetensors])
def test_plain_arrays(write, grey, known, tmp_path, audited):
    found = audited(write(tmp_path, known.images, known.labels), grey)
    assert answers(found)["values"] == ("bytes" if write is fs.write_npz else "unit")
    same(found, known, grey)


@pytest.fixture(params=list(EXPORTS))
def export_format(request):
    if request.param == "huggingface":
        pytest.importorskip("datasets", reason="needs hpd[exports]")
    return request.param


def test_what_hpd_exports(export_format, grey, known, tmp_path, audited):
    options = {"shuffle_seed": None} if export_format == "webdataset" else {}
    if export_format == "ddranking":
        options = {"constants": "own"}
    folder = hpd.export(known, export_format, tmp_path / "out", options=options)
    found = audited(folder, grey)
    assert told(found)["values"] == "file" and answers(found)["order"] == "names"
    order = torch.arange(len(known))
    if export_format == "imagefolder":
        # names that are not sorted have numbers in front
        assert (folder / "0_seven").is_dir()
    same(found, replace(known, images=known.images[order]), grey)
    assert found.stored.storage == known.storage


def test_a_set_of_hpd_with_soft_labels(grey, known, tmp_path, audited):
    rng = torch.Generator().manual_seed(0)
    soft = torch.softmax(torch.randn(16, 4, generator=rng), dim=1)
    # the likeliest class need not be the label
    told_soft = replace(known, soft_labels=soft, stored_floats=77, stored_bits=99)
    told_soft.save(tmp_path / "distilled.safetensors")
    found = audited(tmp_path / "distilled.safetensors", grey)
    torch.testing.assert_close(found.distilled.soft_labels, soft)
    same(found, known, grey)
    assert found.stored.storage == told_soft.storage
    assert len(found.evaluations) == 2


def test_a_whitened_set_of_hpd(colour, known_colour, tmp_path, audited):
    white = whitened(colour, "standardised").train.normalisation
    hpd.export(replace(known_colour, normalisation=white), "npz", tmp_path / "out")
    found = audited(tmp_path / "out", colour)
    assert found.about()["set"]["view"] == "standardised"
    torch.testing.assert_close(found.distilled.normalised(), white.apply(known_colour.images))


def test_the_folder_of_an_audit(grey, known, tmp_path, audited):
    path = fs.write_npz(tmp_path, known.images, known.labels)
    out = tmp_path / "out"
    found = audited(path, grey, out=out)
    assert found.folder == out and is_audit(out) and not is_audit(tmp_path)
    names = {p.name for p in out.iterdir()}
    assert names == {
        "audit.json", "evaluation.json", "distilled.safetensors", "report.html", "table.md",
    }  # fmt: skip
    again = hpd.load_distilled(out / "distilled.safetensors")
    assert torch.equal(again.images, found.distilled.images)
    folder = AuditFolder(out)
    assert folder.about() == found.about()
    assert folder.about()["files"][0]["bytes"] == path.stat().st_size
    result = folder.result()
    line = next(one for one in summary.summarise([result]) if one.set == "distilled")
    assert line.accuracy_mean == found.evaluation.row("distilled").accuracy_mean
    assert line.source == "audit" and line.run == "out"
    page = (out / "report.html").read_text("utf-8")
    assert "What was found out" in page and "set.npz, audited" in page
    assert page.count("data:image/png") >= 2 * len(known)
    table = (out / "table.md").read_text("utf-8")
    assert f"{line.accuracy_mean:.1f}" in table and "random real" in table
    with pytest.raises(hpd.HpdError, match="already holds"):
        audited(path, grey, out=out)


def test_runs_stand_beside_it(grey, known, tmp_path, audited):
    """A run of the same set gets the same accuracy, student by student."""
    path = fs.write_npz(tmp_path, known.images, known.labels)
    run = hpd.Run(RunSettings.read(DISTILLED_BY), known, known, None)
    found = audited(path, grey, runs=[run])
    rows = {row.name: row for row in found.evaluation.rows}
    assert rows["run in memory"].accuracies == rows["distilled"].accuracies
    other = replace(known, classes=("a", "b", "c", "d"))
    with pytest.raises(DataError):
        audited(path, grey, runs=[replace(run, distilled=other)])


def test_random_images_and_students_are_those_of_runs(grey, known, tmp_path, audited):
    path = fs.write_npz(tmp_path, known.images, known.labels)
    rows = [audited(path, grey, seed=seed).evaluation.row("random_real") for seed in (0, 0, 1)]
    assert rows[0].accuracies == rows[1].accuracies != rows[2].accuracies


def test_several_sets_in_a_place_are_asked_about(grey, known, tmp_path, audited):
    values = grey.train.normalisation.apply(known.images)
    torch.save({"data": [[values, known.labels], [values.flip(0), known.labels.flip(0)]]},
               tmp_path / "res_DM.pt")  # fmt: skip
    with pytest.raises(DataError, match=r"holds 2 sets.*--index"):
        audited(tmp_path, grey)
    assert audited(tmp_path, grey, index=1).distilled.labels[0] == known.labels[-1]
    for word in ("500", "1000"):
        torch.save(values, tmp_path / f"images_{word}.pt")
        torch.save(known.labels, tmp_path / f"labels_{word}.pt")
    with pytest.raises(DataError, match=r"several sets.*Give one of the files"):
        audited(tmp_path, grey, layout="mtt")
    assert len(audited(tmp_path / "images_500.pt", grey).distilled) == 16


@pytest.mark.parametrize("axes", ["channels first", "channels last"])
def test_flat_images(axes, colour, known_colour, tmp_path, audited):
    images = known_colour.images
    if axes == "channels last":
        images = images.permute(0, 2, 3, 1)
    flat = (images.reshape(16, -1) * 255).round().to(torch.uint8)
    np.savez(tmp_path / "set.npz", images=flat.numpy(), labels=known_colour.labels.numpy())
    found = audited(tmp_path / "set.npz", colour)
    assert answers(found)["axes"] == axes and told(found)["axes"] == "score"
    same(found, known_colour, colour)


def test_the_command(tmp_path):
    """Set by set it says what was found out, and ends in one line where it cannot."""
    grey = hpd.load_dataset("digits")
    known = fs.distilled(grey, per_class=2)
    path = fs.write_npz(tmp_path, known.images, known.labels)
    quick = [word for word in fs.OVERRIDES if "find.rows" not in word]
    words = ["audit", str(path), "--data", "digits", *quick, "find.rows=300"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "what the set means" in done.output and "random real" in done.output
    assert is_audit(tmp_path / "out")
    again = CliRunner().invoke(main, [*words, "--class-order", "1,2"])
    assert again.exit_code == 2 and "does not name each of them once" in again.output
    gone = CliRunner().invoke(main, ["audit", str(tmp_path / "gone.npz"), "--data", "digits"])
    assert gone.exit_code == 2 and "no distilled set at" in gone.output
