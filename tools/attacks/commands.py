"""Every command of `hpd`, with words that few type."""

from __future__ import annotations

import io
import os
import random
import sys
from contextlib import redirect_stderr, redirect_stdout

import click
import yaml

from attacks import damage, values
from attacks.calls import Calls
from attacks.configs import Overrides
from attacks.folders import COURSE, EXPERTS, RUN, STUDENT, TEACHER
from attacks.target import Input
from attacks.watch import LONGEST_MESSAGE, WrongResultError
from hpd.cli import main
from hpd.given import bundled_configs

# they start compilers, as they should
_LEFT_OUT = ("ops build", "ops status")
_OFTEN = {"data inspect": 12, "export": 12, "compare": 12, "configs": 6, "data cache": 6,
          "distill": 4, "generator inspect": 12, "generator convert": 12, "sample": 8,
          "generator levels": 8, "generator sample": 4, "relabel": 8, "prune": 6}  # fmt: skip
_SHOWN = 300
# of `hpd theory`: the experiment says that its hypothesis does not hold
_FAILED_CHECKS = (1,)


class Commands(Calls):
    """Command lines."""

    name = "commands"
    share = 2.5
    about = (
        "every command and option, with words that are odd, missing or too many, run as the entry "
        "point runs them: exit code 0, or 2 with one line or click's usage"
    )

    def prepare(self) -> None:
        """Find the commands, and words that are right."""
        super().prepare()
        configs = {"run.yaml": RUN, "course.yaml": COURSE, "experts.yaml": EXPERTS}
        self._configs = {n: yaml.safe_dump(config) for n, config in configs.items()}
        self._write_configs()
        self._commands, self._bundled = dict(_walk(main)), frozenset(bundled_configs())
        self._weighted = sorted(n for n in self._commands for _ in range(_OFTEN.get(n, 1)))
        self._texts = Overrides(self.place)
        self._texts.prepare()
        for name in self._commands:
            self._run_line([*name.split(), "--help"])

    def _write_configs(self) -> None:
        for name, content in self._configs.items():
            (self.place.inputs / name).write_text(content)

    def _word(self, command: str, parameter: click.Parameter) -> str:
        """Return a right word for a parameter."""
        own = {"continual": "course.yaml", "experts": "experts.yaml"}.get(command, "run.yaml")
        inputs = self.place.inputs
        words = {
            "config": str(inputs / own), "run": str(self._run), "runs": str(self._run),
            "out": str(self.place.outputs / "new"), "grid": str(self.place.outputs / "grid.png"),
            "where": "digits", "name": "digits16", "file": str(inputs / "odd" / "text"),
            "teacher": str(self._seeds / "teacher"), "format_name": "npz", "network": "G_ema",
            "data": "{kind: digits, classes: ['0', '1']}", "student": str(STUDENT), "device": "cpu",
            "classes": "1", "seeds": "0", "json": str(self.place.outputs / "x.json"),
            "data_options": "x", "tracker": "tensorboard", "samples": "10", "student_images": "1",
        }  # fmt: skip
        return words.get(str(parameter.name), "1")

    def make(self, rng: random.Random) -> Input:
        """Type a command with one or two words that are odd."""
        name = rng.choice(self._weighted)
        words = self._line(name, self._commands[name], rng)
        for _ in range(rng.choice((1, 1, 2))):
            self._change_words(words, name, rng)
        words = [word.replace("download", "dwnload") for word in words]
        # a bundled configuration takes its minutes, as it should
        words[1:] = [f"no-{word}" if word in self._bundled else word for word in words[1:]]
        what = "hpd " + " ".join(ascii(word)[1:-1][:80] for word in words)

        def feed() -> str:
            return self._run_line(words)

        return Input(what[:_SHOWN], lambda: self._with_run(feed), named=True)

    def _line(self, name: str, command: click.Command, rng: random.Random) -> list[str]:
        """Return the words of a right command."""
        words = name.split()
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                words += self._variable(name) if parameter.nargs == -1 and not parameter.required \
                    else [self._word(name, parameter)]  # fmt: skip
            elif parameter.required or parameter.name == "out" or rng.random() < 0.15:
                words.append(parameter.opts[-1])
                if not getattr(parameter, "is_flag", False):
                    words.append(self._word(name, parameter))
        if name == "generator score":
            words += ["--samples", "10", "--student-images", "1", "--student", str(STUDENT)]
        return words

    def _variable(self, name: str) -> list[str]:
        if name == "squeeze":
            return list(TEACHER)
        small = ["seeds=1", "ranks=[2]", "point_counts=[9]", "example_counts=[400]",
                 "real_counts=[9]", "dimension=8"]  # fmt: skip
        return small if name.startswith("theory") else []

    def _change_words(self, words: list[str], name: str, rng: random.Random) -> None:
        kind, place = rng.randrange(7), rng.randrange(len(name.split()), len(words) + 1)
        if kind == 0 and place < len(words):
            del words[place]
        elif kind == 1:
            words.insert(place, self._odd_word(rng))
        elif kind == 2:
            words.append(_small(self._texts.override(rng)))
        elif kind == 3 and place < len(words):
            words[place] = damage.damage_text(words[place], rng)
        elif kind == 4:
            options = [o for p in self._commands[name].params for o in p.opts if o[:1] == "-"]
            words.insert(place, rng.choice([*options, "--help", "--", "--nope", "-x", "--out="]))
        elif place < len(words):
            words[place] = self._odd_word(rng)

    def _odd_word(self, rng: random.Random) -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return str(rng.choice(values.AMOUNTS))
        if kind == 1:
            return damage.text(rng)
        if kind == 2:
            return _small(str(values.small(damage.odd(rng))))
        path = rng.choice(self._paths)
        return path.decode() if isinstance(path, bytes) else str(path)

    def _run_line(self, words: list[str]) -> str:
        """Run a command as the entry point does, and look at how it ended.

        Raises:
            WrongResultError: for an exit code or words that a user does not expect.
        """
        words = [_typed(word) for word in words]
        said, complained = _Terminal(), _Terminal()
        before = sys.argv
        sys.argv = ["hpd", *words]
        try:
            with redirect_stdout(said), redirect_stderr(complained):
                main.main(words, "hpd")
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.argv = before
            self._write_configs()
        return _ended(code, complained.text)


