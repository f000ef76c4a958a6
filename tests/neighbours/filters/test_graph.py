"""Graph operations and radii on tables small enough to check by hand, and against naive loops."""

from __future__ import annotations

import numpy as np
import pytest

from solo_gps.errors import ConfigError, DataError
from solo_gps.interfaces import Embeddings, NeighbourTable
from solo_gps.neighbours import find
from solo_gps.neighbours.backends.faiss_here import installed_faiss
from solo_gps.neighbours.filters.clusters import communities, kmeans_clusters
from solo_gps.neighbours.filters.graph import edges, hubness, in_degree, keep_edges, members_of, multi_hop, mutual, same_group
from solo_gps.neighbours.filters.radii import adaptive_radius, cut_table, quantile_radius


def table_of(indices, distances=None):
    indices = np.asarray(indices, np.int32)
    distances = np.ones(indices.shape) if distances is None else np.asarray(distances)
    return NeighbourTable(indices=indices, distances=np.where(indices < 0, np.inf, distances).astype(np.float32))


def points(array, space="euclidean"):
    return Embeddings(array=np.asarray(array, np.float32), fingerprint="f", folder=None, space=space)


def random_table(images=200, k=6, seed=0):
    array = np.random.default_rng(seed).standard_normal((images, 3))
    return find(points(array), k=k), points(array)


SMALL = table_of([[1, 2], [0, -1], [1, 3], [-1, -1]], [[1, 2], [1, 0], [3, 4], [0, 0]])


def test_edges():
    anchors, neighbours, distances = edges(SMALL)
    assert anchors.tolist() == [0, 0, 1, 2, 2]
    assert neighbours.tolist() == [1, 2, 0, 1, 3]
    assert distances.tolist() == [1, 2, 1, 3, 4]


def test_mutual_by_hand():
    kept = mutual(SMALL)
    assert kept.indices.tolist() == [[1], [0], [-1], [-1]]
    assert kept.distances.tolist() == [[1], [1], [np.inf], [np.inf]]


def test_mutual_against_loops():
    table, _ = random_table()
    rows = [set(row) for row in table.indices.tolist()]
    for i, row in enumerate(mutual(table).indices.tolist()):
        assert [j for j in row if j >= 0] == [j for j in table.indices[i].tolist() if i in rows[j]]


def test_keep_edges_closes_gaps():
    kept = keep_edges(SMALL, np.array([[False, True], [True, True], [True, True], [True, True]]))
    assert kept.indices.tolist() == [[2, -1], [0, -1], [1, 3], [-1, -1]]
    assert kept.distances.tolist() == [[2, np.inf], [1, np.inf], [3, 4], [np.inf, np.inf]]
    nothing = keep_edges(SMALL, np.zeros((4, 2), bool))
    assert nothing.indices.tolist() == [[-1]] * 4


def test_same_group():
    assert same_group(SMALL, np.array([0, 1, 0, 0])).indices.tolist() == [[2], [-1], [3], [-1]]
    with pytest.raises(DataError, match=r"\(4,\)"):
        same_group(SMALL, np.zeros(3, int))


def test_members_of():
    groups = members_of(np.array([7, 3, 7, 5, 3]))
    assert groups.group_of.tolist() == [0, 1, 0, 2, 1]
    assert groups.members.tolist() == [0, 2, 1, 4, 3]
    assert groups.starts.tolist() == [0, 2, 4, 5]


def test_hubs():
    star = table_of([[1], [2], [1], [1], [1]])
    assert in_degree(star).tolist() == [0, 4, 1, 0, 0]
    degrees = np.array([0, 4, 1, 0, 0.0])
    assert hubness(star) == pytest.approx(((degrees - 1) ** 3).mean() / ((degrees - 1) ** 2).mean() ** 1.5)
    assert hubness(table_of([[1], [2], [0]])) == 0.0


def test_hops_on_a_line():
    line = points(np.arange(6)[:, None] ** 1.5)
    table = find(line, k=1)
    assert table.indices[:, 0].tolist() == [1, 0, 1, 2, 3, 4]
    two = multi_hop(table, line, 2)
    assert two.indices.tolist() == [[1, -1], [0, -1], [1, 0], [2, 1], [3, 2], [4, 3]]
    assert two.distances[5].tolist() == pytest.approx([(5**1.5 - 8) ** 2, (5**1.5 - 3**1.5) ** 2], rel=1e-6)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_hops_against_loops(hops):
    table, embeddings = random_table(k=3)
    full = find(embeddings, k=199)
    reached = multi_hop(table, embeddings, hops, most=1000)
    for i in range(200):
        near = {i}
        for _ in range(hops):
            near |= {j for n in near for j in table.indices[n].tolist()}
        assert [j for j in reached.indices[i].tolist() if j >= 0] == [j for j in full.indices[i].tolist() if j in near]


