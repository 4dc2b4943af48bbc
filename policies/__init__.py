"""Every rule with a threshold: values in, values out.

Owns: what to do next, when to learn, how, whether a candidate may serve. Refuses to know: files, clocks, databases,
models, randomness, logging. Called by `feedback` (trust) and `daemon` (everything else).
"""
