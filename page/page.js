// What is on the screen. `at` holds all that the reader has chosen; every change calls draw().

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("run").textContent), {config, run, fooled} = data, {flags, updates} = run;
const {encode, decode} = tokenizer(data.vocabulary);
const STEP = [null,
  "The actor samples a response. log π is the log-probability that it gave each token.",
  "Three networks read it. V is the reward that the critic expects before the token is chosen.",
  "Each token pays β for its KL. The score comes only with the last token.",
  "Backwards: δ is what surprised the critic at a token; A adds γλ of A after it. So the end " +
  "praises or blames the tokens that led to it. At last A is whitened over the rollout."];
const at = {
  update: updates.length - 1, row: 0, token: 0, step: 4, clock: null, own: null, fooled: 0,
  kl_coef: 0, gamma: flags.gamma, lam: flags.lam, score: 0, ratio: 1.35, advantage: 1,
  clip: flags.clip, value: 0.5, expected: 1, value_clip: flags.value_clip};
let models, playing, kept = {};

const once = (key, make) => kept[key] ??= make();
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−").replace(/^−(0\.0*)$/, "$1");
const signed = (x) => x < 0 ? `(${number(x)})` : number(x);
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const word = (id) => id === config.eos_token_id ? "⟨end⟩" : decode([id]).replace(/\n/g, "↵");
const question = (ids) => decode(ids).replace(/^\s*Human: |\s*Assistant:$/g, "");
const term = (name, formula, numbers, result, digits = 2) => `<dt>${name}</dt><dd>= ${formula}` +
  `<span>= ${numbers} = <strong>${number(result, digits)}</strong></span></dd>`;

// ---------- the response that is looked at

// A response that the page samples itself, by the actor after some updates or the model `name`.
function respond(update, name = String(updates[update])) {
  return once(`respond ${at.own} ${at.row} ${name}`, () => {
    const prompt = at.own === null ? run.prompts[at.row] : encode(
      `\n\nHuman: ${at.own}\n\nAssistant:`).slice(config.max_new_tokens - config.block_size);
    const {tokens, logprobs} = generate(models[name], config, prompt, seeded(20_000));
    const ids = [...prompt, ...tokens], ended = tokens.at(-1) === config.eos_token_id;
    const ref_logprobs = response_logprobs(models["0"], config, prompt, tokens);
    return {prompt, tokens, logprobs, ref_logprobs, kl: sum(kl_penalty(logprobs, ref_logprobs)),
      values: scalars(models.critic, config, ids).slice(prompt.length - 1, -1),
      score: ended ? scalars(models.reward, config, ids).at(-1) : flags.missing_eos_score};
  });
}

const response = (update = at.update) => at.own !== null ? respond(update) :
  {...run.rollouts[update][at.row], prompt: run.prompts[at.row]};

// Steps 3 and 4 of make_experience, for this response among the others of its rollout.
function credit(chosen) {
  const others = run.rollouts[at.update].filter((_, i) => at.own !== null || i !== at.row);
  const rows = [{...chosen, score: at.score}, ...others].map((row) => {
    const rewards = token_rewards(row.logprobs, row.ref_logprobs, row.score, at.kl_coef);
    return {rewards, ...gae(rewards, row.values, at.gamma, at.lam)};
  });
  const advantages = rows.map((row) => row.advantages);
  return {...rows[0], kl: kl_penalty(chosen.logprobs, chosen.ref_logprobs),
          whitened: whiten(advantages)[0], ...spread(advantages)};
}

// Another response, prompt or update: score and β are the run's again.
function choose(changes) {
  playing = clearInterval(playing);
  Object.assign(at, {clock: null}, changes);
  at.token = Math.min(at.token, response().tokens.length - 1);
  at.kl_coef = run.curves.kl_coef[Math.min(updates[at.update], flags.steps - 1)];
  at.score = response().score;
  draw();
}

// ---------- one response, token by token

