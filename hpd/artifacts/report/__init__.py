"""The report of a run: one HTML file with everything in it, that asks nothing of a network."""

from hpd.artifacts.report.page import REPORT, render_report, write_report

__all__ = ["REPORT", "render_report", "write_report"]
