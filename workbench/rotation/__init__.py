"""Who is in memory, who waits, who goes next: one policy over both runtimes."""

from workbench.rotation.changes import ResidencyChange
from workbench.rotation.overview import Overview, Preview, Resident, Waiting
from workbench.rotation.queue import QueueService, Standing
from workbench.rotation.service import ModelRotationService, Slot

__all__ = [
    "ModelRotationService",
    "Overview",
    "Preview",
    "QueueService",
    "ResidencyChange",
    "Resident",
    "Slot",
    "Standing",
    "Waiting",
]
