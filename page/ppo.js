// The mathematics of ppo.py, by its names and in its order. Rows are as long as their responses, so
// they need no masks. The losses also return the gradients that autograd finds in ppo.py.

const sum = (x) => x.reduce((a, b) => a + b, 0);
const mean = (x) => sum(x) / x.length;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

// Rows of numbers with mean 0 and (biased) variance 1 over all rows.
function whiten(rows) {
  const {average, deviation} = spread(rows);
  return rows.map((row) => row.map((x) => (x - average) / deviation));
}

function spread(rows) {
  const average = mean(rows.flat());
  const variance = mean(rows.flat().map((x) => (x - average) ** 2));
  return {average, deviation: Math.sqrt(variance + 1e-8)};
}

// KL(actor ‖ reference) of each token (R), in nats, estimated from the one that was sampled.
function kl_penalty(logprobs, ref_logprobs) {
  return logprobs.map((logprob, t) => logprob - ref_logprobs[t]);
}

// Each token pays for its KL; the score comes with the last one: (R).
function token_rewards(logprobs, ref_logprobs, score, kl_coef) {
  const rewards = kl_penalty(logprobs, ref_logprobs).map((kl) => -kl_coef * kl);
  rewards[rewards.length - 1] += score;
  return rewards;
}

// δ_t = r_t + γ V_{t+1} - V_t      A_t = δ_t + γλ A_{t+1}      returns = A + V
// One response, all (R). Beyond its end rewards and values are 0.
function gae(rewards, values, gamma, lam) {
  const deltas = [], advantages = [];
  let advantage = 0, next_value = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    deltas[t] = rewards[t] + gamma * next_value - values[t];
    advantage = deltas[t] + gamma * lam * advantage;
    advantages[t] = advantage;
    next_value = values[t];
  }
  return {deltas, advantages, returns: advantages.map((A, t) => A + values[t])};
}

// -min(ρA, clip(ρ, 1-ε, 1+ε)A), its mean over the actions, and the derivative by log π of each.
function policy_loss(logprobs, old_logprobs, advantages, clip) {
  const losses = [], gradient = [];
  logprobs.forEach((logprob, i) => {
    const ratio = Math.exp(logprob - old_logprobs[i]);
    const plain = -advantages[i] * ratio;
    const clipped = -advantages[i] * clamp(ratio, 1 - clip, 1 + clip);
    losses.push(Math.max(plain, clipped));
    gradient.push(clipped > plain ? 0 : plain / logprobs.length);       // dρ / d log π = ρ
  });
  return {loss: mean(losses), gradient};
}

// Half the squared error, or that of the value clipped to its rollout value ± clip, if that is
// worse; and the derivative by each value.
function value_loss(values, old_values, returns, clip) {
  const losses = [], gradient = [];
  values.forEach((value, i) => {
    const near = clamp(value, old_values[i] - clip, old_values[i] + clip);
    const plain = (value - returns[i]) ** 2;
    const clipped = (near - returns[i]) ** 2;
    losses.push(Math.max(plain, clipped) / 2);
    gradient.push(clipped > plain ? 0 : (value - returns[i]) / values.length);
  });
  return {loss: mean(losses), gradient};
}
