"""The contract of a gate, and `judge_all`: every gate is asked, none is skipped, the worst answer counts.

A gate is one file here: `VERSION`, a frozen `Options`, `judge(candidate, champion, anchor, options) -> Verdict`.
Owns: the whitelist, the order, and that a missing, raising or empty gate refuses. Refuses to know how anything was
measured. Called by `daemon.act` (after an evaluation) and `daemon.audit.replay`.
"""
