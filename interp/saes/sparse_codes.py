"""Sparse activations of one SAE: the nonzero entries only, and their statistics for every feature.

About eighty of 16,384 features are active on a token, so a screen sorts and sums only those.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp.saes.sae import Sae

MAX_DENSE = 2**24
"""Most activations held at once before their zeros are dropped."""


class Codes(NamedTuple):
    """The nonzero entries of a matrix [n, d_sae], sorted by feature and within a feature by row."""

    row: Tensor
    """Row of each entry, a prompt or a pair of prompts: int64 [entries]."""
    feature: Tensor
    """Feature of each entry, ascending: int64 [entries]."""
    value: Tensor
    """Value of each entry, an activation or a difference of two: float32 [entries]."""
    n: int
    """Number of rows of the matrix."""
    d_sae: int
    """Number of features, the columns of the matrix."""

    def __repr__(self) -> str:
        return f"Codes({self.n} rows, {self.d_sae} features, {len(self.value)} nonzero)"

    def rows(self, kept: Tensor) -> "Codes":
        """Only the entries of the rows for which bool [n] `kept` is true; rows keep their numbers."""
        wanted = kept[self.row]
        return self._replace(row=self.row[wanted], feature=self.feature[wanted], value=self.value[wanted])

    def sums(self, values: Tensor) -> Tensor:
        """Sum of `values` [..., entries] over the entries of every feature, in a fixed order: float64 [..., d_sae]."""
        columns = values.shape[:-1]
        counts = _counts(self.feature, self.d_sae).repeat(columns.numel())
        return _segment_sums(values.double().flatten(), counts).view(*columns, self.d_sae)


class RowCodes(NamedTuple):
    """The same entries sorted by row."""

    feature: Tensor
    """Feature of each entry: int64 [entries]."""
    value: Tensor
    """Value of each entry: float32 [entries]."""
    start: Tensor
    """Place of the first entry of each row, and the number of entries: int64 [n + 1]."""


def by_row(codes: Codes) -> RowCodes:
    """Sort the entries by row, and within a row by feature."""
    order = torch.argsort(codes.row, stable=True)
    counts = torch.bincount(codes.row, minlength=codes.n)
    return RowCodes(codes.feature[order], codes.value[order], torch.nn.functional.pad(counts.cumsum(0), (1, 0)))


def decode_rows(sae: Sae, codes: RowCodes, start: int, stop: int) -> Tensor:
    """Residuals reconstructed from the rows from `start` to before `stop`: float32 [stop - start, d_model].

    Only the decoder rows of active features are read.
    """
    first, last = int(codes.start[start]), int(codes.start[stop])
    written = torch.nn.functional.embedding_bag(
        codes.feature[first:last],
        sae.w_dec,
        codes.start[start:stop] - first,
        mode="sum",
        per_sample_weights=codes.value[first:last].to(sae.w_dec.dtype),
    )
    return written.float() + sae.b_dec


def encode_sparse(sae: Sae, residuals: Tensor) -> Codes:
    """The activations of an SAE on residuals [n, d_model]; at most `MAX_DENSE` of them are dense at once."""
    rows, features, values = [], [], []
    chunk = max(1, MAX_DENSE // sae.d_sae)
    for start in range(0, len(residuals), chunk):
        f = sae.encode(residuals[start : start + chunk].to(sae.w_enc.device))
        row, feature = f.nonzero(as_tuple=True)
        rows.append(row + start)
        features.append(feature)
        values.append(f[row, feature])
    return _by_feature(torch.cat(rows), torch.cat(features), torch.cat(values), len(residuals), sae.d_sae)


def differences(codes: Codes, first: Tensor, second: Tensor) -> Codes:
    """Row `second`[i] minus row `first`[i] for every pair i, without zeros; `first` and `second` are int64 [pairs]."""
    feature, value, start = by_row(codes)
    counts, device = start.diff(), start.device
    keys, values = [], []
    for side, sign in ((first.to(device), -1), (second.to(device), 1)):
        pair = torch.repeat_interleave(torch.arange(len(side), device=device), counts[side])
        before = counts[side].cumsum(0) - counts[side]
        entry = torch.arange(len(pair), device=device) + (start[side] - before)[pair]
        keys.append(feature[entry] * len(side) + pair)
        values.append(sign * value[entry])
    key, place = torch.cat(keys).unique(return_inverse=True)
    # Each sum has at most two terms, so their order does not matter.
    delta = torch.zeros(len(key), device=device).index_add_(0, place, torch.cat(values))
    key, delta = key[delta != 0], delta[delta != 0]
    return Codes(key % len(first), key // len(first), delta, len(first), codes.d_sae)


def sparse_auc(codes: Codes, positive: Tensor, among: int | None = None) -> Tensor:
    """AUC with which |value| separates the rows marked by bool [n] `positive` from the others: float64 [d_sae].

    It is the Mann-Whitney statistic over the number of pairs, with ties counted half, and equals
    `interp.statistics.auc` of the dense matrix. `among` is the number of rows that count, by default all; entries and
    positives must be among them. The result is NaN if a class is empty.
    """
    n, n_positive = among if among is not None else codes.n, int(positive.sum())
    if n_positive in (0, n):
        return torch.full((codes.d_sae,), torch.nan, dtype=torch.float64)
    order, rank, zeros = _ranks(codes, n)
    counts, hit = n - zeros, positive[codes.row[order]].double()
    sums = [_segment_sums(values, counts) for values in (rank * hit, hit)]
    ranks = sums[0] + (n_positive - sums[1]) * (zeros + 1) / 2
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive))


def design_effects(codes: Codes, cluster: Tensor, correlation: float) -> Tensor:
    """Factor by which clusters raise the variance of the rank sum of |value| under random labels: float64 [d_sae].

    `cluster` int64 [n] is the number of each row's cluster, such as its patient, and `correlation` that of the labels
    of two rows of one cluster. With centred ranks r and their cluster sums R the variance is proportional to
    (1 - correlation) sum r^2 + correlation sum R^2, and the factor is that over sum r^2 (Rosner, Glynn and Lee,
    Incorporation of clustering effects for the Wilcoxon rank sum test, Biometrics 2003). It is at least 1.
    """
    n, device = codes.n, codes.value.device
    cluster = cluster.to(device)
    size = torch.bincount(cluster).double()
    order, rank, zeros = _ranks(codes, n)
    # Ranks minus that of a zero, so that rows without an entry add nothing; `base` is that of a zero minus the mean.
    lead, base = rank - ((zeros + 1) / 2)[codes.feature[order]], (zeros - n) / 2
    key, place = torch.sort(codes.feature[order] * len(size) + cluster[codes.row[order]], stable=True)
    both, length = torch.unique_consecutive(key, return_counts=True)
    own = _segment_sums(lead[place], length)
    lengths = _counts(both // len(size), codes.d_sae)

    def squares(parts: Tensor, rows: Tensor, lengths: Tensor, all_rows: Tensor) -> Tensor:
        """Sum of (parts + base * rows)^2 of every feature, over all clusters or rows."""
        square, mixed = (_segment_sums(x, lengths) for x in (parts**2, parts * rows))
        return square + 2 * base * mixed + base**2 * (all_rows**2).sum()

    of_clusters = squares(own, size[both % len(size)], lengths, size)
    of_rows = squares(lead, torch.ones_like(lead), n - zeros, torch.ones(n, dtype=torch.float64, device=device))
    factor = 1 + correlation * (of_clusters / of_rows - 1)
    return torch.where(of_rows > 0, factor, 1.0).clamp(min=1)


def _segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of consecutive segments: [number of segments]. torch.segment_reduce refuses to sum no values at all."""
    if not len(values):
        return values.new_zeros(len(lengths))
    # Checks would wait for a GPU.
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def _counts(feature: Tensor, d_sae: int) -> Tensor:
    """How often every feature stands in int64 [entries], which ascend: int64 [d_sae]. bincount would wait for a GPU."""
    return torch.searchsorted(feature, torch.arange(d_sae + 1, device=feature.device)).diff()


def _ranks(codes: Codes, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The entries in the order of |value| within features, their mid-ranks among n rows, and the zeros of each feature.

    The rows without an entry are zeros, which come first.
    """
    order = torch.argsort(codes.value.abs(), stable=True)
    order = order[torch.argsort(codes.feature[order], stable=True)]
    feature, size = codes.feature[order], codes.value[order].abs()
    counts = _counts(feature, codes.d_sae)
    zeros, starts = n - counts, counts.cumsum(0) - counts
    new = torch.ones_like(feature, dtype=torch.bool)
    new[1:] = (feature[1:] != feature[:-1]) | (size[1:] != size[:-1])
    tie = new.cumsum(0) - 1
    length = torch.bincount(tie)
    first = length.cumsum(0) - length
    return order, (first + (length + 1) / 2)[tie] - starts[feature] + zeros[feature], zeros


def _by_feature(row: Tensor, feature: Tensor, value: Tensor, n: int, d_sae: int) -> Codes:
    order = torch.argsort(feature, stable=True)
    return Codes(row[order], feature[order], value[order], n, d_sae)
