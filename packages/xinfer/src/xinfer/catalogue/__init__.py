"""The catalogue: models that are known, as data, and how to get them.

An entry says what a model does, where it comes from, under which licence, and how it becomes a task.
Verticals (medical, retail, ...) are tags of entries, not classes.
"""

from xinfer.catalogue.entry import Entry, ReferenceMetric, Source
from xinfer.catalogue.fetch import fetch
from xinfer.catalogue.loader import find, get, load

__all__ = ["Entry", "ReferenceMetric", "Source", "fetch", "find", "get", "load"]
