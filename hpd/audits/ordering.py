"""Which classes the labels of a set mean, decided by names, by index or by its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpd.audits.findings import Finding
from hpd.audits.orders import (
    ALPHABETICAL,
    BY_DATA,
    BY_NAME,
    FOUND,
    alphabetical_order,
    assigned,
    order_of_names,
    written_order,
)
from hpd.audits.readings import Given, Tried
from hpd.audits.scoring import Probe, lead_of, percent
from hpd.audits.stored import Stored
from hpd.errors import DataError

# shares of what a set gets right above chance, that another order of the classes adds
_ANOTHER_ORDER, _DOUBTFUL_ORDER = 0.5, 0.1
# and of what random training images get right above it, that it comes to
_OF_REAL = 0.75
_OTHER_ORDERS = {
    FOUND: "the order that fits best of all",
    ALPHABETICAL: "the alphabetical one",
    BY_DATA: "that of the data",
    BY_NAME: "that of their names",
}


def plausible_orders(
    stored: Stored, classes: Sequence[str], given: Given
) -> tuple[dict[str, Tensor], str | None]:
    """Return the orders of the classes that are plausible, and what fixes it, if anything does."""
    own = torch.arange(len(classes))
    if given.class_order is not None:
        written = written_order(given.class_order, classes)
        if written is not None:
            return {given.class_order: written}, "option"
        known = {BY_DATA: own, ALPHABETICAL: alphabetical_order(classes), FOUND: own}
        if given.class_order not in known:
            raise DataError("the set names its classes", got=f"--class-order {given.class_order}")
        return {given.class_order: known[given.class_order]}, "option"
    if stored.names is not None:
        named = order_of_names(stored.names, classes, stored.where)
        # labels that no image has may have no name
        rest = [c for c in range(len(classes)) if c not in set(named.tolist())]
        return {BY_NAME: torch.cat([named, torch.tensor(rest, dtype=torch.int64)])}, "names"
    found = {BY_DATA: own, ALPHABETICAL: alphabetical_order(classes)}
    if torch.equal(found[BY_DATA], found[ALPHABETICAL]):
        del found[ALPHABETICAL]
    return found, None


class Orderer:
    """Decides which classes labels mean.

    Args:
        probe: what predicted training images.
        margin: standard errors by which an order must lose to be out.
        classes: of the data.
    """

    def __init__(self, probe: Probe, margin: float, classes: Sequence[str]) -> None:
        self._probe, self._margin, self._classes = probe, margin, classes
        self.warnings: list[str] = []

    def order(
        self, best: Tried, orders: Mapping[str, Tensor], by: str | None
    ) -> tuple[Tensor, Finding]:
        """Return the class of the data of each class of the set, and what told it."""
        assert best.predicted is not None, "of a reading that was tried"
        found = assigned(best.predicted, self._probe.labels, len(self._classes))
        if FOUND in orders:
            return found, self._found(best, found, "option")
        ranked = sorted(orders, key=lambda name: -percent(best.rights[name]))
        gain = lead_of(best.rights[FOUND], best.rights[ranked[0]])
        excess = percent(best.rights[FOUND]) - 100 * self._probe.chance
        share = gain.points / excess if gain.is_clear(self._margin) and excess > 0 else 0.0
        usual = best.score - best.gain - 100 * self._probe.chance
        if share > _DOUBTFUL_ORDER:
            if by is not None:
                self.warnings.append(
                    f"the classes as told by {by} lose {gain} points to another order:"
                    f" {self._list(found)}"
                )
            elif share > _ANOTHER_ORDER and excess > _OF_REAL * usual:
                return found, self._found(best, found, "score")
            else:
                raise DataError(
                    "the labels go better with other classes than theirs",
                    got=f"a gain of {gain} points by {self._list(found)}",
                    fix="Say by --class-order: data, alphabetical, found, or all of them in order.",
                )
        return self._placed(best, orders, ranked, by)

    def _placed(
        self, best: Tried, orders: Mapping[str, Tensor], ranked: Sequence[str], by: str | None
    ) -> tuple[Tensor, Finding]:
        """Choose between orders that have a name."""
        name, why = ranked[0], ""
        if len(ranked) > 1:
            lead = lead_of(best.rights[ranked[0]], best.rights[ranked[1]])
            if not lead.is_clear(self._margin):
                name, why = BY_DATA, " (too close to call by the score; indices are those of data)"
        rest = [*(other for other in ranked if other != name), FOUND]
        runner = max(rest, key=lambda other: percent(best.rights[other]))
        lead = lead_of(best.rights[name], best.rights[runner])
        score = percent(best.rights[name])
        says = (
            f"that of {'their ' if name == BY_NAME else 'the '}{name}{why}: {score:.1f} % are"
            f" predicted; {lead.loses(_OTHER_ORDERS.get(runner, runner))}"
        )
        told = by or ("convention" if why else "score")
        finding = Finding("order", name, told, says, score, runner, lead.points, lead.error)
        return orders[name], finding

    def _found(self, best: Tried, found: Tensor, by: str) -> Finding:
        named = [name for name in best.rights if name != FOUND]
        runner = max(named, key=lambda name: percent(best.rights[name]), default=FOUND)
        lead = lead_of(best.rights[FOUND], best.rights[runner])
        says = (
            f"the labels are of {self._list(found)}, in this order:"
            f" {percent(best.rights[FOUND]):.1f} % are predicted;"
            f" {lead.loses(_OTHER_ORDERS.get(runner, runner))}"
        )
        return Finding(
            "order", FOUND, by, says, percent(best.rights[FOUND]), runner, lead.points, lead.error
        )

    def _list(self, order: Tensor) -> str:
        return ",".join(self._classes[i] for i in order.tolist())
