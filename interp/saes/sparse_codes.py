"""Sparse activations of one SAE: the nonzero entries only, and their statistics for every feature.

About eighty of 16,384 features are active on a token, so a screen sorts and sums only those. On a GPU, what depends on
the number of entries waits for what is queued there, so the functions do that once each, where they have to.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async
from interp.saes.sae import Sae

MAX_DENSE = 2**24
"""Most activations held at once before their zeros are dropped. Larger products would hold up others' work on a GPU."""


class Codes(NamedTuple):
    """The nonzero entries of a matrix [n, d_sae], sorted by feature and within a feature by row."""

    row: Tensor
    """Row of each entry, a prompt or a pair of prompts: int64 [entries]."""
    feature: Tensor
    """Feature of each entry, ascending: int64 [entries]."""
    value: Tensor
    """Value of each entry, an activation or a difference of two: float32 [entries]."""
    counts: Tensor
    """Number of entries of each feature: int64 [d_sae]."""
    n: int
    """Number of rows that count."""

    def __repr__(self) -> str:
        return f"Codes({self.n} rows, {len(self.counts)} features, {len(self.value)} nonzero)"

    def rows(self, kept: Tensor, n: int) -> "Codes":
        """Only the `n` rows for which bool [n rows of these codes] `kept` is true; they keep their numbers."""
        wanted = kept[self.row].nonzero()[:, 0]
        return _codes(self.row[wanted], self.feature[wanted], self.value[wanted], n, len(self.counts))

    def sums(self, values: Tensor) -> Tensor:
        """Sum of `values` [..., entries] over the entries of every feature, in a fixed order: float64 [..., d_sae]."""
        columns = values.shape[:-1]
        sums = _segment_sums(values.double().flatten(), self.counts.repeat(columns.numel()))
        return sums.view(*columns, len(self.counts))

    def of_features(self, features: Tensor) -> Tensor:
        """The matrix [n, d_sae] at the features int64 [k], as [k, n] in main memory; the codes must have all rows."""
        return self.spread(to_device_async(features, self.row.device), self.value).cpu()

    def spread(self, features: Tensor, values: Tensor) -> Tensor:
        """The `values` [entries] of features int64 [k] in every row, zero without an entry: [k, n]."""
        which = torch.full_like(self.counts, len(features))
        which[features] = torch.arange(len(features), device=which.device)
        # What is of none of them goes to a last row, which is dropped.
        found = values.new_zeros(len(features) + 1, self.n)
        found[which[self.feature], self.row] = values
        return found[:-1]


class RowCodes(NamedTuple):
    """The same entries sorted by row and within a row by feature."""

    feature: Tensor
    """Feature of each entry: int64 [entries]."""
    value: Tensor
    """Value of each entry: float32 [entries]."""
    start: Tensor
    """Place of the first entry of each row, and the number of entries: int64 [n + 1] in main memory."""


class Activations(NamedTuple):
    """The nonzero activations of an SAE on n prompts, in both orders."""

    by_row: RowCodes
    """Sorted by prompt."""
    by_feature: Codes
    """Sorted by feature."""


