"""Records and statistics of records: from a source into the store, and from the store to windows and datasets.

Owns: the wire schema, the store, quarantine, windows, datasets, drift detectors. Refuses to know models, versions'
files, targets. Called by `daemon`; calls `policies`.
"""
