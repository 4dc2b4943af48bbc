"""Every effect and every look at a model: the loop, the jobs, the registry, the targets, the audit log, the commands.

Owns: what touches the world. Refuses to decide: rules with a threshold live in `policies`. Called by people and systemd.
"""
