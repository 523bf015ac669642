"""What must be true of a product of experts and of an MVAE: identities, known answers, limits.

The numbers in the names are the invariants' numbers in the model's specification.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from labkit.batch import Batch, subsets
from labkit.bench.digits import powerset_loop
from labkit.evidence import conditional_nll, effective_samples, log_mean_weight, log_weights
from labkit.models.mvae import (
    LOGVAR_BOUND,
    MVAE,
    Modality,
    MVAEConfig,
    Posterior,
    preset,
    product_of_experts,
)

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def experts(m: int = 3, b: int = 5, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(7)
    return torch.randn(m, b, d, generator=g, dtype=F64), torch.randn(
        m, b, d, generator=g, dtype=F64
    )


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-12) -> bool:
    return torch.allclose(a, b, rtol=0, atol=atol)


# Product of experts --------------------------------------------------------------------------


def test_1_one_expert_and_the_prior():
    mean, logvar = experts(m=1)
    fused, s = product_of_experts(mean, logvar), logvar[0].exp()
    assert close(fused.mean, mean[0] / (1 + s)) and close(fused.logvar.exp(), s / (1 + s))


def test_1_no_expert_is_exactly_the_prior():
    fused = product_of_experts(*experts(), torch.zeros(5, 3, dtype=torch.bool))
    assert torch.equal(fused.mean, torch.zeros(5, 4, dtype=F64))
    assert torch.equal(fused.logvar, torch.zeros(5, 4, dtype=F64))


def test_product_is_the_closed_form_for_all_subsets():
    mean, logvar = experts()
    fused = product_of_experts(mean, logvar, subsets(3)[:, None].expand(-1, 5, -1))
    for s, subset in enumerate(subsets(3)):
        precision = logvar[subset].neg().exp()
        total = 1 + precision.sum(0)
        assert close(fused.logvar[s], -total.log())
        assert close(fused.mean[s], (precision * mean[subset]).sum(0) / total)


def test_2_order_of_experts_is_irrelevant():
    mean, logvar = experts()
    a, b = product_of_experts(mean, logvar), product_of_experts(mean.flip(0), logvar.flip(0))
    assert close(a.mean, b.mean) and close(a.logvar, b.logvar)


@pytest.mark.parametrize("content", [math.nan, math.inf, 1e30])
def test_3_a_hidden_expert_is_absent_and_gets_no_gradient(content):
    mean, logvar = experts()
    mean[1], logvar[1] = content, content
    mean.requires_grad_(), logvar.requires_grad_()
    observed = torch.tensor([True, False, True]).expand(5, 3)
    fused = product_of_experts(mean, logvar, observed)
    alone = product_of_experts(mean[[0, 2]].detach(), logvar[[0, 2]].detach())
    assert close(fused.mean, alone.mean) and close(fused.logvar, alone.logvar)
    (fused.mean.sum() + fused.logvar.sum()).backward()
    for gradient in (mean.grad, logvar.grad):
        assert torch.equal(gradient[1], torch.zeros(5, 4, dtype=F64)) and gradient.isfinite().all()


def test_3_infinite_variance_equals_absence():
    mean, logvar = experts()
    logvar[1] = math.inf
    alone = product_of_experts(mean[[0, 2]], logvar[[0, 2]])
    fused = product_of_experts(mean, logvar)
    assert close(fused.mean, alone.mean) and close(fused.logvar, alone.logvar)


def test_4_more_experts_never_raise_the_variance():
    logvar = product_of_experts(*experts(), subsets(3)[:, None].expand(-1, 5, -1)).logvar
    for i, small in enumerate(subsets(3)):
        for j, large in enumerate(subsets(3)):
            if (small <= large).all():
                assert (logvar[j] <= logvar[i]).all()


def test_5_a_duplicate_doubles_its_precision():
    mean, logvar = experts(m=1)
    twice = product_of_experts(mean.repeat(2, 1, 1), logvar.repeat(2, 1, 1))
    assert close(twice.logvar, product_of_experts(mean, logvar - math.log(2)).logvar)
    assert close(twice.mean, product_of_experts(mean, logvar - math.log(2)).mean)


def test_6_kl_is_the_library_s_and_zero_only_for_the_prior():
    q = Posterior(*(part[0] for part in experts()))
    library = kl_divergence(
        Normal(q.mean, (q.logvar / 2).exp()), Normal(torch.zeros((), dtype=F64), 1.0)
    )
    assert close(q.kl(), library) and (q.kl() > 0).all()
    assert torch.equal(Posterior(torch.zeros(2, 3), torch.zeros(2, 3)).kl(), torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_10_extreme_log_variances_stay_finite_with_finite_gradients(dtype):
    extremes = torch.tensor([-120.0, -90, -80, 0, 80, 90, 120], dtype=dtype)
    grid = torch.cartesian_prod(extremes, extremes, extremes).T[:, :, None].clone()  # (3, 343, 1)
    mean = torch.randn(grid.shape, generator=generator(), dtype=dtype).requires_grad_()
    logvar = grid.requires_grad_()
    fused = product_of_experts(mean, logvar, subsets(3)[:, None].expand(-1, 343, -1))
    assert fused.mean.isfinite().all() and fused.logvar.isfinite().all()
    (fused.mean.sum() + fused.logvar.sum()).backward()
    assert mean.grad.isfinite().all() and logvar.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 5, 4), torch.zeros(3, 5, 3)), r"\(3, 5, 4\) and \(3, 5, 3\)"),
        ((torch.zeros(3, 4), torch.zeros(3, 4)), r"\(M, B, D\)"),
        ((torch.zeros(3, 5, 4),) * 2 + (torch.ones(3, 5, dtype=torch.bool),), r"\(\.\.\., 5, 3\)"),
        ((torch.zeros(3, 5, 4),) * 2 + (torch.ones(5, 3),), "bool"),
    ],
)
def test_wrong_experts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        product_of_experts(*arguments)


# The model -----------------------------------------------------------------------------------

SMALL = MVAEConfig(
    (
        Modality("image", (3, 3), "bernoulli", 1.0, (8,), (8,)),
        Modality("drawing", (3, 3), "bernoulli", 1.0, (8,), (8,)),
        Modality("sound", (4,), "gaussian", 100.0, (8,), (8,)),
    ),
    latent=5,
    classes=3,
    label_decoder=(8,),
)


def model(seed: int = 0, **changes) -> MVAE:
    torch.manual_seed(seed)
    built = replace(SMALL, **changes).build().double()
    for encoder in built.encoders.values():  # move the zero-started heads away from zero
        torch.nn.init.normal_(encoder.logvar.weight, std=0.3)
    return built


def data(rows: int = 6, observed: torch.Tensor | None = None, seed: int = 1) -> Batch:
    g = generator(seed)
    x = {
        "image": torch.rand(rows, 3, 3, generator=g, dtype=F64),
        "drawing": torch.rand(rows, 3, 3, generator=g, dtype=F64),
        "sound": torch.randn(rows, 4, generator=g, dtype=F64),
    }
    return Batch(x, observed, torch.randint(3, (rows,), generator=g))


@pytest.mark.parametrize("objective", ["cross", "own"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-5)])
def test_7_the_batched_powerset_is_the_plain_loop(objective, dtype, tolerance):
    net, batch = model(objective=objective, kl_weight=0.3), data(16)
    noise = torch.randn(7, 16, 5, generator=generator(3), dtype=dtype)
    wanted = powerset_loop(net, batch, noise.double(), 0.3)
    gradients = torch.autograd.grad(wanted, list(net.parameters()))
    net, batch = net.to(dtype), batch._map(lambda t: t.to(dtype) if t.is_floating_point() else t)
    got, _ = net.loss(batch, 0, generator(3))  # the same noise: one draw of (7, 16, 5)
    assert abs(got.item() - wanted.item()) <= tolerance * abs(wanted.item())
    for ours, plain in zip(
        torch.autograd.grad(got, list(net.parameters())), gradients, strict=True
    ):
        assert (ours - plain).norm() <= tolerance * plain.norm().clamp(min=1e-3)


def test_each_modality_is_encoded_and_decoded_once():
    for objective in ("cross", "own", "own+k"):
        net, calls = model(objective=objective), []
        for name, part in [*net.encoders.items(), *net.decoders.items()]:
            part.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        net.loss(data(), 0, generator())
        assert sorted(calls) == sorted([*net.encoders, *net.decoders])


def test_own_decodes_only_the_four_subsets_that_hold_a_modality():
    net, rows = model(objective="own"), []
    net.decoders["sound"].register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    net.loss(data(), 0, generator())
    assert rows == [4]


@pytest.mark.parametrize("objective", ["cross", "own", "own+k"])
@pytest.mark.parametrize("content", [math.nan, math.inf, 1e6])
def test_14_what_is_missing_cannot_change_loss_or_gradient(objective, content):
    observed = torch.tensor(
        [[1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]]
    ).bool()
    net, results = model(objective=objective), []
    for filling in (0.25, content):
        x = {n: torch.where(observed[:, i].view(-1, *[1] * (v.ndim - 1)), v, filling)
             for i, (n, v) in enumerate(data().x.items())}  # fmt: skip
        loss, parts = net.loss(Batch(x, observed, data().y), 0, generator(2))
        results.append([loss, *parts.values(), *torch.autograd.grad(loss, list(net.parameters()))])
    assert all(torch.equal(a, b) and b.isfinite().all() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("objective", ["cross", "own"])
def test_14_a_row_s_mask_equals_running_that_row_alone(objective):
    """A row with gaps is trained on the subsets of what it has, as if the rest did not exist."""
    observed = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    net, batch = model(objective=objective), data(3, observed)
    noise = torch.randn(7, 3, 5, generator=generator(3), dtype=F64)
    together = net.loss(batch, 0, generator(3))[0]
    total = torch.zeros((), dtype=F64)
    for row in range(3):
        alone = batch[torch.tensor([row])]
        kept = alone.only(*(n for n, here in zip(alone.x, observed[row], strict=True) if here))
        for s, subset in enumerate(subsets(3)):
            if (subset <= observed[row]).all():
                posterior = net.encode(kept, subset.expand(1, 1, 3))
                z = posterior.mean + (posterior.logvar / 2).exp() * noise[s, row]
                out = net.decode(z)
                loss = posterior.kl().sum()
                for i, (name, m) in enumerate(net.modalities.items()):
                    if name in kept.x and (objective == "cross" or subset[i]):
                        loss = loss + m.weight * m.error(out[name], kept.x[name]).sum()
                total = total + loss + F.cross_entropy(out["label"][0], kept.y)
    assert torch.allclose(together, total / 3, rtol=1e-12)


def test_predict_and_recover_read_neither_labels_nor_what_is_missing():
    observed = torch.tensor([[True, False, True]] * 6)
    net, batch = model(), data(6, observed)
    other = Batch(
        {**batch.x, "drawing": torch.full((6, 3, 3), math.nan, dtype=F64)},
        observed,
        (batch.y + 1) % 3,
    )
    assert torch.equal(net.predict(batch), net.predict(other))
    recovered = net.recover(other)
    assert recovered.observed.all() and torch.equal(recovered.x["image"], batch.x["image"])
    assert torch.equal(recovered.x["drawing"], net.means(net.encode(batch).mean)["drawing"])
    assert torch.equal(net.predict(batch), net.predict(batch.only("sound", "image")))


def test_own_plus_k_draws_subsets_of_what_each_row_has():
    observed = torch.tensor([[True, True, False]]).repeat(500, 1)
    net = model(objective="own+k", sampled=4)
    visible, targets = net._plan(observed, generator())
    assert visible.shape == (3 + 4 + 1, 500, 3) and torch.equal(visible, targets)
    drawn = visible[3:7].reshape(-1, 3)
    assert not drawn[:, 2].any() and drawn.any(1).all()
    shares = torch.stack([(drawn == s).all(1).double().mean() for s in subsets(3)[[0, 1, 3]]])
    assert close(shares, torch.full((3,), 1 / 3, dtype=F64), atol=5 * (2 / 9 / 2000) ** 0.5)


def test_12_powerset_size_and_annealing():
    assert len(subsets(3)) == 2**3 - 1
    annealed = MVAE(replace(SMALL, kl_steps=200 * 375))
    for epoch, b in [(1, 0), (32, 374), (201, 0)]:  # the poster's formula, epochs from 1
        assert annealed.kl_weight((epoch - 1) * 375 + b) == min(
            1.0, ((epoch - 1) * 375 + b + 1) / (200 * 375)
        )
    assert (
        abs(annealed.kl_weight(31 * 375 + 187) - 0.1575) < 1e-3
    )  # mid epoch 32, where it was stopped
    assert model().kl_weight(0) == 1.0


def test_12_table_1_residuals_rise_under_inclusion_with_lambda_100():
    """The poster's own numbers (Table 1): what is left of "ELBO" after the errors is an annealed KL."""
    table = {
        (1, 0, 0): (248.85, 89.09, 135.0, 0.133), (0, 1, 0): (436.9, 348.67, 68.96, 0.134),
        (0, 0, 1): (493.03, 348.81, 135.76, 0.0095), (1, 1, 0): (187.64, 89.05, 69.04, 0.133),
        (0, 1, 1): (427.44, 346.19, 69.1, 0.011), (1, 0, 1): (239.11, 89.33, 134.8, 0.013),
        (1, 1, 1): (177.62, 89.38, 69.1, 0.014),
    }  # fmt: skip

    def violations(weight: float) -> int:
        left = {s: loss - a - b - weight * c for s, (loss, a, b, c) in table.items()}
        pairs = [
            (s, t)
            for s in table
            for t in table
            if s != t and all(i <= j for i, j in zip(s, t, strict=True))
        ]
        return sum(left[s] >= left[t] for s, t in pairs)

    assert violations(100) == 0 and violations(1) > 0


