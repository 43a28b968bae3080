// jsforce against the sandbox: sign-in, records, queries, Bulk 2.0, describe, refusals.
// Called with the sandbox's address and the folder of its node_modules.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [address, modules] = process.argv.slice(2);
const jsforce = createRequire(`${modules}/`)("jsforce");

async function signIn(clientSecret = "sandbox-secret") {
  const conn = new jsforce.Connection({ loginUrl: address, instanceUrl: address, version: "66.0",
    oauth2: { loginUrl: address, clientId: "sandbox", clientSecret } });
  await conn.authorize({ grant_type: "client_credentials" });
  return conn;
}

async function refused(call, code, part = "") {
  await assert.rejects(call, (error) => {
    assert.equal(error.errorCode ?? error.name, code, String(error));
    assert.ok(error.message.includes(part), error.message);
    return true;
  });
}

const parts = {
  async records(conn) {
    const made = await conn.sobject("Account").create({ Name: "Vélo", Customer_No__c: "J-1", AnnualRevenue: 7000000 });
    assert.ok(made.success && made.id.length === 18);
    const found = await conn.sobject("Account").retrieve(made.id);
    assert.equal(found.Name, "Vélo");
    assert.equal(found.AnnualRevenue, 7000000);
    await conn.sobject("Account").update({ Id: made.id, Name: "Velo", AnnualRevenue: null });
    const upserted = await conn.sobject("Account").upsert({ Customer_No__c: "J-1", Name: "Velo 2" }, "Customer_No__c");
    assert.equal(upserted.created, false);
    const many = await conn.sobject("Account").create(Array.from({ length: 450 }, (_, n) => ({ Name: `M${n}`, Customer_No__c: `M-${n}` })), { allowRecursive: true });
    assert.equal(many.filter((one) => one.success).length, 450);
    const mixed = await conn.sobject("Account").create([{ Name: "good" }, { Customer_No__c: "J-9" }]);
    assert.deepEqual(mixed.map((one) => one.success), [true, false]);
    assert.equal(mixed[1].errors[0].statusCode, "REQUIRED_FIELD_MISSING");
    assert.deepEqual(mixed[1].errors[0].fields, ["Name"]);
    const gone = await conn.sobject("Account").destroy([made.id, mixed[0].id]);
    assert.ok(gone.every((one) => one.success));
  },

  async refusals(conn) {
    await refused(() => signIn("wrong"), "invalid_client");
    await refused(() => conn.query("SELECT Nope FROM Account"), "INVALID_FIELD", "Nope");
    await refused(() => conn.query("SELECT Id FROM Nope"), "INVALID_TYPE");
    await refused(() => conn.query("SELEC Id FROM Account"), "MALFORMED_QUERY");
    await refused(() => conn.sobject("Account").retrieve("001000000000000AAA"), "NOT_FOUND");
    await refused(() => conn.sobject("Account").create({ Name: "x".repeat(300) }), "STRING_TOO_LONG");
    const stale = new jsforce.Connection({ instanceUrl: address, accessToken: "00D!stale", version: "66.0" });
    await refused(() => stale.query("SELECT Id FROM Account"), "INVALID_SESSION_ID");
  },

  async descriptions(conn) {
    const identity = await conn.identity();
    assert.ok(identity.user_id && identity.username);
    const global = await conn.describeGlobal();
    assert.ok(global.sobjects.some((line) => line.name === "Bike_Order__c" && line.custom));
    const order = await conn.sobject("Bike_Order__c").describe();
    const parent = order.fields.find((field) => field.name === "Account__c");
    assert.deepEqual([parent.type, parent.referenceTo, parent.relationshipName], ["reference", ["Account"], "Account__r"]);
    assert.ok((await conn.limits()).DailyApiRequests.Max > 0);
    assert.ok(conn.limitInfo.apiUsage.used > 0);
  },

  async bulk(conn) {
    const rows = Array.from({ length: 2300 }, (_, n) => ({ Name: `Bulk, "${n}"`, Customer_No__c: `Z-${n}`, BillingCity: "Ø\nÅ" }));
    const results = await conn.bulk2.loadAndWaitForResults({ object: "Account", operation: "insert", input: rows, pollInterval: 50 });
    assert.deepEqual([results.successfulResults.length, results.failedResults.length], [2300, 0]);
    const upsert = await conn.bulk2.loadAndWaitForResults({ object: "Account", operation: "upsert", externalIdFieldName: "Customer_No__c",
      input: [{ Customer_No__c: "Z-0", Name: "Changed" }, { Customer_No__c: "Z-new", Name: "x".repeat(300) }], pollInterval: 50 });
    assert.equal(upsert.successfulResults[0].sf__Created, "false");
    assert.ok(upsert.failedResults[0].sf__Error.startsWith("STRING_TOO_LONG"), upsert.failedResults[0].sf__Error);
    const stream = await conn.bulk2.query("SELECT Customer_No__c, BillingCity FROM Account WHERE Customer_No__c LIKE 'Z-%'", { pollInterval: 50 });
    const read = await stream.toArray();
    assert.equal(read.length, 2300);
    assert.ok(read.every((row) => row.BillingCity === "Ø\nÅ" || row.Customer_No__c === "Z-0"), "line breaks inside values");
  },

  async queries(conn) {
    const soql = "SELECT Id, Name FROM Account WHERE Customer_No__c LIKE 'Z-%' ORDER BY Customer_No__c";
    const page = await conn.query(soql);
    assert.deepEqual([page.totalSize, page.done, page.records.length], [2300, false, 2000]);
    const rest = await conn.queryMore(page.nextRecordsUrl);
    assert.deepEqual([rest.done, rest.records.length], [true, 300]);
    const every = await conn.query(soql, { autoFetch: true, maxFetch: 5000 });
    assert.equal(new Set(every.records.map((record) => record.Id)).size, 2300);
    const account = page.records[0].Id;
    await conn.sobject("Contact").create({ LastName: "Ng", AccountId: account });
    const up = await conn.query("SELECT LastName, Account.Name FROM Contact WHERE Account.Customer_No__c LIKE 'Z-%'");
    assert.equal(up.records[0].Account.Name, page.records[0].Name);
    const down = await conn.sobject("Account").find({ Id: account }, "Id, Name").include("Contacts").select("LastName").end();
    assert.equal(down[0].Contacts.records[0].LastName, "Ng");
    const count = await conn.sobject("Account").count({ Customer_No__c: { $like: "Z-%" } });
    assert.equal(count, 2300);
  },
};