def test_hops_keep_the_nearest():
    table, embeddings = random_table(k=4)
    everything, few = multi_hop(table, embeddings, 2), multi_hop(table, embeddings, 2, most=5)
    assert few.indices.tolist() == everything.indices[:, :5].tolist()
    with pytest.raises(ConfigError, match="hops"):
        multi_hop(table, embeddings, 0)
    with pytest.raises(DataError, match="200"):
        multi_hop(table, points(np.eye(3)), 2)


def test_adaptive_radius_by_hand():
    table = table_of([[1, 2, 3], [0, 2, -1], [-1, -1, -1]], [[1, 3, 100], [2, 2, 0], [0, 0, 0]])
    assert adaptive_radius(table, "mean", first=2).tolist() == [2, 2, 0]
    assert adaptive_radius(table, "mean+std", first=2).tolist() == [3, 2, 0]
    assert adaptive_radius(table, "mean-std", first=2).tolist() == [1, 2, 0]
    assert adaptive_radius(table, "mean")[0] == pytest.approx(104 / 3)


def test_adaptive_radius_says_what_is_wrong():
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        adaptive_radius(SMALL, "meen")
    with pytest.raises(ConfigError, match="first=0"):
        adaptive_radius(SMALL, "mean", first=0)


def test_quantile_radius():
    assert quantile_radius(SMALL, 0.5) == 2.0
    assert quantile_radius(SMALL, 1.0, first=1) == 3.0
    assert quantile_radius(table_of([[-1]]), 0.5) == 0.0
    with pytest.raises(ConfigError, match="quantile"):
        quantile_radius(SMALL, 1.5)


def test_cut_table():
    cut = cut_table(SMALL, 3.0)
    assert cut.indices.tolist() == [[1, 2], [0, -1], [-1, -1], [-1, -1]]
    assert cut.distances.tolist() == [[1, 2], [1, np.inf], [np.inf] * 2, [np.inf] * 2]
    assert cut_table(SMALL, np.array([1.5, 0.5, 3.5, 9])).indices.tolist() == [[1], [-1], [1], [-1]]


def test_cut_table_equals_a_radius_search():
    table, embeddings = random_table(k=60)
    ball = find(embeddings, radius=0.3)
    assert cut_table(table, 0.3).indices.tolist() == ball.indices.tolist()


def three_blobs():
    rng = np.random.default_rng(0)
    return np.repeat(np.eye(3) * 10, 40, axis=0) + rng.standard_normal((120, 3)), np.repeat(np.arange(3), 40)


@pytest.mark.skipif(installed_faiss().version is None, reason="FAISS is not installed")
@pytest.mark.parametrize("space", ["euclidean", "cosine"])
def test_kmeans_finds_three_blobs(space):
    array, truth = three_blobs()
    found = kmeans_clusters(points(array, space), 3, seed=1)
    assert found.dtype == np.int32
    assert members_of(found).group_of.tolist() == truth.tolist()
    assert kmeans_clusters(points(array, space), 3, seed=1).tolist() == found.tolist()
    with pytest.raises(ConfigError, match="clusters=121"):
        kmeans_clusters(points(array), 121)


@pytest.mark.parametrize("method", ["louvain", "leiden"])
@pytest.mark.parametrize("weighted", [True, False])
def test_communities_find_three_blobs(method, weighted):
    pytest.importorskip("igraph")
    array, truth = three_blobs()
    table = find(points(array), k=8)
    found = communities(table, method=method, weighted=weighted, resolution=0.1)
    assert members_of(found).group_of.tolist() == truth.tolist()
    again = communities(table, method=method, weighted=weighted, resolution=0.1)
    assert again.tolist() == found.tolist()


def test_communities_say_what_is_wrong(monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'louvain'"):
        communities(SMALL, method="luvain")
    monkeypatch.setitem(__import__("sys").modules, "igraph", None)
    with pytest.raises(ConfigError, match="pip install igraph"):
        communities(SMALL)


def test_a_table_without_neighbours_has_no_communities():
    pytest.importorskip("igraph")
    with pytest.raises(DataError, match="no neighbour"):
        communities(table_of([[-1], [-1]]))
    assert len(set(communities(SMALL).tolist())) >= 1
