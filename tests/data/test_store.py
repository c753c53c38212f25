"""Rows of pictures: made once, found again, shared, and safe from what ends a process."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hpd.data.pictures.decoding as decoding
import hpd.data.row_cache as row_cache
import hpd.data.store as store
from hpd.data import ImageSet, Normalisation
from hpd.data.listing import FileEntry, Listing, Part
from hpd.data.pictures.reading import PictureOptions
from hpd.errors import DataError
from hpd.progress import telling

OPTIONS = PictureOptions()


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    """Sets of a few pictures go to the cache, too, but for tests of small ones."""
    monkeypatch.setattr(store, "_SMALL_COUNT", 0)
    store._remembered.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(row_cache, "cache_folder", lambda name: folder / name)
    return folder / "rows"


@pytest.fixture
def opened(monkeypatch):
    """Counts how often each picture is read."""
    counts, real = Counter(), decoding.read_with_facts

    def counting(entry, options):
        counts[Path(entry.name).name] += 1
        return real(entry, options)

    monkeypatch.setattr(decoding, "read_with_facts", counting)
    return counts


def picture(path, seed, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def listing_of(root, classes=("ant", "bee", "cat"), train=3, test=2, write=True):
    """Returns a listing of pictures like root/train/ant/0.png, which are written first."""
    parts = []
    for part, count in (("train", train), ("test", test)):
        entries, labels = [], []
        for label, name in enumerate(classes):
            for i in range(count):
                path = root / part / name / f"{part}-{name}-{i}.png"
                if write:
                    picture(path, f"{part}{name}{i}".encode()[0] * 1000 + 10 * ord(name[0]) + i)
                entries.append(FileEntry.of(path))
                labels.append(label)
        parts.append(Part(entries, labels))
    return Listing(str(root), tuple(classes), *parts)


def read(listing, options=OPTIONS, **identity):
    return store.read_listing(listing, options, {"root": listing.where, **identity})


def truth(part):
    return torch.from_numpy(
        np.stack([np.asarray(Image.open(entry.name)).transpose(2, 0, 1) for entry in part.entries])
    )


def test_rows_are_those_of_the_pictures_and_are_read_once(tmp_path, cache, opened):
    listing = listing_of(tmp_path / "d")
    first = read(listing)
    assert torch.equal(first.train.images, truth(listing.train))
    assert torch.equal(first.test.images, truth(listing.test))
    assert first.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert opened.total() == 15
    again = read(listing)
    assert opened.total() == 15
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.normalisation == other.normalisation == Normalisation.of(first.train.images)


def test_what_is_known_of_a_set_is_what_would_be_computed(tmp_path, cache):
    for part in (lambda d: d.train, lambda d: d.test):
        kept = part(read(listing_of(tmp_path / "d")))
        assert kept.known_sha256 is not None
        plain = ImageSet(kept.images.clone(), kept.labels, kept.classes, kept.normalisation)
        assert kept.sha256 == plain.sha256


def test_a_part_of_the_classes_is_a_view_of_the_rows_of_all(tmp_path, cache, opened):
    root = tmp_path / "d"
    read(listing_of(root))
    before = opened.total()
    some = listing_of(root, ("cat", "ant"), write=False)
    found = read(some)
    assert opened.total() == before
    assert found.train.classes == ("cat", "ant") and found.train.index is not None
    assert torch.equal(found.train.images, truth(some.train))
    assert torch.equal(found.test.images, truth(some.test))
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.train.normalisation == Normalisation.of(truth(some.train))
    shutil.rmtree(cache)
    assert read(some).train.sha256 == found.train.sha256


def test_more_classes_than_are_kept_are_read(tmp_path, cache, opened):
    root = tmp_path / "d"
    whole = listing_of(root)
    read(listing_of(root, ("ant", "bee"), write=False))
    assert torch.equal(read(whole).train.images, truth(whole.train))


@pytest.mark.parametrize("change", ["pixels", "time", "another", "gone"])
def test_pictures_that_changed_are_read_again(tmp_path, cache, opened, change):
    root = tmp_path / "d"
    read(listing_of(root))
    path = root / "train" / "ant" / "train-ant-1.png"
    if change == "pixels":
        status = path.stat()
        picture(path, 999, (6, 5))
        # a copy may keep the time of its original
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        path.touch()
    elif change == "another":
        picture(root / "train" / "ant" / "train-ant-3.png", 5)
    count = {"another": 4, "gone": 2}.get(change, 3)
    changed = listing_of(root, ("ant",), train=count, write=False)
    others = listing_of(root, ("bee", "cat"), write=False)
    both = [
        Part([*a.entries, *b.entries], [*a.labels, *(1 + label for label in b.labels)])
        for a, b in ((changed.train, others.train), (changed.test, others.test))
    ]
    listing = Listing(str(root), ("ant", "bee", "cat"), *both)
    opened.clear()
    assert torch.equal(read(listing).train.images, truth(listing.train))
    assert opened["train-ant-0.png"] >= 1
    # rows of pictures that are gone do not stay for ever
    assert len(row_cache.stored_listings()) == 1


def test_other_options_and_other_places_have_their_own_rows(tmp_path, cache):
    listing = listing_of(tmp_path / "d")
    colour = read(listing)
    grey = read(listing, PictureOptions(channels=1), channels=1)
    assert (colour.train.image_shape[0], grey.train.image_shape[0]) == (3, 1)
    moved = listing_of(tmp_path / "e", write=True)
    assert torch.equal(read(moved).train.images, truth(moved.train))
    assert len(row_cache.stored_listings()) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "train.rows").write_bytes(b"short"),
        lambda folder: (folder / "test.rows").unlink(),
        lambda folder: (folder / "histograms.npy").write_bytes(b""),
        lambda folder: (folder / "about.json").write_text("{"),
        lambda folder: (folder / "about.json").write_text("[]"),
        lambda folder: (folder / "about.json").write_text('{"format": 1, "shape": [3, 5, 6]}'),
        lambda folder: (folder / "about.json").unlink(),
    ],
)
def test_rows_that_are_damaged_are_made_anew(tmp_path, cache, damage):
    listing = listing_of(tmp_path / "d")
    read(listing)
    (folder,) = (path for path in cache.glob("*/*") if path.is_dir())
    damage(folder)
    assert torch.equal(read(listing).train.images, truth(listing.train))
    assert len(row_cache.stored_listings()) == 1


def test_writing_to_images_changes_no_file(tmp_path, cache):
    listing = listing_of(tmp_path / "d")
    read(listing).train.images.zero_()
    assert torch.equal(read(listing).train.images, truth(listing.train))


@pytest.fixture
def no_room(cache, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)


def test_a_full_disk_is_told_and_memory_is_taken(tmp_path, cache, no_room, caplog):
    listing = listing_of(tmp_path / "d")
    assert torch.equal(read(listing).train.images, truth(listing.train))
    assert "No space left on device" in caplog.text and "HPD_CACHE" in caplog.text
    # nothing half-written stays on a disk that is full
    assert [path.name for path in cache.glob("*/*")] in ([], [".lock"])


def test_a_disk_that_is_too_small_is_not_filled(tmp_path, cache, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    listing = listing_of(tmp_path / "d")
    monkeypatch.setattr(os, "pwrite", None)
    assert torch.equal(read(listing).train.images, truth(listing.train))
    assert "needed, 0 MB free" in caplog.text


def test_a_cache_that_may_not_be_written_to_is_told(tmp_path, cache, caplog):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in its way")
    listing = listing_of(tmp_path / "d")
    assert torch.equal(read(listing).train.images, truth(listing.train))
    assert "read into memory" in caplog.text


def test_without_disk_and_memory_there_is_a_clear_word(tmp_path, cache, no_room, monkeypatch):
    import psutil

    little = psutil.virtual_memory()._replace(available=100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    with pytest.raises(DataError, match="HPD_CACHE names another folder"):
        read(listing_of(tmp_path / "d"))


def test_small_sets_need_no_file_and_are_read_once(tmp_path, cache, opened, monkeypatch):
    monkeypatch.setattr(store, "_SMALL_COUNT", 1000)
    listing = listing_of(tmp_path / "d")
    first = read(listing)
    first.train.images.zero_()
    again = read(listing)
    assert torch.equal(again.train.images, truth(listing.train))
    assert opened.total() == 15
    assert not cache.exists()


def test_few_sets_stay_in_memory(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(store, "_SMALL_COUNT", 1000)
    for name in "abcd":
        read(listing_of(tmp_path / name))
    assert len(store._remembered) == 2


def test_pictures_are_counted_over_both_parts(tmp_path, cache):
    heard = []
    with telling(lambda what, done, total: heard.append((done, total))):
        read(listing_of(tmp_path / "d", train=40, test=5))
    assert heard[-1] == (135, 135) and {total for _, total in heard} == {135}
    assert heard == sorted(heard) and len(heard) > 2
    with telling(lambda what, done, total: heard.append("again")):
        read(listing_of(tmp_path / "d", train=40, test=5, write=False))
    assert "again" not in heard


def test_all_broken_pictures_are_named_up_to_ten(tmp_path, cache):
    root = tmp_path / "d"
    listing_of(root, train=12)
    broken = [root / "train" / "bee" / f"train-bee-{i}.png" for i in range(3)]
    for path in broken:
        path.write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        read(listing_of(root, train=12, write=False))
    assert all(path.name in str(caught.value) for path in broken)
    for path in (root / "train" / "cat").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="and more") as caught:
        read(listing_of(root, train=12, write=False))
    assert len(str(caught.value)) <= 600
    assert not row_cache.stored_listings()


def test_one_broken_picture_says_why(tmp_path, cache):
    root = tmp_path / "d"
    listing_of(root)
    path = root / "test" / "cat" / "test-cat-1.png"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"test-cat-1\.png"):
        read(listing_of(root, write=False))


@pytest.mark.parametrize("part", ["train", "test"])
def test_another_size_is_told_at_once(tmp_path, cache, opened, monkeypatch, part):
    monkeypatch.setattr(decoding, "threads", lambda entries: 2)
    root = tmp_path / "d"
    listing_of(root, train=100)
    # of whichever part it is
    picture(root / part / "ant" / f"{part}-ant-0.png", 0, (9, 9))
    opened.clear()
    with pytest.raises(DataError, match=r"differ in size: .*got .*x. px, expected .*x. px"):
        read(listing_of(root, train=100, write=False))
    # a thread that the system lets run alone meanwhile comes to the end of its task at most
    assert opened.total() <= decoding._PER_TASK + 10 < 100


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_threads_reads_the_same(tmp_path, cache, monkeypatch, workers):
    monkeypatch.setattr(decoding, "threads", lambda entries: workers)
    listing = listing_of(tmp_path / "d", train=50)
    assert torch.equal(read(listing).train.images, truth(listing.train))


def test_an_error_in_a_thread_ends_the_others(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(decoding, "threads", lambda entries: 3)
    before = threading.active_count()

    def fail(entry, options):
        raise KeyboardInterrupt

    listing = listing_of(tmp_path / "d", train=50)
    head = store._head(listing, OPTIONS)
    monkeypatch.setattr(store, "_head", lambda *args: head)
    monkeypatch.setattr(decoding, "read_with_facts", fail)
    with pytest.raises(KeyboardInterrupt):
        read(listing)
    assert threading.active_count() == before
    assert not [path for path in cache.glob("*/*") if path.is_dir()]


def test_the_cache_is_listed_and_cleared(tmp_path, cache):
    first, second = listing_of(tmp_path / "d"), listing_of(tmp_path / "e")
    read(first)
    read(second)
    listed = row_cache.stored_listings()
    assert {stored.identity["root"] for stored in listed} == {first.where, second.where}
    assert all(stored.size_bytes == 15 * 90 for stored in listed)
    kept = next(stored for stored in listed if stored.identity["root"] == first.where)
    assert row_cache.clear(keep=[kept]) >= 15 * 90
    assert [stored.folder for stored in row_cache.stored_listings()] == [kept.folder]
    row_cache.clear()
    assert not list(cache.glob("*"))


def test_clearing_leaves_what_is_being_written(tmp_path, cache):
    shelf = row_cache.Shelf({"root": "somewhere"})
    with shelf.locked(), shelf.draft() as draft:
        row_cache.clear()
        assert draft.folder.is_dir()


SCRIPT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    import hpd.data.pictures.decoding as decoding, hpd.data.store as store
    import test_store
    store._SMALL_COUNT = 0
    real = decoding.read_with_facts
    def slow(entry, options):
        time.sleep(0.01)
        with open(sys.argv[2], "a") as log:
            log.write(Path(entry.name).name + "\\n")
        return real(entry, options)
    decoding.read_with_facts = slow
    found = test_store.read(test_store.listing_of(Path(sys.argv[1]), train=40, write=False))
    print(found.train.sha256, found.test.sha256)
    """
)


