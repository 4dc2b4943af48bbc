"""A Merkle tree as RFC 9162 section 2.1 has it, over SHA-256: roots, an appendable frontier, and proofs.

Owns: hashing. Refuses to know what an entry says or where it is stored: bytes in, bytes out. Called by
`daemon.audit.log` and whoever proves something about the log.
"""

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()

Frontier = tuple[bytes, ...]


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry), 32 bytes (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), 32 bytes (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def extend(frontier: Frontier, size: int, leaf: bytes) -> Frontier:
    """The frontier after one more leaf; `frontier` holds one subtree for each set bit of `size`, largest first.

    Raises: ValueError where it holds another number of subtrees.
    """
    if len(frontier) != size.bit_count():
        raise ValueError(f"a tree of {size} leaves has {size.bit_count()} complete subtrees, not {len(frontier)}")
    hashes = list(frontier)
    while size & 1:
        leaf = node_hash(hashes.pop(), leaf)
        size >>= 1
    return (*hashes, leaf)


def frontier_root(frontier: Frontier) -> bytes:
    """The root of the tree with this frontier; of the empty tree SHA-256 of nothing."""
    if not frontier:
        return EMPTY
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = node_hash(left, root)
    return root


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, by the recursive definition of RFC 9162 section 2.1.1."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return node_hash(tree_root(leaves[:split]), tree_root(leaves[split:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`, from the leaf up (RFC 9162 section 2.1.3.1).

    Raises: IndexError where there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_proof(leaves[:split], index), tree_root(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), tree_root(leaves[:split])]


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows `leaf` at `index` of the tree of `size` leaves with `root` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, current = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            current = node_hash(step, current)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            current = node_hash(current, step)
        place, last = place >> 1, last >> 1
    return last == 0 and current == root


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """The proof that the tree over `leaves` grew from its first `first` ones (RFC 9162 section 2.1.4.1).

    Raises: IndexError where `first` isn't between 1 and the number of leaves.
    """
    if not 0 < first <= len(leaves):
        raise IndexError(f"no tree of {first} leaves inside one of {len(leaves)}")
    return _subproof(leaves, first, whole=True)


def consistent(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether `proof` shows that the tree of `second` leaves extends that of `first` (RFC 9162 section 2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _subproof(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    if first == len(leaves):
        return [] if whole else [tree_root(leaves)]
    split = _split(len(leaves))
    if first <= split:
        return [*_subproof(leaves[:split], first, whole=whole), tree_root(leaves[split:])]
    return [*_subproof(leaves[split:], first - split, whole=False), tree_root(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size` (at least 2)."""
    return 1 << (size - 1).bit_length() - 1