class _Terminal(io.TextIOWrapper):
    """What stands for a terminal: bytes of UTF-8, which lone surrogates are not."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, "utf-8", "backslashreplace", write_through=True)

    @property
    def text(self) -> str:
        """What was written."""
        return self._bytes.getvalue().decode()


def _typed(word: str) -> str:
    """Return a word as a process gets it: bytes without a zero, of which not all are UTF-8."""
    return os.fsdecode(word.replace("\0", "").encode("utf-8", "surrogatepass"))


def _ended(code: object, complaint: str) -> str:
    lines = complaint.splitlines()
    if code not in (0, 2, *_FAILED_CHECKS):
        raise WrongResultError(f"exit code {code}: {complaint[-300:]}")
    if code == 1 and complaint:
        raise WrongResultError(f"exit code 1: {complaint[-300:]}")
    if "Traceback (most" in complaint:
        raise WrongResultError(f"a traceback: {complaint[-300:]}")
    if code == 0 or (code == 1 and not complaint):
        return f"exit {code}"
    if lines and lines[0].startswith(("Usage:", "Error:")):
        return "exit 2, usage"
    # warnings come before it
    last = lines[-1] if lines else ""
    if not last.startswith("hpd: ") or len(last) > LONGEST_MESSAGE + 40 or sum(
        line.startswith("hpd: ") for line in lines) != 1:  # fmt: skip
        raise WrongResultError(f"no line that says why: {complaint[:300]} ... {complaint[-200:]}")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in last):
        raise WrongResultError(f"control characters on the terminal: {last[:300]!a}")
    return "exit 2, one line"


def _walk(command: click.Command, prefix: str = "") -> list[tuple[str, click.Command]]:
    """Return all commands by their words."""
    if isinstance(command, click.Group):
        return [
            found
            for name, own in command.commands.items()
            for found in _walk(own, f"{prefix} {name}")
        ]
    name = prefix.strip()
    return [] if name in _LEFT_OUT else [(name, command)]


def _small(word: str) -> str:
    """Return a word without large amounts."""
    digits = "".join(c if c.isdigit() else " " for c in word).split()
    for number in sorted(digits, key=len, reverse=True):
        if 2 < len(number) < 19:
            word = word.replace(number, number[:1])
    return word


COMMANDS = (Commands,)
