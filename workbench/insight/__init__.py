"""Why two models answer differently: parity sheets, and where their answers part."""

from workbench.insight.asking import Asker, diverge, parity
from workbench.insight.causes import Cause
from workbench.insight.divergence import Divergence
from workbench.insight.sheet import ParitySheet

__all__ = ["Asker", "Cause", "Divergence", "ParitySheet", "diverge", "parity"]
