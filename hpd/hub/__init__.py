"""Repositories of the Hugging Face hub: files go there in one commit, and come back checked."""

from hpd.hub.pulling import newest_commit, pull_files
from hpd.hub.pushing import push_files
from hpd.hub.repository import PREFIX, Repository

__all__ = ["PREFIX", "Repository", "newest_commit", "pull_files", "push_files"]
