"""Autoscalers that people run today, each with its own law and pace; see `catalog` for their names."""
