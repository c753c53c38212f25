"""The Python API: what the command line does, as functions."""

from hpd.api.auditing import audit
from hpd.api.checking import check
from hpd.api.comparing import compare
from hpd.api.continual import continual
from hpd.api.decoding import decode
from hpd.api.distilling import distill
from hpd.api.evaluating import evaluate
from hpd.api.experts import train_experts
from hpd.api.exporting import export
from hpd.api.hearing import telling
from hpd.api.inspecting import inspect_dataset
from hpd.api.loading import load_dataset, load_distilled, load_generator, project
from hpd.api.packing import Packed, pack
from hpd.api.pruning import prune
from hpd.api.relabelling import relabel
from hpd.api.reports import report
from hpd.api.runs import Run, load_run
from hpd.api.sampling import sample
from hpd.api.scoring import score_generator
from hpd.api.sharing import Pulled, Pushed, pull, push
from hpd.api.squeezing import squeeze
from hpd.api.theory import multi_index
from hpd.api.training_generators import train_generator
from hpd.api.verifying import Verification, verify

__all__ = [
    "Packed",
    "Pulled",
    "Pushed",
    "Run",
    "Verification",
    "audit",
    "check",
    "compare",
    "continual",
    "decode",
    "distill",
    "evaluate",
    "export",
    "inspect_dataset",
    "load_dataset",
    "load_distilled",
    "load_generator",
    "load_run",
    "multi_index",
    "pack",
    "project",
    "prune",
    "pull",
    "push",
    "relabel",
    "report",
    "sample",
    "score_generator",
    "squeeze",
    "telling",
    "train_experts",
    "train_generator",
    "verify",
]
