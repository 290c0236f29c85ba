"""The tests; ``tests.ollama_standin`` is started as a module, so this is a package."""
