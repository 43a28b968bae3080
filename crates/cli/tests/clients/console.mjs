// The console in Chromium: wide and narrow, light and dark, by keyboard alone, judged by axe, and by two people at once.
// Called with the server's address, the folder of its node_modules, a folder for screenshots, and a token where one is needed.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const [address, modules, folder, token] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });

// Pages load no script but their own: axe is handed to the browser from outside.
async function judge(page, name) {
  await page.evaluate(require("node:fs").readFileSync(axe, "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const told = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" | ")}`);
  assert.deepEqual(told, [], `axe finds nothing on ${name}`);
}

async function reach(page, selector) {
  for (let presses = 0; presses < 200; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) {
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(outline, "none", `${selector} shows that it has the focus`);
      return;
    }
  }
  assert.fail(`no Tab leads to ${selector}`);
}

async function look(name, path) {
  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
      const page = await context.newPage();
      page.on("pageerror", (error) => assert.fail(`${name}: ${error}`));
      await page.goto(address + path);
      if (name === "mapping") await page.waitForSelector("[role=status]");
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${name} fits ${width} px: ${over} too many`);
      await page.screenshot({ path: join(folder, `${name}-${width}-${colorScheme}.png`), fullPage: true });
      await judge(page, `${name} at ${width} px, ${colorScheme}`);
      await context.close();
    }
  }
}

async function work() {
  for (const [name, path] of [["overview", "/"], ["sync", "/syncs/both"], ["dry-run", "/syncs/both/plan"], ["run", "/runs/1"], ["dead-letters", "/dead-letters"],
    ["dead-letter", "/dead-letters/1"], ["records", "/records"], ["record", "/records?now=true&q=C-1"], ["connections", "/connections"],
    ["conflicts", "/conflicts"], ["alerts", "/alerts"], ["runbook", "/runbooks/failure"], ["versions", "/versions"],
    ["version", "/versions/2"], ["mappings", "/mappings"], ["mapping", "/mappings/customers"], ["settings", "/settings"], ["comparison", "/comparisons/1"], ["audit", "/audit"], ["nothing", "/syncs/nobody"]]) await look(name, path);

  // Without a mouse: a sync runs, and the page shows it without being loaded again.
  const page = await (await browser.newContext()).newPage();
  await page.goto(address);
  assert.match(await page.textContent("h1"), /Somebody should look/);
  await reach(page, "button[aria-label='Run both']");
  await page.keyboard.press("Enter");
  await page.waitForURL(/syncs\/both/);
  const rows = () => page.locator("h2:has-text('Runs') ~ div tbody").first().locator("tr").count();
  await page.evaluate(() => { globalThis.same = true; });
  while ((await rows()) < 3) await page.waitForTimeout(50);
  assert.ok(await page.evaluate(() => globalThis.same), "it is still the page that was loaded");
  assert.match(await page.getAttribute("time", "title"), /20\d\d/, "the exact moment is told");

  await page.fill("#why", "stocktaking <b>now</b>");
  await page.click("text=Pause");
  await page.waitForSelector("text=stocktaking <b>now</b>");
  await page.click("button[aria-label='Resume both']");
  await page.waitForSelector("#why");

  // What a run would do, a first slice, and both sides compared: each from the page of the sync.
  await page.click("text=Dry run");
  await page.waitForSelector("text=Nothing was written");
  await page.goBack();
  await page.fill("#pilot", "1");
  await page.click("button:has-text('Run a first slice')");
  await page.waitForSelector("tbody td:has-text('pilot')");
  const compared = page.locator("h2:has-text('Comparisons') ~ div tbody tr");
  const before = await compared.count();
  await page.click("button:has-text('Compare both sides')");
  while ((await compared.count()) === before) await page.waitForTimeout(50);

  // The chain is looked through, proven and taken along; a place that nobody answers at is told as such.
  await page.goto(`${address}/audit`);
  await page.selectOption("#what", "deployed");
  await page.click("button:has-text('Show')");
  await page.waitForURL(/what=deployed/);
  const told = await page.locator("tbody tr td:nth-child(4)").allTextContents();
  assert.ok(told.length === 2 && told.every((what) => what === "deployed"), `${told}`);
  const coming = page.waitForEvent("download");
  await page.click("text=Export it");
  const lines = require("node:fs").readFileSync(await (await coming).path(), "utf8").trim().split("\n").map(JSON.parse);
  assert.ok(lines.length > 5 && lines.every((line, at) => line.id === at + 1 && line.hash.length === 64));
  await page.click("button:has-text('Verify the chain')");
  await page.waitForSelector("text=It is whole");
  await judge(page, "a proof of the chain");
  await page.goto(`${address}/alerts`);
  await page.click("button[aria-label='Send a test to desk']");
  await page.waitForSelector("text=desk was not told");

  // One record, found by its key: both sides as they are now, and what was written.
  await page.goto(`${address}/records`);
  await page.fill("#q", "C-1");
  await page.keyboard.press("Enter");
  await page.click("text=Ask both systems what they hold now");
  await page.waitForSelector("td:has-text(\"Salesforce's city\")");
  await page.waitForSelector("td:has-text(\"The ERP's city\")");
  assert.match(await page.textContent("main"), /insert.*Name: Acme <b>/s);
  await page.goto(`${address}/connections`);
  await page.click("button[aria-label='Ask erp']");
  await page.waitForSelector("text=it has");
  await page.waitForSelector("text=as at the last good run");
  await page.click("summary");
  await page.waitForSelector("th:has-text('revenue')");
  await judge(page, "a connection that was asked");

  // Two people at one queue: the second is told, and overwrites nothing.
  const [ada, ben] = [page, await (await browser.newContext({ javaScriptEnabled: false })).newPage()];
  await ada.goto(`${address}/conflicts`);
  await ben.goto(`${address}/conflicts`);
  assert.match(await ada.textContent("tbody"), /Salesforce's city.*The ERP's city/);
  await ada.click("button[value='external']");
  await ada.waitForSelector("text=Nothing waits for a decision");
  await ben.click("button[value='salesforce']");
  await ben.waitForSelector("text=waits for nobody any more");

  await ada.goto(`${address}/dead-letters`);
  await ben.goto(`${address}/dead-letters`);
  assert.match(await ada.textContent("tbody"), /STRING_TOO_LONG/);
  await ada.check("input[name=id]");
  await ben.check("input[name=id]");
  await ada.click("button:has-text('Drop the chosen')");
  await ada.waitForSelector("text=Nothing waits here");
  await ben.click("button:has-text('Drop the chosen')");
  await ben.waitForSelector("text=somebody else may have had it before you");

  // A mapping is checked as one types, and shows what it would make of records; what is kept is put to work by hand.
  await ada.goto(`${address}/mappings/customers`);
  await ada.waitForSelector("[role=status]:has-text('This can work')");
  await ada.waitForSelector("th:has-text('Would be written')");
  const written = await ada.inputValue("#text");
  await ada.fill("#text", written.replace("salesforce: Name,", "salesforce: Nome,"));
  await ada.waitForSelector("[role=status]:has-text(\"can't work yet\")");
  await ada.waitForSelector("li:has-text('Nome')");
  await ada.click("button[data-line]");
  const chosen = await ada.evaluate(() => {
    const { value, selectionStart, selectionEnd } = document.querySelector("#text");
    return value.slice(selectionStart, selectionEnd);
  });
  assert.match(chosen, /Nome/, "the line that is wrong is chosen");
  await ada.fill("#text", written.replace("upper(value)", "lower(value)"));
  await ada.waitForSelector("[role=status]:has-text('This can work')");
  await judge(ada, "the editor with a preview");
  await ada.fill("#reason", "quieter");
  await ben.goto(`${address}/mappings/customers`);
  await ada.click("button:has-text('Keep')");
  await ada.waitForURL(/versions\/3/);
  assert.match(await ada.textContent("pre.diff"), /-.*upper\(value\)[^]*\+.*lower\(value\)/);
  await ada.fill("#reason", "looked at");
  await ada.click("button:has-text('Put it to work')");
  await ada.waitForSelector("text=at work");
  // Whoever began with the text before is told, once the new one is taken over.
  const csrf = await ben.getAttribute("input[name=csrf]", "value");
  while ((await ben.inputValue("#text")) === written) {
    await ben.waitForTimeout(50);
    await ben.reload();
  }
  const late = { csrf, text: written, known: written, reason: "late" };
  assert.equal((await ben.request.post(`${address}/mappings/customers/keep`, { form: late })).status(), 409);
  // Without a script it is the same, by a button.
  await ben.fill("#text", "mapping: customers\nversion: 1\n");
  await ben.click("button:has-text('Check and preview')");
  await ben.waitForSelector("[role=status]:has-text(\"can't work yet\")");

  // A form that is not ours does nothing.
  const forged = await ada.request.post(`${address}/syncs/both/run`, { form: { csrf: "guessed" } });
  assert.equal(forged.status(), 403);

  // A token is shown once, and from then on everybody signs in.
  await page.goto(`${address}/settings`);
  await page.fill("#name", "desk");
  await page.selectOption("#role", "operator");
  await page.click("button:has-text('Make a token')");
  assert.match(await page.textContent("code.secret"), /^bh_[0-9a-f]{64}$/);
  await page.goto(address);
  await page.waitForURL(/sign-in/);
}

async function signIn() {
  await look("sign-in", "/sign-in");
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(address);
  await page.waitForURL(/sign-in/);
  await page.fill("#token", "bh_wrong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("[role=alert]:has-text('not known')");
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
  await page.waitForSelector("h1:has-text('well'), h1:has-text('look')");
  const [cookie] = await context.cookies();
  assert.ok(cookie.httpOnly && cookie.sameSite === "Strict" && !cookie.value.includes(token));
  assert.match(await page.textContent("header"), /ada, viewer/);
  assert.equal(await page.locator("button:has-text('Run')").count(), 0, "who may only look is offered nothing else");
  const csrf = await page.getAttribute("input[name=csrf]", "value");
  const refused = await page.request.post(`${address}/syncs/both/run`, { form: { csrf } });
  assert.equal(refused.status(), 403);
  await page.click("text=Sign out");
  await page.waitForURL(/sign-in/);
  await page.goto(address);
  await page.waitForURL(/sign-in/);
}

try {
  await (token ? signIn() : work());
  console.log("done");
} finally {
  await browser.close();
}
