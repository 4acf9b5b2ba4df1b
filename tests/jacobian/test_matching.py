import numpy as np
import pytest
import torch
from oracles import ARCHITECTURES, DenseRelu, frobenius_error, jacobian_by_rows, jacobians_of_batch

from faithfulness_plugin import AbsNetwork, JacobianMatching, JacobianMatchingConfig
from faithfulness_plugin.jacobian.estimators import ESTIMATORS
from faithfulness_plugin.jacobian.matching_config import SHIPPED
from faithfulness_plugin.jacobian.probes import DATA, ISOTROPIC, PROBES


def rows(n: int = 8, d: int = 5) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64)


GRID = [(name, probe) for name, estimator in ESTIMATORS.items() for probe in estimator.probes]


@pytest.mark.parametrize(("estimator", "probe"), GRID)
@pytest.mark.parametrize("known", [True, False])
def test_the_loss_has_a_gradient_into_both_matrices(mlp, make_transcoder, estimator, probe, known):
    own, other = make_transcoder(), DenseRelu(5, 12, 4)
    JacobianMatching(estimator=estimator, probe=probe)(own if known else other, mlp, rows()).backward()
    weights = (own.W_enc, own.W_dec) if known else (other.encoder.weight, other.decoder.weight)
    for weight in weights:
        assert weight.grad is not None
        assert weight.grad.norm() > 1e-6
    assert all(p.grad is None for p in mlp.parameters())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_the_gradient_is_the_losss_central_difference(mlp, make_transcoder, estimator, architecture, skip):
    student = make_transcoder(architecture, skip=skip)
    matching = JacobianMatching(estimator=estimator)
    targets = matching.targets(mlp, rows())
    matching.from_targets(student, targets).backward()
    for weight in (student.W_enc, student.W_dec, *([student.W_skip] if skip else [])):
        assert weight.grad is not None
        direction = torch.randn_like(weight)
        values = []
        with torch.no_grad():
            for eps in (1e-6, -1e-6):
                weight += eps * direction
                values.append(matching.from_targets(student, targets).item())
                weight -= eps * direction
        numeric = (values[0] - values[1]) / 2e-6
        assert numeric == pytest.approx((weight.grad * direction).sum().item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("probe", PROBES)
def test_exact_is_the_mean_over_all_directions(mlp, make_transcoder, architecture, probe):
    student, x = make_transcoder(architecture, skip=True), rows(6)
    exact = JacobianMatching(estimator="exact", probe=probe, normalize=False)(student, mlp, x).item()
    A = jacobians_of_batch(student, x) - jacobians_of_batch(mlp, x)
    mean, covariance = x.mean(0), torch.cov(x.T, correction=0)
    second_moments = torch.eye(5, dtype=x.dtype).expand(6, 5, 5)
    if probe in DATA:
        second_moments = covariance.expand(6, 5, 5)
    if probe == "difference":
        second_moments = second_moments + torch.einsum("ni,nj->nij", mean - x, mean - x)
    assert exact == pytest.approx(torch.einsum("noi,nij,noj->n", A, second_moments, A).mean().item())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_jvp_and_vjp_estimate_the_same_frobenius_norm(mlp, make_transcoder, architecture):
    student, x = make_transcoder(architecture).eval(), rows(4)
    if architecture == "batch_topk":
        student.topk_threshold.fill_(0.3)
    exact = JacobianMatching(estimator="exact", normalize=False)(student, mlp, x).item()
    for estimator in ("jvp", "vjp"):
        matching = JacobianMatching(estimator=estimator, probe="rademacher", n_probes=2, normalize=False)
        with torch.no_grad():
            estimates = np.array([matching(student, mlp, x.repeat(250, 1)).item() for _ in range(40)])
        error = estimates.std() / np.sqrt(40)
        assert estimates.mean() == pytest.approx(exact, abs=4 * error)
        assert error < 0.02 * exact  # and that bound says something


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("probe", ["rademacher", "difference"])
def test_the_secant_tends_to_the_jvp(mlp, make_transcoder, architecture, central, probe):
    student, x = make_transcoder(architecture, skip=True), rows(20)
    jvp = JacobianMatching(probe=probe, seed=3)(student, mlp, x).item()
    gaps = []
    for radius in (1e-4, 1e-7):
        secant = JacobianMatching(estimator="secant", probe=probe, radius=radius, central=central, seed=3)
        gaps.append(abs(secant(student, mlp, x).item() / jvp - 1))
    assert gaps[1] < 1e-5
    assert gaps[1] < gaps[0] + 1e-6


def test_the_exact_value_is_told_of_once_where_it_costs_no_more(mlp, make_transcoder):
    for estimator in ("jvp", "vjp"):
        matching = JacobianMatching(estimator=estimator, n_probes=5)
        with pytest.warns(UserWarning, match='5 probes cost as much as the 5 of estimator="exact"'):
            matching(make_transcoder(), mlp, rows())
        matching(make_transcoder(), mlp, rows())  # once is enough
    JacobianMatching(n_probes=4)(make_transcoder(), mlp, rows())  # warns nothing: it is cheaper


def test_several_probes_share_one_encoding(mlp, make_transcoder):
    student, encoded = make_transcoder(), []
    student.hook_sae_input.add_hook(lambda tensor, hook: encoded.append(1))
    JacobianMatching(n_probes=4)(student, mlp, rows())
    assert len(encoded) == 1


@pytest.mark.parametrize("estimator", ["jvp", "vjp", "exact"])
def test_a_gate_bandwidth_lets_the_term_train_biases_and_without_it_they_get_none(mlp, make_transcoder, estimator):
    for bandwidth in (None, 0.5):
        student = make_transcoder("jumprelu")
        matching = JacobianMatching(estimator=estimator, probe="rademacher", gate_bandwidth=bandwidth)
        matching(student, mlp, rows(40)).backward()
        for parameter in (student.b_enc, student.threshold):
            if bandwidth is None:
                assert parameter.grad is None
            else:
                assert parameter.grad is not None
                assert parameter.grad.norm() > 1e-6


@pytest.mark.parametrize("probe", ISOTROPIC)
def test_isotropic_probes_converge_to_the_exact_frobenius_error(mlp, make_transcoder, probe):
    student, x = make_transcoder(), rows(4)
    exact = frobenius_error(mlp, student, x)
    matching = JacobianMatching(probe=probe, n_probes=2, normalize=False)
    estimates = np.array([matching(student, mlp, x.repeat(250, 1)).item() for _ in range(40)])
    assert estimates.mean() == pytest.approx(exact, abs=4 * estimates.std() / np.sqrt(40))
    assert estimates.std() / np.sqrt(40) < 0.02 * exact  # and that bound says something


def test_pair_probes_converge_to_the_covariance_weighted_error(mlp, make_transcoder):
    student, x = make_transcoder(), rows(6)
    covariance = torch.cov(x.T, correction=0)
    A = torch.stack([jacobian_by_rows(mlp, r) - jacobian_by_rows(student, r) for r in x])
    exact = torch.einsum("noi,ij,noj->n", A, covariance, A).mean().item()
    matching = JacobianMatching(probe="pair", n_probes=2, normalize=False)
    estimates = np.array([matching(student, mlp, x.repeat(250, 1)).item() for _ in range(40)])
    assert estimates.mean() == pytest.approx(exact, abs=4 * estimates.std() / np.sqrt(40))
    assert estimates.std() / np.sqrt(40) < 0.02 * exact


@pytest.mark.usefixtures("as_installed")  # for speed; other tests check the shapes of the same calls
def test_rademacher_has_the_variance_of_its_formula(mlp, make_transcoder):
    student, x = make_transcoder(), rows(1)
    A = jacobian_by_rows(mlp, x[0]) - jacobian_by_rows(student, x[0])
    M = A.T @ A
    formula = {"rademacher": 2 * (M.square().sum() - M.diagonal().square().sum()), "gaussian": 2 * M.square().sum()}
    for probe, variance in formula.items():
        matching = JacobianMatching(probe=probe, normalize=False)
        means_of_50 = [matching(student, mlp, x.repeat(50, 1)).item() for _ in range(1000)]
        assert 50 * np.var(means_of_50) == pytest.approx(variance.item(), rel=0.2)
    assert formula["rademacher"] < formula["gaussian"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_unit_makes_losing_the_whole_jacobian_cost_the_whole_output(mlp, estimator):
    student = DenseRelu(5, 12, 4)
    torch.nn.init.zeros_(student.decoder.weight)  # a student that does not move
    for scale in (1.0, 100.0):
        x = rows(50)
        y = scale * mlp(x)
        loss = JacobianMatching(estimator=estimator)(student, lambda r, s=scale: s * mlp(r), x)
        assert loss.item() == pytest.approx((y - y.mean(0)).square().sum(-1).mean().item())


def test_the_unit_is_taken_from_the_clean_output_also_when_jittered(mlp):
    student = DenseRelu(5, 12, 4)
    torch.nn.init.zeros_(student.decoder.weight)
    x = rows(50)
    y = mlp(x)
    variance = (y - y.mean(0)).square().sum(-1).mean().item()
    matching = JacobianMatching(probe="rademacher", jitter=0.5)
    assert matching(student, mlp, x).item() == pytest.approx(variance)
    assert matching.from_targets(student, matching.targets(mlp, x, y=y)).item() == pytest.approx(variance)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_batch_in_which_the_layer_does_not_move_gives_zero(make_transcoder, estimator):
    def constant(x: torch.Tensor) -> torch.Tensor:
        return torch.ones(*x.shape[:-1], 4, dtype=x.dtype) + 0 * x.sum(-1, keepdim=True)

    student = make_transcoder()
    loss = JacobianMatching(estimator=estimator)(student, constant, rows())
    loss.backward()
    assert loss.item() == 0
    assert student.W_enc.grad is not None
    assert torch.isfinite(student.W_enc.grad).all()


def test_an_all_zero_batch_is_finite():
    x = torch.zeros(8, 5, dtype=torch.float64)
    layer = AbsNetwork(5).double()
    for estimator in ESTIMATORS:
        assert torch.isfinite(JacobianMatching(estimator=estimator, jitter=0.1)(DenseRelu(5, 12, 5), layer, x))


def test_a_single_row_has_no_unit(as_installed, mlp, make_transcoder):
    for x in (rows(1), rows(1)[0]):
        with pytest.raises(ValueError, match="pass a batch of two rows or more, or normalize=False"):
            JacobianMatching()(make_transcoder(), mlp, x)
    assert JacobianMatching(probe="rademacher", normalize=False)(make_transcoder(), mlp, rows(1)[0]).item() > 0
    for probe in ("pair", "difference"):
        with pytest.raises(ValueError, match=r"x has shape \[5\]: pass a batch of rows, or probe=.rademacher"):
            JacobianMatching(probe=probe, normalize=False)(make_transcoder(), mlp, rows(1)[0])


@pytest.mark.parametrize("estimator", SHIPPED)
def test_the_default_probe_goes_between_rows_where_directions_are_of_the_input(estimator):
    expected = "rademacher" if estimator in ("vjp", "exact") else "pair"
    assert JacobianMatchingConfig(estimator).probe == expected


@pytest.mark.parametrize(("estimator", "probe"), GRID)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_without_rows_costs_nothing(mlp, make_transcoder, estimator, probe, architecture):
    student = make_transcoder(architecture)
    loss = JacobianMatching(estimator=estimator, probe=probe, jitter=0.1)(student, mlp, rows(0))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("estimator", ["jvp", "secant"])
def test_layers_that_take_a_matrix_get_a_matrix(estimator):
    order = [1, 0, 2, 3, 4]

    class Student(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bi,oi->bo", x, torch.eye(5, dtype=x.dtype)[order])

    for n_probes in (1, 3):
        matching = JacobianMatching(estimator=estimator, n_probes=n_probes)
        assert matching(Student(), lambda x: x[:, order], rows()).item() == pytest.approx(0, abs=1e-25)


def test_inputs_made_in_inference_mode_can_be_trained_on(mlp, make_transcoder):
    with torch.inference_mode():
        x = rows()
    for estimator in ESTIMATORS:
        student = make_transcoder()
        JacobianMatching(estimator=estimator)(student, mlp, x).backward()
        assert student.W_enc.grad is not None


def test_a_student_that_is_the_layer_has_no_loss(mlp):
    x = rows()
    for estimator, probe in GRID:
        loss = JacobianMatching(estimator=estimator, probe=probe, jitter=0.3, n_probes=3)(mlp, mlp, x)
        assert loss.item() == pytest.approx(0, abs=1e-25)


def test_radius_and_jitter_are_in_units_of_the_batch(mlp):
    x = rows(1000)
    for scale in (1.0, 7.0):
        rms = (scale * x).square().mean().sqrt()
        targets = JacobianMatching(estimator="secant", probe="sphere", radius=0.25, jitter=0.1).targets(mlp, scale * x)
        assert float(targets.step) == pytest.approx(0.25 * rms.item())
        assert (targets.x - scale * x).std().item() == pytest.approx(0.1 * rms.item(), rel=0.05)
        for probe in DATA:  # there the radius is a fraction of v itself
            matching = JacobianMatching(estimator="secant", radius=0.25, probe=probe)
            assert float(matching.targets(mlp, x).step) == 0.25


def test_without_jitter_the_inputs_are_taken_as_they_are(mlp):
    x = rows()
    assert JacobianMatching().targets(mlp, x).x is x


def test_a_probe_of_ones_own(mlp, make_transcoder):
    def first_axis(x: torch.Tensor, n_probes: int, generator: torch.Generator | None) -> torch.Tensor:
        return torch.eye(5, dtype=x.dtype)[0].expand(n_probes, *x.shape)

    student, x = make_transcoder(), rows()
    loss = JacobianMatching(probe=first_axis, normalize=False)(student, mlp, x)
    columns = [(jacobian_by_rows(student, r) - jacobian_by_rows(mlp, r))[:, 0].square().sum() for r in x]
    assert loss.item() == pytest.approx(torch.stack(columns).mean().item())


def test_seeds_repeat_and_a_saved_state_goes_on(mlp, make_transcoder):
    student, x = make_transcoder(), rows()
    a, b = JacobianMatching(seed=3), JacobianMatching(seed=3)
    assert a(student, mlp, x).item() == pytest.approx(b(student, mlp, x).item(), rel=1e-12)
    state = a.state_dict()
    following = [a(student, mlp, x).item() for _ in range(3)]
    resumed = JacobianMatching(seed=99)
    resumed.load_state_dict(state)
    assert [resumed(student, mlp, x).item() for _ in range(3)] == pytest.approx(following, rel=1e-12)
    other = JacobianMatching(seed=4)(student, mlp, x).item()
    assert other != pytest.approx(JacobianMatching(seed=3)(student, mlp, x).item(), rel=1e-6)
    resumed.load_state_dict(JacobianMatching(seed=4).state_dict())  # a fresh one: back to its own seed
    assert resumed(student, mlp, x).item() == pytest.approx(
        JacobianMatching(seed=99)(student, mlp, x).item(), rel=1e-12
    )


def test_a_student_of_another_width_is_refused(as_installed, mlp, make_transcoder):
    with pytest.raises(ValueError, match="d_out=3 and the layer's has 4"):
        JacobianMatching()(make_transcoder(d_out=3), mlp, rows())


def test_devices_and_dtypes_that_do_not_fit_are_named(as_installed, mlp, make_transcoder):
    with pytest.raises(ValueError, match=r"inputs are on cpu and the transcoder's W_enc on meta: move one of them"):
        JacobianMatching()(make_transcoder().to("meta"), mlp, rows())
    single, student = rows().float(), DenseRelu(5, 12, 4)
    for estimator in ESTIMATORS:
        matching = JacobianMatching(estimator=estimator)
        with pytest.raises(
            ValueError, match=r"have dtype torch.float32 and Mlp's up.weight has torch.float64 .*one dt"
        ):
            matching(make_transcoder(), mlp, single)
        with pytest.raises(
            ValueError, match=r"have dtype torch.float32 and what they meet has another \(mat1 and mat2"
        ):
            matching(make_transcoder(), lambda rows: mlp(rows), single)
        with pytest.raises(
            ValueError, match=r"have dtype torch.float64 and DenseRelu's encoder.weight has torch.float32"
        ):
            matching(student.float(), mlp, rows())


def test_a_student_whose_jacobian_cannot_be_trained_is_refused(mlp):
    class Detached(DenseRelu):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.encoder(x).mean(-1, keepdim=True).detach())[..., :4]

    class Opaque(torch.autograd.Function):  # neither a forward-mode rule nor a backward that can be differentiated
        @staticmethod
        def forward(ctx, x):
            return x.relu()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
            return grad

    class Unknown(DenseRelu):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.decoder(Opaque.apply(self.encoder(x)))

    with pytest.raises(ValueError, match="the Jacobian of Detached has no gradient to its parameters"):
        JacobianMatching()(Detached(5, 12, 4), mlp, rows())
    with pytest.raises(ValueError, match=r'neither forward nor twice in reverse.*use estimator="secant"'):
        JacobianMatching()(Unknown(5, 12, 4), mlp, rows())
    JacobianMatching(estimator="secant")(Unknown(5, 12, 4), mlp, rows()).backward()


def test_other_errors_of_the_layer_are_left_as_they_are(make_transcoder):
    mixed = torch.nn.Sequential(torch.nn.LayerNorm(5), torch.nn.Linear(6, 4))  # a width that does not fit, in float32

    for layer in (mixed, lambda rows: mixed(rows)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            JacobianMatching()(make_transcoder(dtype="float32"), layer, rows().float())


def test_targets_made_in_inference_mode_can_be_trained_on(mlp, make_transcoder):
    for estimator in ESTIMATORS:
        student, matching = make_transcoder("topk"), JacobianMatching(estimator=estimator)
        with torch.inference_mode():
            targets = matching.targets(mlp, rows())
            matching.from_targets(student, targets)
        matching.from_targets(student, targets).backward()
        assert student.W_enc.grad is not None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_hook_on_the_students_activations_is_seen_at_both_ends_of_a_step(
    mlp, make_transcoder, architecture, estimator
):
    student = make_transcoder(architecture)
    student.hook_sae_acts_post.add_hook(lambda acts, hook: torch.zeros_like(acts))
    loss = JacobianMatching(estimator=estimator, normalize=False)(student, mlp, rows())
    targets = JacobianMatching(estimator=estimator, normalize=False).targets(mlp, rows())
    assert targets.Jv is not None
    assert loss.item() <= 2 * targets.Jv.square().sum(-1).sum().item()  # that of a student that does not move


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_autocast_and_half_precision_weights_stay_near_the_truth(make_transcoder, architecture, estimator):
    layer, x = AbsNetwork(5), rows(40).float()
    student = make_transcoder(architecture, d_out=5, dtype="float32")
    matching = {"estimator": estimator, "seed": 1}
    truth = JacobianMatching(matching)(student, layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = JacobianMatching(matching)(student, layer, x)
    cast.backward()
    assert student.W_enc.grad is not None
    assert cast.dtype == torch.float32
    half = make_transcoder(architecture, d_out=5, dtype="bfloat16")
    half.load_state_dict(student.state_dict())
    loss = JacobianMatching(matching)(half, layer, x)
    loss.backward()
    assert half.W_enc.grad is not None
    assert [cast.item(), loss.item()] == pytest.approx([truth.item()] * 2, rel=0.1)
