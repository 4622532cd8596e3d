"""What came of a teaching run, to keep and to show: a web page, one printed page, and a table of the images."""

from nearl.report.content import Report
from nearl.report.page import html
from nearl.report.sheet import pdf
from nearl.report.table import csv

__all__ = ["Report", "csv", "html", "pdf"]
