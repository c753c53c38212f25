"""The card of an evaluation, as the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from hpd.artifacts.report.card import kind_label
from hpd.artifacts.report.tables import row_label
from hpd.evaluation.card.measuring import Card, Spread
from hpd.evaluation.summary import accuracy_text

# four sets fit a line of 80 characters: an accuracy with its deviation takes so many
_WIDEST = 11


def card_table(card: Mapping[str, Any]) -> Table:
    """Return the table of ``evaluation.json["card"]``: a line for each figure, a column a set.

    Raises:
        KeyError, TypeError, ValueError: if it is no card.
    """
    cards = [Card.of_json(values) for values in card["sets"]]
    table = Table(title="card: accuracy %, of corrupted images at strengths 1, 2 and 3")
    table.add_column("trained on", max_width=20, overflow="fold")
    names, networks = (
        list(dict.fromkeys(getattr(own, key) for own in cards)) for key in ("name", "network")
    )
    for name in names:
        table.add_column(row_label(name), justify="right", max_width=_WIDEST, overflow="fold")
    for network in networks:
        own = {card.name: card for card in cards if card.network == network}
        if len(networks) > 1:
            table.add_section()
            table.add_row(network, style="bold")
        for label, cell in _lines(list(own.values())):
            table.add_row(label, *(cell(own[name]) if name in own else "" for name in names))
    return table


def _lines(cards: Sequence[Card]) -> list[tuple[str, Callable[[Card], str]]]:
    """Return what is shown: its name, and how it is read off a card."""
    first = cards[0]
    return [
        ("images as they are", lambda card: _text(card, card.clean)),
        *((kind_label(kind), _strengths(kind)) for kind in first.corruptions),
        ("corrupted, mean", lambda card: _text(card, card.corrupted)),
        (first.attack, lambda card: _text(card, card.attacked)),
        (f"at {first.resolution} px", lambda card: _text(card, card.resized)),
        ("membership, points", lambda card: _text(card, card.membership)),
    ]


def _strengths(kind: str) -> Callable[[Card], str]:
    """Return what shows the accuracies at growing strength, which have no room for more."""
    return lambda card: " ".join(f"{own.mean:.0f}" for own in card.corruptions.get(kind, ()))


def _text(card: Card, spread: Spread | None) -> str:
    return "" if spread is None else accuracy_text(spread.mean, spread.std, card.students)
