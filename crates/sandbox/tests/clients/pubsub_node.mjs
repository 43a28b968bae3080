// Node's client of the Pub/Sub API against the sandbox, as it is published: it speaks TLS only, which ends here.
// Called with the sandbox's address and the folder of its node_modules.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { inspect } from "node:util";

const [address, modules] = process.argv.slice(2);
const required = createRequire(`${modules}/`);
const PubSubApiClient = required("salesforce-pubsub-api-client").default;
const jsforce = required("jsforce");

// What is sent to this port in TLS comes to the sandbox in the clear.
async function decrypted() {
  const folder = mkdtempSync(join(tmpdir(), "pubsub-"));
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
    "-keyout", key, "-out", cert], { stdio: "ignore" });
  const to = new URL(address);
  const server = tls.createServer({ key: readFileSync(key), cert: readFileSync(cert), ALPNProtocols: ["h2"] }, (near) => {
    const far = net.connect(Number(to.port), to.hostname);
    near.pipe(far).pipe(near);
    for (const [one, other] of [[near, far], [far, near]]) one.on("error", () => other.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `127.0.0.1:${server.address().port}`;
}

const conn = new jsforce.Connection({ loginUrl: address, instanceUrl: address, version: "66.0",
  oauth2: { loginUrl: address, clientId: "sandbox", clientSecret: "sandbox-secret" } });
await conn.authorize({ grant_type: "client_credentials" });
const organizationId = (await conn.query("SELECT Id FROM Organization")).records[0].Id;
const pubSubEndpoint = await decrypted();
const silent = { debug() {}, info() {}, warn() {}, error() {} };

async function connected(accessToken = conn.accessToken) {
  const config = { authType: "user-supplied", accessToken, instanceUrl: address.replace("http:", "https:"), organizationId, pubSubEndpoint,
    rejectUnauthorizedSsl: false };
  const client = new PubSubApiClient(config, silent);
  await client.connect();
  return client;
}

// Subscribes by one of the client's ways, and gives what it is called back with, one after the other.
function listen(client, way, ...rest) {
  const waiting = [], come = [];
  const callback = (_, type, data) => {
    if (!["event", "error"].includes(type)) return;
    (waiting.shift() ?? ((m) => come.push(m)))({ type, data });
  };
  const [topic, ...more] = rest;
  client[way](topic, callback, ...more);
  return () => (come.length ? Promise.resolve(come.shift()) : new Promise((resolve) => waiting.push(resolve)));
}

const parts = {
  async changes(client) {
    const next = listen(client, "subscribeFromEarliestEvent", "/data/AccountChangeEvent", 3);
    const made = await conn.sobject("Account").create({ Name: "Vélo", BillingCity: "Köln", ShippingCity: "Ulm", AnnualRevenue: 7 });
    const { data: created } = await next();
    const header = created.payload.ChangeEventHeader;
    assert.deepEqual([header.entityName, header.changeType, header.recordIds], ["Account", "CREATE", [made.id]]);
    assert.equal(created.payload.Name.string ?? created.payload.Name, "Vélo");
    assert.equal(created.payload.AnnualRevenue.double ?? created.payload.AnnualRevenue, 7);
    assert.match(JSON.stringify(created.payload.BillingAddress), /Köln/);
    await conn.sobject("Account").update({ Id: made.id, Name: "Vélo", ShippingCity: null, BillingStreet: "Ring 1", AnnualRevenue: 8 });
    const { data: updated } = await next();
    const { changedFields, nulledFields } = updated.payload.ChangeEventHeader;
    assert.deepEqual(changedFields.sort(), ["AnnualRevenue", "BillingAddress.Street", "LastModifiedDate", "ShippingAddress.City"]);
    assert.deepEqual(nulledFields, ["ShippingAddress.City"]);
    await conn.sobject("Account").destroy(made.id);
    assert.equal((await next()).data.payload.ChangeEventHeader.changeType, "DELETE");
    return created;
  },

  async replay(client, created) {
    const next = listen(client, "subscribeFromReplayId", "/data/AccountChangeEvent", 1, created.replayId);
    assert.equal((await next()).data.payload.ChangeEventHeader.changeType, "UPDATE");
    const all = listen(client, "subscribeFromEarliestEvent", "/data/ChangeEvents", 1);
    await conn.sobject("Contact").create({ FirstName: "Ann", LastName: "One" });
    assert.equal((await all()).data.payload.ChangeEventHeader.entityName, "Account");
  },

  async events(client) {
    const next = listen(client, "subscribe", "/event/Manufacturing_Event__e", 2);
    const event = { CreatedDate: Date.now(), CreatedById: "005000000000000AAA", Order_Id__c: "O-1", Status__c: "Built" };
    // The subscription may begin after what is published at once.
    let published;
    const told = next();
    do {
      published = await client.publish("/event/Manufacturing_Event__e", event, "key-1");
    } while (!(await Promise.race([told.then(() => true), new Promise((resolve) => setTimeout(resolve, 50, false))])));
    assert.equal(published.correlationKey, "key-1");
    const { data } = await told;
    assert.equal(data.payload.Order_Id__c.string ?? data.payload.Order_Id__c, "O-1");
    assert.ok(published.replayId >= data.replayId);
    await assert.rejects(client.publish("/event/No_Such__e", event), (error) => /topic.not.found/.test(inspect(error, { depth: 9 })));
  },

  async refusals(client) {
    const refused = async (way, ...rest) => {
      const { type, data } = await listen(client, way, ...rest)();
      assert.equal(type, "error");
      return [data.code, data.metadata?.get("error-code")[0]];
    };
    const code = (name) => `sfdc.platform.eventbus.grpc.${name}`;
    assert.deepEqual(await refused("subscribeFromReplayId", "/data/ContactChangeEvent", 1, 999999),
      [3, code("subscription.fetch.replayid.validation.failed")]);
    client = await connected();
    assert.deepEqual(await refused("subscribe", "/data/NoSuchChangeEvent", 1), [5, code("topic.not.found")]);
    client = await connected("nobody's");
    assert.deepEqual(await refused("subscribe", "/data/AccountChangeEvent", 1), [16, code("service.auth.error")]);
  },
};

let carried;
for (const [name, part] of Object.entries(parts)) {
  // A client has one stream for each topic: a part that begins elsewhere needs a client of its own.
  carried = await part(await connected(), carried);
  console.log(`${name}: as in an org`);
}
process.exit(0);
