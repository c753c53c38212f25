"""Distilled sets of others: read as data, understood by training images, judged like runs."""

from hpd.audits.folder import Audit, AuditFolder, is_audit
from hpd.audits.settings import AuditSettings

__all__ = ["Audit", "AuditFolder", "AuditSettings", "is_audit"]