def test_poster_preset_has_the_poster_s_sizes():
    """Report section 4.2.2 and the authors' code: 14.8 M weights; MACs by network."""
    with torch.device("meta"):
        net = preset("poster").build()

    def macs(part: torch.nn.Module) -> float:
        return (
            sum(
                layer.weight.numel()
                for layer in part.modules()
                if isinstance(layer, torch.nn.Linear)
            )
            / 1e6
        )

    assert [round(macs(part), 2) for part in net.encoders.values()] == [4.75, 4.75, 0.79]
    assert [round(macs(part), 2) for part in net.decoders.values()] == [1.45, 1.45, 0.79]
    assert round(macs(net.label), 2) == 0.79
    assert abs(sum(p.numel() for p in net.parameters()) / 1e6 - 14.8) < 0.05
    assert [m.weight for m in preset("poster").modalities] == [1, 1, 100]


def test_log_variances_start_at_zero_and_stay_bounded():
    net = SMALL.build()
    _, logvar = net.experts(data()._map(lambda t: t.float() if t.is_floating_point() else t))
    assert torch.equal(logvar, torch.zeros_like(logvar))
    net.encoders["sound"].logvar.bias.data.fill_(1e4)
    _, logvar = net.experts(data()._map(lambda t: t.float() if t.is_floating_point() else t))
    assert logvar.max() <= LOGVAR_BOUND


