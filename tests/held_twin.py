"""The slow, obvious twin of attribution: a HookedTransformer written out from its weights, with what a run had as
patterns, scales and gates, and each source taken away in turn."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from faithfulness_plugin.transcoders.layer_views import LayerView


def decoders_by_hand(transcoders: dict[int, Any]) -> dict[int, dict[int, Tensor]]:
    """Cut W_dec_lm, by l and m > l, out of the whole decoder of a cross-layer transcoder of all blocks."""
    found: dict[int, dict[int, Tensor]] = {}
    for block, view in transcoders.items():
        if isinstance(view, LayerView):
            d = view.whole.d_out_each
            whole, n = view.whole.W_dec, len(view.whole.W_dec) // len(transcoders)
            rows = whole[view.layer * n : (view.layer + 1) * n]
            found[block] = {m: rows[:, m * d : (m + 1) * d] for m in range(block + 1, len(transcoders))}
    return found


def encoder(transcoder: Any) -> Any:
    return transcoder.whole.parts[transcoder.layer] if isinstance(transcoder, LayerView) else transcoder


@dataclass
class Source:
    kind: str
    block: int
    position: int
    written: dict[int, Tensor]
    """By block; by -1 for a token."""
    feature: int = -1


class HeldTwin:
    def __init__(self, model: Any, transcoders: dict[int, Any], tokens: Tensor, kept: Tensor) -> None:
        self.model, self.transcoders, self.kept = model, transcoders, kept
        with torch.no_grad():
            _, self.cache = model.run_with_cache(tokens)
        self.n_blocks, self.n_pos = model.cfg.n_layers, tokens.shape[1]
        self.constants, self.sources, self.features = [], [], []
        errors, embeds = [], []
        later = decoders_by_hand(transcoders)
        for block in range(self.n_blocks):
            y = self.at(block, "hook_mlp_out")
            constant = torch.zeros_like(y)
            x = self.x_of(block)
            for p in range(self.n_pos):
                if not kept[p]:
                    constant[p] = y[p]
                    continue
                if block not in transcoders:
                    errors.append(Source("error", block, p, {block: y[p].clone()}))
                    continue
                t = transcoders[block]
                acts = encoder(t).encode(x[p][None])[0].to_dense()
                constant[p] = t.b_dec
                for i in acts.nonzero()[:, 0].tolist():
                    written = {block: acts[i] * t.W_dec[i]}
                    written |= {other: acts[i] * W_dec[i] for other, W_dec in later.get(block, {}).items()}
                    self.sources.append(Source("feature", block, p, written, i))
                here = [of.written[block] for of in self.sources if of.position == p and block in of.written]
                skip = getattr(t, "W_skip", None)
                through = 0 if skip is None else x[p] @ skip.T
                errors.append(Source("error", block, p, {block: y[p] - constant[p] - sum(here) - through}))
            self.constants.append(constant.detach())
        self.features = list(self.sources)
        embeds = [Source("token", -1, p, {-1: model.W_E[tokens[0, p]]}) for p in range(self.n_pos)]
        self.sources += [*errors, *embeds]

    def at(self, block: int, name: str) -> Tensor:
        return self.cache[f"blocks.{block}.{name}"][0]

    def x_of(self, block: int) -> Tensor:
        name = "ln2.hook_normalized" if self.model.cfg.normalization_type else "hook_resid_mid"
        return self.at(block, name)

    def normed(self, x: Tensor, block: int, norm: str) -> Tensor:
        """The norm less its scale and shift, divided by what the run divided by."""
        if not self.model.cfg.normalization_type:
            return x
        x = x - x.mean(-1, keepdim=True) if self.model.cfg.normalization_type == "LN" else x
        return x / (self.at(block, f"{norm}.hook_scale") if block >= 0 else self.cache["ln_final.hook_scale"][0])

    def scaled(self, x: Tensor, norm: Any) -> Tensor:
        x = x * norm.w if hasattr(norm, "w") else x
        return x + norm.b if hasattr(norm, "b") else x

    @torch.no_grad()
    def forward(self, sources: list[Source]) -> tuple[list[Tensor], Tensor]:
        """What layers read, and the logits, with these sources alone."""
        model = self.model
        stream = torch.zeros(self.n_pos, model.cfg.d_model, dtype=torch.float64)
        if model.cfg.positional_embedding_type == "standard":
            stream += model.W_pos[: self.n_pos]
        written = [constant.clone() for constant in self.constants]
        for source in sources:
            for block, of in source.written.items():
                (stream if block == -1 else written[block])[source.position] += of
        read = []
        for block, layer in enumerate(model.blocks):
            x = self.scaled(self.normed(stream, block, "ln1"), layer.ln1)
            v = torch.einsum("pd,hde->hpe", x, layer.attn.W_V) + layer.attn.b_V[:, None]
            z = self.at(block, "attn.hook_pattern") @ v
            mid = stream + torch.einsum("hpe,hed->pd", z, layer.attn.W_O) + layer.attn.b_O
            read.append(self.normed(stream if model.cfg.parallel_attn_mlp else mid, block, "ln2"))
            stream = mid + written[block]
            skip = getattr(self.transcoders.get(block), "W_skip", None)
            if skip is not None:
                stream += self.kept[:, None] * (read[-1] @ skip.T)
        logits = self.scaled(self.normed(stream, -1, ""), model.ln_final) if model.cfg.normalization_type else stream
        return read, logits @ model.W_U + model.b_U

    def values(self, sources: list[Source], logit_tokens: Tensor) -> Tensor:
        read, logits = self.forward(sources)
        pre = []
        for f in self.features:
            t = encoder(self.transcoders[f.block])
            pre.append(read[f.block][f.position] @ t.W_enc[:, f.feature] + t.b_enc[f.feature])
        last = logits[-1]
        return torch.cat([torch.stack(pre), last[logit_tokens] - last.mean()]).detach()

    def rows(self, logit_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """A[target, source] of features and logits, and what no source adds."""
        whole = self.values(self.sources, logit_tokens)
        columns = [
            whole - self.values([s for s in self.sources if s is not source], logit_tokens) for source in self.sources
        ]
        return torch.stack(columns, 1), self.values([], logit_tokens)