function draw_tokens(row, c) {
  const R = row.tokens.length, scores = row.tokens.map((_, t) => t === R - 1 ? at.score : null);
  const lines = [     // step, who, what, the numbers, when each is seen, the size of a full colour
    [1, "actor", "log π", row.logprobs, (t) => t, 3],
    [2, "reference", "log π<sub>ref</sub>", row.ref_logprobs, () => R, 3],
    [2, "critic", "V", row.values, () => R + 3, 1.5],
    [2, "reward model", "score", scores, () => R + 6, 1.5],
    [3, "kl_penalty", "KL", c.kl, (t) => R + 9 + t, 2],
    [3, "rewards", "r", c.rewards, (t) => R + 9 + t, 1.5],
    [4, "gae", "δ", c.deltas, (t) => 3 * R + 9 - t, 1.5],
    [4, "", "A", c.advantages, (t) => 3 * R + 9 - t, 1.5],
    [4, "whiten", "A", c.whitened, () => 3 * R + 12, 2.5]];
  at.ends = [-1, R - 1, R + 8, 2 * R + 8, 3 * R + 12];
  if (at.clock !== null) at.step = Math.max(1, at.ends.findIndex((end) => at.clock <= end));
  const clock = at.clock ?? at.ends[at.step];
  const cell = (x, t, seen, full) => {
    if (x === null || clock < seen(t)) return "<td></td>";
    const share = (Math.min(1, Math.abs(x) / full) * 55).toFixed(), hue = x < 0 ? "down" : "up";
    const colour = `color-mix(in oklab, var(--${hue}) ${share}%, transparent)`, on = t === at.token;
    return `<td class="${on ? "chosen" : ""}" style="background: ${colour}">${number(x)}</td>`;
  };
  const tokens = row.tokens.map((id, t) => `<td><button data-token="${t}"` +
    ` class="${t === at.token ? "on" : ""} ${clock < t ? "unseen" : ""}">` +
    `${escaped(word(id))}</button></td>`);
  const head = (who, what, first) => `<tr class="${first}"><th><b>${who}</b> ${what}</th>`;
  $("tokens").innerHTML = head("token", "", "") + tokens.join("") + lines.map(
    ([s, who, what, x, seen, full], i) => head(who, what, s > lines[i - 1]?.[0] ? "first" : "") +
      x.map((xt, t) => cell(xt, t, seen, full)).join("")).join("</tr>");
  $("story").innerHTML = `<b>${at.step}</b>&ensp;${STEP[at.step]}`;
  for (const button of document.querySelectorAll("[data-step]"))
    button.classList.toggle("on", +button.dataset.step === at.step);
  $("play").textContent = playing ? "pause" : "play";
}

function draw_formulas(row, c) {
  const t = at.token, last = t === row.tokens.length - 1, n = number;
  const next = last ? 0 : row.values[t + 1], after = last ? 0 : c.advantages[t + 1];
  $("formulas").innerHTML =
    term("KL", "log π − log π<sub>ref</sub>",
         `${n(row.logprobs[t])} − ${signed(row.ref_logprobs[t])}`, c.kl[t]) +
    term("r", last ? "−β KL + score" : "−β KL", `−${n(at.kl_coef)} · ${signed(c.kl[t])}` +
         (last ? ` + ${signed(at.score)}` : ""), c.rewards[t]) +
    term("δ", "r + γ V<sub>next</sub> − V", `${n(c.rewards[t])} + ${n(at.gamma)} · ` +
         `${signed(next)} − ${signed(row.values[t])}`, c.deltas[t]) +
    term("A", "δ + γλ A<sub>next</sub>", `${n(c.deltas[t])} + ${n(at.gamma * at.lam)} · ` +
         signed(after), c.advantages[t]) +
    term("A whitened", "(A − mean) / deviation", `(${n(c.advantages[t])} − ` +
         `${signed(c.average)}) / ${n(c.deviation)}`, c.whitened[t]);
  $("token").textContent = $("place").textContent = `“${word(row.tokens[t]).trim()}”`;
}

// The probabilities from which the chosen token was sampled.
function draw_next(row) {
  const ids = [...row.prompt, ...row.tokens.slice(0, at.token)], chosen = row.tokens[at.token];
  const [now, sft] = [updates[at.update], 0].map((name) => once(`next ${name} ${ids}`, () =>
    next_probs(models[name], config, read(models[name], config, ids).at(-1))));
  const percent = (p) => number(100 * p, 1) + "%";
  const likely = [...now.keys()].sort((i, j) => now[j] + sft[j] - now[i] - sft[i]).slice(0, 7);
  $("next").innerHTML = [...new Set([...likely, chosen])].map((id) =>
    `<div class="${id === chosen ? "chosen" : ""}"><code>${escaped(word(id))}</code>` +
    `<b><i style="width: ${100 * now[id]}%"></i><i style="width: ${100 * sft[id]}%"></i></b>` +
    `<span>${percent(now[id])} / ${percent(sft[id])}</span></div>`).join("");
}

// ---------- through training

