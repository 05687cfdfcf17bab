"""All tables: importing every domain's models fills the metadata."""

from ignition_hub.accounts import models as accounts
from ignition_hub.audit import models as audit
from ignition_hub.datasets import models as datasets
from ignition_hub.db.base import Base
from ignition_hub.endpoints import models as endpoints
from ignition_hub.foundry import models as foundry
from ignition_hub.inbox import models as inbox
from ignition_hub.jobs import models as jobs
from ignition_hub.registry import models as registry
from ignition_hub.storage import models as storage

metadata = Base.metadata

__all__ = [
    "accounts",
    "audit",
    "datasets",
    "endpoints",
    "foundry",
    "inbox",
    "jobs",
    "metadata",
    "registry",
    "storage",
]
