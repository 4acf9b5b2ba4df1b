"""The rows at which each feature is most active, found in one pass over any number of rows."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faithfulness_plugin.jacobian.active import ActiveFeatures


class TopRows:
    """The `most` largest activations of each feature in different groups of near-duplicates: of copies one row is
    enough, and of equal activations the first row.

    Args:
        groups: that each row of the sample belongs to.
    """

    def __init__(self, groups: Int[Tensor, " rows"], d_sae: int, most: int) -> None:
        self.groups = groups
        self.values: Float[Tensor, "d_sae most"] = torch.zeros(d_sae, most)
        self.rows: Int[Tensor, "d_sae most"] = torch.full((d_sae, most), -1)
        """-1 where a feature has fired in fewer groups."""

    def add(self, active: ActiveFeatures, values: Float[Tensor, " entries"], first_row: int) -> None:
        """The activations of further rows, which begin with this one."""
        d_sae, most = self.values.shape
        candidates = (values > self.values[active.features, -1]).nonzero().flatten()
        features, rows = active.features[candidates], active.rows[candidates] + first_row
        values = values[candidates].to(self.values)
        order = values.argsort(descending=True, stable=True)
        order = order[features[order].argsort(stable=True)]  # by feature, the largest first, then by row
        first = _first_of_each(features[order] * (int(self.groups.max()) + 1) + self.groups[rows[order]])
        features, rows, values = (each[order][first] for each in (features, rows, values))
        counts = features.bincount(minlength=d_sae)
        place = torch.arange(len(features)) - (counts.cumsum(0) - counts)[features]
        kept = place < most
        new_values, new_rows = torch.zeros_like(self.values), torch.full_like(self.rows, -1)
        new_values[features[kept], place[kept]] = values[kept]
        new_rows[features[kept], place[kept]] = rows[kept]
        touched = counts.nonzero().flatten()
        both = torch.cat([self.values[touched], new_values[touched]], dim=1)
        which = torch.cat([self.rows[touched], new_rows[touched]], dim=1)
        order = both.argsort(dim=1, descending=True, stable=True)
        both, which = both.gather(1, order), which.gather(1, order)
        order = (~self._first_of_its_group(which)).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        there = self._first_of_its_group(which).gather(1, order)
        self.values[touched] = torch.where(there, both.gather(1, order), 0.0)
        self.rows[touched] = torch.where(there, which.gather(1, order), -1)

    def _first_of_its_group(self, rows: Int[Tensor, "features n"]) -> Bool[Tensor, "features n"]:
        of = torch.where(rows >= 0, self.groups[rows.clamp_min(0)], -1)
        before = torch.ones(rows.shape[1], rows.shape[1], dtype=torch.bool).tril(-1)
        return (rows >= 0) & ~((of[:, :, None] == of[:, None, :]) & before).any(-1)


def _first_of_each(keys: Int[Tensor, " n"]) -> Int[Tensor, " distinct"]:
    """Where each key stands first, in the order in which they stand."""
    order = keys.argsort(stable=True)
    new = torch.ones(len(keys), dtype=torch.bool)
    new[1:] = keys[order][1:] != keys[order][:-1]
    return order[new].sort().values
