"""Jacobian matching for EleutherAI's sparsify (eai-sparsify 1.3): in its own Trainer, which stays as it is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faithfulness_plugin.adapters.matching import CHECKED_ROWS, agree, matching_config
from faithfulness_plugin.adapters.needs import needs
from faithfulness_plugin.adapters.regions import register_regions, topk_region
from faithfulness_plugin.display import line
from faithfulness_plugin.jacobian.active import ActiveFeatures
from faithfulness_plugin.jacobian.linear_region import LinearRegion, Weights
from faithfulness_plugin.jacobian.matching import JacobianMatching
from faithfulness_plugin.jacobian.matching_config import JacobianMatchingConfig
from faithfulness_plugin.jacobian.sparse_region import SparseRegion
from faithfulness_plugin.layers.derivatives import Layer, layer_output
from faithfulness_plugin.messages import one_line
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.training.processes import Processes

with needs("eai-sparsify>=1.3,<2"):
    from sparsify import SparseCoder, Trainer
    from sparsify.sparse_coder import ForwardOutput


def match_jacobians(
    trainer: Trainer, coefficient: float = 0.3, config: JacobianMatchingConfig | None = None, **options: Any
) -> "MatchedTrainer":
    """Add coefficient * E_v ||(J_t - J_f) v||^2 / E_v ||J_f v||^2 to the loss of every transcoder of a trainer.

    One call before `trainer.fit()`, or a `with` around it. The unit is FVU: a coefficient of 1 says that losing the
    whole Jacobian costs as much as losing the whole output. The logged FVU, and `save_best`, which goes by it, stay
    what they were. In loss_fn "ce" and "kl" it is added to these, in the same unit; the term of a layer then trains its
    own transcoder and none before it. A chunk of one row adds no term: it has no variance to take as the unit.

    Args:
        trainer: with `sae.transcode` on. Any number of hookpoints and seeds, skip connections, TopK and Multi-TopK,
            gradient accumulation, micro-chunks, autocast, DDP and `distribute_modules`.
        coefficient: 0 leaves the trainer exactly as it is.
        config: what is matched; None takes `options`.
        options: fields of a config, in place of one: estimator, probe, radius, ...

    Returns:
        What was added: `remove()` undoes it, `relative_errors` are those of the last step.

    Raises:
        ValueError: autoencoders; a trainer that is matched already; hookpoints within others; a negative or non-finite
            coefficient; a gate_bandwidth; a config and options. On the first batch: hookpoints that are no function of
            their input row by row (a whole block, with its attention).
    """
    config = matching_config(
        coefficient,
        config,
        options,
        "these transcoders keep the largest features and have no threshold that it could train; leave it out, or use "
        'estimator="secant", which trains the choice',
    )
    return MatchedTrainer(trainer, coefficient, config)


class MatchedTrainer:
    """The terms that `match_jacobians` has added to a trainer; a context manager that removes them at its end."""

    def __init__(self, trainer: Trainer, coefficient: float, config: JacobianMatchingConfig) -> None:
        if not trainer.cfg.sae.transcode:
            raise ValueError(
                "this trainer's sparse coders reconstruct their own input: SparseCoderConfig(transcode=True) makes "
                "transcoders of them"
            )
        if any(isinstance(hook, _Term) for coder in trainer.saes.values() for hook in coder._forward_hooks.values()):
            raise ValueError("this trainer is matched already: call remove() on what match_jacobians returned first")
        _require_apart(trainer)
        self._terms = {name: _Term(trainer, name, coefficient, config) for name in trainer.saes}
        self._hooks = [
            trainer.saes[name].register_forward_hook(term, with_kwargs=True)
            for name, term in self._terms.items()
            if coefficient > 0
        ]

    def __repr__(self) -> str:
        return line("MatchedTrainer", {"hookpoints": list(self._terms)})

    @property
    def relative_errors(self) -> dict[str, Float[Tensor, ""]]:
        """The error of each transcoder on its last batch; losing the whole Jacobian would be 1."""
        return {name: term.error for name, term in self._terms.items() if term.error is not None}

    def remove(self) -> None:
        """Leave the trainer as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> "MatchedTrainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def state_dict(self) -> dict[str, Any]:
        """Collect the probes' random generators, to be saved beside sparsify's checkpoint, so that a resumed run draws
        the same.

        Returns:
            Their states by transcoder.
        """
        return {name: term.matching.state_dict() for name, term in self._terms.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the probes' random generators.

        Args:
            state: from `state_dict`.
        """
        for name, term in self._terms.items():
            term.matching.load_state_dict(state[name])


class _Term:
    """The forward hook of one transcoder, within the module that DDP wraps, so that DDP sees its gradients."""

    def __init__(self, trainer: Trainer, name: str, coefficient: float, config: JacobianMatchingConfig) -> None:
        self.name, self.coefficient, self.cfg = name, coefficient, trainer.cfg
        self.module = _module_at(trainer, name)
        seed = derived_seed(config.seed, f"{name}, process {Processes.here().rank}")
        self.matching = JacobianMatching(replace(config, seed=seed))
        self.checked = False
        self.error: Tensor | None = None

    def layer(self, x: Tensor) -> Tensor:
        """Call the module's forward, for the trainer's own hook is on the module."""
        y = self.module.forward(x)
        return y[0] if isinstance(y, tuple) else y

    def __call__(self, coder: SparseCoder, args: Any, kwargs: dict[str, Any], out: ForwardOutput) -> Any:
        """Return the transcoder's output with the term's gradient on it and all values as they were."""
        given = dict(zip(("x", "y"), args, strict=False)) | kwargs
        x, y, total_variance = given["x"], given.get("y"), given.get("total_variance")
        if y is None or len(x) < 2 or not torch.is_grad_enabled():  # the unit is a variance over rows
            return out
        # for loss_fn "ce" the trainer puts identities in the places of layers
        here, known = x.detach(), None if self.cfg.loss_fn == "ce" else y.detach()
        if not self.checked:
            _require_function(self.name, self.layer, here, known)
            self.checked = True
        targets = self.matching.targets(self.layer, here, y=known).to(coder.dtype)
        with torch.autocast(x.device.type, enabled=False):
            gate = _region_of_output(coder, x.to(coder.dtype), out) if self.matching.config.jitter == 0 else None
            loss = self.matching.from_targets(coder, targets, gate=gate)
        relative = self.matching.relative_error(loss, targets)
        self.error = relative.detach()
        if self.cfg.loss_fn != "fvu":
            term = self.coefficient * relative / self.cfg.grad_acc_steps  # as the trainer divides its own loss
            return out._replace(sae_out=_WithGradientOf.apply(out.sae_out, term))  # the only output that is used
        if total_variance is None:
            total_variance = (y - y.mean(0)).pow(2).sum()
        term = self.coefficient * loss * len(x) / total_variance  # of a chunk: its share, as in its FVU
        return out._replace(fvu=out.fvu + (term - term.detach()))


class _WithGradientOf(torch.autograd.Function):
    """A tensor as it is, with the gradient of a scalar that its consumers never see."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, term: Tensor) -> Tensor:
        ctx.dtype = term.dtype
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor]:
        return grad_outputs[0], torch.ones((), dtype=ctx.dtype, device=grad_outputs[0].device)


