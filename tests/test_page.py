"""The page that page.py writes: its JavaScript beside ppo.py and gpt.py, and the page itself in a browser."""
import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import data
import page
import ppo
from data.toy_world import FACT_OF, judge
from gpt import GPT, GPTConfig, ScalarGPT, response_logprobs
from support.runs import finish
from text.batches import pad

ROOT = Path(__file__).parent.parent
NODE = shutil.which("node")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
STEPS, TEMPERATURE = 30, 0.8
ASKED = "What colour is a Zebra, my dear?"

needs_node = pytest.mark.skipif(not NODE, reason="there is no node to run JavaScript with")
no_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium with its chromedriver")


def needs_browser(test):
    return pytest.mark.slow(no_browser(test))


def javascript(program, **given):
    """What `program` returns, an expression or the body of an async function over page/ppo.js and page/gpt.js."""
    source = "".join((ROOT / "page" / f"{name}.js").read_text() for name in ("ppo", "gpt"))
    body = program if "return" in program else f"return {program}"
    source += "\nconst given = JSON.parse(require('fs').readFileSync(0));"
    source += f"\n(async () => {{{body}}})().then((x) => console.log(JSON.stringify(x)));"
    done = subprocess.run([NODE, "-e", source], input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def near(actual, expected, atol):
    torch.testing.assert_close(torch.tensor(actual, dtype=torch.double), torch.as_tensor(expected).double(), rtol=0, atol=atol)

# ----------------------------------------------------------------------------- the mathematics

def case(seed):
    """A rollout of random rows, each as long as its response, and settings."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, 12) for _ in range(rng.randint(1, 6))]

    def numbers(low, high):
        return [[rng.uniform(low, high) for _ in range(R)] for R in lengths]
    return {"logprobs": numbers(-5, 0), "ref_logprobs": numbers(-5, 0), "values": numbers(-2, 2), "returns": numbers(-2, 2),
            "new_logprobs": numbers(-5, 0), "new_values": numbers(-2, 2), "scores": [rng.uniform(-3, 3) for _ in lengths],
            "kl_coef": rng.uniform(0, 0.5), "gamma": rng.uniform(0.5, 1), "lam": rng.uniform(0, 1), "clip": rng.uniform(0.05, 0.9)}


def ours(c):
    """The same by ppo.py, padded, in double precision."""
    mask = pad([[1] * len(row) for row in c["values"]])[1]
    rows, last = torch.arange(len(mask)), mask.sum(1) - 1

    def padded(name, grad=False):
        x = torch.zeros(mask.shape, dtype=torch.double)
        x[mask] = torch.tensor(sum(c[name], []), dtype=torch.double)
        return x.requires_grad_(grad)
    rewards = -c["kl_coef"] * ppo.kl_penalty(padded("logprobs"), padded("ref_logprobs"))
    rewards[rows, last] += torch.tensor(c["scores"], dtype=torch.double)
    advantages, returns = ppo.gae(rewards, padded("values"), c["gamma"], c["lam"])
    whitened = ppo.whiten(advantages, mask)
    logprobs, values = padded("new_logprobs", True), padded("new_values", True)
    actor_loss, _ = ppo.policy_loss(logprobs, padded("logprobs"), whitened, mask, c["clip"])
    critic_loss, _ = ppo.value_loss(values, padded("values"), padded("returns"), mask, c["clip"])
    (actor_loss + critic_loss).backward()
    flat = [x[mask] for x in (rewards, advantages, returns, whitened, logprobs.grad, values.grad)]
    return torch.cat([*flat, actor_loss.detach()[None], critic_loss.detach()[None]])


THEIRS = """return given.cases.map((c) => {
  const rewards = c.logprobs.map((row, i) => token_rewards(row, c.ref_logprobs[i], c.scores[i], c.kl_coef));
  const found = rewards.map((row, i) => gae(row, c.values[i], c.gamma, c.lam));
  const whitened = whiten(found.map((row) => row.advantages));
  const actor = policy_loss(c.new_logprobs.flat(), c.logprobs.flat(), whitened.flat(), c.clip);
  const critic = value_loss(c.new_values.flat(), c.values.flat(), c.returns.flat(), c.clip);
  return [rewards, found.map((row) => row.advantages), found.map((row) => row.returns), whitened, actor.gradient,
          critic.gradient, actor.loss, critic.loss].flat(2);
});"""


@needs_node
def test_rewards_advantages_losses_and_gradients_are_those_of_ppo_py():
    cases = [case(seed) for seed in range(200)]
    assert any(0 in row for row in (ours(c).tolist() for c in cases))       # some gradients are clipped away
    for c, found in zip(cases, javascript(THEIRS, cases=cases), strict=True):
        near(found, ours(c), 1e-6)

# ----------------------------------------------------------------------------- a run, and its page

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run as ppo.py leaves it, of models that have learned nothing."""
    from torch.utils.tensorboard import SummaryWriter
    folder, tokenizer = tmp_path_factory.mktemp("runs") / "toy", data.tokenizer_for("toy")
    torch.manual_seed(0)
    config = GPTConfig(tokenizer.vocab_size, 128, n_layer=2, n_head=4, n_embd=32, eos_token_id=tokenizer.eos)
    sft, rm = GPT(config), ScalarGPT(config)
    rm.config.reward_mean, rm.config.reward_std = 0.3, 1.7

    def save(model, *names):
        model.save_pretrained(folder.joinpath(*names), tokenizer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    for model, names in ((sft, ("base",)), (sft, ("sft",)), (rm, ("reward",))):
        save(model, *names)
    for update in (10, 20):
        save(sft, "ppo", "snapshots", f"{update}", "actor")
        save(rm, "ppo", "snapshots", f"{update}", "critic")
    cfg = ppo.Config(run=str(folder), steps=STEPS, kl_coef=0.07, max_new_tokens=12, temperature=TEMPERATURE)
    finish(rm, tokenizer, folder / "ppo" / "critic", cfg)
    finish(sft, tokenizer, folder / "ppo", cfg)
    with SummaryWriter(folder / "logs" / "ppo") as writer:
        for step in range(STEPS):
            for name, value in zip(page.CURVES, (step / 10, step / 5, 0.07)):
                writer.add_scalar(name, value, step)
    return folder


@pytest.fixture(scope="module")
def built(run):
    """The page's file, its data and its packed models."""
    path = run / "page.html"
    path.write_text(page.build(page.Config(run=str(run))), encoding="utf-8")
    found = re.findall(r'<script type=.*?>(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return path, json.loads(found[0]), found[1]


@pytest.mark.parametrize("missing, sentence", [
    ("sft", "run `python sft.py` first"), ("ppo/config.json", "run `python ppo.py` first"), ("logs", "there are no curves of ppo.py"),
    ("ppo/README.md", "README.md"), ("ppo/critic", "critic")])
def test_a_run_that_is_not_finished_gets_one_sentence(run, tmp_path, monkeypatch, missing, sentence):
    shutil.copytree(run, tmp_path / "toy")
    gone = tmp_path / "toy" / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    monkeypatch.setattr("sys.argv", ["page.py", "--run", str(tmp_path / "toy")])
    with pytest.raises(SystemExit, match=re.escape(sentence)):      # of one sentence, so Python exits with code 1
        page.main()
    assert not (tmp_path / "toy" / "page.html").exists()


def test_a_model_that_is_too_large_gets_one_sentence(run, monkeypatch):
    monkeypatch.setattr(page, "MOST_WEIGHTS", 1000)
    with pytest.raises(page.UserError, match="a page has room for models of 1,000"):
        page.build(page.Config(run=str(run)))


def test_snapshots_are_spread_over_the_run(tmp_path, run):
    shutil.copytree(run, tmp_path / "toy")
    for update in range(1, STEPS + 5):
        (tmp_path / "toy" / "ppo" / "snapshots" / f"{update}").mkdir(exist_ok=True)
    found = page.snapshots(tmp_path / "toy", ppo.Config(steps=STEPS))
    assert list(found) == [0, 1, 6, 11, 16, 21, 26, 30]


def test_ppo_keeps_snapshots_of_actor_and_critic(run_stage):
    import reward
    import sft
    for script in (sft, reward):
        run_stage(script)
    folder = run_stage(ppo, snapshot_every=2) / "ppo"
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == ["2", "4"]
    for name, kind, last in (("actor", GPT, folder), ("critic", ScalarGPT, folder / "critic")):
        early, late, final = (kind.from_pretrained(path).state_dict() for path in (
            folder / "snapshots" / "2" / name, folder / "snapshots" / "4" / name, last))
        assert all(torch.equal(late[key], final[key]) for key in final)
        assert any(not torch.equal(early[key], final[key]) for key in final)


@needs_node
def test_the_page_computes_the_advantages_of_make_experience(run, monkeypatch):
    seen, make = [], ppo.make_experience
    monkeypatch.setattr(ppo, "make_experience", lambda *given: seen.append(make(*given)) or seen[-1])
    shown = page.read_run(run, "toy")
    assert shown["updates"] == [0, 10, 20, STEPS] and shown["flags"]["kl_coef"] == 0.07
    for rollout, experience in zip(shown["rollouts"], seen, strict=True):
        found = javascript("""return whiten(given.rows.map((row) => gae(token_rewards(
            row.logprobs, row.ref_logprobs, row.score, 0.07), row.values, 1, 0.95).advantages)).flat();""", rows=rollout)
        near(found, experience.advantages[experience.response_mask], 1e-5)


def test_the_judge_reads_the_responses_that_are_shown(run, monkeypatch):
    assert page.judge is judge
    monkeypatch.setattr(page, "judge", lambda question, response: [question, response])     # these models earn all the same points
    shown, tokenizer = page.read_run(run, "toy"), page.Tokenizer.load(run / "ppo")
    for rollout in shown["rollouts"]:
        for prompt, row in zip(shown["prompts"], rollout, strict=True):
            assert tokenizer.decode(prompt) in FACT_OF
            assert row["judge"] == [tokenizer.decode(prompt), tokenizer.decode(row["tokens"])]


UNPACK = "const models = await unpack(given.packed, given.data.models), {config} = given.data;"


@needs_node
def test_the_models_of_the_page_say_what_their_checkpoints_say(run, built):
    """To 1e-4 where the page says so, the last actor; the others to what docs/page.md says."""
    _, shown, packed = built
    asked = [prompt + [7, 300, 5] for prompt in random.Random(0).sample(shown["run"]["prompts"] * 3, 50)]
    found = javascript(UNPACK + """return Object.entries(models).map(([name, model]) => given.asked.map((ids) =>
        name === "reward" || name === "critic" ? scalars(model, config, ids) :
        Array.from(head(model, read(model, config, ids).at(-1)))));""", data=shown, packed=packed, asked=asked)
    folders = {f"{STEPS}": "ppo", "0": "sft", "critic": "ppo/critic", "20": "ppo/snapshots/20/actor", "10": "ppo/snapshots/10/actor"}
    names = javascript(UNPACK + "return Object.keys(models);", data=shown, packed=packed)
    assert set(names) == {"0", "10", "20", f"{STEPS}", "base", "reward", "critic"}
    for name, outputs in zip(names, found):
        kind = ScalarGPT if name in ("reward", "critic") else GPT
        model = kind.from_pretrained(run / folders.get(name, name))
        atol = 1e-4 if name == f"{STEPS}" else 1e-2 if name in ("0", "reward") else 0.3
        for ids, output in zip(asked, outputs):
            right = model(torch.tensor([ids]))[0]
            near(output, (right if kind is ScalarGPT else right[-1]).detach(), atol)


@needs_node
def test_sampling_takes_the_token_in_whose_share_the_number_falls(run, built):
    _, shown, packed = built
    prompt, model = shown["run"]["prompts"][0], GPT.from_pretrained(run / "ppo")
    draws = [random.Random(1).random() for _ in range(12)]
    found = javascript(UNPACK + """const {tokens, logprobs} = generate(models[given.last], config, given.prompt, () => given.draws.shift());
        return {tokens, logprobs, again: response_logprobs(models[given.last], config, given.prompt, tokens)};""",
                       data=shown, packed=packed, prompt=prompt, draws=list(draws), last=f"{STEPS}")
    tokens = found["tokens"]
    assert len(tokens) == 12 or tokens[-1] == model.config.eos_token_id
    ids = torch.tensor([prompt + tokens])
    right = response_logprobs(model, ids, torch.ones_like(ids), len(tokens), TEMPERATURE)[0].detach()
    near(found["logprobs"], right, 1e-4)
    near(found["again"], right, 1e-4)
    ends = (model(ids)[0, len(prompt) - 1:-1] / TEMPERATURE).softmax(-1).cumsum(-1)
    assert tokens == [int((end <= draw).sum()) for end, draw in zip(ends, draws)]


@needs_node
def test_the_tokenizer_of_the_page_is_ours(run, built):
    texts = [*data.load("toy")[1].prompts[:50], ASKED, "", "  two  spaces\n", "naïve café 🙂 don't <b>", "unbelievableness 1234 ?!"]
    right = page.Tokenizer.load(run / "ppo")
    found = javascript("""const {encode, decode} = tokenizer(given.data.vocabulary);
        return given.texts.map((text) => [encode(text), decode(encode(text))]);""", data=built[1], texts=texts)
    assert found == [[right.encode(text), text] for text in texts]


def test_the_page_stays_small_enough_to_read():
    files = [ROOT / "page.py", *(ROOT / "page").iterdir()]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) <= 900 and max(map(len, lines)) <= 100

# ----------------------------------------------------------------------------- in a browser

@pytest.fixture(scope="module")
def browser(built):
    """Headless Chromium, without a network, with the page open."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000",
                 "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Screen:
    """What a reader sees and does."""

    def __init__(self, driver, path):
        from selenium.webdriver.support.wait import WebDriverWait
        self.driver = driver
        driver.get(path.as_uri())
        WebDriverWait(driver, 60).until(lambda _: self.all("#answers tr"))

    def all(self, css):
        return self.driver.find_elements("css selector", css)

    def text(self, css):
        return [element.text for element in self.all(css)]

    def numbers(self, name):
        """The numbers of a row of the response's table: "critic V", "rewards r"."""
        for head, *cells in self.driver.execute_script("""return [...document.querySelectorAll("#tokens tr")].map(
                (row) => [...row.cells].map((cell) => cell.textContent))"""):
            if " ".join(head.split()) == name:
                return [float(cell.replace("−", "-")) for cell in cells if cell]

    def slide(self, name, value):
        self.driver.execute_script("""const slider = document.getElementById(arguments[0]);
            slider.value = arguments[1]; slider.dispatchEvent(new Event("input"));""", name, value)

    def press(self, *keys):
        from selenium.webdriver import ActionChains
        ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture
def screen(browser, built):
    return Screen(browser, built[0])


@needs_browser
def test_the_page_opens_without_an_error_and_asks_for_nothing(screen, browser, built):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} <= {built[0].as_uri()}
    assert browser.get_log("browser") == []
    assert screen.text("#now") == [f"{STEPS} of {STEPS} updates"]
    assert [len(screen.all(f"#{name} svg")) for name in ("curves", "fooled_curves")] == [3, 0]


@needs_browser
def test_each_slider_recomputes_its_numbers(screen, built):
    shown = built[1]["run"]
    rows, flags = shown["rollouts"][-1], shown["flags"]

    def right(kl_coef=flags["kl_coef"], gamma=1.0, lam=0.95, score=None):
        c = {"kl_coef": kl_coef, "gamma": gamma, "lam": lam, **{name: [row[name] for row in rows] for name in (
            "logprobs", "ref_logprobs", "values")}, "scores": [row["score"] for row in rows], "clip": 0.2}
        c["scores"][0] = rows[0]["score"] if score is None else score
        found = ours({**c, "returns": c["values"], "new_values": c["values"], "new_logprobs": c["logprobs"]}).split(
            [sum(len(row["tokens"]) for row in rows)] * 6 + [2])
        return [found[i][:len(rows[0]["tokens"])] for i in (0, 1, 3)]

    def check(**settings):
        for name, numbers in zip(("rewards r", "gae A", "whiten A"), right(**settings)):
            found = screen.numbers(name if name != "gae A" else "A")
            near(found, numbers, 0.00501)
    check()
    for name, value in (("kl_coef", 0.3), ("gamma", 0.8), ("lam", 0.2), ("score", 2.5)):
        screen.slide(name, value)
        check(**{name: value})
        assert f"= {right(**{name: value})[0][0]:.2f}".replace("-", "−") in screen.text("#formulas")[0]
        screen.all("#reset")[0].click()
        check()


@needs_browser
def test_the_scrubber_and_the_arrows_go_through_training(screen, built):
    from selenium.webdriver.common.keys import Keys
    shown = built[1]["run"]
    for index, move in ((3, None), (2, Keys.ARROW_LEFT), (1, Keys.ARROW_LEFT), (2, Keys.ARROW_RIGHT)):
        if move:
            screen.press(move)
        assert screen.text("#now") == [f"{shown['updates'][index]} of {STEPS} updates"]
        near(screen.numbers("critic V"), shown["rollouts"][index][0]["values"], 0.00501)
        assert screen.text("#answers .now th")[0] == str(shown["updates"][index])
        assert screen.text("#curves figcaption b")[0] == f"{shown['curves']['objective/scores'][min(shown['updates'][index], STEPS - 1)]:.2f}"
    screen.slide("scrub", 0)
    near(screen.numbers("kl_penalty KL"), torch.zeros(len(shown["rollouts"][0][0]["tokens"])), 0.00501)
    bars = screen.text("#next span")                    # the SFT model beside itself
    assert bars and all(len(set(bar.split(" / "))) == 1 for bar in bars)


@needs_browser
def test_the_steps_are_played_one_after_the_other(screen, built):
    seen = []
    for key in "1234":
        screen.press(key)
        seen.append([len(screen.numbers(name)) for name in (
            "actor log π", "reference log πref", "reward model score", "rewards r", "A", "whiten A")])
    R = seen[0][0]
    assert seen == [[R, 0, 0, 0, 0, 0], [R, R, 1, 0, 0, 0], [R, R, 1, R, 0, 0], [R, R, 1, R, R, R]]
    screen.press("p")
    assert len(screen.numbers("whiten A")) == 0
    screen.press("p")
    screen.press("4")
    for row, prompt in enumerate(screen.all("#prompt option")):     # whatever length its response has
        prompt.click()
        assert len(screen.numbers("whiten A")) == len(built[1]["run"]["rollouts"][-1][row]["tokens"])


@needs_browser
def test_a_question_of_ones_own_is_answered(screen):
    from selenium.webdriver.common.keys import Keys
    screen.all("#question")[0].send_keys(ASKED + "\n")
    assert screen.text("#asked") == [ASKED]
    answers = screen.text("#answers tr")
    assert len(answers) == 1 + 1 + 4 and all(re.search(r"−?\d+\.\d\d$", answer) for answer in answers[1:])
    assert len(screen.numbers("whiten A")) == len(screen.numbers("critic V")) > 0
    assert not any("NaN" in answer for answer in answers)

    screen.press(Keys.ARROW_LEFT)
    assert screen.text("#asked") == [ASKED] and screen.text("#now") == [f"20 of {STEPS} updates"]


@needs_browser
def test_a_click_on_a_token_shows_what_could_stand_there(screen, run, built):
    shown, model = built[1]["run"], GPT.from_pretrained(run / "ppo")
    row, prompt = shown["rollouts"][-1][0], shown["prompts"][0]
    screen.all("#tokens button")[3].click()
    logits = model(torch.tensor([prompt + row["tokens"][:3]]))[0, -1]
    right = (logits / TEMPERATURE).softmax(-1)[row["tokens"][3]].item()
    chosen = screen.text("#next .chosen span")
    assert float(chosen[0].split("%")[0]) == pytest.approx(100 * right, abs=0.0501)
    assert math.exp(row["logprobs"][3]) == pytest.approx(right, abs=1e-4)


@needs_browser
@pytest.mark.parametrize("ratio, advantage, loss, gradient", [
    (1.5, 1, "−1.200", "0.000"), (1.1, 1, "−1.100", "−1.100"), (0.5, 1, "−0.500", "−0.500"),
    (0.5, -1, "0.800", "0.000"), (1.5, -1, "1.500", "1.500")])
def test_the_clip_shows_loss_and_gradient(screen, ratio, advantage, loss, gradient):
    screen.slide("ratio", ratio)
    screen.slide("advantage", advantage)
    screen.slide("clip", 0.2)
    assert [text.split("= ")[-1] for text in screen.text("#actor_says strong")] == [loss, gradient]


@needs_browser
def test_the_point_can_be_dragged(screen):
    from selenium.webdriver import ActionChains
    before = screen.text("#actor_says")
    plot = screen.all("#actor")[0]
    ActionChains(screen.driver).move_to_element(plot).click_and_hold().move_by_offset(-120, 0).release().perform()
    assert screen.text("#actor_says") != before and "0.000" not in screen.text("#actor_says .zero")


@needs_browser
def test_a_phone_needs_no_sideways_scrolling(screen, browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(width=400, height=800, deviceScaleFactor=1, mobile=True))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
