"""The Python API: what the command line does, as functions."""

from hpd.api.distilling import distill
from hpd.api.experts import train_experts
from hpd.api.loading import load_dataset, load_distilled, load_generator, project
from hpd.api.reports import report
from hpd.api.runs import Run, evaluate, load_run

__all__ = [
    "Run",
    "distill",
    "evaluate",
    "load_dataset",
    "load_distilled",
    "load_generator",
    "load_run",
    "project",
    "report",
    "train_experts",
]
