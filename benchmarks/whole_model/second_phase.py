"""Train a set end to end for a short while: the model's own predictions, with all of its layers replaced."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor, nn
from torch.nn.functional import kl_div

from faithfulness_plugin.benchmarks.whole_model.bench import ModelBench
from faithfulness_plugin.benchmarks.whole_model.config import SetRun
from faithfulness_plugin.layers.spliced import Site, run_replaced
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.store import StoredRows

DECAY_SHARE = 0.2


def second_phase(
    transcoders: Mapping[int, Any], model: ModelBench, run: SetRun, note: Callable[[str], None] = lambda _: None
) -> None:
    """Lower KL(p || q), p the model's next token and q that with all layers replaced, from here on.

    L = KL, or L = KL + (KL / own) own, the factor held constant: own is the sum of the losses that each transcoder has
    on rows of its layer in the unchanged model, its Jacobian term included, and weighs as much as KL at every step.

    Args:
        transcoders: by block; trained in place, and returned to `eval` mode.
        model: the model.
        run: says whether their own losses count, and decides the order of the prompts.
        note: receives a line about what is being done.
    """
    config, with_own = model.config, run.arm.then == "KL and loss"
    n_prompts = max(1, config.batch_size // config.context_size)
    batches = _batches(model.prompts.stored, n_prompts, run.seed)
    n_steps = max(1, config.phase_tokens // (n_prompts * config.context_size))
    rows = {}
    for block, transcoder in transcoders.items():
        transcoder.train()
        if with_own:
            rows[block] = StoredRows(model.stores[block], None, batch_size=config.batch_size, seed=run.seed)
            transcoder.set_layer(rows[block].layer)
    parameters = [parameter for of in transcoders.values() for parameter in of.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=config.phase_lr)
    for step in range(n_steps):
        left = (n_steps - step) / (DECAY_SHARE * n_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.phase_lr * min(1.0, left)
        optimizer.zero_grad()
        loss = kl = _kl(transcoders, model, next(batches))
        if with_own:
            own = torch.stack([_own_loss(of, next(rows[block]), step) for block, of in transcoders.items()]).sum()
            loss = kl + (kl / own).detach() * own
        loss.backward()
        for transcoder in transcoders.values():
            nn.utils.clip_grad_norm_(transcoder.parameters(), 1.0)
        optimizer.step()
        if step % max(1, n_steps // 8) == 0:
            note(f"{run.name}: step {step + 1} of {n_steps}, KL {kl.item():.3f} nats a token")
    for transcoder in transcoders.values():
        transcoder.eval()


def _kl(transcoders: Mapping[int, Any], model: ModelBench, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    with torch.no_grad():
        log_p = model.hooks.run(tokens, {})[:, :-1].float().log_softmax(-1)
    kept = model.kept(tokens)
    sites = [Site(model.layers[block], kept, transcoder) for block, transcoder in transcoders.items()]
    log_q = run_replaced(model.hooks, tokens, sites).logits[:, :-1].float().log_softmax(-1)
    # [batch, pos - 1, vocab] -> nats a predicted token
    return kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean()


def _own_loss(transcoder: Any, rows: Tensor, step: int) -> Float[Tensor, ""]:
    given = {name: getattr(c, "value", c) for name, c in transcoder.get_coefficients().items()}
    return transcoder.training_forward_pass(
        TrainStepInput(
            sae_in=rows, coefficients=given, dead_neuron_mask=None, n_training_steps=step, is_logging_step=False
        )
    ).loss


def _batches(tokens: Int[Tensor, "prompts pos"], n: int, seed: int) -> Iterator[Int[Tensor, "batch pos"]]:
    """Cut epoch after epoch of shuffled prompts into batches."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "second phase"))
    while True:
        yield from (tokens[part] for part in torch.randperm(len(tokens), generator=generator).split(n))
