from pathlib import Path

import pytest
import torch

from entropick_lens.terrain.chains import hypernym_chains
from entropick_lens.terrain.correlation import pearson
from entropick_lens.terrain.lexical import DEBIAN_FOLDER, LexicalGraph, tree_graph, wordnet_graph
from entropick_lens.terrain.relational import relational_alignment

WORDS = {"life/animal": ("cat", "dog", "fox", "hen"), "life/plant": ("oak", "fern"), "thing": ("cup", "key")}
INDEX = """  1 a line of the licence
cat n 2 1 @ 2 1 00000030 00000060
dog n 1 2 @ ~ 1 1 00000040
hound n 1 1 @ 1 1 00000040
mars n 1 1 @i 1 0 00000050
"""
DATA = """  1 a line of the licence
00000010 03 n 01 entity 0 000 | all there is
00000020 05 n 01 animal 0 001 @ 00000010 n 0000 | a being
00000030 05 n 01 cat 0 001 @ 00000020 n 0000 | purrs
00000040 05 n 02 dog 0 hound 0 002 @ 00000020 n 0000 ~ 00000030 n 0000 | barks | loudly
00000050 17 n 01 Mars 0 001 @i 00000010 n 0000 | red
00000060 18 n 01 cat 0 001 @ 00000010 n 0000 | a man
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "index.noun").write_text(INDEX)
    (tmp_path / "data.noun").write_text(DATA)
    return tmp_path


def by_words(graph: LexicalGraph) -> dict[tuple[str, str], int]:
    table = graph.distances().tolist()
    return {(a, b): int(table[i][j]) for i, a in enumerate(graph.words) for j, b in enumerate(graph.words)}


def test_wordnet_s_files(small: Path) -> None:
    graph = wordnet_graph(small, ["cat", "dog", "hound", "mars", "absent"])
    assert graph.words == ("cat", "dog", "hound", "mars")
    assert graph.nodes == ("00000030", "00000040", "00000040", "00000050")
    assert graph.categories == {"animal": ("cat", "dog", "hound"), "object": ("mars",)}
    assert graph.distances().tolist() == [[0, 2, 2, 3], [2, 0, 0, 3], [2, 0, 0, 3], [3, 3, 3, 0]]


def test_words_that_are_verbs_too_are_left_out(small: Path) -> None:
    (small / "index.verb").write_text("  1 a line of the licence\nhound v 1 1 @ 1 1 00000070\n")
    assert wordnet_graph(small, ["cat", "hound"]).words == ("cat",)


def test_wordnet_s_files_may_be_missing_or_other(small: Path) -> None:
    with pytest.raises(FileNotFoundError):
        wordnet_graph(small / "none", ["cat"])
    (small / "data.noun").write_text("00000010 99 n 01 x 0 000 | x\n")
    with pytest.raises(ValueError, match="no file of nouns"):
        wordnet_graph(small, ["cat"])


@pytest.mark.skipif(not (DEBIAN_FOLDER / "data.noun").is_file(), reason="needs Debian's wordnet-base")
def test_debian_s_wordnet() -> None:
    graph = wordnet_graph(
        DEBIAN_FOLDER, ["sparrow", "puppy", "physician", "doc", "oak", "mom", "mommy", "cat"]
    )
    table = {
        (a, b): int(graph.distances()[i, j])
        for i, a in enumerate(graph.words)
        for j, b in enumerate(graph.words)
    }
    assert "cat" not in graph.words  # to cat: to vomit
    assert table["doc", "physician"] == table["mom", "mommy"] == 0
    assert table["sparrow", "oak"] > table["sparrow", "puppy"] > 1
    assert graph.categories["animal"] == ("puppy", "sparrow")


def test_a_tree_of_categories() -> None:
    graph = tree_graph("plain", WORDS)
    d = {
        (a, b): int(graph.distances()[i, j])
        for i, a in enumerate(graph.words)
        for j, b in enumerate(graph.words)
    }
    assert d["cat", "cat"] == 0
    assert d["cat", "dog"] == 2
    assert d["cat", "oak"] == 4
    assert d["cat", "cup"] == 5
    assert graph.categories["thing"] == ("cup", "key")
    both = tree_graph("two", {"a": ("x", "y"), "b": ("y", "z"), "c": ("w",)})
    at = both.words.index
    assert both.distances()[at("x"), at("y")] == both.distances()[at("y"), at("z")] == 2
    assert both.distances()[at("x"), at("z")] == 4


def embedded(seed: int = 0, strength: float = 1.0, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows of words whose cosine follows a tree of six categories, and the tree's distances."""
    generator = torch.Generator().manual_seed(seed)
    graph = tree_graph("t", {f"{i // 3}/{i}": [f"w{i}.{j:02}" for j in range(size)] for i in range(6)})
    rows = torch.randn(len(graph.words), 64, generator=generator)
    top, low = torch.randn(2, 64, generator=generator), torch.randn(6, 64, generator=generator)
    for at, word in enumerate(graph.words):
        kind = int(word[1])
        rows[at] += strength * (top[kind // 3] + low[kind])
    return rows, graph.distances()


def test_an_embedding_that_follows_the_graph() -> None:
    rows, distances = embedded()
    found = relational_alignment(rows, distances, "t", draws=300)
    assert found.pearson > 0.5
    low, high = found.pearson_interval
    assert low < found.pearson < high
    assert found.spearman_interval[0] < found.spearman < found.spearman_interval[1]
    assert found.mantel_p == found.spearman_mantel_p == pytest.approx(1 / 301)
    assert found.bands["2"] > found.bands["4"] > found.bands["6"]
    assert found.pairs == 72 * 71 // 2
    assert found.seed_mean == pytest.approx(found.pearson, abs=0.03)
    # the spread of drawn pairs is no interval: the words' own is far wider
    assert found.seed_deviation < (high - low) / 4


def test_a_shuffled_embedding_does_not_follow_it() -> None:
    rows, distances = embedded()
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(4))
    found = relational_alignment(rows[order], distances, "t", draws=300)
    assert abs(found.pearson) < 0.1
    assert found.mantel_p > 0.02


def test_synonyms_and_words_without_a_way_are_left_out() -> None:
    rows, distances = embedded(size=4)
    distances[0, 1] = distances[1, 0] = 0.0
    distances[2, 3] = distances[3, 2] = torch.inf
    found = relational_alignment(rows, distances, "t", draws=20)
    assert found.pairs == 24 * 23 // 2 - 2
    u = torch.nn.functional.normalize(rows.double(), dim=1)
    kept = torch.triu(torch.isfinite(distances) & (distances > 0), 1)
    assert found.pearson == pytest.approx(pearson((u @ u.T)[kept], 1 / (1 + distances[kept].double())))


def test_equal_distances_have_no_correlation() -> None:
    rows, _ = embedded(size=2)
    found = relational_alignment(rows, torch.full((12, 12), 2.0), "flat", draws=10)
    assert (found.pearson, found.mantel_p, found.pearson_interval, found.seed_mean) == (
        None,
        None,
        None,
        None,
    )


def chain_graph(size: int) -> LexicalGraph:
    """Returns words of which each is directly above the next, in runs of four."""
    words = tuple(f"w{i:03}" for i in range(size))
    ancestors = tuple({words[j]: i - j for j in range(i - i % 4, i + 1)} for i in range(size))
    return LexicalGraph("chains", words, words, ancestors, {})


def test_the_cosine_falls_along_the_chains() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(80, 64, generator=generator)
    for at in range(80):
        if at % 4:
            rows[at] = 0.7 * rows[at - 1] + 0.7 * rows[at]
    graph = chain_graph(80)
    found = hypernym_chains(rows, graph, draws=300)
    assert found is not None
    assert (found.words, found.pairs) == (60, 120)
    assert [(step.edges, step.pairs) for step in found.steps] == [(1, 60), (2, 40), (3, 20)]
    one, two, three = (step.cosine for step in found.steps)
    assert one > two > three > found.others
    assert abs(found.others) < 0.05
    assert found.p_value == pytest.approx(1 / 301)
    u = torch.nn.functional.normalize(rows.double(), dim=1)
    pairs = [float(u[i] @ u[i - 1]) for i in range(80) if i % 4]
    assert one == pytest.approx(sum(pairs) / 60)
    assert all(step.low < step.cosine < step.high for step in found.steps)
    order = torch.randperm(80, generator=generator)
    lost = hypernym_chains(rows[order], graph, draws=300)
    assert lost.p_value > 0.01
    assert abs(lost.steps[0].cosine) < 0.1


def test_a_tree_of_categories_has_no_chains(small: Path) -> None:
    assert hypernym_chains(torch.randn(8, 4), tree_graph("plain", WORDS)) is None
    (small / "index.noun").write_text(INDEX + "animal n 1 1 @ 1 1 00000020\n")
    graph = wordnet_graph(small, ["cat", "dog", "hound", "animal"])
    found = hypernym_chains(torch.eye(4), graph, draws=20)
    # cat, dog and hound are animals; dog and hound are one node
    assert (found.words, found.pairs, found.others) == (3, 3, 0.0)
    assert [step.edges for step in found.steps] == [1]
