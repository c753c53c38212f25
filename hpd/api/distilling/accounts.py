"""What a source will store, in words."""

from __future__ import annotations

from collections.abc import Mapping

from hpd.storage import FLOAT_BITS
from hpd.typing import LearnsLabels, Source, StoresBits, generator_floats_of, stored_of


def account_of(source: Source) -> str:
    """Return what is stored in words: floats and bits, of what, labels, and the generator.

    Args:
        source: initialised.
    """
    coded = source if isinstance(source, StoresBits) else None
    floats = source.stored_floats
    bits = floats * FLOAT_BITS if coded is None else coded.stored_bits
    text = f"{floats:,} floats in {bits:,} bits"
    parts = _parts(source)
    if len(parts) > 1:
        text += f" ({', '.join(f'{name} {count:,}' for name, count in parts.items())})"
    if isinstance(source, LearnsLabels):
        labels = source.targets(source.labels[:1] * 0)[0].shape[1] * len(source.labels)
        own = labels * FLOAT_BITS if coded is None else coded.label_bits
        text += f", labels of {labels:,} floats in {own:,} bits"
    generator = generator_floats_of(source)
    return text + (f", beside a generator of {generator:,} floats" if generator else "")


def _parts(source: Source) -> Mapping[str, int]:
    """Return the floats of each thing that is stored, by name."""
    account = source.provenance.get("account")
    if isinstance(account, Mapping):
        return {str(line["item"]): int(line["floats"]) for line in account["lines"]}
    stored = stored_of(getattr(source, "inner", source)) or {}
    return {name.replace("_", " "): value.numel() for name, value in stored.items()}
