"""The page of the documentation that says what was tried, how often, and what came of it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attacks.ledger import Group, Ledger, groups_of
from attacks.supervisor import Limits
from attacks.watch import LONGEST_MESSAGE

Figures = dict[str, Any]
_KILL = "kill-"


def figures(ledger: Ledger, sources: str, abouts: Mapping[str, str]) -> Figures:
    """Return what a ledger comes to, as JSON.

    Args:
        ledger: of attacks.
        sources: hash of the code of now.
        abouts: what each target damages, and what that is given to.
    """
    spans = [line for line in ledger.lines() if line["line"] == "span"]
    groups = groups_of(ledger.lines())
    names = list(dict.fromkeys(line["target"] for line in spans))
    rows = {n: _row([s for s in spans if s["target"] == n], groups, sources) for n in names}
    return {
        "sources": sources,
        "abouts": {name: about for name, about in abouts.items() if name in rows},
        "targets": {n: row for n, row in sorted(rows.items()) if not n.startswith(_KILL)},
        "kills": {n: row for n, row in sorted(rows.items()) if n.startswith(_KILL)},
        "groups": {
            name: {"count": group.count, "mended": group.mended, "targets": dict(group.targets)}
            for name, group in sorted(groups.items())
        },
    }


def _row(
    spans: list[Mapping[str, Any]], groups: Mapping[str, Group], sources: str
) -> Figures:  # fmt: skip
    """Return the figures of one target."""
    outcomes = Counter[str]()
    for span in spans:
        outcomes.update(span["outcomes"])
    kills = outcomes.pop("kills", 0)
    tried = sum(s["stop"] - s["first"] for s in spans)
    now = sum(s["stop"] - s["first"] for s in spans if s["sources"] == sources)
    own = [group for group in groups.values() if spans[0]["target"] in group.targets]
    refused = sum(n for name, n in outcomes.items() if name.startswith(("error: ", "exit 2")))
    return {
        "tried": tried, "with_this_code": now, "kills": kills, "refused": refused,
        "results": tried - refused - outcomes["finding"], "findings": outcomes["finding"],
        "groups": len(own), "open_groups": sum(not group.mended for group in own),
        "mean_milliseconds": round(1000 * sum(s["seconds"] for s in spans) / tried, 2),
        # of an input that ran over its limit it is how far it came
        "slowest_seconds": max(s["slowest"][0] for s in spans),
        "largest_mib": max(s["largest"][0] for s in spans) >> 20,
        "longest_message": max(s["longest"][0] for s in spans),
        "outcomes": dict(outcomes.most_common()),
    }  # fmt: skip


def page_of(found: Figures) -> str:
    """Return the page."""
    return _TEXT.format(
        inputs=f"{sum(row['tried'] for row in found['targets'].values()):,}",
        kills=f"{sum(row['kills'] for row in found['kills'].values()):,}",
        seconds=f"{Limits().processor_seconds:g}", memory=f"{Limits().more_bytes / 2**30:g} GiB",
        longest=LONGEST_MESSAGE, targets=_targets(found), works=_works(found),
        causes=_causes(found), sources=found["sources"],
        abouts="\n".join(f"| `{name}` | {about} |" for name, about in found["abouts"].items()),
    )  # fmt: skip


def _table(heading: str, rows: list[list[object]]) -> str:
    columns = heading.count("|") - 2
    lines = [heading, "|---|" + "---:|" * columns]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _targets(found: Figures) -> str:
    heading = (
        "| target | inputs | with this code | results | refused | findings | causes, open "
        "| mean ms | slowest s | most MiB | longest message |"
    )
    return _table(heading, [
        [f"`{name}`", f"{row['tried']:,}", f"{row['with_this_code']:,}", f"{row['results']:,}",
         f"{row['refused']:,}", f"{row['findings']:,}", f"{row['groups']}, {row['open_groups']}",
         row["mean_milliseconds"], row["slowest_seconds"], f"{row['largest_mib']:,}",
         row["longest_message"]]
        for name, row in found["targets"].items()
    ])  # fmt: skip


def _works(found: Figures) -> str:
    heading = "| work | rounds | kills | with this code | ended alike | findings | causes, open |"
    return _table(heading, [
        [f"`{name.removeprefix(_KILL)}`", f"{row['tried']:,}", f"{row['kills']:,}",
         f"{row['with_this_code']:,}", f"{row['results']:,}", f"{row['findings']:,}",
         f"{row['groups']}, {row['open_groups']}"]
        for name, row in found["kills"].items()
    ])  # fmt: skip


def _causes(found: Figures) -> str:
    """Return how many causes there were of each kind, and those that are open."""
    kinds = Counter(name.split(":")[0] for name in found["groups"])
    opened = [name for name, group in found["groups"].items() if not group["mended"]]
    if not kinds:
        return "Nothing was found."
    said = ", ".join(f"{count} of the kind {kind}" for kind, count in kinds.most_common())
    text = f"Findings of one cause are one group: {said}."
    if not opened:
        return textwrap.fill(f"{text} None of them shows any more.", 100)
    text = textwrap.fill(f"{text} Those that still show, or were not looked at again:", 100)
    lines = "\n".join(f"- {found['groups'][n]['count']:,} x {n}" for n in opened)
    return f"{text}\n\n{lines}"


_TEXT = """\
# Reliability

