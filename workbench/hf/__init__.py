"""The Hugging Face runtime: model files, worker processes and the manager over them.

Nothing that the server imports from here brings torch along; :mod:`workbench.hf.zygote`,
``worker``, ``loading``, ``generation`` and ``convert`` run in processes of their own.
"""
