"""``Workbench``: the sync facade for notebooks and scripts.

With a server running on this database it speaks to the server, so that a model is never loaded
twice and the log has one writer; otherwise it runs an engine of its own on a background event
loop. Both ways give the same values.
"""

from workbench.client.facade import Workbench
from workbench.client.sessions import FIGURES, Likelihoods, session_row, sessions_frame

__all__ = ["FIGURES", "Likelihoods", "Workbench", "session_row", "sessions_frame"]
