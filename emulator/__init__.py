"""Emulated vLLM servers, load and HPA: what the demo and the tests run against."""
