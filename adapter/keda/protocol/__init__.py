"""The contract with KEDA; all but the .proto is written by scripts/generate_keda.py."""
