"""What a source will store, in words, before a run."""

from __future__ import annotations

from conftest import CPU, THREE_DIGITS

import hpd
from generators import read_generator
from hpd.api.distilling.accounts import account_of
from hpd.rng import Streams
from hpd.sources import SOURCES


def said(images, **values):
    return account_of(SOURCES.parse(values).build_whole(images, CPU, Streams(0)))


def test_floats_and_bits_and_what_they_are_of(images):
    assert said(images, kind="pixel") == "192 floats in 6,144 bits"
    assert said(images, kind="pixel", storage={"bits": 4}) == "192 floats in 832 bits"
    bases = said(images, kind="linear_bases", init="noise", bases=2)
    assert bases == "188 floats in 6,016 bits (bases 32, coefficients 156)"
    assert said(images, kind="linear_bases", init="noise", bases=2, storage={"bits": 8}).endswith(
        "188 floats in 1,632 bits (bases 32, coefficients 156)"
    )


def test_memories_say_what_each_of_them_takes(images):
    decoder = {"kind": "conv", "fit_steps": 0}
    text = said(images, kind="hmn", budget_images=8, decoder=decoder)
    floats = text.split(" floats")[0]
    parts = text.split("(")[1].rstrip(")").split(", ")
    assert [part.rsplit(" ", 1)[0] for part in parts] == [
        "dataset memory", "class memories", "instance memories", "extractors", "decoder",
    ]  # fmt: skip
    counts = [int(part.rsplit(" ", 1)[1].replace(",", "")) for part in parts]
    assert sum(counts) == int(floats.replace(",", ""))


def test_labels_and_the_generator_are_beside_it(images, generator_folder):
    text = said(
        images, kind="latents", generator=generator_folder, images_per_class=2,
        budget_images=9, learnt_labels={}, storage={"bits": 8, "label_bits": 4},
    )  # fmt: skip
    spec = read_generator(generator_folder).generator
    own = sum(value.numel() for value in spec.parameters())
    values = 6 * spec.spec.z_dim
    assert text == (
        f"{values} floats in {8 * values + 64} bits, labels of 18 floats in {72 + 64} bits,"
        f" beside a generator of {own:,} floats"
    )


def test_a_dry_run_tells(tmp_path):
    from click.testing import CliRunner

    from hpd.cli import main

    source = "source={kind: latents, generator: digits16, budget_bits: 9000, storage: {bits: 4}}"
    options = ["distill", "digits", f"data={THREE_DIGITS}", source, "--dry-run"]
    result = CliRunner().invoke(main, [*options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.stderr
    assert "bits, beside a generator of" in result.output
    assert not (tmp_path / "run").exists()
    assert hpd.SOURCES is SOURCES