// A curve of points [update, number], a line at the update `now`.
function chart(title, points, now, steps) {
  const ys = points.map(([, y]) => y), low = Math.min(0, ...ys), high = Math.max(...ys, low + 0.1);
  const X = (x) => 30 + 260 * x / steps, Y = (y) => 118 - 108 * (y - low) / (high - low);
  const [, value] = points.findLast(([x]) => x <= now);
  const label = (x, y, text, at) => `<text x="${x}" y="${y}" text-anchor="${at}">${text}</text>`;
  return `<figure><figcaption>${title}<b>${number(value)}</b></figcaption>` +
    `<svg viewBox="0 0 300 138" role="img" aria-label="${title}: ${number(value)}">` +
    `<path class="axis" d="M30 10V118H290"/><path class="curve" d="M` +
    points.map(([x, y]) => `${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("L") +
    `"/><line class="now" x1="${X(now)}" x2="${X(now)}" y1="6" y2="118"/>` +
    label(26, Y(low) + 4, number(low, 1), "end") + label(26, Y(high) + 4, number(high, 1), "end") +
    label(30, 132, 0, "start") + label(290, 132, `${steps} updates`, "end") + "</svg></figure>";
}

function charts({curves, rollouts, updates, flags}, index) {
  const curve = (title, points) => chart(title, points, updates[index], flags.steps);
  const logged = (name) => curves[name].map((y, x) => [x, y]);
  const judged = rollouts.map((rows, i) => [updates[i], mean(rows.map((row) => row.judge))]);
  return curve("score, mean of a rollout", logged("objective/scores")) +
    (isNaN(judged[0][1]) ? "" : curve("judge, points from −4 to 4", judged)) +
    curve("KL, nats per response", logged("objective/kl"));
}

function table(rows, index) {
  return "<tr><th>updates</th><th>response</th><td>score</td><td>judge</td><td>KL</td></tr>" +
    rows.map(([name, row, i = ""]) => `<tr data-index="${i}" class="${i === index ? "now" : ""}">` +
      `<th>${name}</th><th>${escaped(decode(row.tokens).trim())}</th>` + [number(row.score),
      isNaN(row.judge) ? "–" : number(row.judge, 0), number(row.kl)].map((x) => `<td>${x}</td>`)
        .join("")).join("</tr>");
}

function draw_training() {
  const rows = updates.map((update, i) => [update || "0: SFT", response(i), i]);
  if (models.base) rows.unshift(["base", respond(0, "base")]);
  $("asked").textContent = at.own ?? question(run.prompts[at.row]);
  $("curves").innerHTML = charts(run, at.update);
  $("answers").innerHTML = table(rows, at.update);
  if (!fooled) return;
  $("fooled_now").textContent = `${fooled.updates[at.fooled]} of ${fooled.flags.steps} updates, ` +
    `β ${fooled.flags.kl_coef}`;
  $("fooled_asked").textContent = question(fooled.prompts[at.row]);
  $("fooled_curves").innerHTML = charts(fooled, at.fooled);
  $("fooled_answers").innerHTML = table(fooled.updates.map(
    (update, i) => [update || "0: SFT", fooled.rollouts[i][at.row], i]), at.fooled);
}

// ---------- the clip

// The loss over at[name], a point on it that can be dragged, a broken line where the update began.
function plot(id, name, [low, high], loss, start) {
  const xs = Array.from({length: 201}, (_, i) => low + (high - low) * i / 200), ys = xs.map(loss);
  const bottom = Math.min(0, ...ys), top = Math.max(0.1, ...ys);
  const X = (x) => 30 + 360 * (x - low) / (high - low);
  const Y = (y) => 205 - 190 * (y - bottom) / (top - bottom);
  $(id).innerHTML = `<path class="axis" d="M30 ${Y(0)}H390M30 10V210"/>` +
    `<path class="faint" d="M${X(start)} 10V210"/><path class="curve" d="M` +
    xs.map((x, i) => `${X(x).toFixed(1)} ${Y(ys[i]).toFixed(1)}`).join("L") +
    `"/><circle r="8" cx="${X(at[name])}" cy="${Y(loss(at[name]))}"/>` +
    `<text x="34" y="14">loss</text><text x="390" y="${Y(0) - 6}" text-anchor="end">` +
    `${name === "ratio" ? "ρ" : "V"}</text>`;
  $(id).onpointermove = $(id).onpointerdown = (event) => {
    const box = $(id).getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 400;
    if (!event.buttons) return;
    at[name] = clamp(low + (high - low) * (x - 30) / 360, low, high);
    draw_clip();
  };
}

function draw_clip() {
  const {ratio, advantage: A, clip, value: V, expected, value_clip} = at;
  const actor = (rho) => policy_loss([Math.log(rho)], [0], [A], clip);
  const critic = (value) => value_loss([value], [0], [expected], value_clip);
  plot("actor", "ratio", [0.01, 2], (rho) => actor(rho).loss, 1);
  plot("critic", "value", [-1, 2], (value) => critic(value).loss, 0);
  const slope = (by, [gradient], why) => `<dt>gradient</dt><dd>by ${by}: <strong` +
    ` class="${gradient ? "" : "zero"}">${number(gradient, 3)}</strong><span>${why}</span></dd>`;
  const clipped = clamp(ratio, 1 - clip, 1 + clip), near = clamp(V, -value_clip, value_clip);
  $("actor_says").innerHTML = term("loss", "−min(ρA, clip(ρ, 1−ε, 1+ε) A)",
    `−min(${number(ratio * A)}, ${number(clipped * A)})`, actor(ratio).loss, 3) +
    slope("log π", actor(ratio).gradient, clipped === ratio ? "ρ is within ε of 1" :
      actor(ratio).gradient[0] ? "ρ has moved against A: the whole gradient pulls it back" :
      "ρ has moved by more than ε in the direction of A: no gain in going on");
  $("critic_says").innerHTML = term("loss", "½ max((V − return)², (clip(V, ±ε) − return)²)",
    `½ max(${number((V - expected) ** 2)}, ${number((near - expected) ** 2)})`, critic(V).loss, 3) +
    slope("V", critic(V).gradient, critic(V).gradient[0] ? "V is pulled to the return" :
      "V has moved by more than ε towards the return: enough for one update");
  for (const slider of document.querySelectorAll(".sliders input")) {
    slider.value = at[slider.id];
    slider.nextSibling.textContent = number(at[slider.id]);
  }
}

// ---------- all of it

function draw() {
  const row = response(), c = credit(row);
  $("now").textContent = `${updates[at.update]} of ${flags.steps} updates`;
  $("scrub").value = at.update;
  draw_tokens(row, c);
  draw_formulas(row, c);
  draw_next(row);
  draw_training();
  draw_clip();
}

function sliders(id, list) {
  $(id).innerHTML = list.map(([name, label, min, max]) => `<label>${label}<input type="range" ` +
    `id="${name}" min="${min}" max="${max}" step="0.01"><output></output></label>`).join("");
  list.forEach(([name]) => $(name).oninput = () => { at[name] = +$(name).value; draw(); });
}

function go_to(step) {
  playing = clearInterval(playing);
  Object.assign(at, {step, clock: null});
  draw();
}

function play() {
  playing = playing ? clearInterval(playing) :
    setInterval(() => at.clock < at.ends[4] ? (at.clock++, draw()) : go_to(4), 220);
  at.clock ??= at.ends[at.step % 4];
  draw();
}

function ask(event) {
  event.preventDefault();
  const text = $("question").value.trim();
  $("prompt").add(new Option(text, "own"), 0);
  $("prompt").value = "own";
  $("question").blur();     // the arrows go through the updates again
  choose({own: text, token: 0, step: 4});
}

function press(event) {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey) return;
  const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (move) choose({update: clamp(at.update + move, 0, updates.length - 1)});
  if ("1234".includes(event.key)) go_to(+event.key);
  if (event.key === "p") play();
}

