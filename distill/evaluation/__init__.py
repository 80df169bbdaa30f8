"""Measuring routers on held-out decisions and comparing them: predictions, metrics, reports.

Numbers come from predictions on disk and from a clock; this package knows nothing of training,
and of a router only that it decides (`distill.types.Router`).
"""
