"""The queueing model of one LLM server replica: pure functions on numbers and arrays."""
