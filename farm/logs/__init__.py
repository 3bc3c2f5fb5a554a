"""The farm's log: one line for each message, for people or as JSON, with the fields of its work."""

from farm.logs.fields import bound, fields_now
from farm.logs.lines import LogFormat, OneLine
from farm.logs.setup import log_to_stderr

__all__ = ["LogFormat", "OneLine", "bound", "fields_now", "log_to_stderr"]