def test_11_weighted_squared_error_is_a_gaussian_log_likelihood():
    sound = SMALL.modalities[2]
    out, target = torch.randn(2, 6, 4, generator=generator(), dtype=F64)
    nll = -Normal(out, (1 / 200) ** 0.5).log_prob(target).sum(-1)
    assert close(sound.weight * sound.error(out, target) + sound.log_normaliser, nll, 1e-10)


def test_11_cross_entropy_is_the_textbook_s_and_not_below_the_self_entropy():
    image = SMALL.modalities[0]
    logits, target = torch.randn(6, 3, 3, generator=generator(), dtype=F64), data().x["image"]
    plain = F.binary_cross_entropy(logits.sigmoid(), target, reduction="none").sum((1, 2))
    assert close(image.error(logits, target), plain, 1e-10)
    entropy = -(target * target.log() + (1 - target) * (1 - target).log()).sum((1, 2))
    assert (image.error(logits, target) >= entropy).all()
    assert close(image.error(target.logit(), target), entropy, 1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("huge"), "'huge'.*teaching2, teaching32, poster"),
        (lambda: replace(SMALL, objective="both"), "'both'"),
        (lambda: replace(SMALL, latent=0), "at least 1"),
        (lambda: replace(SMALL, modalities=SMALL.modalities[:1] * 2), "distinct names"),
        (lambda: model(classes=None).predict(data()), "no label decoder"),
        (
            lambda: model().loss(Batch({"smell": torch.zeros(2, 3)}), 0, generator()),
            "'smell'.*image, drawing, sound",
        ),
        (lambda: model().encode(Batch({"sound": torch.zeros(2, 7)})), r"\(4,\).*\(7,\)"),
    ],
)
def test_wrong_use_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("objective", ["cross", "own", "own+k"])
def test_on_a_gpu_it_trains_in_bfloat16_and_agrees_with_the_cpu(objective):
    batch = data(64)._map(lambda t: t.float() if t.is_floating_point() else t)
    net = model(objective=objective).float()
    visible = subsets(3)[:, None]
    plain = net.terms(batch, visible, torch.ones_like(visible))
    net, batch = net.cuda(), batch.to("cuda")
    for name, values in net.terms(batch, visible, torch.ones_like(visible)).items():
        if name != "correct":
            torch.testing.assert_close(values.cpu(), plain[name], rtol=1e-3, atol=1e-3)
    noise = torch.Generator("cuda").manual_seed(0)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for step in range(60):
        with torch.autocast("cuda", torch.bfloat16):
            loss, parts = net.loss(batch, step, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32 and all(value.isfinite() for value in parts.values())
    assert losses[-1] < 0.8 * losses[0]


# Exact evidence --------------------------------------------------------------------------------


def exact_model(detune: float = 0.0) -> tuple[MVAE, Batch, list[torch.Tensor], list[float]]:
    """A linear Gaussian MVAE whose diagonal product of experts *is* the posterior of every subset.

    x_i = W_i z + N(0, s_i^2 I) with W_i^T W_i diagonal; the expert of x_i has precision
    diag(W_i^T W_i) / s_i^2 and mean W_i^T x_i / diag(W_i^T W_i). `detune` shifts the means and
    raises the precisions by 40 %.
    """
    d, sizes, noises = 3, (6, 5, 4), (0.5, 0.8, 1.1)
    g = generator(11)
    modalities = tuple(
        Modality(f"x{i}", (n,), "gaussian", 1 / (2 * s * s), (), ())
        for i, (n, s) in enumerate(zip(sizes, noises, strict=True))
    )
    net = MVAEConfig(modalities, latent=d, classes=None).build().double()
    loadings = []
    for i, (n, s) in enumerate(zip(sizes, noises, strict=True)):
        orthonormal = torch.linalg.qr(torch.randn(n, d, generator=g, dtype=F64))[0]
        w = orthonormal * torch.rand(d, generator=g, dtype=F64).add(0.5)  # W^T W diagonal
        gram, encoder, decoder = (w * w).sum(0), net.encoders[f"x{i}"], net.decoders[f"x{i}"][0]
        wanted_logvar = -(gram / s**2).log() - (math.log(1.4) if detune else 0)
        with torch.no_grad():
            encoder.mean.weight.copy_((w / gram).T)
            encoder.mean.bias.fill_(detune)
            encoder.logvar.weight.zero_()
            encoder.logvar.bias.copy_(LOGVAR_BOUND * torch.atanh(wanted_logvar / LOGVAR_BOUND))
            decoder.weight.copy_(w)
            decoder.bias.zero_()
        loadings.append(w)
    z = torch.randn(8, d, generator=g, dtype=F64)
    x = {f"x{i}": z @ w.T + s * torch.randn(8, len(w), generator=g, dtype=F64)
         for i, (w, s) in enumerate(zip(loadings, noises, strict=True))}  # fmt: skip
    return net, Batch(x), loadings, list(noises)


def evidence(
    batch: Batch, loadings: list[torch.Tensor], noises: list[float], subset: torch.Tensor
) -> torch.Tensor:
    """log p(x_S) of the linear Gaussian model in closed form."""
    chosen = [i for i in range(3) if subset[i]]
    w = torch.cat([loadings[i] for i in chosen])
    noise = torch.cat([torch.full((len(loadings[i]),), noises[i] ** 2, dtype=F64) for i in chosen])
    x = torch.cat([batch.x[f"x{i}"] for i in chosen], 1)
    zero = torch.zeros(len(w), dtype=F64)
    return torch.distributions.MultivariateNormal(zero, w @ w.T + noise.diag()).log_prob(x)


@pytest.mark.parametrize("row", range(7))
def test_8_the_bound_is_the_evidence_when_the_experts_are_exact(row):
    net, batch, loadings, noises = exact_model()
    subset = subsets(3)[row]
    weights = log_weights(net, batch, subset, subset, 50, generator())
    truth = evidence(batch, loadings, noises, subset)
    assert close(weights.mean(0), truth, 1e-10)  # ELBO = log p(x_S)
    assert weights.std(0).max() < 1e-10  # importance weights are constant
    assert close(log_mean_weight(weights), truth, 1e-10) and close(
        effective_samples(weights), torch.full((8,), 50.0, dtype=F64), 1e-6
    )


def test_9_the_gap_of_wrong_experts_is_their_kl_and_importance_sampling_closes_it():
    net, batch, loadings, noises = exact_model(detune=0.3)
    exact = exact_model()[0]
    everything = torch.ones(3, dtype=torch.bool)
    truth = evidence(batch, loadings, noises, everything)
    q, p = net.encode(batch), exact.encode(batch)
    gap = kl_divergence(
        Normal(q.mean, (q.logvar / 2).exp()), Normal(p.mean, (p.logvar / 2).exp())
    ).sum(-1)
    w = log_weights(net, batch, everything, everything, 200_000, generator())
    elbo, error = w.mean(0), w.std(0) / len(w) ** 0.5
    assert ((truth - elbo - gap).abs() < 5 * error).all()
    bounds = [
        w[: k * (len(w) // k)].view(-1, k, 8).logsumexp(1).sub(math.log(k)).mean(0)
        for k in (1, 10, 100, 1000)
    ]
    for low, high in zip(bounds, [*bounds[1:], truth], strict=True):
        assert low.mean() < high.mean() + 1e-3
    assert (truth - log_mean_weight(w)).abs().max() < 0.05 < gap.min()


def test_9_analytic_elbo_of_the_terms_agrees_with_the_weights():
    """Two routes to one number: errors + KL at sampled z, and the mean importance log-weight."""
    net, batch, *_ = exact_model(detune=0.3)
    many = Batch({name: x[:1].repeat(100_000, 1) for name, x in batch.x.items()})
    visible = torch.ones(1, 1, 3, dtype=torch.bool)
    constants = sum(m.log_normaliser for m in net.config.modalities)
    each = -(net.weigh(net.terms(many, visible, visible, generator()), 1.0) + constants)[0]
    weights = log_weights(net, batch[:1], visible[0, 0], visible[0, 0], 100_000, generator(1))[:, 0]
    error = (each.var() / len(each) + weights.var() / len(weights)).sqrt()
    assert abs(each.mean() - weights.mean()) < 5 * error


def test_conditional_nll_is_the_exact_conditional():
    net, batch, loadings, noises = exact_model()
    given, target = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    joint = evidence(batch, loadings, noises, given | target)
    truth = evidence(batch, loadings, noises, given) - joint
    estimate = conditional_nll(net, batch, target, given, 20_000, generator())
    assert close(estimate, truth, 0.1)
    with pytest.raises(ValueError, match="overlap"):
        conditional_nll(net, batch, target, given | target, 10, generator())


def test_chunks_do_not_change_the_weights_expectation():
    net, batch, loadings, noises = exact_model()
    everything = torch.ones(3, dtype=torch.bool)
    small = log_weights(net, batch, everything, everything, 10, generator(), chunk=24)
    assert small.shape == (10, 8)
    assert close(small.mean(0), evidence(batch, loadings, noises, everything), 1e-10)
    with pytest.raises(ValueError, match="label=True"):
        log_weights(net, batch, everything, everything, 10, generator(), label=True)
