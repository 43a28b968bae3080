// Signing in to the console by an OpenID Connect provider, in Chromium. Called with the console's address, the folder of its
// node_modules, "first" or "again" (behind a restart), and a file in which the browser is kept in between.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [address, modules, when, kept] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });

async function signIn(page, person) {
  await page.goto(address);
  await page.waitForURL(/sign-in/);
  await page.click("text=Sign in by localhost");
  await page.click(`button:has-text('${person}')`);
}

async function first() {
  const stranger = await (await browser.newContext()).newPage();
  await signIn(stranger, "eve");
  await stranger.waitForSelector("[role=alert]:has-text('eve@example.com')");
  await stranger.goto(address);
  await stranger.waitForURL(/sign-in/);

  const context = await browser.newContext();
  const page = await context.newPage();
  await signIn(page, "ada");
  await page.waitForSelector("header:has-text('ada@example.com, admin')");
  const cookies = await context.cookies();
  assert.ok(cookies.every((cookie) => cookie.httpOnly), "no script reads them");
  assert.equal(cookies.find((cookie) => cookie.name === "bridgehead_session").sameSite, "Strict");
  // What was brought back is good once, and not in another browser.
  const stale = await page.request.get(`${address}/sign-in/oidc/callback?state=guessed&code=guessed`);
  assert.equal(stale.status(), 400);
  await context.storageState({ path: kept });
}

async function again() {
  const context = await browser.newContext({ storageState: kept });
  const page = await context.newPage();
  await page.goto(address);
  await page.waitForSelector("header:has-text('ada@example.com, admin')");
  await page.goto(`${address}/settings`);
  await page.waitForSelector("td:has-text('OpenID Connect')");
  await page.click("text=Sign out");
  await page.waitForURL(/sign-in/);
  await page.goto(address);
  await page.waitForURL(/sign-in/);
}

try {
  await (when === "first" ? first() : again());
  console.log("done");
} finally {
  await browser.close();
}
