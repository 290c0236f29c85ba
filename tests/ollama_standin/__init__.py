"""A stand-in for the Ollama HTTP server, for tests.

The wire behaviour (framing, field order, error texts, residency rules) was read off transcripts of
a real server; the tokens come from real llama.cpp on a real GGUF file. As in the real thing one
process listens and one child process per loaded model ("runner") computes, so that tests can find,
measure and kill a runner.
"""
