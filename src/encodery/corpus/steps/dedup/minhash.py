"""Near deduplication by MinHash and locality-sensitive hashing (arXiv 2107.06499, as in datatrove and FineWeb).

Two documents whose sets of word 5-grams have the Jaccard similarity s are detected with probability 1-(1-s^r)^b, for b
buckets of r hashes: 0.92 at s = 0.8 and 0.09 at s = 0.5 with the default 14 × 8. One document of each cluster is kept.
Words are those of any script (`words.py`), not of one language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.base.settings import check_at_least
from encodery.corpus.steps.dedup import Dedup, Pass

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class Minhash(Dedup):
    """Near deduplication. A document of fewer than `ngram_size` words is never a near duplicate.

    Attributes:
        ngram_size: the number of words of an n-gram.
        num_buckets, hashes_per_bucket: the shape of the signature.
        seed: the seed of the hash functions.
    """

    ngram_size: int = 5
    num_buckets: int = 14
    hashes_per_bucket: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "ngram_size", "num_buckets", "hashes_per_bucket")

    def passes(self, folder: str) -> list[Pass]:
        from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster

        from encodery.corpus.steps.dedup._minhash import SignatureStep, minhash_config

        config = minhash_config(
            ngram_size=self.ngram_size,
            num_buckets=self.num_buckets,
            hashes_per_bucket=self.hashes_per_bucket,
            seed=self.seed,
        )
        signatures, pairs = f"{folder}/signatures", f"{folder}/pairs"
        return [
            Pass("minhash signatures", [SignatureStep(signatures, config)]),
            Pass(
                "minhash pairs",
                [MinhashDedupBuckets(signatures, pairs, config=config, lines_to_buffer=1000)],
                documents=False,
                tasks=self.num_buckets,
            ),
            Pass(
                "minhash clusters",
                [MinhashDedupCluster(pairs, f"{folder}/clusters", config=config, lines_to_buffer=1000)],
                documents=False,
                tasks=1,
            ),
        ]

    def build(self, folder: str, exclusion_writer: DiskWriter | None = None) -> PipelineStep:
        from datatrove.pipeline.dedup import MinhashDedupFilter

        return MinhashDedupFilter(f"{folder}/clusters", exclusion_writer=exclusion_writer)
