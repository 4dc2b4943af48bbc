"""The demo: a tiny model, its little world and its users, played through the real loop.

Owns: what `learnd demo` shows. Refuses to bend the loop: it writes feedback, moves its clock and delivers a teacher,
nothing else. Called by `daemon.main`.
"""
