"""The tree is RFC 9162's: its test vectors, another implementation, and proofs that only the truth passes."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree, verify_consistency, verify_inclusion
from pymerkle.proof import InvalidProof

from daemon.audit import tree

# The vectors of the certificate-transparency reference implementation: entries and the roots of the first n of them.
ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(count: int) -> list[bytes]:
    return [tree.leaf_hash(str(number).encode()) for number in range(count)]


def frontiers(hashes: list[bytes]) -> list[tree.Frontier]:
    found: list[tree.Frontier] = [()]
    for size, leaf in enumerate(hashes):
        found.append(tree.extend(found[-1], size, leaf))
    return found


def test_the_published_vectors_hold() -> None:
    hashes = [tree.leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES]
    assert [tree.tree_root(hashes[:size]).hex() for size in range(9)] == ROOTS
    assert [tree.frontier_root(frontier).hex() for frontier in frontiers(hashes)] == ROOTS


def test_the_empty_tree_is_the_hash_of_nothing() -> None:
    assert tree.tree_root([]) == tree.frontier_root(()) == hashlib.sha256(b"").digest()


@given(st.integers(0, 200))
def test_growing_leaf_by_leaf_is_the_recursive_definition(size: int) -> None:
    frontier = frontiers(leaves(size))[-1]
    assert tree.frontier_root(frontier) == tree.tree_root(leaves(size))
    assert len(frontier) == size.bit_count()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 33])
def test_roots_and_proofs_are_those_of_another_implementation(size: int) -> None:
    other = InmemoryTree(algorithm="sha256")
    for number in range(size):
        other.append_entry(str(number).encode())
    hashes = leaves(size)
    assert other.get_root() == tree.tree_root(hashes)
    for index in range(size):
        theirs = other.prove_inclusion(index + 1)
        assert theirs.path[1:] == tree.inclusion_proof(hashes, index)
        verify_inclusion(hashes[index], other.get_root(), theirs)
    for first in range(1, size + 1):
        verify_consistency(other.get_root(first), other.get_root(), other.prove_consistency(first, size))
        assert other.get_root(first) == tree.tree_root(hashes[:first])
    with pytest.raises(InvalidProof):
        verify_inclusion(tree.leaf_hash(b"forged"), other.get_root(), other.prove_inclusion(1))


@given(st.integers(1, 70), st.data())
def test_a_leaf_is_proven_where_it_is_and_nowhere_else(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    root = tree.tree_root(hashes)
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion_proof(hashes, index)
    assert tree.included(hashes[index], index, size, proof, root)
    assert not tree.included(tree.leaf_hash(b"forged"), index, size, proof, root)
    assert not tree.included(hashes[index], size, size, proof, root)
    assert not tree.included(hashes[index], index, size, [*proof, root], root)
    for other in set(range(size)) - {index}:
        assert not tree.included(hashes[index], other, size, proof, root)


@given(st.integers(1, 70), st.data())
def test_growth_is_proven_and_a_rewritten_past_is_not(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    first = data.draw(st.integers(1, size))
    proof = tree.consistency_proof(hashes, first)
    old, new = tree.tree_root(hashes[:first]), tree.tree_root(hashes)
    assert tree.consistent(first, size, proof, old, new)
    forged = list(hashes)
    forged[data.draw(st.integers(0, first - 1))] = tree.leaf_hash(b"forged")
    assert not tree.consistent(first, size, tree.consistency_proof(forged, first), old, tree.tree_root(forged))
    assert not tree.consistent(first, size, [*proof, old], old, new)


def test_proofs_of_what_is_not_there_are_errors() -> None:
    with pytest.raises(IndexError):
        tree.inclusion_proof(leaves(3), 3)
    with pytest.raises(IndexError):
        tree.consistency_proof(leaves(3), 4)
    assert not tree.consistent(0, 3, [], tree.EMPTY, tree.tree_root(leaves(3)))
    assert not tree.consistent(2, 3, [], tree.tree_root(leaves(2)), tree.tree_root(leaves(3)))


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="complete subtrees"):
        tree.extend((), 1, tree.leaf_hash(b""))
