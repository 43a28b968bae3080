// jsforce, whose streaming is faye's CometD client, against the sandbox: change events and platform events as they happen,
// replayed, and refused.
// Called with the sandbox's address and the folder of its node_modules.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [address, modules] = process.argv.slice(2);
const jsforce = createRequire(`${modules}/`)("jsforce");
const { StreamingExtension } = createRequire(`${modules}/`)("jsforce/lib/api/streaming");

async function signIn() {
  const conn = new jsforce.Connection({ loginUrl: address, instanceUrl: address, version: "66.0",
    oauth2: { loginUrl: address, clientId: "sandbox", clientSecret: "sandbox-secret" } });
  await conn.authorize({ grant_type: "client_credentials" });
  return conn;
}

// Subscribes, and gives the messages one after the other.
async function listen(conn, channel, replay) {
  const waiting = [], come = [];
  const client = conn.streaming.createClient([new StreamingExtension.Replay(channel, replay)]);
  const subscription = client.subscribe(channel, (message) => (waiting.shift() ?? ((m) => come.push(m)))(message));
  await subscription;
  const next = () => (come.length ? Promise.resolve(come.shift()) : new Promise((resolve) => waiting.push(resolve)));
  return { next, stop: () => client.disconnect() };
}

const parts = {
  async changes(conn) {
    const accounts = await listen(conn, "/data/AccountChangeEvent", -1);
    const made = await conn.sobject("Account").create({ Name: "Vélo", BillingCity: "Köln", AnnualRevenue: 7 });
    const created = await accounts.next();
    const header = created.payload.ChangeEventHeader;
    assert.deepEqual([header.entityName, header.changeType, header.recordIds], ["Account", "CREATE", [made.id]]);
    assert.equal(created.payload.Name, "Vélo");
    assert.deepEqual(created.payload.BillingAddress, { City: "Köln" });
    assert.ok(header.changeOrigin.startsWith("com/salesforce/api/rest/66.0"), header.changeOrigin);
    await conn.sobject("Account").update({ Id: made.id, Name: "Vélo", BillingCity: null, AnnualRevenue: 8 });
    const updated = await accounts.next();
    const { changedFields, nulledFields, commitTimestamp, transactionKey } = updated.payload.ChangeEventHeader;
    assert.equal(updated.payload.ChangeEventHeader.changeType, "UPDATE");
    assert.ok(changedFields.includes("AnnualRevenue") && changedFields.includes("BillingAddress.City"), String(changedFields));
    assert.ok(!changedFields.includes("Name"), "what is written as it was is no change");
    assert.deepEqual([updated.payload.AnnualRevenue, updated.payload.Name, nulledFields], [8, undefined, ["BillingAddress.City"]]);
    assert.ok(Math.abs(commitTimestamp - Date.now()) < 60_000 && transactionKey !== header.transactionKey);
    await conn.sobject("Account").destroy(made.id);
    const gone = await accounts.next();
    assert.deepEqual([gone.payload.ChangeEventHeader.changeType, Object.keys(gone.payload)], ["DELETE", ["ChangeEventHeader"]]);
    assert.ok(gone.event.replayId > updated.event.replayId && updated.event.replayId > created.event.replayId);
    accounts.stop();
  },

  async replay(conn) {
    const all = await listen(conn, "/data/ChangeEvents", -2);
    const first = await all.next();
    assert.equal(first.payload.ChangeEventHeader.changeType, "CREATE");
    all.stop();
    const later = await listen(conn, "/data/ChangeEvents", first.event.replayId);
    assert.equal((await later.next()).payload.ChangeEventHeader.changeType, "UPDATE");
    later.stop();
  },

  async events(conn) {
    const events = await listen(conn, "/event/Manufacturing_Event__e", -1);
    const sent = await conn.sobject("Manufacturing_Event__e").create({ Order_Id__c: "O-1", Status__c: "Built" });
    const come = await events.next();
    assert.deepEqual([come.payload.Order_Id__c, come.payload.Status__c], ["O-1", "Built"]);
    assert.ok(sent.success && come.event.EventUuid === sent.errors[0].message, "the answer names the event");
    events.stop();
  },

  async refusals(conn) {
    const refused = async (channel, replay, part) => {
      await assert.rejects(listen(conn, channel, replay), (error) => {
        assert.ok(String(error.message ?? error).includes(part), String(error.message));
        return true;
      });
    };
    await refused("/data/NoSuchChangeEvent", -1, "does not exist");
    await refused("/event/No_Such__e", -1, "does not exist");
    await refused("/data/AccountChangeEvent", 999999, "The replayId {999999} you provided was invalid");
  },
};

const conn = await signIn();
for (const [name, part] of Object.entries(parts)) {
  await part(conn);
  console.log(`${name}: as in an org`);
}
process.exit(0);
