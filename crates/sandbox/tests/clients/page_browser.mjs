// The sandbox's page in Chromium: wide and narrow, light and dark, by keyboard alone.
// Called with the sandbox's address and the folder of its node_modules.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [address, modules] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");

// Presses Tab until the element has the focus, as somebody without a mouse does.
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

// The contrast of a text with what is behind it, by WCAG's formula.
function contrast(page, selector) {
  return page.evaluate((wanted) => {
    const parts = (color) => color.match(/[\d.]+/g).map(Number);
    const light = (color) => {
      const [r, g, b] = parts(color).slice(0, 3).map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const element = document.querySelector(wanted);
    let behind = element;
    while (behind.parentElement && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    // Behind everything is the browser's own paper.
    const paper = document.body.appendChild(document.createElement("i"));
    paper.style.backgroundColor = "Canvas";
    const back = [behind, paper].map((one) => getComputedStyle(one).backgroundColor).find((color) => (parts(color)[3] ?? 1) > 0);
    paper.remove();
    const [one, other] = [light(getComputedStyle(element).color), light(back)];
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }, selector);
}

const parts = {
  async looks(browser) {
    for (const width of [1280, 390]) {
      for (const colorScheme of ["light", "dark"]) {
        const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme });
        const errors = [];
        page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
        page.on("pageerror", (error) => errors.push(String(error)));
        await page.goto(address);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(wide <= width, `${width} px: the page is ${wide} px wide`);
        for (const text of ["h1", "td a", "th", "label"]) {
          const ratio = await contrast(page, text);
          assert.ok(ratio >= 4.5, `${colorScheme}: ${text} has a contrast of ${ratio.toFixed(2)}`);
        }
        assert.deepEqual(errors, []);
        await page.close();
      }
    }
  },

  async records(browser) {
    const page = await browser.newPage();
    await page.goto(address);
    await page.click("a[href='/sandbox/objects/Account']");
    assert.equal(await page.textContent("h1"), "Accounts");
    assert.ok((await page.textContent("tbody")).includes("Öz <b>bold</b>"), "what is in a record is text, never markup");
    await page.click("tbody a");
    assert.ok((await page.textContent("main")).includes("Öz <b>bold</b>"));
    await page.close();
  },

  async calls(browser) {
    const page = await browser.newPage();
    await page.goto(address);
    await page.click("tr:has-text('/sobjects/Account') a");
    const shown = await page.locator("pre").allTextContents();
    assert.ok(shown[0].includes("Öz"), `the request: ${shown[0]}`);
    assert.ok(shown[1].includes('"success": true'), `the answer: ${shown[1]}`);
    await page.close();
  },

  async keyboard(browser) {
    const page = await browser.newPage();
    await page.goto(address);
    await reach(page, "select[name=kind]");
    await page.keyboard.press("l");
    await reach(page, "input[name=path]");
    await page.keyboard.type("/nowhere");
    await Promise.all([page.waitForEvent("load"), page.keyboard.press("Enter")]);
    const rule = await page.textContent("tr:has([data-delete])");
    assert.ok(rule.includes("latency"), rule);
    await reach(page, "[data-delete]");
    await Promise.all([page.waitForEvent("load"), page.keyboard.press("Enter")]);
    assert.equal(await page.locator("[data-delete]").count(), 0);
    await page.close();
  },
};

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  for (const [name, part] of Object.entries(parts)) {
    await part(browser);
    console.log(`${name}: as in an org`);
  }
} finally {
  await browser.close();
}
