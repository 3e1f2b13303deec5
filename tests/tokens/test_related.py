"""Groups of related documents: written while encoding, looked up, and composed by the feed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import EmptyInput, InputError, SettingsError
from encodery.checks.feeds import CLS_ID, FIRST, LENGTH, SEP_ID, START, example_split, pieces
from encodery.cli.__main__ import run
from encodery.corpus.document import Document
from encodery.corpus.shards import read_documents, shard_paths
from encodery.tokens.encode import encode_corpus
from encodery.tokens.feeds.related_documents import RelatedDocuments
from encodery.tokens.feeds.segment_pairs import SegmentPairs
from encodery.tokens.loader import LoaderSettings, PackedLoader
from encodery.tokens.related import DocumentGroups, group_of
from encodery.tokens.store import TokenStore

OWN, RELATED = set(range(FIRST + 35, FIRST + 53)), {*range(FIRST, FIRST + 30), *range(FIRST + 53, FIRST + 93)}


def test_documents_with_the_same_value_are_one_group() -> None:
    def group(number: int, **metadata: object) -> int:
        return group_of(Document(f"{number:016x}", "A text.", metadata), "title")

    assert group(1, title="Rivers") == group(2, title="Rivers", license="CC0")
    assert len({group(1, title="Rivers"), group(2, title="Seas"), group(3), group(4), group(5, title="")}) == 5
    assert group(1, title=["a", "b"]) == group(2, title=["a", "b"])


def test_the_documents_of_a_group_are_found() -> None:
    related = DocumentGroups(np.array([5, -3, 5, 9, 5, -3]))
    assert related.of(5).tolist() == [0, 2, 4]
    assert related.of(-3).tolist() == [1, 5]
    assert related.count == 5
    assert DocumentGroups(np.zeros(0, np.int64)).count == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_has_the_group_of_each_document_of_the_corpus(
    workers: int, corpus: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    store = encode_corpus(corpus, tokenizer_folder, tmp_path / "s", workers=workers, group_by="source")
    for name in ("train", "heldout"):
        split = store.split(name)
        sources = [document.metadata["source"] for document in read_documents(shard_paths(corpus, name))]
        assert len(set(sources)) == 2
        for number in (0, len(split) - 1):
            same = [i for i, source in enumerate(sources) if source == sources[number]]
            assert split.related.of(int(split.groups[number])).tolist() == same
    plain = encode_corpus(corpus, tokenizer_folder, tmp_path / "plain")
    assert plain.fingerprint != store.fingerprint, "another group_by is another store"
    with pytest.raises(InputError, match=r"plain: does not say which documents are related.*--group-by KEY"):
        assert plain.train.groups is None


def test_an_unknown_field_is_named_on_the_command_line(
    corpus: Path, tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tokens", "encode", str(corpus), "-t", str(tokenizer_folder), "-o", str(tmp_path / "s")]
    assert run([*arguments, "--group-by", "sauce"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "no two training documents have the same 'sauce' in their metadata. The first document has source" in message
    assert not (tmp_path / "s").exists()
    assert run([*arguments, "--group-by", "source"]) == 0
    assert json.loads((tmp_path / "s/manifest.json").read_text())["settings"]["group_by"] == "source"


def test_a_sequence_joins_a_piece_with_text_of_a_related_document() -> None:
    seen = set()
    for piece in pieces(RelatedDocuments()):
        text = [piece.ids[piece.segment == i].tolist() for i in (0, 1)]
        assert text[0] == [CLS_ID, *range(FIRST + START, FIRST + START + LENGTH // 2), SEP_ID]
        other = text[1][:-1]
        assert other == list(range(other[0], other[0] + LENGTH // 2)), "text of one document in its order"
        assert set(other) <= RELATED
        assert piece.relation == 1
        seen |= set(other)
    assert len(seen) > 40, "from both related documents, and from all over them"


def test_a_group_has_a_sequence_for_each_document(tmp_path: Path) -> None:
    split = example_split(tmp_path)
    piece = RelatedDocuments(documents=4, joined=False).compose(split, START, LENGTH, np.array([0, 0, 0]))
    assert piece.lengths == (5, 5, 5, 5)
    assert piece.relation == 2
    texts = [piece.ids[5 * i + 1 : 5 * i + 4].tolist() for i in range(4)]
    assert texts[0] + texts[1] == list(range(FIRST + START, FIRST + START + 6)), "the group has two others only"
    assert [text[0] - FIRST for text in texts[2:]] == [0, 53]


def test_short_documents_leave_more_to_the_first_one(tmp_path: Path) -> None:
    split = example_split(tmp_path)
    piece = RelatedDocuments().compose(split, 0, 18, np.array([0, 3, 0]))
    long = RelatedDocuments().compose(split, 53, 38, np.array([1, 0, 0]))
    assert (len(piece.ids), len(long.ids)) == (21, 41)
    assert piece.ids[1:10].tolist() == list(range(FIRST, FIRST + 9))
    assert long.ids[1:21].tolist() == list(range(FIRST + 53, FIRST + 73)), "the other document has 18 tokens, not 19"
    assert (long.segment == 1).sum() == 19
    alone = RelatedDocuments().compose(split, 30, 5, np.array([0, 0, 0]))
    assert (alone.relation, alone.segment.sum()) == (0, 0)
    assert alone.ids[alone.ids >= FIRST].tolist() == list(range(FIRST + 30, FIRST + 35))


def test_documents_without_relatives_are_refused(make_store: Callable[..., TokenStore], tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [20] * 6)
    np.save(tmp_path / "s/train/groups.npy", np.arange(6))
    with pytest.raises(EmptyInput, match="no two documents that are related"):
        PackedLoader(store.train, LoaderSettings(), 0, feed=RelatedDocuments())
    with pytest.raises(SettingsError, match="documents = 1"):
        RelatedDocuments(documents=1)


def test_text_of_another_document_may_continue_in_the_next_shard(
    make_store: Callable[..., TokenStore], tmp_path: Path
) -> None:
    """A document that is too short for a pair continues in the next one, wherever that is stored."""
    split = make_store(tmp_path / "s", [3, 90, 3, 80, 3, 70], shard_documents=1).train
    whole = np.concatenate(split.shards)
    assert np.array_equal(split.read(91, 60), whole[91:151])
    loader = PackedLoader(split, LoaderSettings(max_length=64, batch_tokens=256), 0, feed=SegmentPairs())
    for _ in range(20):
        batch = loader.next()
        assert batch.cu_seqlens[-1] == batch.tokens