def encode_sparse(sae: Sae, residuals: Tensor) -> Activations:
    """The activations of an SAE on residuals [n, d_model]; at most `MAX_DENSE` of them are dense at once."""
    rows, features, values = [], [], []
    chunk = max(1, MAX_DENSE // sae.d_sae)
    for start in range(0, len(residuals), chunk):
        f = sae.encode(residuals[start : start + chunk].to(sae.w_enc.device))
        row, feature = f.nonzero(as_tuple=True)
        rows.append(row + start)
        features.append(feature)
        values.append(f[row, feature])
    row, feature, value = torch.cat(rows), torch.cat(features), torch.cat(values)
    order = torch.argsort(feature, stable=True)
    by_feature = _codes(row[order], feature[order], value[order], len(residuals), sae.d_sae)
    return Activations(RowCodes(feature, value, _starts(row, len(residuals)).cpu()), by_feature)


def decode_rows(sae: Sae, codes: RowCodes, start: int, stop: int) -> Tensor:
    """Residuals reconstructed from the rows from `start` to before `stop`: float32 [stop - start, d_model].

    Only the decoder rows of active features are read.
    """
    first, last = int(codes.start[start]), int(codes.start[stop])
    written = torch.nn.functional.embedding_bag(
        codes.feature[first:last],
        sae.w_dec,
        to_device_async(codes.start[start:stop] - first, sae.w_dec.device),
        mode="sum",
        per_sample_weights=codes.value[first:last].to(sae.w_dec.dtype),
    )
    return written.float() + sae.b_dec


def differences(activations: Activations, first: Tensor, second: Tensor) -> Codes:
    """Row `second`[i] minus row `first`[i] for every pair i, without zeros: Codes of [pairs, d_sae].

    `first` and `second` are int64 [pairs] in main memory.
    """
    feature, value, start = activations.by_row
    device, pairs, sides = feature.device, max(1, len(first)), torch.cat([second, first])
    count = start.diff()[sides]
    total, shift = int(count.sum()), start[sides] - (count.cumsum(0) - count)
    count, shift = (to_device_async(each, device) for each in (count, shift))
    # The side that every term is of, and its place among the activations.
    side = torch.repeat_interleave(torch.arange(len(sides), device=device), count, output_size=total)
    place = torch.arange(total, device=device) + shift[side]
    key, order = (feature[place] * pairs + side % pairs).sort(stable=True)
    term = (value[place] * torch.where(side < pairs, 1, -1))[order]
    # A feature that is active on both sides of a pair has two terms, which now follow each other.
    again = torch.nn.functional.pad(key[1:] == key[:-1], (1, 1))
    delta = term + torch.where(again[1:], term.roll(-1), 0)
    kept = ((delta != 0) & ~again[:-1]).nonzero()[:, 0]
    key = key[kept]
    return _codes(key % pairs, key // pairs, delta[kept], len(first), len(activations.by_feature.counts))


def size_ranks(codes: Codes) -> Codes:
    """Mid-ranks of |value| among the n rows, above that of a zero, in place of the values: float64, exact.

    The rows without an entry are zeros, which share the ranks from 1. The entries of a feature ascend by rank.
    """
    # The bits of floats that are not negative are in the order of the floats.
    key = codes.feature << 32 | codes.value.abs().view(torch.int32)
    key, order = key.sort(stable=True)
    _, tie, length = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    place = length.cumsum(0) - (length - 1).double() / 2
    shift = (codes.n + codes.counts - 1).double() / 2 - codes.counts.cumsum(0)
    return codes._replace(row=codes.row[order], value=place[tie] + shift[codes.feature])


def sparse_auc(ranks: Codes, positive: Tensor) -> Tensor:
    """AUC with which |value| separates the rows marked by bool [n] `positive` from the others: float64 [d_sae].

    It is the Mann-Whitney statistic over the number of pairs, with ties counted half, and equals
    `interp.statistics.auc` of the dense matrix. `ranks` come from `size_ranks`. The result is NaN if a class is empty.
    """
    zeros, n_positive = (ranks.n - ranks.counts).double(), positive.sum()
    above = ranks.sums(ranks.value * positive[ranks.row])
    return (above + n_positive * (zeros - n_positive) / 2) / (n_positive * (ranks.n - n_positive))


def design_effects(ranks: Codes, cluster: Tensor, size: Tensor, correlation: float) -> Tensor:
    """Factor by which clusters raise the variance of the rank sum of |value| under random labels: float64 [d_sae].

    `ranks` come from `size_ranks`. `cluster` int64 [n] is the number of each row's cluster, such as its patient, `size`
    int64 [clusters] the number of rows of each, and `correlation` that of the labels of two rows of one cluster. With
    centred ranks r and their cluster sums R the variance is proportional to (1 - correlation) sum r^2 + correlation
    sum R^2, and the factor is that over sum r^2 (Rosner, Glynn and Lee, Incorporation of clustering effects for the
    Wilcoxon rank sum test, Biometrics 2003). It is at least 1.
    """
    clusters, size = max(1, len(size)), size.double()
    # Rows without an entry add nothing to sums of these ranks; `base` is the rank of a zero minus the mean rank.
    lead, base = ranks.value, ranks.counts.double() / -2
    key, place = torch.sort(ranks.feature * clusters + cluster[ranks.row], stable=True)
    both, length = torch.unique_consecutive(key, return_counts=True)
    own, rows = _segment_sums(lead[place], length), size[both % clusters]
    of_one = _counts(both // clusters, len(base))

    def squares(square: Tensor, mixed: Tensor, all_rows: Tensor | int) -> Tensor:
        """Sum of (part + base * rows)^2 of every feature, from those of part^2 and part * rows, over all."""
        return square + 2 * base * mixed + base**2 * all_rows

    of_clusters = squares(_segment_sums(own**2, of_one), _segment_sums(own * rows, of_one), (size**2).sum())
    square, mixed = ranks.sums(torch.stack([lead**2, lead]))
    of_rows = squares(square, mixed, ranks.n)
    factor = 1 + correlation * (of_clusters / of_rows - 1)
    return torch.where(of_rows > 0, factor, 1.0).clamp(min=1)


def _segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of consecutive segments: [number of segments]. torch.segment_reduce refuses to sum no values at all."""
    if not len(values):
        return values.new_zeros(len(lengths))
    # Checks would wait for a GPU.
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def _codes(row: Tensor, feature: Tensor, value: Tensor, n: int, d_sae: int) -> Codes:
    return Codes(row, feature, value, _counts(feature, d_sae), n)


def _counts(places: Tensor, length: int) -> Tensor:
    """How often each of the first `length` numbers stands in int64 [entries], which ascend: int64 [length]."""
    return _starts(places, length).diff()


def _starts(places: Tensor, length: int) -> Tensor:
    """Where each of the first `length` numbers begins in int64 [entries], which ascend, and the end: [length + 1].

    bincount would wait for a GPU.
    """
    return torch.searchsorted(places, torch.arange(length + 1, device=places.device))
