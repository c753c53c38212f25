"""Official StyleGAN3 and StyleGAN-XL records: other spellings convert, other networks do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import GOLDEN

from generators.checkpoints import read_checkpoint, stylegan2_from_record
from generators.checkpoints.families.stylegan3 import stylegan3_from_record, stylegan_xl_from_record
from hpd.errors import GeneratorError

CONVERT = {"sg3t_uncond64": stylegan3_from_record, "xl_super_cond": stylegan_xl_from_record}


def read(name):
    return read_checkpoint(GOLDEN / name / "network.pkl")


def changed(record, path, **kwargs):
    """A copy of a record in which a submodule was made with further arguments."""
    if not path:
        return replace(record, kwargs=record.kwargs | kwargs)
    name, *rest = path.split(".", 1)
    child = changed(record.children[name], rest[0] if rest else "", **kwargs)
    return replace(record, children=record.children | {name: child})


@pytest.mark.parametrize("name", CONVERT)
def test_options_without_effect_change_nothing(name):
    record = read(name)
    want = CONVERT[name](record)[0]
    other = changed(record, "synthesis", num_fp16_res=0, magnitude_ema_beta=0.5)
    other = changed(other, "mapping", w_avg_beta=0.9)
    assert CONVERT[name](other)[0] == want


def test_positional_arguments_and_pairs_of_sizes():
    record = read("sg3t_uncond64")
    mapping = record.child("mapping")
    given = dict(mapping.kwargs)
    args = tuple(given.pop(key) for key in ("z_dim", "c_dim", "w_dim", "num_ws"))
    positional = replace(mapping, args=args, kwargs=given)
    other = replace(record, children=record.children | {"mapping": positional})
    assert stylegan3_from_record(other)[0] == stylegan3_from_record(record)[0]
    record = read("xl_super_cond")
    other = changed(record, "synthesis.L0_24_32", in_size=[24, 24], out_size=(24, 24))
    assert stylegan_xl_from_record(other)[0] == stylegan_xl_from_record(record)[0]


@pytest.mark.parametrize(
    ("name", "path", "option"),
    [
        ("sg3t_uncond64", "", {"shift_filters": True}),
        ("sg3t_uncond64", "synthesis", {"squeeze": 2}),
        ("sg3t_uncond64", "mapping", {"normalize_z": False}),
        ("xl_super_cond", "synthesis.L7_40_24", {"gain": 2}),
        ("xl_super_cond", "mapping", {"text_features": 8}),
    ],
)
def test_unknown_options_are_refused_by_name(name, path, option):
    (key,) = option
    with pytest.raises(GeneratorError, match=f"option that hpd does not have: got {key}="):
        CONVERT[name](changed(read(name), path, **option))


@pytest.mark.parametrize(
    ("path", "option", "message"),
    [
        ("synthesis", {"num_layers": 10**9}, "num_layers is out of all proportion"),
        ("synthesis", {"num_layers": 9}, "tensor .* does not fit"),
        ("synthesis", {"conv_kernel": 1}, "tensor .* does not fit"),
        ("synthesis", {"num_critical": 8}, "options are damaged: num_critical"),
        (
            "synthesis",
            {"first_cutoff": "2"},
            "first_cutoff of the checkpoint is not valid: got '2'",
        ),
        ("synthesis", {"channel_base": 10**400}, "channel_base is out of all proportion"),
        ("synthesis", {"first_cutoff": [2, {}]}, "first_cutoff .* is not valid"),
        ("synthesis", {"first_cutoff": float("inf")}, "first_cutoff is out of all proportion"),
        ("synthesis", {"first_cutoff": float("nan")}, "first_cutoff .* is not valid"),
        ("synthesis", {"first_stopband": 1e-300}, "options are damaged: first_cutoff"),
        ("synthesis", {"channel_max": 24.5}, "channel_max .* is not valid"),
        ("synthesis", {"use_radial_filters": 2}, "radial_filters .* is not valid"),
        ("mapping", {"num_layers": 3}, "tensor .* does not fit"),
    ],
)
def test_damaged_options_are_refused(path, option, message):
    with pytest.raises(GeneratorError, match=message):
        stylegan3_from_record(changed(read("sg3t_uncond64"), path, **option))


def test_sizes_that_are_not_square_are_refused():
    with pytest.raises(GeneratorError, match=r"in_size .* is not valid: got \[24, 20\]"):
        stylegan_xl_from_record(
            changed(read("xl_super_cond"), "synthesis.L0_24_32", in_size=[24, 20])
        )


def test_a_scale_set_after_construction_counts():
    record = read("sg3t_uncond64")
    synthesis = record.child("synthesis")
    scaled = replace(synthesis, attributes=synthesis.attributes | {"output_scale": 0.5})
    other = replace(record, children=record.children | {"synthesis": scaled})
    assert stylegan3_from_record(other)[0].output_scale == 0.5


def test_each_family_names_the_other():
    with pytest.raises(GeneratorError, match="use `stylegan_xl_from_record`"):
        stylegan3_from_record(read("xl_stem_cond"))
    with pytest.raises(GeneratorError, match="use `stylegan3_from_record`"):
        stylegan_xl_from_record(read("sg3r_cond32"))
    with pytest.raises(GeneratorError, match="not a StyleGAN2 generator"):
        stylegan2_from_record(read("sg3r_cond32"))
    for convert in CONVERT.values():
        with pytest.raises(GeneratorError, match=r"not a StyleGAN.* generator: got Generator of"):
            convert(read("ada_cond32"))


def test_damaged_layers_are_refused():
    record = read("xl_super_cond")
    synthesis = record.child("synthesis")
    for names, message in (
        (3, "does not name its layers"),
        (["L77_1_1"], "no submodule"),
        (["L0_24_32"] * 1000, "out of all proportion: got 1000 layers"),
    ):
        other = replace(synthesis, attributes=synthesis.attributes | {"layer_names": names})
        with pytest.raises(GeneratorError, match=message):
            stylegan_xl_from_record(
                replace(record, children=record.children | {"synthesis": other})
            )
    mapping = record.child("mapping")
    embed = replace(mapping.child("embed"), tensors={"weight": torch.zeros(3)})
    other = replace(mapping, children=mapping.children | {"embed": embed})
    with pytest.raises(GeneratorError, match="class embedding of the checkpoint is damaged"):
        stylegan_xl_from_record(replace(record, children=record.children | {"mapping": other}))
