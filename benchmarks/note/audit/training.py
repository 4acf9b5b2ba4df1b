"""The public reproduction's training, written as a plain loop, and what its Jacobian term does."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from faithfulness_plugin import metrics
from faithfulness_plugin.benchmarks.note.audit.schema import AuditConfig, AuditRun, InertCheck
from faithfulness_plugin.benchmarks.note.toy_records import VALIDATION_SEED
from faithfulness_plugin.results.timing import torch_threads
from faithfulness_plugin.seeds import derived_seed
from faithfulness_plugin.toy.inputs import AbsInputs


class Model(nn.Module):
    """x -> W_2 ReLU(W_1 x + b): torch's default initialisation, a bias on the encoder only.

    Its features and decoder go by SAELens's names, for the metrics.
    """

    def __init__(self, d_in: int, d_hidden: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d_in, d_hidden), nn.Linear(d_hidden, d_in, bias=False)

    @property
    def W_dec(self) -> Tensor:
        return self.decoder.weight.T

    def encode(self, x: Tensor) -> Tensor:
        """Compute the features' activations.

        Args:
            x: rows [..., d_in].

        Returns:
            The activations [..., d_hidden], not negative.
        """
        return torch.relu(self.encoder(x))

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Compute the output from the features' activations.

        Args:
            feature_acts: activations [..., d_hidden].

        Returns:
            The output [..., d_in].
        """
        return self.decoder(feature_acts)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the model's output.

        Args:
            x: rows [..., d_in].

        Returns:
            The output [..., d_in], an estimate of |x|.
        """
        return self.decode(self.encode(x))


def jacobian_term(model: Model, x: Tensor, v: Tensor, *, create_graph: bool) -> Tensor:
    """Compute mean (J_t^T v - J_f^T v)^2 for f = |x|.

    With `create_graph=False`, as the reproduction has it, the product comes back without a graph: the term has a value,
    and no gradient to any weight.

    Args:
        model: t.
        x: rows [batch, d_in].
        v: a direction for each row, [batch, d_in].
        create_graph: whether the term has a gradient to the weights.

    Returns:
        The mean over rows and coordinates.
    """
    point = x.detach().requires_grad_()
    (product,) = torch.autograd.grad(model(point), point, v, create_graph=create_graph)
    return mse_loss(product, x.sign() * v)


def jvp_term(model: Model, x: Tensor, v: Tensor) -> Tensor:
    """Compute mean (J_t v - J_f v)^2 for f = |x|, the product J_t v = W_2 (1[h > 0] * (W_1 v)) in closed form.

    Args:
        model: t.
        x: rows [batch, d_in].
        v: a direction for each row, [batch, d_in].

    Returns:
        The mean over rows and coordinates, with a gradient to the weights.
    """
    gate = model.encoder(x) > 0
    product = model.decoder((v @ model.encoder.weight.T) * gate)
    return mse_loss(product, x.sign() * v)


def run(config: AuditConfig, arm: str, seed: int) -> AuditRun:
    """Train one arm with one thread, and measure it as the reproduction does.

    Args:
        config: the reproduction's configuration.
        arm: a key of `ARMS`.
        seed: decides weights, rows, batches and probes.

    Returns:
        What was measured after the last step.
    """
    with torch_threads(1):
        model, last = _train(config, arm, seed, config.n_steps)
        return _measure(config, arm, seed, model, last)


def compare_inert(config: AuditConfig, seed: int) -> InertCheck:
    """Train with repetition for a few steps: without the term, with it, and with its gradient.

    Probes come from a generator of their own here, so that batches are the same in all three.

    Args:
        config: the reproduction's configuration; `n_compared` steps are taken.
        seed: decides weights, rows, batches and probes.

    Returns:
        The term's mean, and the largest difference of a weight from training without it.
    """
    with torch_threads(1):
        values: list[float] = []
        without, _ = _train(config, "repetition", seed, config.n_compared)
        inert, _ = _train(config, "inert", seed, config.n_compared, own_probes=True, terms=values)
        kept, _ = _train(config, "kept", seed, config.n_compared, own_probes=True)

    def difference(other: Model) -> float:
        return max((a - b).abs().max().item() for a, b in zip(without.parameters(), other.parameters(), strict=True))

    return InertCheck(
        seed=seed,
        term=sum(values) / len(values),
        difference=difference(inert),
        difference_with_gradient=difference(kept),
    )


def _train(
    config: AuditConfig,
    arm: str,
    seed: int,
    n_steps: int,
    own_probes: bool = False,
    terms: list[float] | None = None,
) -> tuple[Model, Tensor]:
    """Return the model and the last training batch. Arm "kept": the inert term, its gradient kept."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "audit"))
    probes = torch.Generator().manual_seed(derived_seed(seed, "audit probes")) if own_probes else generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        model = Model(config.d_in, config.d_hidden)
    rows = next(_inputs(config, 0.0 if arm == "baseline" else config.repeat_frac, config.n_train, seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    batches, x = _batches(rows, config.batch_size, generator), rows
    for _ in range(n_steps):
        x = next(batches)
        acts = model.encode(x)
        loss = mse_loss(model.decode(acts), x.abs()) + config.sparsity_coefficient * torch.tanh(5 * acts).mean()
        if arm in ("inert", "kept", "jacobian"):
            v = torch.randn(x.shape, generator=probes)
            if arm == "jacobian":
                term = jvp_term(model, x, v)
            else:
                term = jacobian_term(model, x, v, create_graph=arm == "kept")
            loss = loss + config.jacobian_coefficient * term
            if terms is not None:
                terms.append(term.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, x


def _inputs(config: AuditConfig, repeat_frac: float, n: int, seed: int) -> AbsInputs:
    return AbsInputs(config.d_in, 1.0, repeat_frac, config.n_ones, n, seed)


def _batches(rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches epoch after epoch, shuffled; what does not fill a batch is left out."""
    while True:
        order = torch.randperm(len(rows), generator=generator)
        yield from (rows[part] for part in order.split(size) if len(part) == size)


@torch.no_grad()
def _measure(config: AuditConfig, arm: str, seed: int, model: Model, last: Tensor) -> AuditRun:
    inputs = _inputs(config, 0.0, config.n_validation, VALIDATION_SEED + seed)
    reconstruction = metrics.reconstruction(model, torch.abs, next(inputs))
    memorization = [metrics.memorization(model, inputs.point, layer=torch.abs, unit=unit).m for unit in (True, False)]
    return AuditRun(
        column=arm,
        seed=seed,
        validation_loss=reconstruction.validation_loss,
        sparsity=torch.tanh(5 * model.encode(last)).mean().item(),
        m=memorization[0],
        m_unnormalised=memorization[1],
        fvu=reconstruction.fvu,
    )