def _module_at(trainer: Trainer, name: str) -> nn.Module:
    """Find the module that a transcoder replaces: its name may end in the seed's."""
    hookpoint = next(point for point in trainer.cfg.hookpoints if name == point or name.startswith(f"{point}/"))
    return trainer.model.base_model.get_submodule(hookpoint)


def _require_apart(trainer: Trainer) -> None:
    """Raise ValueError for hookpoints within others, also those whose transcoders other processes have."""
    modules = {point: trainer.model.base_model.get_submodule(point) for point in trainer.cfg.hookpoints}
    for outer, module in modules.items():
        within = set(module.modules()) - {module}
        inner = next((name for name, other in modules.items() if other in within), None)
        if inner is not None:
            raise ValueError(
                f"hookpoint {inner} is within {outer}: to ask {outer} for a derivative would train the transcoder of "
                f"{inner}; train them one after the other"
            )


def _require_function(name: str, layer: Layer, x: Tensor, y: Tensor | None) -> None:
    """Raise ValueError where a row of the output is no function of that row of the input.

    The output of the last rows by themselves is compared with y, which the model made of all of them, or, where it has
    not run the layer, with the output of a sequence of rows: attention would show in either.
    """
    n = min(CHECKED_ROWS, len(x) // 2)
    why = "its output has other values"
    try:
        found = layer_output(layer, x[-n:])
        wanted = (layer_output(layer, x[-2 * n :][None])[0] if y is None else y)[-n:]
        if agree(found, wanted):
            return
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        why = one_line(error)
    raise ValueError(
        f"hookpoint {name} is no function of its input, row by row, whose Jacobian could be matched ({why}): name the "
        'MLP, such as "layers.3.mlp"'
    )


def _region_of_output(coder: SparseCoder, x: Float[Tensor, "rows d_in"], out: ForwardOutput) -> LinearRegion:
    """Find the region of a forward pass already made at x, as a function of this transcoder's weights alone."""
    behind_another, x = x.requires_grad, x.detach()
    indices, acts = out.latent_indices, out.latent_acts
    if coder.cfg.multi_topk:  # then the pass returns the 4 k largest
        if coder.cfg.activation == "groupmax":  # of which those that it kept are not the largest
            return _encoded(coder, x)
        kept = acts.topk(coder.cfg.k, sorted=False).indices
        indices, acts = indices.gather(-1, kept), acts.gather(-1, kept)
    # without their graph, with that of the transcoders before, or rounded by autocast, they are made again
    if coder.cfg.multi_topk or behind_another or acts.dtype != coder.dtype:
        return topk_region(x, _weights(coder), coder.encoder, _centred(coder, x), indices)
    # sparsify's encoder gives activations that are 0 a gradient all the same
    passing = acts * (acts > 0)
    entries = ActiveFeatures.same_count(indices, coder.num_latents)
    return SparseRegion(x, _weights(coder), passing.flatten(), entries)


def _weights(coder: SparseCoder) -> Weights:
    if coder.W_dec is None:
        raise ValueError("this sparse coder was loaded without its decoder: load it with decoder=True")
    return Weights(coder.encoder.weight.T, coder.W_dec, coder.b_dec, coder.W_skip)


@register_regions(SparseCoder, weights=_weights)
def _encoded(coder: SparseCoder, x: Tensor) -> LinearRegion:
    """Encode x: t(x) = W_dec TopK(ReLU(W_enc x + b_enc)) + b_dec (+ W_skip x); "groupmax" keeps the largest of k
    groups."""
    rows = x.reshape(-1, x.shape[-1]).to(coder.dtype)
    with torch.no_grad():
        indices = coder.encode(rows).top_indices
    return topk_region(x, _weights(coder), coder.encoder, _centred(coder, rows), indices)


def _centred(coder: SparseCoder, rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_in"]:
    return rows if coder.cfg.transcode else rows - coder.b_dec