Whatever is given to hpd, a file, an array, an option, a folder or a signal, ends in a right result
or in one line that says what is wrong. `tools/attack.py` tries to show the contrary. This page is
written by it, from its ledger (`docs/reliability.json`): {inputs} damaged inputs and {kills} kills.

## What counts as a finding

- an exception that is no `HpdError`, or one whose message is not one line of at most {longest}
  characters without control characters; on the command line an exit code other than 0 and 2, or 2
  without such a line or click's usage;
- anything that is executed, imported or connected to because an input says so, and a file written
  outside of the folders that were named: heard through Python's audit events, and stopped there;
- a process that dies;
- an input that computes for more than {seconds} s, or takes more than {memory} that were not taken
  before it;
- what is left lying about: temporary files, half a result, a changed environment, current folder or
  random state;
- a result that is none: weights or images that are not finite, labels of no class, a sealed file
  that was changed and is read all the same.

## Damaged inputs

Each input follows from the name of its target and its number alone, so that every one can be made
again. Whole files are small, and are damaged by bytes and by what they are made of: opcodes of a
pickle, members of a zip file, tokens of YAML, entries of a header, values in JSON, arguments of a
function, words of a command.

{targets}

*Refused* are inputs that ended in an `HpdError` or in exit code 2, *results* all others that ended
as they should.
Times are of the processor, and include what the damaged input went on to do: a distillation, where
a run is told to go on. *With this code* counts what was given to the code of now ({sources});
the rest was given to earlier states of it.

| target | what is damaged, and what it is given to |
|---|---|
{abouts}

## Kills

Work is killed by SIGKILL at a moment drawn evenly from the time that it takes, goes on, is killed
again as often as not, and in the end must have left the same bytes as work that nobody killed,
save for times, and nothing beside them. Of two processes one or both are killed; the other is told
to end after a moment, as a launcher does.

{works}

## What was found

{causes}

A hang in the work of a bundled configuration is none: such a run takes its minutes. The tool gives
these no more, so that they cannot be looked at again.

## What this does not show

Damage at random finds what is close to what is right: it does not find what needs knowledge of the
code, and an input that no target makes is not tried. No machine with other processors, systems or
versions of the libraries was attacked. Kills end processes, not machines: what a disk keeps of a
file that was not flushed is not tried. Compiling native operations is left out.

## Repeating it

```text
python tools/attack.py run --hours 1.5 --ledger attacks.jsonl     # damaged inputs, one core
python tools/attack.py kill --hours 1 --ledger attacks.jsonl      # kills, one core
python tools/attack.py findings --ledger attacks.jsonl            # what was found, by cause
python tools/attack.py once pickles 1234                          # one input again
python tools/attack.py recheck --ledger attacks.jsonl             # what shows no more
python tools/attack.py page --ledger attacks.jsonl                # this page
```

All of them can be stopped at any moment; the same command goes on.
"""