function pick(event) {      // a click on a token, a step or a row of responses
  const button = event.target.closest("[data-token], [data-step], [data-index]");
  const {token, step, index} = button?.dataset ?? {};
  if (token) {
    at.token = +token;
    at.advantage = clamp(credit(response()).whitened[token], -3, 3);
    draw();
    $("tokens").querySelector(".on").focus();
  }
  if (step) go_to(+step);
  if (index) choose({update: +index});
}

async function main() {
  models = await unpack($("models").textContent, data.models);
  $("about").textContent = `${run.name}: models of ${data.weights} weights that run in this page.`;
  $("scrub").max = updates.length - 1;
  run.prompts.forEach((ids, i) => $("prompt").add(new Option(question(ids), i)));
  sliders("credit", [["kl_coef", "β", 0, 0.5], ["gamma", "γ", 0.5, 1], ["lam", "λ", 0, 1],
                     ["score", "score", -3, 3]]);
  sliders("actor_sliders", [["ratio", "ρ", 0.01, 2], ["advantage", "A", -3, 3],
                            ["clip", "ε", 0.01, 0.5]]);
  sliders("critic_sliders", [["value", "V", -1, 2], ["expected", "return", -1, 2],
                             ["value_clip", "ε", 0.01, 0.5]]);
  $(fooled ? "no_fooled" : "fooled").hidden = true;
  $("fooled_scrub").max = $("fooled_scrub").value = at.fooled = fooled?.updates.length - 1;
  $("scrub").oninput = () => choose({update: +$("scrub").value});
  $("fooled_scrub").oninput = () => { at.fooled = +$("fooled_scrub").value; draw(); };
  $("prompt").onchange = ({target}) => choose(
    target.value === "own" ? {own: target.selectedOptions[0].text}
                           : {own: null, row: +target.value});
  $("reset").onclick = () => choose({gamma: flags.gamma, lam: flags.lam});
  $("play").onclick = play;
  $("ask").onsubmit = ask;
  document.onkeydown = press;
  $("tokens").onclick = $("steps").onclick = $("answers").onclick = pick;
  choose({});
}

main();