def start(tmp_path, log):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "d"), str(log), here]
    return subprocess.Popen(
        command,
        env=os.environ | {"HPD_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_read_each_picture_once(tmp_path):
    listing_of(tmp_path / "d", train=40)
    log = tmp_path / "log"
    both = [start(tmp_path, log) for _ in range(2)]
    answers = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""
    counts = Counter(log.read_text().split())
    assert sum(counts.values()) == len(counts) == 126


def test_a_process_that_is_killed_harms_no_other(tmp_path, cache):
    listing = listing_of(tmp_path / "d", train=40)
    log = tmp_path / "log"
    process = start(tmp_path, log)
    while not log.exists() or len(log.read_text().split()) < 60:
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    assert list(cache.glob("*/.part-*")), "killed while it wrote"
    found = read(listing)
    assert torch.equal(found.train.images, truth(listing.train))
    assert not list(cache.glob("*/.part-*"))


def test_where_there_are_no_locks_two_may_read_at_once(tmp_path, cache, monkeypatch):
    class Lockless:
        def __init__(self, path):
            pass

        def acquire(self, timeout=None):
            raise NotImplementedError

    monkeypatch.setattr(row_cache, "FileLock", Lockless)
    listing = listing_of(tmp_path / "d")
    assert torch.equal(read(listing).train.images, truth(listing.train))
    shelf, contents = row_cache.Shelf({"root": listing.where}), row_cache.Contents.of(listing)
    there = shelf.find(contents)
    # the second to come finds the work done, and leaves it
    with contextlib.ExitStack() as stack:
        draft = stack.enter_context(shelf.draft())
        kept = shelf.keep(draft, contents, {"shape": [3, 5, 6], "sha256": {}})
    assert kept.about == there.about


def test_notes_are_told_once(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO, "hpd")
    listing = listing_of(tmp_path / "d")
    noted = Listing(listing.where, listing.classes, listing.train, listing.test,
                    notes=("test has no labels",))  # fmt: skip
    read(noted)
    read(noted)
    assert caplog.text.count("test has no labels") == 1


def test_animations_are_told_once_with_their_names(tmp_path, cache, caplog):
    root = tmp_path / "d"
    listing_of(root)
    path = root / "train" / "bee" / "train-bee-1.png"
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    listing = listing_of(root, write=False)
    assert read(listing).train.pixels(torch.tensor([4]))[0, :, 0, 0].tolist() == [255, 0, 0]
    assert "1 pictures have several frames" in caplog.text and "train-bee-1.png" in caplog.text
    caplog.clear()
    read(listing)
    assert not caplog.text


def test_rows_may_be_read_by_whoever_the_umask_lets(tmp_path, cache):
    before = os.umask(0o022)
    try:
        read(listing_of(tmp_path / "d"))
    finally:
        os.umask(before)
    (folder,) = (path for path in cache.glob("*/*") if path.is_dir())
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())
