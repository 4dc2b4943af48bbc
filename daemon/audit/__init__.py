"""The audit log: a Merkle tree over what was done, and the means to judge it again.

`tree` is pure RFC 9162, `log` appends and verifies, `gaps` brings lost offsets in, `replay` decides the past anew.
"""
