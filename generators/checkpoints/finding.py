"""Find the generator in a checkpoint by its structure, wherever it stands, whatever its name.

A family is known by a few names that its state dicts have in common. Every name above all of them
is a place where such a generator stands: ``g_ema``, ``state_dict.decoder``, ``module``, or none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from generators.checkpoints.contents import Contents
from generators.checkpoints.converted import Converter
from generators.checkpoints.pickles.nodes import shown
from hpd.errors import GeneratorError

_AVERAGED = re.compile(r"(^|[^a-z])(ema|avg|averaged?|smooth(ed)?)($|[^a-z])", re.IGNORECASE)
_TRAINED = re.compile(r"g|gen|generator|net_?g", re.IGNORECASE)
_NETWORKS = ("G_ema", "G")
_PARTS = frozenset(("mapping", "synthesis"))
_SHOWN_PLACES = 6
_NAME_ONE = "Give `hpd generator convert` one of these as --network, or network=... in Python."


@dataclass(frozen=True)
class Layout:
    """How a family names the tensors of a generator.

    Args:
        anchors: names of tensors that every one of its generators has.
        convert: from the tensors below a prefix to settings and weights.
    """

    anchors: tuple[str, ...]
    convert: Converter


@dataclass(frozen=True)
class Place:
    """Where a generator stands in a checkpoint.

    Args:
        prefix: the name above its tensors, empty at the top.
        layout: how they are named; None for an official module with its options.
        share: of the anchors of its layout that are there.
    """

    prefix: str
    layout: Layout | None = None
    share: float = 1.0

    @property
    def averaged(self) -> bool:
        """Whether it is called an average."""
        return _AVERAGED.search(self.prefix) is not None

    @property
    def trained(self) -> bool:
        """Whether it is called just a generator, so that an average of it may exist."""
        return _TRAINED.fullmatch(self.prefix.rpartition(".")[2]) is not None


def find_generator(contents: Contents, layouts: Sequence[Layout], network: str) -> Place:
    """Find the one generator that is wanted.

    Args:
        contents: of a checkpoint.
        layouts: the families that are known.
        network: ``"G_ema"``, an average if there is one; ``"G"``, what is no average; or the name
            above the wanted one.

    Raises:
        GeneratorError: if there is none, or several would do.
    """
    places = [Place(name) for name, parts in contents.parts.items() if parts >= _PARTS]
    places += [place for layout in layouts for place in _places(contents, layout)]
    wanted = _within(places, network) or _damaged(contents, network) or _by_role(places, network)
    # what lacks a name or two is wanted, and then named as damaged, only where nothing is whole
    wanted = [p for p in wanted if p.share == 1] or wanted
    if not wanted:
        raise _missing(contents, places, network)
    if len(wanted) > 1:
        raise GeneratorError(
            "there are several generators", got=_listed([p.prefix for p in wanted]),
            expected="one", fix=_NAME_ONE,
        )  # fmt: skip
    return wanted[0]


def _damaged(contents: Contents, network: str) -> list[Place]:
    """Return the official module of exactly the wanted name, to say what is wrong with it."""
    return [Place(network)] if network in contents.modules else []


def _places(contents: Contents, layout: Layout) -> list[Place]:
    counts: Counter[str] = Counter()
    ends = tuple(layout.anchors)
    for name in contents.tensors:
        if name.endswith(ends):
            for anchor in ends:
                if f".{name}".endswith(f".{anchor}"):
                    counts[name[: -len(anchor) - 1]] += 1
    shares = {prefix: count / len(ends) for prefix, count in counts.items()}
    return [Place(prefix, layout, share) for prefix, share in shares.items() if share >= 0.5]


def _within(places: Sequence[Place], network: str) -> list[Place]:
    """Return what has the wanted name, or stands below it."""
    for spelt in (str, str.casefold):
        name = spelt(network)
        exact = [p for p in places if spelt(p.prefix) == name]
        below = [p for p in places if spelt(p.prefix).startswith(f"{name}.")]
        if exact or below:
            return exact or below
    return []


def _by_role(places: Sequence[Place], network: str) -> list[Place]:
    if network not in _NETWORKS:
        return []
    averaged = [p for p in places if p.averaged]
    others = [p for p in places if not p.averaged]
    return (averaged or others) if network == "G_ema" else others


def _missing(contents: Contents, places: Sequence[Place], network: str) -> GeneratorError:
    if places:
        return GeneratorError(
            f"there is no generator {shown(network)!r}", got=_listed([p.prefix for p in places]),
            fix=_NAME_ONE,
        )  # fmt: skip
    what, fix = _what_it_is(contents)
    return GeneratorError(
        "there is no generator of a family that hpd knows",
        got=what,
        expected="StyleGAN2 in rosinality's or the official names, or a tiny autoencoder",
        fix=fix,
    )


# telling names of what is often taken for a generator, and what it is
_OTHERS = {
    r"(.*\.)?to_style1\.weight": "a StyleGAN2 of lucidrains/stylegan2-pytorch, another network",
    r"(.*\.)?decoder\.up_blocks\..*": "an autoencoder of a diffusion model, without its options",
    r"(.*\.)?(down_blocks|mid_block)\..*": "a network of a diffusion model",
    r"(.*\.)?(input_blocks|middle_block)\..*": "a network of a diffusion model",
    r"(.*\.)?synthesis\.input\.(freqs|weight)": "a StyleGAN3 without its options",
    r"(.*\.)?(final_linear\.\d+\.weight|b4\.mbstd.*|b4\.out\.weight)": "a discriminator",
    r"(.*\.)?style_mapping\..*": "a StyleGAN2 of MMGeneration, which has other names",
    r"(.*\.)?synthesis\.layer\d+\..*": "a StyleGAN2 of GenForce, which has other names",
}
_FIXES = {
    "a StyleGAN3 without its options": "Give the official .pkl, which holds them.",
    "an autoencoder of a diffusion model, without its options": "Give the folder that has its"
    " config.json.",
    "a discriminator": "Give the generator's file.",
}


def _what_it_is(contents: Contents) -> tuple[str, str]:
    """Say what a checkpoint holds that has no generator, and what to do."""
    names = list(contents.tensors)
    if not names:
        other = _listed(list(contents.modules)) if contents.modules else ""
        found = f"no tensors, but modules {other}" if other else "no tensors at all"
        return found, "Save the generator's state dict with `torch.save`."
    groups = _listed(list(dict.fromkeys(_head(name) for name in names)))
    count = f"{len(names)} tensors in {groups}"
    for pattern, what in _OTHERS.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return f"{what}: {count}", _FIXES.get(what, "Give a StyleGAN's file.")
    return count, "Give a StyleGAN's file, or load these weights in Python: see LayeredGenerator."


def _head(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _listed(names: Sequence[str]) -> str:
    """Return a few names; the top of a file has none, and is called so."""
    some = [shown(name[:40]) or "(the top of the file)" for name in names[:_SHOWN_PLACES]]
    return ", ".join(some) + (", ..." if len(names) > _SHOWN_PLACES else "")
