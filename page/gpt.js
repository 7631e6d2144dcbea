// GPT-2 as in gpt.py, one token at a time, with the key-value cache; weights from the page itself.

// The packed models: {name: {tensor: {rows, columns, data}}}. Each is stored as whole numbers times
// a scale per row, added to the weights of the model that `from` names. Bytes of equal rank lie
// together, lowest first.
async function unpack(base64, packed) {
  const zipped = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = await new Response(stream).arrayBuffer(), models = {};
  let start = 0;
  for (const {name, from, width, tensors} of packed) {
    const weights = {};
    for (const [tensor, rows, columns] of tensors) {
      const scales = new Float32Array(bytes.slice(start, start += 4 * rows)), n = rows * columns;
      const planes = new Uint8Array(bytes, start, width * n);
      const data = new Float64Array(models[from]?.[tensor]?.data ?? n);     // a copy, or zeros
      start += planes.length;
      for (let i = 0; i < n; i++) {
        let whole = -(2 ** (8 * width - 1));
        for (let b = 0; b < width; b++) whole += planes[b * n + i] * 256 ** b;
        data[i] += whole * scales[Math.floor(i / columns)];
      }
      weights[tensor] = {rows, columns, data};
    }
    models[name] = weights;
  }
  return models;
}

// ---------- the model

const row = ({columns, data}, i) => data.subarray(i * columns, (i + 1) * columns);
const add = (x, y) => x.map((xi, i) => xi + y[i]);

function dot(x, y) {
  let total = 0;
  for (let i = 0; i < x.length; i++) total += x[i] * y[i];
  return total;
}

// W x + b, with W (out, in); the head has no b.
function linear(weights, name, x) {
  const W = weights[name + ".weight"], b = weights[name + ".bias"]?.data;
  return Float64Array.from({length: W.rows}, (_, o) => dot(row(W, o), x) + (b ? b[o] : 0));
}

function layer_norm(weights, name, x) {
  const gain = weights[name + ".weight"].data, bias = weights[name + ".bias"].data;
  const average = mean(x), variance = mean(x.map((xi) => (xi - average) ** 2));
  return x.map((xi, i) => (xi - average) / Math.sqrt(variance + 1e-5) * gain[i] + bias[i]);
}

function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp(logit - most)), total = sum(powers);
  return powers.map((power) => power / total);
}

// The token collects values from those before it and itself. `cache` {k, v} lists theirs.
function attention(weights, name, x, n_head, cache) {
  const C = x.length, D = C / n_head, qkv = linear(weights, name + ".c_attn", x);
  cache.k.push(qkv.slice(C, 2 * C));
  cache.v.push(qkv.slice(2 * C));
  const y = new Float64Array(C);
  for (let start = 0; start < C; start += D) {                          // each head
    const q = qkv.subarray(start, start + D);
    const match = softmax(cache.k.map((k) => dot(q, k.subarray(start, start + D)) / Math.sqrt(D)));
    match.forEach((weight, s) => {
      for (let d = start; d < start + D; d++) y[d] += weight * cache.v[s][d];
    });
  }
  return linear(weights, name + ".c_proj", y);
}

const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

const mlp = (weights, name, x) =>
  linear(weights, name + ".c_proj", linear(weights, name + ".c_fc", x).map(gelu));

const new_cache = (config) => Array.from({length: config.n_layer}, () => ({k: [], v: []}));

// The hidden state (C) of one more token.
function transformer(weights, config, id, cache) {
  let x = add(row(weights["wte.weight"], id), row(weights["wpe.weight"], cache[0].k.length));
  for (let l = 0; l < config.n_layer; l++) {
    const block = `h.${l}`;
    x = add(x, attention(weights, block + ".attn", layer_norm(weights, block + ".ln_1", x),
                         config.n_head, cache[l]));
    x = add(x, mlp(weights, block + ".mlp", layer_norm(weights, block + ".ln_2", x)));
  }
  return layer_norm(weights, "ln_f", x);
}

// Hidden states of all tokens (T)(C).
function read(weights, config, ids) {
  const cache = new_cache(config);
  return ids.map((id) => transformer(weights, config, id, cache));
}

const head = (weights, state) => linear(weights, "wte", state);         // logits (V): tied

const next_probs = (weights, config, state) =>
  softmax(head(weights, state).map((logit) => logit / config.temperature));

// One number per token (T), in standard deviations of the reward on SFT samples.
function scalars(weights, config, ids) {
  return read(weights, config, ids).map((state) =>
    (linear(weights, "score", state)[0] - config.reward_mean) / config.reward_std);
}

// log π of the tokens after `prompt` (R), each at the state before it.
function response_logprobs(weights, config, prompt, tokens) {
  const states = read(weights, config, [...prompt, ...tokens]).slice(prompt.length - 1, -1);
  return states.map((state, t) => Math.log(next_probs(weights, config, state)[tokens[t]]));
}

// Sample up to <|endoftext|>: {tokens, logprobs}, each (R).
function generate(weights, config, prompt, random) {
  const cache = new_cache(config), tokens = [], logprobs = [];
  let state;
  for (const id of prompt) state = transformer(weights, config, id, cache);
  while (tokens.length < config.max_new_tokens && tokens.at(-1) !== config.eos_token_id) {
    const probs = next_probs(weights, config, state);
    let point = random(), id = 0;           // the token in whose share of [0, 1) the number falls
    while (point >= probs[id] && id < probs.length - 1) point -= probs[id++];
    tokens.push(id);
    logprobs.push(Math.log(probs[id]));
    state = transformer(weights, config, id, cache);
  }
  return {tokens, logprobs};
}

// Numbers in (0, 1) that depend only on the seed (Lehmer, Park and Miller).
const seeded = (x) => () => (x = x * 48271 % 2147483647) / 2147483647;

// ---------- text

const WORDS = /\n\nHuman:|\n\nAssistant:| ?[A-Za-z']+| ?[0-9]+| ?[^\sA-Za-z0-9']+|\s/gu;

// Bytes are written as characters 0 to 255. Neighbours merge in the order of the vocabulary.
function tokenizer(vocabulary) {
  const ids = new Map(vocabulary.map((token, id) => [token, id]));
  const bytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));
  const text = (raw) => new TextDecoder().decode(Uint8Array.from(raw, (c) => c.charCodeAt(0)));
  function merge(parts) {
    const ranks = parts.slice(1).map((part, i) => ids.get(parts[i] + part) ?? Infinity);
    const i = ranks.indexOf(Math.min(...ranks));
    if (i < 0 || ranks[i] === Infinity) return parts;
    return merge([...parts.slice(0, i), parts[i] + parts[i + 1], ...parts.slice(i + 2)]);
  }
  return {
    encode: (string) => (string.match(WORDS) ?? []).map(bytes).flatMap((piece) =>
      ids.has(piece) ? ids.get(piece) : merge([...piece]).map((part) => ids.get(part))),
    decode: (tokens) => text(tokens.map((id) => vocabulary[id] ?? "").join(""))};
}
