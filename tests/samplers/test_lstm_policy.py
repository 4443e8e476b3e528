import numpy as np
import pytest
import torch

from nas_optuna.samplers.policy import Policy

SIZES = (4, 3, 2, 1, 5)
LOGS = torch.tensor(SIZES).log()


def random_policy() -> Policy:
    policy = Policy(SIZES, hidden=6)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.normal_(0, 0.7, generator=seeded())
    return policy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sequence_is_drawn_and_evaluated_alike() -> None:
    policy = random_policy()
    drawn = policy.sample(20, seeded())
    given = policy.evaluate(drawn.tokens)
    torch.testing.assert_close(given.log_prob, drawn.log_prob)
    torch.testing.assert_close(given.entropy, drawn.entropy)
    assert (drawn.tokens < torch.tensor(SIZES)).all()


def test_log_prob_and_entropy_are_those_of_the_distributions() -> None:
    rollout = random_policy().sample(7, seeded())
    distributions = [torch.distributions.Categorical(logits=logits) for logits in rollout.logits.unbind(1)]
    log_probs = [d.log_prob(tokens) for d, tokens in zip(distributions, rollout.tokens.T, strict=True)]
    torch.testing.assert_close(rollout.log_prob, torch.stack(log_probs).sum(0))
    torch.testing.assert_close(rollout.entropy, torch.stack([d.entropy() for d in distributions], 1))


def test_a_distribution_depends_on_the_tokens_before_it_alone() -> None:
    policy = random_policy()
    first, second = (policy.evaluate(torch.tensor([[0, 0, token, 0, 0]])).logits[0] for token in (0, 1))
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [True, True, True, False, False]


def test_samples_follow_the_probabilities() -> None:
    rollout = random_policy().sample(40_000, seeded())
    observed = rollout.tokens[:, 0].bincount(minlength=4) / 40_000
    torch.testing.assert_close(observed, rollout.logits[0, 0, :4].softmax(0), atol=0.01, rtol=0)


def test_a_fresh_policy_is_nearly_uniform_and_a_high_temperature_makes_any_so() -> None:
    fresh = Policy(SIZES).sample(50, seeded())
    torch.testing.assert_close(fresh.entropy.mean(0), LOGS, atol=0.02, rtol=0)
    sharp = random_policy()
    assert (sharp.sample(50, seeded()).entropy.mean(0) < LOGS - 0.05)[[0, 1, 2, 4]].all()
    flat = sharp.sample(50, seeded(), temperature=1e6)
    torch.testing.assert_close(flat.entropy.mean(0), LOGS, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_seed_decides_everything_and_draws_from_no_other(seed: int) -> None:
    state = torch.get_rng_state()
    a, b = (Policy(SIZES, seed=seed).sample(5, seeded(seed)) for _ in range(2))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.log_prob, b.log_prob)
    np.testing.assert_array_equal(torch.get_rng_state(), state)
