"""Deciding between readings: by the score, by values, by convention, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpd.audits.findings import OPTIONS, WORDS, Finding
from hpd.audits.orders import FOUND, luck_of
from hpd.audits.readings import Given, Tried
from hpd.audits.scoring import Lead, Probe, above_chance, lead_beside
from hpd.audits.stored import Stored
from hpd.errors import DataError

# readings whose pictures are unlike real ones to within this are not told apart by it: half again
# the contrast, or as much of a deviation in brightness
_APART = 0.4
# of orders of the classes in which as many images may be right by luck
_LUCK = 0.05
# of the lead of random images over guessing, what a set needs whose classes are in a found order,
# and one of fewer classes than so many
_OF_REAL, _OF_REAL_IN_ORDER, _FEW = 0.75, 0.5, 6
_QUESTIONS = ("values", "axes", "channels", "factor")


class Judge:
    """Decides question by question.

    Args:
        stored: the set.
        given: what the user says.
        convention: names of what values mean in files of the layout, the likeliest first.
        probe: what predicted training images.
        margin: standard errors by which a reading must lose to be out.
    """

    def __init__(
        self, stored: Stored, given: Given, convention: Sequence[str], probe: Probe, margin: float
    ) -> None:
        self._stored, self._given, self._probe, self._margin = stored, given, probe, margin
        self._conventions = {"values": convention, "channels": ("rgb",)}
        self.warnings: list[str] = []
        self._out: dict[str, str] = {}

    def settle(self, every: Sequence[Tried]) -> tuple[Tried, list[Finding]]:
        """Return the reading that fits, and what was found out."""
        left = [one for one in every if one.predicted is not None]
        if not left:
            raise DataError(
                "the values of the set are of no kind that is known",
                got="; ".join(f"{one.reading.words}: {one.ruled_out}" for one in every[:3]),
                fix=f"Say what they are by {OPTIONS['values']}.",
            )
        out = [one for one in every if one.predicted is None]
        self._out = {one.reading.answer("values"): one.ruled_out for one in out}
        exact = [one for one in left if one.exact]
        self._check_fits(exact or left)
        findings = []
        for question in _QUESTIONS:
            answers = {one.reading.answer(question) for one in left}
            # a set of one kind, of which nothing else was ever plausible
            if question != "values" and len(answers) == 1 and not self._was_said(question):
                continue
            finding = self._settled(question, left)
            findings.append(finding)
            left = [one for one in left if one.reading.answer(question) == finding.answer]
        return max(left, key=lambda one: one.gain), findings

    def doubt(self, taken: Tried, others: Sequence[Tried]) -> None:
        """Warn where what a file or the user says does not go with the values.

        Args:
            taken: the reading.
            others: readings that were not asked for.
        """
        option, words = OPTIONS["values"], taken.reading.words
        if taken.ruled_out:
            self.warnings.append(f"{words} is taken as was said, but {taken.ruled_out}")
        fits = [one for one in others if one.predicted is not None]
        exact = [one for one in fits if one.exact]
        if exact and not taken.exact and not taken.reading.space.is_whitened:
            better = exact[0].reading.words
            self.warnings.append(
                f"{words} is taken as was said, but by {better} all values are whole 255ths:"
                f" {option}"
            )
        best = max(fits, key=lambda one: one.gain, default=taken)
        lead = self._lead(best, taken)
        if lead.is_clear(self._margin):
            self.warnings.append(
                f"{words} is taken as was said, but {best.reading.words} fits better by {lead}"
                f" points: {option}"
            )

    def _was_said(self, question: str) -> bool:
        said = {"axes": self._given.axes, "channels": self._given.channels}
        said["factor"] = self._given.factor or self._stored.factor  # type: ignore[assignment]
        return said.get(question) is not None

    def _check_fits(self, left: Sequence[Tried]) -> None:
        """Check that something tells readings apart where there are several.

        Raises:
            DataError: if the best is no better than guessing.
        """
        best = max(left, key=lambda one: one.gain)
        if self._goes_with(best, left):
            return
        said = (
            f"{best.score:.1f} % of {len(self._probe):,} training images are predicted,"
            f" {100 * self._probe.chance:.1f} % by guessing"
        )
        if len(left) == 1:
            self.warnings.append(f"the set teaches a regression next to nothing: {said}")
            return
        raise DataError(
            "no reading of the set fits the data", got=said,
            fix=f"If they are of these data, say what it is: {self._open(left)}.",
        )  # fmt: skip

    def _goes_with(self, best: Tried, left: Sequence[Tried]) -> bool:
        """Return whether the best reading predicts more than luck would.

        Where there are few classes, or their order was only found, it has to come near to what
        random training images predict: of few orders one is often right by luck.
        """
        lead = above_chance(best.right, self._probe.chance)
        if not lead.is_clear(self._margin):
            return False
        count = round(1 / self._probe.chance)
        if best.order == FOUND or count < _FEW:
            needed = _OF_REAL if best.order == FOUND else _OF_REAL_IN_ORDER
            return lead.points > needed * (best.score - best.gain - 100 * self._probe.chance)
        predicted = [one.predicted for one in left if one.predicted is not None]
        return luck_of(predicted, self._probe.labels, count, best.score / 100) <= _LUCK

    def _open(self, left: Sequence[Tried]) -> str:
        asked = _QUESTIONS
        open_ = [q for q in asked if len({one.reading.answer(q) for one in left}) > 1]
        return ", ".join(OPTIONS[question] for question in open_)

    def _settled(self, question: str, left: Sequence[Tried]) -> Finding:
        """Return the answer to a question, and by how much the next one loses."""
        answers: dict[str, Tried] = {}
        for one in sorted(left, key=lambda one: -one.gain):
            answers.setdefault(one.reading.answer(question), one)
        best, *others = answers.values()
        if not others:
            return self._only(question, best)
        said = str(self._stored.factor) if question == "factor" else ""
        exact = {a: one for a, one in answers.items() if one.exact}
        if question == "values" and 0 < len(exact) < len(answers):
            # by chance no other scale makes whole bytes of all values
            chosen = max(exact.values(), key=lambda one: one.gain)
            return self._told(question, chosen, answers, "values", "all values are whole 255ths")
        if said in answers:
            return self._told(question, answers[said], answers, "file", "its name says so")
        tied = [one for one in others if not self._lead(best, one).is_clear(self._margin)]
        if not tied:
            return self._told(question, best, answers, "score", "")
        return self._tie(question, [best, *tied], answers)

    def _tie(
        self, question: str, tied: Sequence[Tried], answers: Mapping[str, Tried]
    ) -> Finding:  # fmt: skip
        """Decide between readings that predict equally well: by contrast, or by convention."""
        if question == "values":
            near = sorted(tied, key=lambda one: one.unlikeness)
            apart = [one.unlikeness - near[0].unlikeness > _APART for one in near]
            if apart[1]:
                why = (
                    "too close to call by the score; its pictures are most like real ones, with"
                    f" {near[0].contrast:.2f} times their contrast"
                )
                return self._told(question, near[0], answers, "values", why)
            tied = [one for one, far in zip(near, apart, strict=True) if not far]
        names = {one.reading.answer(question): one for one in tied}
        convention = self._conventions.get(question, ())
        known = next((name for name in convention if name in names), None)
        if known is not None:
            why = f"too close to call by the score; files of {self._stored.layout} have it so"
            return self._told(question, names[known], answers, "convention", why)
        best, *others = sorted(tied, key=lambda one: -one.gain)
        behind = [f"{o.reading.answer(question)} behind by {self._lead(best, o)}" for o in others]
        raise DataError(
            f"{WORDS[question]} is too close to call",
            got=f"{best.reading.answer(question)} {best.score:.1f} %, {', '.join(behind)} points",
            expected=f"a lead of {self._margin:g} standard errors",
            fix=f"Say it by {OPTIONS[question]}.",
        )

    def _lead(self, one: Tried, other: Tried) -> Lead:
        return lead_beside(one.beside, other.beside)

    def _only(self, question: str, one: Tried) -> Finding:
        """Return what was never in doubt."""
        answer = one.reading.answer(question)
        by = "shape" if question == "axes" else "values"
        if question == "factor" or (question == "values" and self._stored.said is not None):
            by = "file"
        given = {"values": self._given.range or self._given.zca, "axes": self._given.axes,
                 "channels": self._given.channels, "factor": self._given.factor}  # fmt: skip
        if given[question] not in (None, "none"):
            by = "option"
        says = self._named(question, one)
        if question == "values" and self._out:
            said = "; ".join(f"{name}: {why}" for name, why in self._out.items())
            says = f"{says}; others are ruled out by their values ({said})"
        return Finding(question, answer, by, says, one.score)

    def _named(self, question: str, one: Tried) -> str:
        return one.reading.space.words if question == "values" else one.reading.answer(question)

    def _told(
        self, question: str, chosen: Tried, answers: Mapping[str, Tried], by: str, why: str
    ) -> Finding:
        """Return a finding, with the answer that loses by least."""
        answer = chosen.reading.answer(question)
        rest = [one for name, one in answers.items() if name != answer]
        runner = max(rest, key=lambda one: one.gain)
        lead = self._lead(chosen, runner)
        other = runner.reading.answer(question)
        if lead.reversed.is_clear(self._margin):
            self.warnings.append(
                f"{WORDS[question]}: {answer} is taken ({why}), but {other} fits better by"
                f" {lead.reversed} points; {OPTIONS[question]} decides"
            )
        says = (
            f"{self._named(question, chosen)}{f' ({why})' if why else ''}: {chosen.score:.1f} % of"
            f" {len(self._probe):,} training images are predicted,"
            f" {chosen.score - chosen.gain:.1f} % from as many random ones; {lead.loses(other)}"
        )
        return Finding(
            question, answer, by, says, chosen.score, other, lead.points, lead.error
        )  # fmt: skip
