"""`orderdesk` as tasks to solve: the written conversations, and attacks on them.

Nothing here makes a trace, so a dataset of the sample does not depend on it.
"""
