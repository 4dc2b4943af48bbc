"""Holding what was known: one file a way to do it. Called by the engines of `daemon.training`."""
