"""The Python API: what the command line does, as functions."""

from hpd.api.checking import check
from hpd.api.continual import continual
from hpd.api.decoding import decode
from hpd.api.distilling import distill
from hpd.api.handing_on.exporting import export
from hpd.api.handing_on.packing import Packed, pack
from hpd.api.handing_on.pruning import prune
from hpd.api.handing_on.relabelling import relabel
from hpd.api.handing_on.reports import report
from hpd.api.handing_on.sharing import Pulled, Pushed, pull, push
from hpd.api.hearing import telling
from hpd.api.inspecting import inspect_dataset
from hpd.api.judging.auditing import audit
from hpd.api.judging.comparing import compare
from hpd.api.judging.evaluating import evaluate
from hpd.api.judging.scoring import score_generator
from hpd.api.judging.theory import multi_index
from hpd.api.judging.verifying import Verification, verify
from hpd.api.loading import load_dataset, load_distilled, load_generator, project
from hpd.api.runs import Run, load_run
from hpd.api.sampling import sample
from hpd.api.training.experts import train_experts
from hpd.api.training.generators import train_generator
from hpd.api.training.squeezing import squeeze

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
