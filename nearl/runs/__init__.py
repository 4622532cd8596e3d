"""Teaching runs: what is to be done as plain data, a folder on disk for each, and a process of its own to do it in."""

from nearl.runs.folder import RunFolder
from nearl.runs.job import Job, Outcome, make_job, teach
from nearl.runs.process import Worker, start
from nearl.runs.status import Status

__all__ = ["Job", "Outcome", "RunFolder", "Status", "Worker", "make_job", "start", "teach"]
