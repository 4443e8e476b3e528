import numpy as np
import pytest

from nas_optuna.samplers.lstm_policy import LOGIT_DECAY, Policy

SIZES = (4, 3, 2, 1, 5)


def random_policy(seed: int = 0) -> Policy:
    policy = Policy(SIZES, hidden=6, dtype=np.float64)
    policy.theta[:] = np.random.default_rng(seed).normal(0, 0.7, policy.theta.shape)
    return policy


def test_gradient_is_torchs() -> None:
    import torch

    policy = random_policy()
    rng = np.random.default_rng(1)
    tokens = policy.sample(7, rng).tokens
    advantage = rng.normal(size=7)
    gradient, rollout = policy.gradient(tokens, advantage, entropy_weight=0.3)

    theta = torch.tensor(policy.theta, requires_grad=True)
    weights, start = {}, 0
    for name, shape in policy.shapes.items():
        count = int(np.prod(shape))
        weights[name] = theta[start : start + count].reshape(shape)
        start += count
    cell = torch.nn.LSTMCell(6, 6, dtype=torch.float64)
    state = (torch.zeros(7, 6, dtype=torch.float64),) * 2
    objective = torch.zeros(7, dtype=torch.float64)
    # torch orders the gates i, f, g, o; the policy i, f, o, g.
    order = torch.cat([torch.arange(12), torch.arange(18, 24), torch.arange(12, 18)])
    parameters = {
        "weight_ih": weights["gates"][:6, order].T,
        "weight_hh": weights["gates"][6:, order].T,
        "bias_ih": weights["gate_bias"][order],
        "bias_hh": torch.zeros(24, dtype=torch.float64),
    }
    for t, size in enumerate(SIZES):
        before = torch.as_tensor(tokens[:, t - 1]) if t else torch.zeros(7, dtype=torch.long)
        state = torch.func.functional_call(cell, parameters, (weights["embedding"][t][before], state))
        logits = (state[0] @ weights["head"][t] + weights["head_bias"][t])[:, :size]
        distribution = torch.distributions.Categorical(logits=logits)
        objective = objective + torch.as_tensor(advantage) * distribution.log_prob(torch.as_tensor(tokens[:, t]))
        objective = objective + 0.3 * distribution.entropy() - LOGIT_DECAY * (logits**2).sum(1)
        np.testing.assert_allclose(rollout.entropy[:, t], distribution.entropy().detach(), atol=1e-12)
    objective.mean().backward()
    assert theta.grad is not None
    np.testing.assert_allclose(gradient, theta.grad, atol=1e-12)
    assert np.abs(gradient).max() > 0.01


def test_probabilities_sum_to_one_and_give_the_log_prob() -> None:
    policy = random_policy()
    rollout = policy.sample(20, np.random.default_rng(0))
    p = policy.probabilities(rollout.tokens)
    np.testing.assert_allclose(p.sum(2), 1)
    for t, size in enumerate(SIZES):
        assert (p[:, t, size:] == 0).all()
        assert (rollout.tokens[:, t] < size).all()
    taken = np.take_along_axis(p, rollout.tokens[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(np.log(taken).sum(1), rollout.log_prob)


def test_samples_follow_the_probabilities() -> None:
    policy = random_policy()
    tokens = policy.sample(40_000, np.random.default_rng(0)).tokens
    observed = np.bincount(tokens[:, 0], minlength=4) / len(tokens)
    np.testing.assert_allclose(observed, policy.probabilities(tokens[:1])[0, 0, :4], atol=0.01)


def test_a_fresh_policy_is_nearly_uniform_and_a_high_temperature_makes_any_so() -> None:
    uniform = np.log(SIZES)
    fresh = Policy(SIZES).sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(fresh.entropy.mean(0), uniform, atol=0.02)
    sharp = random_policy()
    assert (sharp.sample(50, np.random.default_rng(0)).entropy.mean(0) < uniform - 0.05)[[0, 1, 2, 4]].all()
    flat = sharp.sample(50, np.random.default_rng(0), temperature=1e6)
    np.testing.assert_allclose(flat.entropy.mean(0), uniform, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_seed_decides_everything(seed: int) -> None:
    a, b = (Policy(SIZES, seed=seed).sample(5, np.random.default_rng(seed)) for _ in range(2))
    assert (a.tokens == b.tokens).all()
    assert (a.log_prob == b.log_prob).all()
