"""Sparse statistics equal dense ones that are computed slowly, entry by entry."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from interp.saes.sae import Sae, encode_features
from interp.saes.sparse_codes import (
    Codes,
    decode_rows,
    design_effects,
    differences,
    encode_sparse,
    size_ranks,
    sparse_auc,
)
from interp.statistics import auc, auc_p_value, intraclass_correlation

N, D_MODEL, D_SAE = 40, 6, 50


@pytest.fixture(scope="module")
def sae():
    generator = torch.Generator().manual_seed(0)
    w_enc, w_dec = torch.randn(D_MODEL, D_SAE, generator=generator), torch.randn(D_SAE, D_MODEL, generator=generator)
    # The last five features are dead, and thresholds keep most others at zero on most rows.
    threshold = torch.cat([torch.linspace(1, 6, D_SAE - 5), torch.full((5,), 1e6)])
    return Sae(3, "random", w_enc, torch.zeros(D_SAE), w_dec, torch.zeros(D_MODEL), threshold)


@pytest.fixture(scope="module")
def residuals():
    x = torch.randn(N, D_MODEL, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    x[7], x[8] = x[6], x[6]
    return x


def dense(codes):
    matrix = torch.zeros(codes.n, len(codes.counts))
    matrix[codes.row, codes.feature] = codes.value
    return matrix


@pytest.mark.parametrize("held", [2**24, 3 * D_SAE])
def test_codes_are_the_activations(sae, residuals, monkeypatch, held):
    monkeypatch.setattr("interp.saes.sparse_codes.MAX_DENSE", held)
    rows, codes = encode_sparse(sae, residuals)
    expected = torch.relu(residuals @ sae.w_enc) * (residuals @ sae.w_enc > sae.threshold)
    torch.testing.assert_close(sae.encode(residuals), expected, rtol=0, atol=0)
    torch.testing.assert_close(dense(codes), expected)
    assert len(codes.value) == int((expected > 0).sum())
    assert (codes.feature.diff() >= 0).all()
    assert codes.counts.tolist() == (expected > 0).sum(0).tolist()
    assert rows.start.diff().tolist() == (expected > 0).sum(1).tolist()
    torch.testing.assert_close(rows.value, expected[expected > 0])
    assert rows.feature.tolist() == expected.nonzero()[:, 1].tolist()
    some = torch.tensor([4, 0, 49])
    torch.testing.assert_close(encode_features(sae, residuals, some, chunk=7), expected[:, some])
    torch.testing.assert_close(codes.of_features(some), expected[:, some].T)


def test_sums_are_by_feature(sae, residuals):
    codes = encode_sparse(sae, residuals).by_feature
    kept = torch.arange(N) % 3 == 0
    expected = sae.encode(residuals[kept]).double().sum(0)
    here = codes.rows(kept, int(kept.sum()))
    torch.testing.assert_close(here.sums(here.value), expected)
    torch.testing.assert_close(here.sums(torch.stack([here.value, -here.value])), torch.stack([expected, -expected]))


def test_decoding_codes_equals_decoding_the_whole_matrix(sae, residuals):
    sae = sae._replace(b_dec=torch.arange(D_MODEL) / 7)
    rows = encode_sparse(sae, residuals).by_row
    expected = sae.decode(sae.encode(residuals))
    for start, stop in ((0, N), (3, 9), (N - 1, N)):
        torch.testing.assert_close(decode_rows(sae, rows, start, stop), expected[start:stop])
    silent = sae._replace(threshold=torch.full((D_SAE,), 1e6))
    nothing = decode_rows(silent, encode_sparse(silent, residuals).by_row, 0, N)
    torch.testing.assert_close(nothing, silent.b_dec.expand(N, -1))


def test_differences_leave_out_what_does_not_change(sae, residuals):
    first, second = torch.tensor([0, 6, 5, 7, 0, 4]), torch.tensor([1, 7, 2, 0, 3, 4])
    delta = differences(encode_sparse(sae, residuals), first, second)
    f = sae.encode(residuals)
    torch.testing.assert_close(dense(delta), f[second] - f[first], rtol=0, atol=0)
    assert (delta.value != 0).all()
    assert not (delta.row == 1).any(), "rows 6 and 7 are the same"
    order = (delta.feature * delta.n + delta.row).diff()
    assert (order > 0).all(), "sorted by feature and within a feature by row"


def test_no_pairs_have_no_differences(sae, residuals):
    nothing = torch.zeros(0, dtype=torch.long)
    delta = differences(encode_sparse(sae, residuals), nothing, nothing)
    assert (len(delta.value), delta.n, delta.counts.tolist()) == (0, 0, [0] * D_SAE)
    ranks = size_ranks(delta)
    assert sparse_auc(ranks, nothing.bool()).isnan().all()
    assert design_effects(ranks, nothing, nothing, 0.5).tolist() == [1] * D_SAE


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_dense_one_ties_and_zeros_included(sae, residuals, seed):
    rng = np.random.default_rng(seed)
    first, second = (torch.from_numpy(rng.integers(0, N, 200)) for _ in range(2))
    delta = differences(encode_sparse(sae, residuals), first, second)
    positive = torch.from_numpy(rng.random(200) < 0.3)
    expected = auc(dense(delta).abs().numpy(), positive.numpy())
    np.testing.assert_allclose(sparse_auc(size_ranks(delta), positive).numpy(), expected, rtol=0, atol=1e-12)
    assert (expected[-5:] == 0.5).all()


def test_auc_among_some_of_the_rows(sae, residuals):
    codes = encode_sparse(sae, residuals).by_feature
    among = torch.arange(N) < 25
    positive = (torch.arange(N) % 2 == 0) & among
    found = sparse_auc(size_ranks(codes.rows(among, 25)), positive)
    expected = auc(sae.encode(residuals[:25]).numpy(), positive[:25].numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    for everywhere in (False, True):
        assert sparse_auc(size_ranks(codes), torch.full((N,), everywhere)).isnan().all()


@pytest.mark.parametrize("patients", [10, 60])
def test_screen_p_values_hold_where_flips_and_features_depend_within_patients(patients):
    rng = np.random.default_rng(patients)
    found: dict[str, list[float]] = {"patients": [], "rows": []}
    for _ in range(30):
        who = np.repeat(np.arange(patients), rng.integers(1, 10, patients))
        n = len(who)
        flipped = rng.normal(size=patients)[who] + rng.normal(size=n) > 1
        if flipped.all() or not flipped.any():
            continue
        # Every feature has a level of its own in every patient, independent of the flips.
        size = np.exp(rng.normal(size=(patients, 40)))[who] * np.abs(rng.normal(size=(n, 40)))
        ranks = size_ranks(codes_of(size))
        value = sparse_auc(ranks, torch.from_numpy(flipped)).numpy()
        alike = intraclass_correlation(flipped, who.tolist())
        effect = design_effects(ranks, torch.from_numpy(who), torch.from_numpy(np.bincount(who)), alike).numpy()
        counts = int(flipped.sum()), int((~flipped).sum())
        found["patients"] += auc_p_value(value, *counts, effect).tolist()
        found["rows"] += auc_p_value(value, *counts).tolist()
        # By hand for one feature.
        ranks = rankdata(size[:, 0]) - (n + 1) / 2
        squares = (np.bincount(who, ranks) ** 2).sum() / (ranks**2).sum()
        assert effect[0] == pytest.approx(max(1, 1 + alike * (squares - 1)), rel=1e-9)
    assert np.mean(np.array(found["patients"]) < 0.05) < 0.07
    assert np.mean(np.array(found["rows"]) < 0.05) > 0.09


def test_single_pairs_of_patients_have_the_mann_whitney_p():
    size = np.random.default_rng(0).exponential(size=(30, 3))
    assert design_effects(size_ranks(codes_of(size)), torch.arange(30), torch.ones(30), 0.0).tolist() == [1, 1, 1]


def codes_of(dense: np.ndarray) -> Codes:
    feature, row = map(torch.from_numpy, np.nonzero(dense.T))
    value = torch.from_numpy(dense.T[dense.T != 0]).float()
    return Codes(row, feature, value, torch.bincount(feature, minlength=dense.shape[1]), len(dense))
