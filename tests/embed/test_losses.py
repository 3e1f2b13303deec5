"""Losses against those of sentence-transformers, and against their formulas."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.embed.loss_inputs import VectorInputs
from encodery.embed.losses import Loss
from encodery.embed.losses.angle import AnglE
from encodery.embed.losses.contrastive import Contrastive
from encodery.embed.losses.cosent import CoSENT
from encodery.embed.losses.cosine_mse import CosineMSE
from encodery.embed.losses.distill_kl import DistillKL
from encodery.embed.losses.flops import FLOPS
from encodery.embed.losses.gist import GIST
from encodery.embed.losses.global_orthogonal import GlobalOrthogonal
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.margin_mse import MarginMSE
from encodery.embed.losses.matryoshka import Matryoshka
from encodery.embed.losses.matryoshka_layers import MatryoshkaLayers
from encodery.embed.losses.similarity_kl import SimilarityKL
from encodery.embed.losses.supcon import SupCon
from encodery.embed.losses.triplet import Triplet
from encodery.objectives import step_metrics

B, K = 9, 32
SOURCE = torch.Generator().manual_seed(0)
ANCHOR = torch.randn(B, K, generator=SOURCE)
VECTORS = [ANCHOR, *(ANCHOR + torch.randn(B, K, generator=SOURCE) for _ in range(3))]
SCORES = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.0, 1.0, 0.3, 0.3, 0.7])
TEACHER = torch.randn(B, 3, generator=SOURCE) * 3


@pytest.fixture(scope="module")
def peer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers", reason="it comes with the bench extra")
        from sentence_transformers.sentence_transformer import losses
    return losses


def ours(loss: Loss, columns: int, target: torch.Tensor | None = None) -> float:
    return step_metrics([loss.terms(VectorInputs(tuple(VECTORS[:columns]), target))])["loss"]


def theirs(loss: Any, columns: int, target: torch.Tensor | None = None) -> float:
    actual = loss.compute_loss_from_embeddings(VECTORS[:columns], target)
    return float(sum(actual.values()) if isinstance(actual, dict) else actual)


ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (InfoNCE(), {}),
        (InfoNCE(temperature=0.01), {"scale": 100.0}),
        (InfoNCE(symmetric=True), {"directions": ALL[::2], "partition_mode": "per_direction"}),
        (InfoNCE(symmetric=True, same_role=True), {"directions": ALL}),
        (InfoNCE(same_role=True), {"directions": ALL[:2]}),
    ],
)
def test_infonce_equals_the_peers(peer: Any, loss: InfoNCE, settings: dict[str, Any], columns: int) -> None:
    other = peer.MultipleNegativesRankingLoss(None, **settings)
    assert ours(loss, columns) == pytest.approx(theirs(other, columns), rel=1e-5)


def test_pair_losses_equal_the_peers(peer: Any) -> None:
    for loss, other, target in (
        (CoSENT(), peer.CoSENTLoss(None), SCORES),
        (AnglE(), peer.AnglELoss(None), SCORES),
        (Contrastive(), peer.ContrastiveLoss(None), (SCORES > 0.4).float()),
    ):
        assert ours(loss, 2, target) == pytest.approx(theirs(other, 2, target), rel=1e-5)
    cosine = torch.cosine_similarity(VECTORS[0], VECTORS[1])
    assert ours(CosineMSE(), 2, SCORES) == pytest.approx(float((cosine - SCORES).square().mean()), rel=1e-5)


def test_losses_of_several_negatives_equal_the_peers(peer: Any) -> None:
    euclidean = Triplet(distance="euclidean", margin=5)
    assert ours(euclidean, 3) == pytest.approx(theirs(peer.TripletLoss(None), 3), rel=1e-5)
    assert ours(MarginMSE(), 4, TEACHER) == pytest.approx(theirs(peer.MarginMSELoss(None), 4, TEACHER), rel=1e-5)
    other = peer.DistillKLDivLoss(None, student_temperature=2.0, teacher_temperature=1.5)
    mine = DistillKL(temperature=2.0, teacher_temperature=1.5)
    assert ours(mine, 4, TEACHER) == pytest.approx(theirs(other, 4, TEACHER), rel=1e-5)


def test_the_orthogonal_regulariser_equals_the_peers(peer: Any) -> None:
    terms = GlobalOrthogonal(loss=InfoNCE(), weight=0.5).terms(VectorInputs(tuple(VECTORS[:3])))
    term = terms["global_orthogonal"]
    assert term.weight == 0.5
    other = theirs(peer.GlobalOrthogonalRegularizationLoss(None), 3)
    assert float(term.total / term.count) == pytest.approx(other, rel=1e-5)
    assert "infonce" in terms


def test_gist_equals_the_masks_of_the_paper() -> None:
    """Against a plain loop over candidates (arXiv:2402.16829, section 3)."""
    guide = [torch.randn(B, 16, generator=SOURCE) for _ in range(3)]
    actual = step_metrics(
        [GIST(temperature=0.1).terms(VectorInputs(tuple(VECTORS[:3]), guide=VectorInputs(tuple(guide))))]
    )["loss"]
    unit = [torch.nn.functional.normalize(v, dim=1) for v in VECTORS[:3]]
    guided = [torch.nn.functional.normalize(v, dim=1) for v in guide]
    total = 0.0
    for i in range(B):
        limit = guided[0][i] @ guided[1][i]
        scores = [unit[0][i] @ unit[1][i]]
        for a, b in ((0, 1), (0, 0), (1, 1), (0, 2)):
            for j in range(B):
                if (i != j or b == 2) and guided[a][i] @ guided[b][j] <= limit:
                    scores.append(unit[a][i] @ unit[b][j])
        logits = torch.stack(scores) / 0.1
        total += float(logits.logsumexp(0) - logits[0])
    assert actual == pytest.approx(total / B, rel=1e-4)


def test_a_text_is_not_a_negative_of_itself() -> None:
    vectors = (VECTORS[0][:3], VECTORS[1][:3], VECTORS[2][:3])
    texts = torch.tensor([[0, 1, 2], [10, 11, 10], [20, 10, 0]])  # examples 0 and 2 have the same positive
    logits = InfoNCE(temperature=1.0)._forward(VectorInputs(vectors, texts=texts))
    masked = torch.isinf(logits)
    assert masked[:, :3].tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    assert masked[:, 3:].tolist() == [[False, True, True], [False, False, False], [False, True, False]]
    twice = VectorInputs((ANCHOR, ANCHOR), texts=torch.tensor([[5] * B, [5] * B]))
    assert step_metrics([InfoNCE(same_role=True).terms(twice)])["loss"] == pytest.approx(0, abs=1e-6)
    both = InfoNCE(symmetric=True, same_role=True)  # the positive pair is in its softmax twice, once per direction
    assert step_metrics([both.terms(twice)])["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_margin_is_subtracted_from_the_positive() -> None:
    plain, strict = (ours(InfoNCE(temperature=1.0, margin=margin), 2) for margin in (0.0, 0.3))
    cosines = VectorInputs(tuple(VECTORS[:2])).cross(0, 1)
    shifted = cosines - 0.3 * torch.eye(B)
    assert strict == pytest.approx(float((shifted.logsumexp(1) - shifted.diagonal()).mean()), rel=1e-5)
    assert strict > plain


def test_matryoshka_adds_the_losses_of_truncated_embeddings() -> None:
    loss = Matryoshka(loss=InfoNCE(), dims=(32, 8, 4), weights=(1.0, 0.5, 2.0))
    parts = {
        dim: step_metrics([InfoNCE().terms(VectorInputs(tuple(v[:, :dim] for v in VECTORS[:2])))])["loss"]
        for dim in (8, 4)
    }
    actual = step_metrics([loss.terms(VectorInputs(tuple(VECTORS[:2])))])
    assert actual["loss"] == pytest.approx(ours(InfoNCE(), 2) + 0.5 * parts[8] + 2 * parts[4], rel=1e-5)
    assert actual["infonce_8"] == pytest.approx(parts[8], rel=1e-5)
    assert "infonce_32" not in actual, "the full dimension is not counted twice"
    with pytest.raises(SettingsError, match="dims: 64 exceeds the 32 dimensions"):
        ours(Matryoshka(loss=InfoNCE(), dims=(64,)), 2)
    assert ours(Matryoshka(loss=InfoNCE(), dims=(32,)), 2) == ours(InfoNCE(), 2)


def test_layers_are_sampled_and_aligned_with_the_last() -> None:
    loss = MatryoshkaLayers(loss=InfoNCE(), layers_per_step=2, weight=0.5, align_weight=3.0)
    chosen = {loss.sample_layers(6, seed) for seed in range(40)}
    assert len(chosen) == 10, "every pair of the five earlier layers"
    assert loss.sample_layers(1, 0) == ()
    layers = tuple(VectorInputs((VECTORS[i], VECTORS[3])) for i in (1, 2))
    terms = loss.terms(VectorInputs(tuple(VECTORS[:2]), layers=layers))
    mean = sum(step_metrics([InfoNCE().terms(layer)])["loss"] for layer in layers) / 2
    assert float(terms["infonce"].total) / B == pytest.approx(ours(InfoNCE(), 2) + 0.5 * mean, rel=1e-5)
    assert terms["align"].weight == 3.0
    same = VectorInputs(tuple(VECTORS[:2]), layers=(VectorInputs(tuple(VECTORS[:2])),))
    assert float(loss.terms(same)["align"].total) == pytest.approx(0, abs=1e-4)


def test_supcon_equals_its_formula() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 0])
    actual = step_metrics([SupCon(temperature=0.5).terms(VectorInputs((ANCHOR,), labels))])["loss"]
    unit = torch.nn.functional.normalize(ANCHOR, dim=1)
    scores = unit @ unit.T / 0.5
    total, anchors = 0.0, 0
    for i in range(B):
        others = [j for j in range(B) if j != i]
        partners = [j for j in others if labels[j] == labels[i]]
        if partners:
            anchors += 1
            total -= float(torch.stack([scores[i, j] - scores[i, others].logsumexp(0) for j in partners]).mean())
    assert anchors == 8
    assert actual == pytest.approx(total / 8, rel=1e-5)


def test_similarity_kl_of_equal_similarities_is_zero() -> None:
    same, other = (VectorInputs(tuple(VECTORS[:2]), guide=VectorInputs(tuple(VECTORS[i : i + 2]))) for i in (0, 2))
    assert step_metrics([SimilarityKL().terms(same)])["loss"] == pytest.approx(0, abs=1e-5)
    assert step_metrics([SimilarityKL().terms(other)])["loss"] > 0.1


def test_flops_is_the_squared_mean_weight() -> None:
    query, document = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    loss = FLOPS(
        loss=InfoNCE(similarity="dot"),
        query_weight=Schedule.parse("0 -> 0.5 linear"),
        document_weight=Schedule.parse(0.1),
    )
    terms = loss.terms(VectorInputs((query, document), progress=0.5))
    assert float(terms["flops_query"].total) == 4.0
    assert terms["flops_query"].weight == 0.25
    assert float(terms["flops_document"].total) == 2.0
    assert terms["flops_document"].weight == pytest.approx(0.1)
    assert float(terms["document_terms"].total) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(temperature=0.0), "temperature = 0.0"),
        (lambda: Triplet(margin=0.0), "margin = 0.0"),
        (lambda: Contrastive(margin=3.0), "margin = 3.0"),
        (lambda: Matryoshka(loss=InfoNCE(), dims=(8, 8)), "must be positive and differ"),
        (lambda: Matryoshka(loss=InfoNCE(), dims=(8,), weights=(1.0, 2.0)), "as many as dims"),
        (lambda: MatryoshkaLayers(loss=InfoNCE(), layers_per_step=0), "layers_per_step = 0"),
    ],
)
def test_invalid_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()
