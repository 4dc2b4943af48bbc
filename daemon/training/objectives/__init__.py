"""What an update is after, one file each: pure functions from log-likelihoods and weights to a loss.

Owns: the formulas. Refuses to know models, tokens and batches. Called by `daemon.training.packed`.

Every loss is a sum over its rows, in nats: the loop divides it by what the whole step holds (answer tokens, pairs or
ratings), so that neither the micro-batch nor the lengths within it change a gradient. Weights are scaled to a mean of 1
over the set (`tokens.evened`): a record that weighs 2 then pulls like the same record twice.
"""