parts.more = async (conn) => {
  const rows = Array.from({ length: 12 }, (_, n) => ({ Name: `Classic ${n}`, NumberOfEmployees: n }));
  conn.bulk.pollInterval = 20;
  const done = await conn.bulk.load("Account", "insert", [...rows, { Site: "x" }]);
  assert.deepEqual(done.map((row) => row.success), [...rows.map(() => true), false]);
  assert.ok(done[12].errors[0].startsWith("REQUIRED_FIELD_MISSING"), done[12].errors[0]);
  const read = await (await conn.bulk.query("SELECT Name, NumberOfEmployees FROM Account WHERE Name LIKE 'Classic %'")).toArray();
  assert.equal(read.length, 12);
  const found = await conn.search("FIND {Ng} RETURNING Contact(LastName)");
  assert.equal(found.searchRecords[0].LastName, "Ng");
  const hour = 3600 * 1000;
  const updated = await conn.sobject("Contact").updated(new Date(Date.now() - hour), new Date(Date.now() + hour));
  assert.equal(updated.ids.length, 1);
  const deleted = await conn.sobject("Account").deleted(new Date(Date.now() - hour), new Date(Date.now() + hour));
  assert.ok(deleted.deletedRecords.length > 0);
  assert.deepEqual(await conn.recent(), []);
  const layouts = await conn.sobject("Account").layouts();
  assert.ok(layouts.layouts ?? layouts.detailLayoutSections);
  assert.ok(Array.isArray(await conn.tabs()));
  const explained = await conn.request(`/query?explain=${encodeURIComponent("SELECT Id FROM Account")}`);
  assert.equal(explained.plans[0].sobjectType, "Account");
  const upsertMany = await conn.sobject("Account").upsert([{ Customer_No__c: "U-1", Name: "a" }, { Customer_No__c: "U-2", Name: "b" }], "Customer_No__c");
  assert.deepEqual(upsertMany.map((one) => one.created), [true, true]);
  const removed = await conn.sobject("Account").find({ Customer_No__c: { $like: "U-%" } }).destroy();
  assert.equal(removed.length, 2);
  const old = new jsforce.Connection({ instanceUrl: address, accessToken: conn.accessToken, version: "42.0" });
  assert.equal((await old.sobject("Account").upsert({ Customer_No__c: "U-3", Name: "c" }, "Customer_No__c")).success, true);
};

const conn = await signIn();
for (const [name, part] of Object.entries(parts)) {
  await part(conn);
  console.log(`jsforce: ${name} as in an org`);
}
